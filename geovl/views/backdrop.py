"""The picture that results are drawn over: a run's source, small, on a grid that a page or a figure can use."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from rasterio._err import CPLE_BaseError  # reproject raises it bare
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import calculate_default_transform, reproject

from geovl.errors import RasterError, RunError, SourceError, UsageError
from geovl.raster import Raster, Stretch
from geovl.runs import LABELS, Run
from geovl.sources import reading
from geovl.sources.remote import NETWORK
from geovl.sources.source import from_file, from_gdal_path
from geovl.types import GeoBox

MERCATOR = CRS.from_epsg(3857)
"""What maps on the web are drawn in."""
_POLE = 85.0  # degrees; Web Mercator has no poles
_HALF = math.pi * 6378137.0  # metres of Web Mercator from the prime meridian to the antimeridian
_BEYOND = CRS.from_user_input(
    f"+proj=merc +a=6378137 +b=6378137 +lat_ts=0 +lon_0=180 +x_0={_HALF:.10f} +units=m +nadgrids=@null +no_defs"
)
"""Web Mercator whose x counts on beyond the antimeridian, as maps on the web count on."""
_ARCHIVE = re.compile(r"/vsi(zip|tar|gzip|7z|rar)/")


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A picture on a grid."""

    pixels: NDArray[np.uint8]
    """(h, w, 4): red, green, blue, alpha; alpha 0 where there is no data."""
    box: GeoBox
    """The grid of the pixels; without CRS its coordinates are pixels of the source, down and to the right."""


def backdrop(run: Run, side: int, crs: CRS | None = None) -> Backdrop:
    """Return the source of a run as a picture.

    Args:
        run: A finished run.
        side: Pixels of the longer side, at most.
        crs: Reproject to it; the source's own grid where None, or where the source has none. Of what lies across
            the antimeridian, Web Mercator has x that counts on beyond it: ``box.crs`` is what the grid is really in.

    Raises:
        SourceError: The source is no longer there, was changed, or is on a server.
        RunError: The run is damaged, or lies where ``crs`` has no place for it.
    """
    with _opened(run) as raster:
        box = raster.info.geobox
        pixels, valid = raster.picture(side)
    picture = np.dstack([*pixels, np.where(valid, 255, 0).astype(np.uint8)])
    small = scaled(box, valid.shape)
    if crs is None or not placed(box.crs) or box.crs == crs:
        return Backdrop(picture, small)
    return _warped(picture, small, fitting(small, side, crs))


def grid(run: Run, side: int, crs: CRS | None = None) -> GeoBox:
    """Return the grid that :func:`backdrop` has, source or not; arguments and errors are the same."""
    with _labels(run) as labels:
        known = None if labels.crs is None else CRS.from_user_input(labels.crs)
        box = GeoBox((labels.height, labels.width), labels.transform, known)
    shrink = max(1.0, max(box.shape) / side)
    small = scaled(box, (max(1, round(box.shape[0] / shrink)), max(1, round(box.shape[1] / shrink))))
    if crs is not None and placed(box.crs) and box.crs != crs:
        return fitting(small, side, crs)
    return small


def labels_on(run: Run, box: GeoBox) -> NDArray[np.uint16]:
    """Return the labels of a run on a grid, by nearest neighbour.

    Args:
        run: A finished run.
        box: The grid; one without CRS covers the raster, as :func:`backdrop` makes it.

    Returns:
        uint16 (h, w): 0 for background and where nothing is known.

    Raises:
        RunError: The run is damaged.
    """
    with _labels(run) as labels:
        try:
            if not placed(box.crs) or labels.crs is None:
                found = labels.read(1, out_shape=box.shape, resampling=Resampling.nearest)
            else:
                # not a WarpedVRT: it knows no longitudes beyond 180 degrees
                found = np.zeros(box.shape, labels.dtypes[0])
                reproject(
                    rasterio.band(labels, 1), found, dst_transform=box.transform, dst_crs=box.crs.to_wkt(),
                    resampling=Resampling.nearest, init_dest_nodata=True,
                )  # fmt: skip
        except (RasterioError, CPLE_BaseError) as error:
            raise _damaged(run, error) from error
        nodata = labels.nodata
    return np.where(found == nodata, 0, found).astype(np.uint16)


def scaled(box: GeoBox, shape: tuple[int, int]) -> GeoBox:
    """Return a grid over the same area with so many rows and columns."""
    rows, cols = box.shape[0] / shape[0], box.shape[1] / shape[1]
    return GeoBox(shape, box.transform @ Affine.scale(cols, rows), box.crs)


def fitting(box: GeoBox, side: int, crs: CRS) -> GeoBox:
    """Return a grid in another CRS over the same area, of at most so many pixels along its longer side.

    Raises:
        RunError: The CRS has no place for it.
    """
    height, width = box.shape
    if crs == MERCATOR:
        _refuse_poles(box)
        crs = _BEYOND if _crosses_antimeridian(box) else crs
    try:
        bounds = _clipped(box)
        transform, cols, rows = calculate_default_transform(_wkt(box), crs.to_wkt(), width, height, *bounds)
        if not np.isfinite(tuple(transform)).all() or transform.determinant == 0:
            raise RasterioError("its edges are not in one piece there")
    except (RasterioError, CPLE_BaseError) as error:
        raise _misplaced(crs, error) from error
    shrink = max(1.0, max(rows, cols) / side)
    shape = (max(1, math.ceil(rows / shrink)), max(1, math.ceil(cols / shrink)))
    return scaled(GeoBox((rows, cols), transform, crs), shape)


def placed(crs: CRS | None) -> TypeGuard[CRS]:
    """Tell whether a CRS says where on Earth something lies: a local one, as of a building site, does not."""
    return crs is not None and not crs.is_engineering


def _refuse_poles(box: GeoBox) -> None:
    """Refuse a grid around a pole.

    Raises:
        RunError: Its centre lies where Web Mercator ends.
    """
    centre = box.transform @ (box.shape[1] / 2, box.shape[0] / 2)
    _, lat = Transformer.from_crs(box.crs, "OGC:CRS84", always_xy=True).transform(*centre)
    if not abs(lat) <= _POLE:
        msg = f"The run lies at {lat:.1f} degrees of latitude, and Web Mercator ends at {_POLE:g}."
        raise RunError(msg, "Draw a figure instead: geovl view --png FILE.png")


def _crosses_antimeridian(box: GeoBox) -> bool:
    """Tell whether a grid is narrower counted in 0..360 degrees than in -180..180."""
    height, width = box.shape
    part = np.linspace(0, 1, 33)
    cols = np.concatenate([part * width, part * width, 0 * part, 0 * part + width])
    rows = np.concatenate([0 * part, 0 * part + height, part * height, part * height])
    lon, _ = Transformer.from_crs(box.crs, "OGC:CRS84", always_xy=True).transform(*(box.transform @ (cols, rows)))
    lon = lon[np.isfinite(lon)]
    west, east = (lon + 180) % 360, lon % 360
    return bool(len(lon)) and np.ptp(east) < 180 <= np.ptp(west)


def _clipped(box: GeoBox) -> tuple[float, float, float, float]:
    """Return left, bottom, right, top of a grid, less the poles where it is in degrees."""
    left, bottom, right, top = array_bounds(*box.shape, box.transform)
    if box.crs is not None and box.crs.is_geographic:
        bottom, top = max(min(bottom, top), -_POLE), min(max(bottom, top), _POLE)
    return left, bottom, right, top


def _warped(picture: NDArray[np.uint8], box: GeoBox, target: GeoBox) -> Backdrop:
    """Reproject a picture (h, w, 4) to another grid."""
    out = np.zeros((4, *target.shape), np.uint8)
    # premultiplied, so that what has no data does not bleed into what has
    alpha = picture[..., 3:] // 255
    try:
        reproject(
            np.moveaxis(np.concatenate([picture[..., :3] * alpha, picture[..., 3:]], -1), -1, 0), out,
            src_transform=box.transform, src_crs=_wkt(box),
            dst_transform=target.transform, dst_crs=_wkt(target), resampling=Resampling.bilinear,
        )  # fmt: skip
    except (RasterioError, CPLE_BaseError) as error:
        raise _misplaced(target.crs, error) from error
    edge = (out[3] > 0) & (out[3] < 255)
    out[:3, edge] = np.clip(np.rint(out[:3, edge] * (255 / out[3, edge])), 0, 255)
    out[3] = np.where(out[3] >= 128, 255, 0)
    return Backdrop(np.ascontiguousarray(np.moveaxis(out, 0, -1)), target)


def _misplaced(crs: CRS | None, error: Exception) -> RunError:
    name = "a picture without CRS" if crs is None else crs.name
    msg = f"The run lies where {name} cannot show it: {error}"
    return RunError(msg, "Draw a figure instead: geovl view --png FILE.png")


def _wkt(box: GeoBox) -> str | None:
    return None if box.crs is None else box.crs.to_wkt()


@contextmanager
def _opened(run: Run) -> Iterator[Raster]:
    """Open the source of a run as it was opened for the run.

    Raises:
        SourceError: It is not as it was, or not on this computer.
    """
    source = run.manifest["source"]
    path, stretch = _there(run, source), source.get("stretch")
    given = None if stretch is None else Stretch(tuple(stretch["low"]), tuple(stretch["high"]))
    found = from_gdal_path(path) if _ARCHIVE.match(path) else from_file(Path(path))
    try:
        with reading(found), Raster(path, tuple(source["bands"]), given) as raster:
            rows, columns = raster.info.geobox.shape
            if [rows, columns] != source["shape"]:
                msg = f"The source {path} was changed: it has {columns} x {rows} pixels now."
                raise SourceError(msg, "Segment it again.")
            yield raster
    except (RasterError, UsageError) as error:
        msg = f"The source {path} was changed after the run was made: {error.message}"
        raise SourceError(msg, "Segment it again.") from error


def _there(run: Run, source: dict[str, Any]) -> str:
    """Return the path of a source that is on this computer as it was.

    Raises:
        SourceError: It is not.
    """
    path = str(source["path"])
    if source["bytes"] is None and _ARCHIVE.match(path) and not NETWORK.search(path):
        return path
    if source["bytes"] is None and not Path(path).is_file():
        msg = f"The source {path} is not a file of this computer: the picture cannot be shown."
        raise SourceError(msg, "Download it, and segment the file.")
    if not Path(path).is_file():
        msg = f"The source {path} is not there: the picture cannot be shown."
        raise SourceError(msg, "Put it back, or segment it again.")
    if source["bytes"] is not None and Path(path).stat().st_size != source["bytes"]:
        msg = f"The source {path} was changed after the run was made: the picture may not fit."
        raise SourceError(msg, f"See what else is different with: geovl runs verify {run.id}")
    return path


def _labels(run: Run) -> Any:
    try:
        return rasterio.open(run.path / LABELS)
    except RasterioError as error:
        raise _damaged(run, error) from error


def _damaged(run: Run, error: Exception) -> RunError:
    msg = f"Run {run.id!r} has no readable {LABELS}: {error}"
    return RunError(msg, f"See what is wrong with: geovl runs verify {run.id}")
