"""A run, or several of one place, as one HTML file: it opens from disk, without network, and has everything inside.

The map is Leaflet's (BSD-2): 150 KB, no dependencies, kept up for fourteen years, and it draws on a canvas where there
is no WebGL. MapLibre GL is six times as large and needs WebGL and workers; folium and lonboard load scripts from a
server. Polygons are not Leaflet's: a layer of tiles draws them from flat arrays, so that 100,000 stay usable.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from geovl.errors import ExportError, SourceError, UsageError
from geovl.export.formats import check_target
from geovl.palette import rgba
from geovl.runs import SEGMENTS, Run
from geovl.types import GeoBox
from geovl.vectors import read_head
from geovl.views.backdrop import MERCATOR, backdrop, grid, labels_on, placed
from geovl.views.saving import save
from geovl.views.vectors import Steps, pack

LARGEST = 15_000_000
"""Bytes of a page, at most, where that can be had by coarser pictures and coordinates."""
_EARTH = 2 * np.pi * 6378137.0  # metres around Web Mercator
_TILE = 256.0  # pixels of the whole of it at zoom 0
_TRIES = ((2048, 0.25), (1536, 0.5), (1024, 1.0), (768, 2.0))
"""Pixels of a picture's longer side, and of a step of coordinates."""
_LATTICES = (2, 5, 17, 33)  # points along each side of a map at which a page is told coordinates
_LIBRARY = "XStatic-Leaflet"


@dataclass(frozen=True, slots=True)
class Basemap:
    """Tiles of a server beneath everything; the page is not offline then."""

    url: str
    """With ``{z}``, ``{x}`` and ``{y}``."""
    attribution: str = ""

    @property
    def origin(self) -> str:
        """What the page may load pictures from.

        Raises:
            UsageError: It is no template of a server's tiles.
        """
        parts = urlsplit(self.url)
        host = parts.netloc.replace("{s}", "*")
        places = all(f"{{{name}}}" in self.url for name in "zxy")
        if parts.scheme not in {"http", "https"} or not places or not re.fullmatch(r"[\w.*:-]+", host):
            msg = f"The basemap {self.url!r} is not the address of tiles."
            raise UsageError(msg, "For example: --basemap 'https://tile.example.org/{z}/{x}/{y}.png'")
        return f"{parts.scheme}://{host}"


def page(
    runs: Sequence[Run], path: Path, *, basemap: Basemap | None = None, overwrite: bool = False
) -> tuple[str, ...]:
    """Write a page that shows runs, with a slider over their dates where there are several.

    Args:
        runs: Finished runs, all with a CRS or none.
        path: HTML file to write.
        basemap: Tiles to load beneath them.
        overwrite: Replace a file that is there.

    Returns:
        Warnings, one sentence each.

    Raises:
        UsageError: Runs with and without CRS together, or a basemap that is none.
        RunError: A run is damaged, or lies where Web Mercator has no place for it.
        ExportError: The file is there, or cannot be written.
    """
    check_target(path, overwrite=overwrite)
    crs = _crs(runs)
    origin = None if basemap is None or crs is None else basemap.origin
    runs = sorted(runs, key=_date)
    for side, step in _TRIES:
        shown = _told_apart([_shown(run, crs, side, step) for run in runs], runs)
        text = _html(shown, crs, None if origin is None else basemap, origin)
        if len(text) <= LARGEST:
            break
    warnings = tuple(run["note"] for run in shown if run["note"])
    if side != _TRIES[0][0]:
        would = (
            f"The page is {len(text) / 1e6:.0f} MB, although"
            if len(text) > LARGEST
            else (f"The page would be over {LARGEST / 1e6:.0f} MB:")
        )
        warnings += (f"{would} picture and outlines are coarser than they could be.",)
    if basemap is not None and origin is None:
        warnings += ("There is no basemap: the run has no CRS of the Earth, so nobody knows where it lies.",)
    save(path, text.encode("utf-8", "replace"))
    return warnings


def _crs(runs: Sequence[Run]) -> CRS | None:
    """Return the CRS of the page: Web Mercator, or None for pixels.

    Raises:
        UsageError: Some runs have a CRS and some have none, or there are several without one.
    """
    known = [placed(read_head(run.path / SEGMENTS).crs) for run in runs]
    if any(known) != all(known) or (len(runs) > 1 and not any(known)):
        without = next(run.id for run, there in zip(runs, known, strict=True) if not there)
        msg = f"Run {without} has no CRS of the Earth, so nobody knows where it lies beside the others."
        raise UsageError(msg, f"Look at it alone: geovl view {without}")
    return MERCATOR if all(known) else None


def _told_apart(shown: list[dict[str, Any]], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what a page knows of runs, with the time of day beside dates that several have."""
    for letters in (16, 19):  # to the minute, to the second
        dates = [entry["date"] for entry in shown]
        for entry, run in zip(shown, runs, strict=True):
            if dates.count(entry["date"]) > 1:
                entry["date"] = _told(run, letters)
    return shown


def _told(run: Run, letters: int) -> str:
    """Return so many letters of a run's date; one on which nobody took a picture says so."""
    date = _date(run)[:letters].replace("T", " ")
    return date if _taken(run) else f"made {date}"


def _date(run: Run) -> str:
    """Return when the picture was taken, as a STAC Item or else the file says, or when the run was made."""
    return _taken(run) or str(run.manifest["created"])


def _taken(run: Run) -> str:
    """Return when the picture was taken, empty where nobody knows."""
    source = run.manifest["source"]
    return str(source.get("datetime") or _tagged(Path(str(source["path"]))) or "")


def _tagged(path: Path) -> str | None:
    """Return what the tag DateTime of a TIFF on this machine says, as ISO 8601."""
    if not path.is_file():
        return None
    try:
        with rasterio.open(path) as file:
            said = str(file.tags().get("TIFFTAG_DATETIME", ""))
        return datetime.strptime(said.strip(), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).isoformat()
    except (RasterioError, ValueError):  # no raster, or no time
        return None


def _shown(run: Run, crs: CRS | None, side: int, step: float) -> dict[str, Any]:
    """Return what a page has to know of a run.

    Args:
        run: The run.
        crs: Of the page.
        side: Pixels of the picture's longer side, at most.
        step: Of coordinates, in pixels of the raster.
    """
    manifest = run.manifest
    source, model = manifest["source"], manifest["model"]
    box = grid(run, side, crs)
    steps, scale = (
        _steps(box if crs else replace(box, crs=None), max(source["shape"]), step),
        (1.0 if crs is None else _TILE / _EARTH),
    )
    left, top = (0.0, 0.0) if crs is None else (_TILE / 2 + scale * steps.left, _TILE / 2 - scale * steps.top)
    height, width = box.shape
    across, down = (abs(box.transform.a) * width * scale, abs(box.transform.e) * height * scale)
    if crs is None:  # pixels of the source, whatever its transform says
        across, down = float(source["shape"][1]), float(source["shape"][0])
    classes = manifest["classes"]
    with ThreadPoolExecutor(1) as pool:  # GDAL reads and encodes without Python's lock
        under = pool.submit(lambda: _photograph(backdrop(run, side, crs).pixels))
        colors = [rgba(entry["color"]) for entry in classes]
        labels = _drawing(labels_on(run, box), colors)
        polygons = asdict(pack(run, steps, _to_map(run, box, crs)))
        picture, note = _or_none(under)
    rows = f"{source['shape'][1]:,} x {source['shape'][0]:,} pixels"
    return {
        "title": Path(str(source["path"])).name or str(source["path"]),
        "about": f"{model['id']} {model['version']} · {rows} · run {manifest['id']}",
        "note": note,
        "date": _told(run, 10),
        "lattice": _lattice(run, box, crs),
        "bounds": [left, top, left + across, top + down],
        "picture": picture,
        "labels": labels,
        "steps": {"x": left, "y": top, "k": steps.step * scale},
        "classes": [
            {"name": entry["name"], "color": entry["color"], "polygons": entry["polygons"], "area": entry["area_m2"]}
            for entry in classes
        ],
        "polygons": polygons,
    }


def _to_map(run: Run, box: GeoBox, crs: CRS | None) -> Callable[..., Any]:
    """Return what turns x and y of a run's polygons into those of its map, or into pixels of its source.

    A map has the CRS of its grid: beyond the antimeridian that is not the page's.
    """
    if crs is None:
        height, width = run.manifest["source"]["shape"]
        back = ~(box.transform @ Affine.scale(box.shape[1] / width, box.shape[0] / height))
        return lambda x, y: back @ (x, y)
    return Transformer.from_crs(read_head(run.path / SEGMENTS).crs, box.crs, always_xy=True).transform


def _lattice(run: Run, box: GeoBox, crs: CRS | None) -> dict[str, Any] | None:
    """Return x and y in a run's own CRS at points evenly over a map, for a page to read between; None where it cannot.

    It cannot in degrees, which every page tells, and where straight lines between the points miss the truth by more
    than half a pixel.
    """
    own = read_head(run.path / SEGMENTS).crs
    if crs is None or own is None or not own.is_projected:
        return None
    height, width = box.shape
    back = Transformer.from_crs(box.crs, own, always_xy=True)
    for side in _LATTICES:
        cols, rows = np.meshgrid(np.linspace(0, width, 2 * side - 1), np.linspace(0, height, 2 * side - 1))
        x, y = back.transform(*(box.transform @ (cols, rows)))  # every other point is between those that are told
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None
        size = np.hypot(x[-1, -1] - x[0, 0], y[-1, -1] - y[0, 0]) / np.hypot(*run.manifest["source"]["shape"])
        missed = max(np.abs(of[1::2, 1::2] - _between(of[::2, ::2])).max() for of in (x, y))
        if missed <= size / 2:
            code = own.to_authority()
            told = {"x": x[::2, ::2], "y": y[::2, ::2]}
            return {
                "name": ":".join(code) if code else own.name, "side": side,
                **{axis: np.round(of, 2).ravel().tolist() for axis, of in told.items()},
            }  # fmt: skip
    return None


def _between(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of each four neighbours in a grid."""
    mean: NDArray[np.float64] = (values[1:, 1:] + values[1:, :-1] + values[:-1, 1:] + values[:-1, :-1]) / 4
    return mean


def _or_none(picture: Future[str]) -> tuple[str | None, str]:
    """Return a picture, or what is to be said where there is none."""
    try:
        return picture.result(), ""
    except SourceError as error:
        return None, f"{error.message} The labels are shown alone."


def _steps(box: GeoBox, pixels: int, step: float) -> Steps:
    """Return the grid of coordinates over a picture whose source has so many pixels along its longer side."""
    if box.crs is None:
        return Steps(0.0, 0.0, step, down=True)
    transform = box.transform
    size = max(abs(transform.a) * box.shape[1], abs(transform.e) * box.shape[0])
    return Steps(transform.c, transform.f, step * size / pixels)


def _photograph(pixels: NDArray[np.uint8]) -> str:
    """Return a picture (h, w, 4) as the address of a WebP that holds it."""
    return _address(np.moveaxis(pixels, -1, 0), "WEBP", "image/webp", QUALITY=82)


def _drawing(labels: NDArray[np.uint16], colors: Sequence[tuple[int, int, int, int]]) -> str:
    """Return labels (h, w) as the address of a PNG that holds them, clear where there are none."""
    table = np.array([(0, 0, 0, 0), *colors], np.uint8)
    if len(table) > 256:
        return _address(np.moveaxis(table[labels], -1, 0), "PNG", "image/png", ZLEVEL=6)
    return _address(labels.astype(np.uint8)[None], "PNG", "image/png", dict(enumerate(map(tuple, table))), ZLEVEL=6)


def _address(
    bands: NDArray[np.uint8], driver: str, kind: str, colors: dict[int, tuple[int, ...]] | None = None, **options: Any
) -> str:
    """Return bands (n, h, w) as a data URL."""
    count, height, width = bands.shape
    with MemoryFile() as memory:
        profile = {"driver": driver, "count": count, "height": height, "width": width, "dtype": "uint8"}
        with memory.open(**profile, **options) as file:
            if colors is not None:
                file.write_colormap(1, colors)
            file.write(bands)
        data = base64.b64encode(memory.read()).decode("ascii")
    return f"data:{kind};base64,{data}"


@cache
def _library(name: str) -> str:
    """Return a file of Leaflet that would load nothing else.

    Raises:
        ExportError: The package that holds it is not there.
    """
    try:
        found = next(file for file in distribution(_LIBRARY).files or [] if file.name == name)
        text = Path(str(found.locate())).read_text("utf-8")
    except (PackageNotFoundError, StopIteration, OSError) as error:
        msg = f"The map library {_LIBRARY} is not installed whole."
        raise ExportError(msg, f"Install it again: pip install --force-reinstall {_LIBRARY}") from error
    return re.sub(r"//# sourceMappingURL=.*|url\([^)]*\)", lambda m: "" if m[0].startswith("//") else "none", text)


def _own(name: str) -> str:
    return files("geovl.views").joinpath("assets", name).read_text("utf-8")


def _safe(value: Any) -> str:
    """Return JSON that can stand in a script element of any page: no tag begins or ends in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _html(shown: Sequence[dict[str, Any]], crs: CRS | None, basemap: Basemap | None, origin: str | None) -> str:
    data = {
        "crs": "pixels" if crs is None else "mercator",
        "basemap": None if basemap is None else {"url": basemap.url, "attribution": html.escape(basemap.attribution)},
        "runs": shown,
    }
    style = _library("leaflet.css") + _own("view.css")
    scripts = (_library("leaflet.js"), _own("view.js"))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"img-src data: blob:{'' if origin is None else ' ' + origin}; "
        f"style-src {_hash(style)}; script-src {' '.join(map(_hash, scripts))}"
    )
    title = html.escape(f"{shown[-1]['title']} - geovl")
    body = _own("view.html")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f'<link rel="icon" href="data:,">\n'
        f"<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="data">{_safe(data)}</script>\n'
        f"<script>{scripts[0]}</script>\n<script>{scripts[1]}</script>\n</body>\n</html>\n"
    )
