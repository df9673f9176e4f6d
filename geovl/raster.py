"""Open a raster, choose its bands, read chips of it, and write rasters by blocks.

The stretch to 0..255 is computed once from the whole raster (overviews where there are
any, else blocks spread over it), never per window: the same pixel has the same value in
every chip.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod
from pyproj.exceptions import CRSError, ProjError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import from_gcps
from rasterio.windows import Window as RioWindow

from geovl.errors import RasterError, SourceError, UsageError
from geovl.types import Chip, GeoBox, Window

BLOCK = 512
"""Side of the tiles of rasters that geovl writes, pixels."""

# Bytes of decoded blocks that are kept. What windows share is then decoded once, for rasters up to some 10,000
# pixels wide; of wider ones the rows that two rows of windows share are decoded twice.
_CACHE = 64 << 20
_SAMPLE_SIDE = 1024
_SAMPLE_ROWS = 256
_SAMPLE_BLOCKS = 8  # blocks an axis, when there are no overviews
_PLAUSIBLE_RATIO = 20_000  # bytes of pixels a byte of file; deflate stops near 1000
_PERCENTILES = (2.0, 98.0)
_SENTINEL2 = {"B04": "red", "B03": "green", "B02": "blue", "B4": "red", "B3": "green", "B2": "blue"}


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What is known of a raster before its pixels are read."""

    path: str
    driver: str
    geobox: GeoBox
    count: int
    dtype: str
    bands: tuple[int, ...]
    """1-based bands taken as red, green, blue; one band when it is grey or a palette."""
    gsd: float | None
    """Metres per pixel at the centre, or None where it cannot be told."""
    warnings: tuple[str, ...]
    """What a user should know about how the raster was read."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A linear map of band values onto 0..255: ``low`` becomes 0, ``high`` 255."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Map (bands, height, width) of any real dtype to uint8; NaN becomes 0."""
        low = np.asarray(self.low, np.float32)[:, None, None]
        scale = (255.0 / (np.asarray(self.high, np.float32) - low[:, 0, 0]))[:, None, None].astype(np.float32)
        scaled = (values.astype(np.float32) - low) * scale
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        np.clip(scaled, 0, 255, out=scaled)
        out: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
        return out


class Raster:
    """An open raster; use as a context manager.

    Args:
        path: Anything GDAL reads.
        bidx: 1-based bands to read as red, green, blue (or one grey band); chosen from
            colour interpretation or band names when not given.
        stretch: ``auto`` (8 bit as it is, else percentiles 2 and 98), ``none``,
            ``minmax``, or two percentiles such as ``"1,99"``; or a stretch that was chosen before, None for none.
        drivers: GDAL drivers that may open it; any where None.

    Raises:
        SourceError: Not a raster, or damaged.
        RasterError: No bands, complex values, or a header that cannot be true.
        UsageError: A band that does not exist, or a stretch that means nothing.
    """

    def __init__(
        self,
        path: str,
        bidx: tuple[int, ...] | None = None,
        stretch: "str | Stretch | None" = "auto",
        drivers: Sequence[str] | None = None,
    ) -> None:
        given = None if isinstance(stretch, str) else stretch
        self._stretch_name = stretch if isinstance(stretch, str) else "given"
        self._percentiles = parse_stretch(stretch) if isinstance(stretch, str) else _PERCENTILES
        self._stack = rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_NUM_THREADS="2")
        self._stack.__enter__()
        try:
            self._path, self._drivers = path, drivers
            self._open()
            self._check(path)
            self.info = _describe(self._dataset, path, bidx)
            self._palette = _palette(self._dataset, self.info.bands)
            self._masked = _is_masked(self._dataset, self.info.bands)
            with _reading(path):
                self.stretch = given if self._stretch_name == "given" else self._choose_stretch()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        path, drivers = self._path, self._drivers
        with _reading(path):
            # rasterio.open takes one driver only
            self._dataset = rasterio.open(path) if drivers is None else DatasetReader(path, driver=list(drivers))

    def reopen(self) -> None:
        """Open the file anew, after a read that failed: GDAL may serve the block that it could not read as if it had.

        Raises:
            SourceError: It is gone.
        """
        self._dataset.close()
        self._open()

    def close(self) -> None:
        """Release the file."""
        if hasattr(self, "_dataset"):
            self._dataset.close()
        if self._stack is not None:
            self._stack.__exit__(None, None, None)
            self._stack = None

    def _check(self, path: str) -> None:
        dataset = self._dataset
        if dataset.count == 0:
            msg = f"{path!r} has no bands."
            subdatasets = dataset.subdatasets
            hint = f"It is a container; give one of its parts, e.g. {subdatasets[0]}" if subdatasets else None
            raise RasterError(msg, hint)
        if any("complex" in str(dtype) or str(dtype) == "complex_int16" for dtype in dataset.dtypes):
            msg = f"{path!r} holds complex values ({dataset.dtypes[0]}); geovl reads real ones."
            raise RasterError(msg, "Make an amplitude raster first, e.g. with gdal_calc.py.")
        size = Path(path).stat().st_size if Path(path).is_file() else 0
        pixels = dataset.width * dataset.height
        claimed = pixels * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
        if dataset.driver != "VRT" and size and pixels > 10**8 and claimed > size * _PLAUSIBLE_RATIO:
            msg = f"{path!r} claims {dataset.width} x {dataset.height} pixels, but the file has only {size} bytes."
            raise RasterError(msg, "The header is damaged or the raster is empty; get the file again.")

    def _choose_stretch(self) -> Stretch | None:
        count = len(self.info.bands)
        if self._palette is not None or self._stretch_name == "none":
            return None
        if self._stretch_name == "auto" and self._dataset.dtypes[self.info.bands[0] - 1] == "uint8":
            return None
        values, valid = self._sample()
        if not any((valid & np.isfinite(band)).any() for band in values):
            values, valid = self._first_data()
        low, high = [], []
        for band in range(count):
            usable = values[band][valid & np.isfinite(values[band])]
            if usable.size == 0:
                msg = f"{self.info.path!r} has no valid pixel in its sample: it is all nodata."
                raise RasterError(msg, "Check the nodata value with: rio info FILE")
            bounds = np.percentile(usable.astype(np.float64), self._percentiles)
            low.append(float(bounds[0]))
            high.append(float(bounds[1]) if bounds[1] > bounds[0] else float(bounds[0]) + 1.0)
        return Stretch(tuple(low), tuple(high))

    def _sample(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read values spread over the whole raster: (bands, n) and valid (n)."""
        dataset = self._dataset
        bands = list(self.info.bands)
        height, width = dataset.shape
        side = max(height, width)
        if side <= 2 * _SAMPLE_SIDE or dataset.overviews(bands[0]):
            factor = min(1.0, _SAMPLE_SIDE / side)
            shape = (max(1, round(height * factor)), max(1, round(width * factor)))
            values = dataset.read(bands, out_shape=(len(bands), *shape))
            return values.reshape(len(bands), -1), self._mask(None, shape).reshape(-1)
        # a block may be larger than the raster
        block_rows = min(dataset.block_shapes[0][0], 256, height)
        block_cols = min(dataset.block_shapes[0][1], 256, width)
        parts, masks = [], []
        for row in np.linspace(0, height - block_rows, _SAMPLE_BLOCKS).astype(int):
            for col in np.linspace(0, width - block_cols, _SAMPLE_BLOCKS).astype(int):
                window = RioWindow(int(col), int(row), block_cols, block_rows)
                parts.append(dataset.read(bands, window=window).reshape(len(bands), -1))
                masks.append(self._mask(window, (block_rows, block_cols)).reshape(-1))
        return np.concatenate(parts, axis=1), np.concatenate(masks)

    def _first_data(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read rows from the top until some hold data, for rasters that are nearly empty: as :meth:`_sample`."""
        dataset = self._dataset
        bands = list(self.info.bands)
        height, width = dataset.shape
        for row in range(0, height, _SAMPLE_ROWS):
            window = RioWindow(0, row, width, min(_SAMPLE_ROWS, height - row))
            values = dataset.read(bands, window=window).reshape(len(bands), -1)
            valid = self._mask(window, (window.height, width)).reshape(-1)
            if valid.any() and any(np.isfinite(band[valid]).any() for band in values):
                return values, valid
        return values, valid

    def _mask(self, window: RioWindow | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Valid pixels, bool (height, width): those that any of the chosen bands has data for."""
        if not self._masked:
            return np.ones(shape, np.bool_)
        bands = list(self.info.bands)
        masks = self._dataset.read_masks(bands, window=window, out_shape=(len(bands), *shape))
        return np.asarray(masks.any(axis=0))

    def read(self, window: Window, multiple: int = 1) -> Chip:
        """Read one window.

        Args:
            window: Inside the raster.
            multiple: The chip is extended to the right and below, by repeating its last
                pixels, until both sides are a multiple of this; those pixels are not valid.

        Returns:
            The chip, stretched to uint8 RGB.

        Raises:
            SourceError: The pixels cannot be decoded.
        """
        area = RioWindow(window.col, window.row, window.width, window.height)
        shape = (window.height, window.width)
        with _reading(self.info.path, window):
            values = self._dataset.read(list(self.info.bands), window=area)
            valid = self._mask(area, shape)
        pixels, valid = self._shown(values, valid)
        below, right = -window.height % multiple, -window.width % multiple
        if below or right:
            pixels = np.pad(pixels, ((0, 0), (0, below), (0, right)), mode="edge")
            valid = np.pad(valid, ((0, below), (0, right)))
        return Chip(np.ascontiguousarray(pixels), valid, window, self.info.gsd)

    def picture(self, side: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read the whole raster small, from its overviews where it has any.

        Args:
            side: Pixels of the longer side, at most; a raster that is smaller comes as it is.

        Returns:
            Pixels uint8 (3, h, w), stretched as chips are, and valid bool (h, w).

        Raises:
            SourceError: The pixels cannot be decoded.
        """
        height, width = self._dataset.shape
        shrink = max(1.0, max(height, width) / side)
        shape = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        bands = list(self.info.bands)
        how = Resampling.nearest if self._palette is not None else Resampling.average
        with _reading(self.info.path):
            parts = [
                (
                    self._dataset.read(bands, window=window, out_shape=(len(bands), rows, shape[1]), resampling=how),
                    self._mask(window, (rows, shape[1])),
                )
                for window, rows in self._strips(shape)
            ]
        values, valid = (np.concatenate(arrays, axis=-2) for arrays in zip(*parts, strict=True))
        return self._shown(values, valid)

    def _strips(self, shape: tuple[int, int]) -> Iterator[tuple[RioWindow, int]]:
        """Yield windows over the raster from the top, and the rows of a picture (h, w) that each becomes.

        GDAL makes a picture smaller band by band. Where all bands of a strip stay in its cache, it decodes them once
        and not once for each. The raster is one strip where a row of blocks is too large for that, and where it has
        overviews: those are small, and the edges of strips need not fall on edges of their pixels.
        """
        dataset = self._dataset
        height, width = dataset.shape
        bytes_of_row = width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
        tall = _CACHE // 2 // bytes_of_row
        single = tall < 2 * dataset.block_shapes[0][0] or bool(dataset.overviews(self.info.bands[0]))
        rows = shape[0] if single else max(1, tall * shape[0] // height)
        for row in range(0, shape[0], rows):
            end = min(shape[0], row + rows)
            top, bottom = row * height / shape[0], end * height / shape[0]
            yield RioWindow(0, top, width, bottom - top), end - row

    def _shown(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return values (bands, h, w) as uint8 (3, h, w), and valid (h, w) less what is no number."""
        if values.dtype.kind == "f":
            valid = valid & np.isfinite(values).all(axis=0)
        if self._palette is not None:
            pixels = self._palette[:, np.clip(values[0].astype(np.int64), 0, 255)]
        elif self.stretch is not None:
            pixels = self.stretch.apply(values)
        else:
            pixels = np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8) if values.dtype != np.uint8 else values
        return np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels, valid


def coarsen(chip: Chip, factor: int, multiple: int = 1) -> Chip:
    """Return a chip with ``factor`` times as wide pixels: the means of those that have data.

    Args:
        chip: Any chip.
        factor: Pixels of the chip per pixel of the result, along each side. The first pixel of both begins at
            the same corner; a last block that is not full is the mean of what there is.
        multiple: As for :meth:`Raster.read`.

    Returns:
        The chip; a pixel is valid where any of its block is.
    """
    height, width = chip.valid.shape
    below, right = -height % factor, -width % factor
    valid = np.pad(chip.valid, ((0, below), (0, right)))
    pixels = np.pad(chip.pixels, ((0, 0), (0, below), (0, right)))
    rows, cols = valid.shape[0] // factor, valid.shape[1] // factor
    count = valid.reshape(rows, factor, cols, factor).sum(axis=(1, 3), dtype=np.uint32)
    blocks = np.where(valid, pixels, 0).astype(np.uint8).reshape(3, rows, factor, cols, factor)
    total = blocks.sum(axis=(2, 4), dtype=np.uint32)
    mean = ((total + count // 2) // np.maximum(count, 1)).astype(np.uint8)
    pad = ((0, -rows % multiple), (0, -cols % multiple))
    gsd = None if chip.gsd is None else chip.gsd * factor
    return Chip(np.pad(mean, ((0, 0), *pad), mode="edge"), np.pad(count > 0, pad), chip.window, gsd)


def parse_stretch(stretch: str) -> tuple[float, float]:
    """Return the two percentiles that a ``--stretch`` value stands for.

    Raises:
        UsageError: Not ``auto``, ``none``, ``minmax`` or two rising percentiles.
    """
    if stretch in {"auto", "none"}:
        return _PERCENTILES
    if stretch == "minmax":
        return (0.0, 100.0)
    try:
        low, high = (float(part) for part in stretch.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 100:
        msg = f"Stretch {stretch!r} is not one of auto, none, minmax, or two percentiles such as 2,98."
        raise UsageError(msg)
    return (low, high)


@contextmanager
def _reading(path: str, window: Window | None = None) -> Iterator[None]:
    """Turn what rasterio raises into an error that names the file and the place."""
    where = "" if window is None else f" at row {window.row}, column {window.col}"
    try:
        yield
    except RasterioError as error:
        detail = str(error.__cause__ or error).split("\n")[0]
        if window is None:
            msg = f"{path!r} cannot be opened as a raster: {detail}"
            raise SourceError(msg, "Check the file with: rio info FILE") from error
        msg = f"{path!r} is damaged{where}: {detail}"
        raise SourceError(msg, "Get the file again, or cut out the part that can be read.") from error
    except MemoryError as error:
        msg = f"{path!r} has blocks{where} that do not fit into memory."
        raise SourceError(msg, "Rewrite it in tiles: gdal_translate -co TILED=YES IN OUT") from error


def _describe(dataset: Any, path: str, bidx: tuple[int, ...] | None) -> RasterInfo:
    notes: list[str] = []
    crs = _crs(dataset.crs, notes)
    transform: Affine = dataset.transform
    gcps, gcp_crs = dataset.gcps
    if gcps and transform.is_identity and len(gcps) >= 3:
        transform, crs = _from_gcps(gcps, gcp_crs, notes)
    elif crs is None:
        extra = " (it has RPCs; orthorectify it first to place it on the ground)" if dataset.rpcs else ""
        notes.append(f"No CRS{extra}: polygons are in the raster's own coordinates and have no area in m².")
    if not all(math.isfinite(value) for value in tuple(transform)[:6]):
        notes.append("The raster's place on the ground is not given in numbers; polygons are in its own pixels.")
        transform, crs = Affine.identity(), None
    bands = tuple(bidx) if bidx else _rgb_bands(dataset, path, notes)
    if len(bands) not in (1, 3):
        msg = f"--bidx takes 1 or 3 bands, got {len(bands)}."
        raise UsageError(msg, "For example --bidx 4,3,2")
    for band in bands:
        if not 1 <= band <= dataset.count:
            msg = f"Band {band} was asked for; {path!r} has bands 1 to {dataset.count}."
            raise UsageError(msg)
    geobox = GeoBox((dataset.height, dataset.width), transform, crs)
    return RasterInfo(
        path, dataset.driver, geobox, dataset.count, dataset.dtypes[bands[0] - 1], bands, _gsd(geobox), tuple(notes)
    )


def _crs(crs: Any, notes: list[str]) -> CRS | None:
    if not crs:
        return None
    try:
        return CRS.from_wkt(crs.to_wkt())
    except (CRSError, RasterioError):
        notes.append("The CRS of the raster cannot be understood and is left out.")
        return None


def _from_gcps(gcps: list[Any], gcp_crs: Any, notes: list[str]) -> tuple[Affine, CRS | None]:
    """Fit one affine transform to ground control points and say how far off it is."""
    transform = from_gcps(gcps)
    if transform.determinant == 0:
        notes.append("The ground control points lie on a line: they are left out, polygons are in pixels.")
        return Affine.identity(), None
    back = ~transform
    off = max(math.dist(back @ (p.x, p.y), (p.col, p.row)) for p in gcps)
    notes.append(f"Placed by {len(gcps)} ground control points; the fit is off by up to {off:.1f} pixels.")
    return transform, _crs(gcp_crs, notes)


def _rgb_bands(dataset: Any, path: str, notes: list[str]) -> tuple[int, ...]:
    interp = list(dataset.colorinterp)
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(colour in interp for colour in wanted):
        return tuple(interp.index(colour) + 1 for colour in wanted)
    names = [_colour_name(text) for text in dataset.descriptions]
    if all(colour in names for colour in ("red", "green", "blue")):
        return tuple(names.index(colour) + 1 for colour in ("red", "green", "blue"))
    plain = [band for band, kind in enumerate(interp, 1) if kind != ColorInterp.alpha]
    if len(plain) <= 2:
        return (plain[0] if plain else 1,)
    if len(plain) == 3:
        notes.append("Bands have no colour interpretation; 1, 2, 3 are taken as red, green, blue.")
        return tuple(plain)
    msg = f"{path!r} has {dataset.count} bands and does not say which are red, green and blue."
    raise UsageError(msg, "Say it: --bidx 4,3,2 (red, green, blue; 1-based)")


def _colour_name(description: str | None) -> str | None:
    text = (description or "").strip()
    if text.upper() in _SENTINEL2:
        return _SENTINEL2[text.upper()]
    words = re.split(r"[^a-z]+", text.lower())
    return next(
        (colour for colour in ("red", "green", "blue") if words and words[0] == colour and len(words) == 1), None
    )


def _palette(dataset: Any, bands: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Colours of a palette band as uint8 (3, 256), else None."""
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1] != ColorInterp.palette:
        return None
    try:
        entries: Mapping[int, tuple[int, ...]] = dataset.colormap(bands[0])
    except ValueError:
        return None
    table = np.zeros((3, 256), np.uint8)
    for value, colour in entries.items():
        if 0 <= value < 256:
            table[:, value] = colour[:3]
    return table


def _is_masked(dataset: Any, bands: tuple[int, ...]) -> bool:
    return any(MaskFlags.all_valid not in dataset.mask_flag_enums[band - 1] for band in bands)


def _gsd(geobox: GeoBox) -> float | None:
    """Metres per pixel at the centre: the side of a square of the centre pixel's area."""
    transform, crs = geobox.transform, geobox.crs
    if crs is None or transform.determinant == 0:
        return None
    if crs.is_projected:
        factor = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        size = math.sqrt(abs(transform.determinant)) * factor
        return size if math.isfinite(size) and size > 0 else None
    if not crs.is_geographic:
        return None
    row, col = geobox.shape[0] / 2, geobox.shape[1] / 2
    corners = [transform @ (col + dx, row + dy) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))]
    if any(abs(lat) > 90 for _, lat in corners):
        return None
    geod = crs.get_geod() or Geod(ellps="WGS84")
    try:
        area, _ = geod.polygon_area_perimeter([lon for lon, _ in corners], [lat for _, lat in corners])
    except ProjError:
        return None
    return math.sqrt(abs(area)) if math.isfinite(area) and area else None


@dataclass(slots=True)
class BlockWriter:
    """Writes a one-band tiled GeoTIFF window by window; use as a context manager.

    Args:
        path: File to make; its folder exists.
        geobox: Grid of the raster.
        dtype: ``uint8`` or ``uint16``.
        nodata: Value of pixels without data.
        tags: Metadata items.
        colors: Label to (red, green, blue, alpha), for a colour table.
        scale: What one count is worth, kept as the band's scale.
    """

    path: Path
    geobox: GeoBox
    dtype: str
    nodata: int
    tags: Mapping[str, str] = field(default_factory=dict)
    colors: Mapping[int, tuple[int, int, int, int]] | None = None
    scale: float | None = None
    _dataset: Any = None

    def __enter__(self) -> Self:
        height, width = self.geobox.shape
        crs = rasterio.crs.CRS.from_wkt(self.geobox.crs.to_wkt()) if self.geobox.crs else None
        self._dataset = rasterio.open(
            self.path, "w", driver="GTiff", height=height, width=width, count=1, dtype=self.dtype, crs=crs,
            transform=self.geobox.transform, nodata=self.nodata, compress="deflate", zlevel=1, tiled=True,
            blockxsize=BLOCK, blockysize=BLOCK, bigtiff="IF_SAFER", num_threads=2,
        )  # fmt: skip
        self._dataset.update_tags(**self.tags)
        if self.colors is not None and self.dtype == "uint8":
            self._dataset.write_colormap(1, dict(self.colors))
        if self.scale is not None:
            self._dataset.scales = (self.scale,)
        return self

    def write(self, values: NDArray[np.unsignedinteger], window: Window) -> None:
        """Write (height, width) values at a window.

        Raises:
            OSError: The disk is full or the folder went away.
        """
        area = RioWindow(window.col, window.row, window.width, window.height)
        try:
            self._dataset.write(values, 1, window=area)
        except RasterioError as error:
            msg = f"{self.path}: {error.__cause__ or error}"
            raise OSError(msg) from error

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._dataset.close()
        except RasterioError as error:
            if kind is None:
                msg = f"{self.path}: {error.__cause__ or error}"
                raise OSError(msg) from error
