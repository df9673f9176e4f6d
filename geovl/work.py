"""Unfinished runs: what was made of them so far, kept so that it is never made twice.

The journal is the folder itself. A part is written beside its place and renamed into it,
with checksums inside: a part that is there and whole is done, whatever happened to the
process, and any number of processes on any number of machines that share the folder can
add parts at once. No part depends on the order in which they are made.
"""

import hashlib
import json
import os
import shutil
import socket
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geovl.errors import RunError

PREFIX = ".work-"
PLANNED = ("opened", "source", "raster", "classes", "model", "options", "scale", "keeps", "notes", "warnings", "begun")
"""What every plan holds."""
_PLAN = "plan.json"
_SUFFIX = ".part"
_MAGIC = b"geovl part 1\n"
_HEAD = struct.Struct("<I")


@dataclass(frozen=True)
class Work:
    """A run that is being made, or was left unfinished."""

    folder: Path
    plan: dict[str, Any]
    """What the run will be made of, and how: enough for any process to make a part of it. ``id`` is the run's."""

    @classmethod
    def begin(cls, root: Path, plan: Mapping[str, Any], identity: Mapping[str, Any]) -> "Work":
        """Open the work on a run, or begin it.

        Args:
            root: Folder in which work and runs lie.
            plan: What the run will be made of; kept by whoever begins.
            identity: The part of the plan on which the result depends: equal ones share their work.

        Returns:
            The work, with the plan of whoever began it.

        Raises:
            OSError: The folder cannot be made.
        """
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False, allow_nan=False)
        folder = root / (PREFIX + hashlib.sha256(text.encode()).hexdigest()[:20])
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / _PLAN
        if not target.exists():
            draft = folder / f".{_PLAN}.{socket.gethostname()}.{os.getpid()}"
            draft.write_text(json.dumps(dict(plan), ensure_ascii=False, allow_nan=False, indent=1), "utf-8")
            try:
                os.link(draft, target)  # fails if somebody was faster, whose plan then holds
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                if not target.exists():
                    draft.replace(target)
            draft.unlink(missing_ok=True)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Work":
        """Open work that was begun.

        Raises:
            RunError: There is none, or its plan cannot be read.
        """
        try:
            plan = json.loads((folder / _PLAN).read_text("utf-8"))
        except FileNotFoundError as error:
            msg = f"There is no unfinished run in {folder}."
            raise RunError(msg, "Every worker must see the store under the same path.") from error
        except (OSError, ValueError) as error:
            msg = f"The unfinished run in {folder} has no readable {_PLAN}: {error}"
            raise RunError(msg, f"Look at it, and remove it: rm -r {folder}") from error
        if not isinstance(plan, dict) or not {"id", *PLANNED} <= plan.keys():
            msg = f"The {_PLAN} of the unfinished run in {folder} is not one of this version of geovl."
            raise RunError(msg, f"Remove it: rm -r {folder}")
        return cls(folder, plan)

    @property
    def id(self) -> str:
        """Id of the run that it will be."""
        return str(self.plan["id"])

    def has(self, name: str) -> bool:
        """Tell whether a part was made; whether it is whole shows when it is loaded."""
        return (self.folder / (name + _SUFFIX)).is_file()

    def save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep a part: named arrays, compressed.

        Raises:
            OSError: The disk is full or the folder is gone; nothing is left of the part.
        """
        import pyarrow as pa  # noqa: PLC0415 - slow to import: the first part is made already

        heads, blobs = [], []
        for key, array in arrays.items():
            blob = pa.compress(np.ascontiguousarray(array).reshape(-1).view(np.uint8), codec="zstd", asbytes=True)
            heads.append([key, array.dtype.str, list(array.shape), len(blob), zlib.crc32(blob)])
            blobs.append(blob)
        head = json.dumps(heads).encode()
        draft = self.folder / f".{name}.{socket.gethostname()}.{os.getpid()}"
        try:
            with draft.open("wb") as file:
                file.write(_MAGIC + _HEAD.pack(len(head)) + head)
                for blob in blobs:
                    file.write(blob)
                file.flush()
                os.fsync(file.fileno())  # a name must not be seen before its content, also after a power cut
            draft.replace(self.folder / (name + _SUFFIX))
        finally:
            draft.unlink(missing_ok=True)

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return a part; None where it is missing, or damaged, in which case it is removed to be made again."""
        import pyarrow as pa  # noqa: PLC0415 - as above

        path = self.folder / (name + _SUFFIX)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            if not data.startswith(_MAGIC):
                return self._damaged(path)
            (length,) = _HEAD.unpack_from(data, len(_MAGIC))
            place = len(_MAGIC) + _HEAD.size + length
            found = {}
            for key, dtype, shape, size, crc in json.loads(data[place - length : place]):
                blob = memoryview(data)[place : place + size]
                if len(blob) != size or zlib.crc32(blob) != crc:
                    return self._damaged(path)
                count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
                raw = pa.decompress(blob, decompressed_size=count, codec="zstd", asbytes=False)
                found[key] = np.frombuffer(raw, dtype).reshape(shape).copy()
                place += size
        except (struct.error, ValueError, OSError):
            return self._damaged(path)
        return found

    @staticmethod
    def _damaged(path: Path) -> None:
        path.unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """Remove a part that is no longer needed."""
        (self.folder / (name + _SUFFIX)).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything: first out of sight, so that no half of it is ever gone on with."""
        gone = self.folder.with_name(f".gone-{self.folder.name}.{os.getpid()}")
        try:
            self.folder.rename(gone)
        except OSError:  # somebody was faster
            return
        shutil.rmtree(gone, ignore_errors=True)

    def empty(self) -> bool:
        """Tell whether no part was made yet."""
        return not any(self.folder.glob("*" + _SUFFIX))

    @contextmanager
    def claimed(self, *, alone: bool) -> Iterator[None]:
        """Mark the work as being done by this process; on the way out it is removed if nothing was made.

        Args:
            alone: Nobody else on this machine may be at it; and it is nobody else's, to be removed.

        Raises:
            RunError: Somebody is.
            OSError: The folder cannot be written.
        """
        mine = self.folder / f"owner.{socket.gethostname()}.{os.getpid()}"
        here = [pid for host, pid in self._owners() if host == socket.gethostname() and pid != os.getpid()]
        if alone and here:
            msg = f"Run {self.id} is being made by process {here[0]} right now."
            raise RunError(msg, "Wait for it, or divide the work: --shard 1/2 and --shard 2/2, then geovl runs merge.")
        mine.touch()
        try:
            yield
        finally:
            mine.unlink(missing_ok=True)
            if alone and self.folder.is_dir() and self.empty() and not self._owners():
                self.remove()

    def _owners(self) -> list[tuple[str, int]]:
        """Hosts and processes that are at the work; marks of this machine's processes that are gone are removed."""
        found = []
        for mark in self.folder.glob("owner.*"):
            _, _, rest = mark.name.partition(".")
            host, _, pid = rest.rpartition(".")
            if not pid.isdecimal():
                continue
            if host == socket.gethostname() and not alive(int(pid)):
                mark.unlink(missing_ok=True)
                continue
            found.append((host, int(pid)))
        return found


def unfinished(root: Path) -> list[Work]:
    """Return the unfinished runs below a folder, oldest first; those whose plan cannot be read are left out."""
    found = []
    for folder in root.glob(PREFIX + "*") if root.is_dir() else ():
        if (folder / _PLAN).is_file():
            try:
                found.append(Work.open(folder))
            except RunError:
                continue
    return sorted(found, key=lambda work: work.id)


def alive(pid: int) -> bool:
    """Tell whether there is a process of this number on this machine."""
    if sys.platform == "win32":  # there signal 0 is Ctrl-C
        import ctypes  # noqa: PLC0415 - only here

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
        ctypes.windll.kernel32.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
