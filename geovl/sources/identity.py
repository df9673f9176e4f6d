"""What identifies the content of a source, so that work can be resumed."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geovl.errors import SourceError
from geovl.sources.find import DRIVER
from geovl.sources.remote import NETWORK, RemoteError, redacted, request, url_of
from geovl.sources.vrt import MOST_PARTS, vrt_parts

_DEEPEST = 4  # VRTs within VRTs


def fingerprint(path: str, *, hashed: bool = True) -> dict[str, Any]:
    """Return what identifies the content of a source, as JSON can hold it.

    ``kind`` says what else there is: ``file`` has path, bytes, mtime_ns and sha256; ``url`` has url, bytes, etag and
    last_modified, each None where the server does not say; ``vrt`` is a file that also has parts, the fingerprints
    of what it names, and parts_left_out, how many were not looked at; ``path`` is anything else, of which nothing
    but the path is known.

    Args:
        path: As GDAL opens it.
        hashed: Read files whole for their sha256. Without it that is None, and a file is known by its size and time;
            a VRT is always hashed, and its time left out: written anew with the same text it is the same.

    Raises:
        SourceError: A file that cannot be read, or a server that does not answer.
    """
    return _fingerprint(path, 0, hashed)


def _fingerprint(path: str, depth: int, hashed: bool) -> dict[str, Any]:
    if (url := url_of(path)) is not None:
        return _url_fingerprint(url)
    file = _file_of(path)
    if file is None:
        return {"kind": "path", "path": redacted(path)}
    parts = vrt_parts(path)
    try:
        status, digest = file.stat(), None
        if hashed or parts is not None:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        msg = f"{path!r} cannot be read: {error.strerror}"
        raise SourceError(msg, "Check that the file is still there and who may read it.") from error
    found: dict[str, Any] = {
        "kind": "file", "path": str(file.resolve()), "bytes": status.st_size,
        "mtime_ns": None if parts is not None and not hashed else status.st_mtime_ns, "sha256": digest,
    }  # fmt: skip
    if parts is not None:
        # at most MOST_PARTS in all, whatever names whatever
        looked = [] if depth == _DEEPEST else parts[: int(MOST_PARTS ** (1 / (1 + depth)))]
        found |= {
            "kind": "vrt",
            "parts": [_fingerprint(part, depth + 1, hashed) for part in looked],
            "parts_left_out": len(parts) - len(looked),
        }
    return found


def _file_of(path: str) -> Path | None:
    """Return the local file that holds a source: itself, or the archive of a /vsizip/ path and the like."""
    if NETWORK.search(path):
        return None
    archive = re.match(r"/vsi(zip|tar|gzip|7z|rar)/\{?(?P<inner>[^}]+)", path)
    file = Path(archive["inner"] if archive else path)
    for candidate in (file, *file.parents) if archive else (file,):
        if candidate.is_file():
            return candidate
    return None if archive or path.startswith("/vsi") or DRIVER.match(path) else file


def _url_fingerprint(url: str) -> dict[str, Any]:
    try:
        answer = request(url, method="HEAD")
        size = answer.headers.get("content-length")
    except RemoteError as error:
        if error.reason not in ("forbidden", "refused"):
            raise
        # a URL that was signed for GET refuses HEAD
        answer = request(url, headers={"Range": "bytes=0-0"})
        size = answer.headers.get("content-range", "").rpartition("/")[2] or answer.headers.get("content-length")
    return {
        "kind": "url",
        "url": redacted(url),
        "bytes": int(size) if size and size.isdecimal() else None,
        "etag": answer.headers.get("etag"),
        "last_modified": answer.headers.get("last-modified"),
    }


def same_content(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of the same content: moved or touched files are, and unknown content is not."""
    if before.get("kind") != after.get("kind"):
        return False
    match before.get("kind"):
        case "file":
            return bool(before["sha256"] is not None and before["sha256"] == after["sha256"])
        case "vrt":
            # the VRT itself may name moved files otherwise; its own text must still agree
            return bool(
                before["sha256"] == after["sha256"]
                and not before["parts_left_out"]
                and len(before["parts"]) == len(after["parts"])
                and all(same_content(a, b) for a, b in zip(before["parts"], after["parts"], strict=True))
            )
        case "url":
            keys = ("url", "bytes", "etag", "last_modified")
            known = before["etag"] is not None or before["last_modified"] is not None
            return known and all(before[key] == after[key] for key in keys)
        case _:
            return False
