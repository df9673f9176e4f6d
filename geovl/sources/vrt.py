"""Which rasters a VRT names."""

import posixpath
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

_MOST_VRT = 64 << 20  # bytes of a VRT that is looked into
MOST_PARTS = 10_000  # rasters of a VRT that are looked at


def _vrt_root(path: str) -> ET.Element | None:
    """Return the XML of a local VRT, or None where it is none that can be looked into."""
    file = Path(path)
    try:
        if not file.is_file() or file.stat().st_size > _MOST_VRT:
            return None
        with file.open("rb") as opened:
            start = opened.read(512)
        if b"<VRTDataset" not in start:
            return None
        return ET.parse(file).getroot()  # noqa: S314 - expat limits entity expansion itself
    except (OSError, ET.ParseError):
        return None


def vrt_parts(path: str) -> list[str] | None:
    """List the rasters that a local VRT names, each once, in order; None where the path is no local VRT."""
    root = _vrt_root(path)
    if root is None:
        return None
    found: dict[str, None] = {}
    for tag in ("SourceFilename", "SourceDataset"):
        for element in root.iter(tag):
            name = (element.text or "").strip()
            if element.get("relativeToVRT") == "1" and not name.startswith("/"):
                name = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            if name:
                found[name] = None
    return list(found)


def all_vrt_parts(path: str) -> Iterator[str]:
    """Yield the parts of a VRT and those of VRTs within it, each once, MOST_PARTS at most."""
    seen = {path}
    waiting = [path]
    while waiting:
        for part in vrt_parts(waiting.pop()) or ():
            if part not in seen and len(seen) <= MOST_PARTS:
                seen.add(part)
                waiting.append(part)
                yield part
