"""One raster that a SOURCE argument names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from geovl.errors import SourceError
from geovl.sources.remote import NETWORK, redacted, refuse_offline
from geovl.sources.vrt import all_vrt_parts

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Source:
    """One raster that a SOURCE argument names."""

    name: str
    """For people: the path as given, the URL without its query, or the id of the STAC item."""
    path: str
    """As GDAL opens it."""
    remote: bool = False
    """Whether reading it needs the network."""
    id: str | None = None
    """Of the STAC item."""
    datetime: str | None = None
    """When the scene was taken, RFC 3339, as the STAC item says."""
    trusted: bool = True
    """False where the path was named by a server: open it with :data:`REMOTE_DRIVERS` only."""


def from_file(path: Path) -> Source:
    """Return a local file; a VRT of remote rasters needs the network.

    Raises:
        RemoteError: It does, and GEOVL_OFFLINE is set.
    """
    remote = next((part for part in all_vrt_parts(str(path)) if NETWORK.search(part)), None)
    if remote is not None:
        refuse_offline(remote)
    return Source(str(path), str(path), remote is not None)


def from_gdal_path(path: str) -> Source:
    """Return a path that only GDAL understands, as the user wrote it.

    Raises:
        RemoteError: It needs the network, and GEOVL_OFFLINE is set.
    """
    remote = bool(NETWORK.search(path))
    if remote:
        refuse_offline(path)
    return Source(redacted(path), path, remote)


def from_url(url: str, **more: Any) -> Source:
    """Return the raster behind a URL that was checked; ``more`` are further fields of the source.

    Raises:
        SourceError: It is a VRT.
    """
    if urlsplit(url).path.lower().endswith(".vrt"):
        msg = f"{redacted(url)} is a VRT on a server: it could name any file of this computer."
        raise SourceError(msg, "Save it here, check the files that it names, and give the saved VRT.")
    name = more.pop("name", None) or redacted(url)
    return Source(name, "/vsicurl/" + url, remote=True, trusted=False, **more)
