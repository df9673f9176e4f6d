"""The store of runs: a folder per run, visible, and either whole or not there.

A run is built in a hidden folder, ``.<id>.<host>.<pid>.partial``, and renamed to ``<id>`` as its
last act. Whatever interrupts the work, a folder with a run's name holds a finished run.
Partial folders of processes that are gone are removed when the next run is made. What was
made of an unfinished run lies in a hidden folder of its own (:mod:`geovl.work`).
"""

import difflib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geovl.errors import RunError
from geovl.work import Work, alive, unfinished

if TYPE_CHECKING:
    import geopandas as gpd
    from numpy.typing import NDArray

MANIFEST = "run.json"
LABELS = "labels.tif"
SCORES = "scores.tif"
UNKNOWN = "unknown.tif"
SEGMENTS = "segments.parquet"

_ID = re.compile(r"[0-9a-z][0-9a-z-]{2,63}")
_PARTIAL = re.compile(r"\.(?P<id>[0-9a-z-]+)\.(?P<host>.+)\.(?P<pid>\d+)\.partial")


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    """Its folder."""

    @property
    def id(self) -> str:
        """The run's name in its store."""
        return self.path.name

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was made from, with and when: the contents of ``run.json``.

        Raises:
            RunError: The manifest is missing or not JSON.
        """
        try:
            loaded = json.loads((self.path / MANIFEST).read_text("utf-8"))
        except (OSError, ValueError) as error:
            msg = f"Run {self.id!r} has no readable {MANIFEST}: {error}"
            raise RunError(msg, f"Remove it with: geovl runs remove {self.id}") from error
        if not isinstance(loaded, dict):
            msg = f"Run {self.id!r} has a {MANIFEST} that is not an object."
            raise RunError(msg, f"Remove it with: geovl runs remove {self.id}")
        return loaded

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order from label 1."""
        return tuple(entry["name"] for entry in self.manifest["classes"])

    def labels(self) -> "NDArray[np.unsignedinteger]":
        """Return the label raster (height, width): 0 background, i class i, nodata where unknown."""
        return self._raster(LABELS)

    def scores(self) -> "NDArray[np.float32]":
        """Return the winning class's score per pixel, float32 (height, width) in 0..1, NaN for nodata."""
        return self._shares(SCORES)

    def unknown(self) -> "NDArray[np.float32]":
        """Return how unlike everything taught each pixel is, float32 (height, width) in 0..1, NaN for nodata.

        Raises:
            RunError: The run was made without it.
        """
        if not (self.path / UNKNOWN).is_file():
            msg = f"Run {self.id!r} was made without a raster of what is unknown."
            raise RunError(msg, "Make one with: geovl segment SOURCE PROMPT --unknown")
        return self._shares(UNKNOWN)

    def to_geodataframe(self) -> "gpd.GeoDataFrame":
        """Return the polygons with columns class, prompt, score, area_m2, perimeter_m, model, run."""
        import geopandas as gpd  # noqa: PLC0415 - takes longer to import than most commands take to answer

        try:
            return gpd.read_parquet(self.path / SEGMENTS)
        except (OSError, ValueError) as error:
            msg = f"Run {self.id!r} has no readable {SEGMENTS}: {error}"
            raise RunError(msg, f"See what is wrong with: geovl runs verify {self.id}") from error

    def verify(self) -> list[str]:
        """Hash the run's files and its source again.

        Returns:
            One sentence per fault; empty when all is well.
        """
        faults = []
        manifest = self.manifest
        for name, entry in manifest.get("files", {}).items():
            file = self.path / Path(name).name
            if not file.is_file():
                faults.append(f"{name} is missing.")
            elif sha256(file) != entry["sha256"]:
                faults.append(f"{name} was changed after the run was made.")
        source = manifest.get("source", {})
        if source.get("sha256"):
            path = Path(source["path"])
            if not path.is_file():
                faults.append(f"The source {source['path']} is no longer there.")
            elif sha256(path) != source["sha256"]:
                faults.append(f"The source {source['path']} was changed after the run was made.")
        return faults

    def _shares(self, name: str) -> "NDArray[np.float32]":
        stored = self._raster(name)
        return np.where(stored == 255, np.nan, stored / np.float32(254)).astype(np.float32)

    def _raster(self, name: str) -> "NDArray[Any]":
        import rasterio  # noqa: PLC0415 - listing runs needs no GDAL

        try:
            with rasterio.open(self.path / name) as dataset:
                return np.asarray(dataset.read(1))
        except rasterio.errors.RasterioError as error:
            msg = f"Run {self.id!r} has no readable {name}: {error}"
            raise RunError(msg, f"See what is wrong with: geovl runs verify {self.id}") from error


@dataclass(frozen=True)
class RunStore:
    """Runs below ``root/runs``."""

    root: Path

    @property
    def folder(self) -> Path:
        """The folder that holds the runs."""
        return self.root / "runs"

    def list(self) -> "list[Run]":
        """Return the runs, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (p for p in self.folder.iterdir() if _ID.fullmatch(p.name) and (p / MANIFEST).is_file())
        return [Run(path) for path in sorted(found)]

    def get(self, run_id: str | None = None) -> Run:
        """Return a run by id, or the latest.

        Raises:
            RunError: There is none; near names are given.
        """
        runs = self.list()
        if not runs:
            msg = f"There is no run in {self.folder}."
            raise RunError(msg, 'Make one: geovl segment tile.tif "building"')
        if run_id is None:
            return runs[-1]
        names = [run.id for run in runs]
        if run_id in names:
            return runs[names.index(run_id)]
        near = difflib.get_close_matches(run_id, names, n=3, cutoff=0.4)
        msg = f"No run is called {run_id!r} in {self.folder}."
        raise RunError(msg, f"Near: {', '.join(near)}" if near else "List them with: geovl runs list")

    def unfinished(self, run_id: str | None = None) -> Work:
        """Return an unfinished run by id, or the only one.

        Raises:
            RunError: There is none, or more than one and no id was given.
        """
        found = unfinished(self.folder)
        if run_id is not None:
            found = [work for work in found if work.id == run_id]
        if len(found) == 1:
            return found[0]
        named = f" called {run_id!r}" if run_id is not None else ""
        if not found:
            msg = f"There is no unfinished run{named} in {self.folder}."
            raise RunError(msg, "List what there is with: geovl runs list")
        msg = f"There are {len(found)} unfinished runs in {self.folder}."
        raise RunError(msg, f"Name one: {', '.join(work.id for work in found)}")

    def list_unfinished(self) -> Sequence[Work]:
        """Return the unfinished runs, oldest first."""
        return unfinished(self.folder)

    def remove(self, run_id: str) -> None:
        """Delete a run, unfinished ones too: first out of sight, then from disk, so that no half run is ever listed."""
        finished = any(run.id == run_id for run in self.list())
        for work in unfinished(self.folder):
            if work.id == run_id and not finished:
                with work.claimed(alone=True):  # not while somebody is at it
                    work.remove()
                return
        run = self.get(run_id)
        doomed = self.folder / f".{run.id}.{socket.gethostname()}.{os.getpid()}.partial"
        run.path.rename(doomed)
        shutil.rmtree(doomed)

    @contextmanager
    def create(self, run_id: str | None = None) -> "Iterator[Draft]":
        """Open a draft; it is removed again unless :meth:`Draft.commit` was reached.

        Args:
            run_id: Its id; by the time where None.

        Raises:
            RunError: The store cannot be written, or has such a run already.
        """
        run_id = run_id or new_id()
        if not _ID.fullmatch(run_id):
            msg = f"{run_id!r} is no id of a run: 3 to 64 small letters, digits and hyphens."
            raise RunError(msg)
        target = self.folder / run_id
        if target.exists():
            msg = f"There is a run {run_id!r} in {self.folder} already."
            raise RunError(msg, f"Remove it: geovl runs remove {run_id}")
        hidden = self.folder / f".{run_id}.{socket.gethostname()}.{os.getpid()}.partial"
        with self.writable():
            self._sweep()
            hidden.mkdir()
        draft = Draft(run_id, hidden, target, datetime.now(UTC))
        try:
            yield draft
        finally:
            shutil.rmtree(hidden, ignore_errors=True)

    @contextmanager
    def writable(self) -> "Iterator[None]":
        """Make the folder, and say it in a sentence where that fails.

        Raises:
            RunError: The store cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            msg = f"Runs cannot be kept in {self.folder}: {error.strerror}."
            raise RunError(msg, "Choose another folder with --store") from error

    def _sweep(self) -> None:
        """Remove what processes of this machine that no longer exist left behind."""
        for path in self.folder.iterdir():
            match = _PARTIAL.fullmatch(path.name)
            if match and match["host"] == socket.gethostname() and not alive(int(match["pid"])):
                shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Draft:
    """A run that is being made."""

    id: str
    folder: Path
    """Where its files are written."""
    target: Path
    """Where they will be."""
    created: datetime

    def commit(self, manifest: dict[str, Any]) -> Run:
        """Hash the files, write the manifest, and make the run visible in one step."""
        files = {p.name: {"sha256": sha256(p), "bytes": p.stat().st_size} for p in sorted(self.folder.iterdir())}
        whole = {"id": self.id, "created": self.created.isoformat(timespec="seconds"), "status": "done"}
        text = json.dumps(whole | manifest | {"files": files}, indent=2, ensure_ascii=False, allow_nan=False)
        with (self.folder / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.folder.rename(self.target)
        return Run(self.target)


def new_id() -> str:
    """Return an id that sorts by time."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{secrets.token_hex(2)}"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
