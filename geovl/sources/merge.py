"""Many rasters of one grid as one VRT."""

import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from geovl.errors import SourceError
from geovl.sources.faults import detail_of, explain
from geovl.sources.remote import REMOTE_DRIVERS, redacted, url_of

_SAME = 1e-6  # relative difference of pixel sizes that counts as none
_EMPTIEST = 0.01  # share of a mosaic that its rasters must cover
_GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float32": "Float32", "float64": "Float64",
}  # fmt: skip
_INTERPRETATIONS = {
    ColorInterp.gray: "Gray", ColorInterp.palette: "Palette", ColorInterp.red: "Red", ColorInterp.green: "Green",
    ColorInterp.blue: "Blue", ColorInterp.alpha: "Alpha",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """What a mosaic must know of one raster."""

    path: str
    shape: tuple[int, int]
    left: float
    top: float
    pixel: tuple[float, float]
    """Width and height in units of the CRS, positive."""
    crs: Any
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    interpretations: tuple[ColorInterp, ...]
    descriptions: tuple[str | None, ...]
    palette: Mapping[int, tuple[int, ...]] | None = field(repr=False)
    mask: Literal["nodata", "mask", "none"]
    """How pixels without data are told: by value, by a mask or alpha band, or not at all."""
    block: tuple[int, int]
    overviews: frozenset[int]


def mosaic(paths: Sequence[str], folder: Path) -> Path:
    """Write a VRT over rasters of one grid, to be read as one raster.

    Where rasters overlap the later one wins, pixel by pixel where it has data. What no raster covers has no data.
    Each raster is placed to the whole pixel, so values are never resampled: one whose grid lies a part of a pixel
    beside that of the westernmost or northernmost is moved, by half a pixel at most.

    Args:
        paths: As GDAL opens them, at least one; call within ``rasterio.Env`` with :func:`environment` for remote ones.
        folder: Where ``mosaic.vrt`` is written; it must exist. Rasters within it are named relative to the VRT, so
            that the folder can be moved; others absolutely, so that the VRT can be moved away from them.

    Returns:
        The VRT.

    Raises:
        SourceError: A raster cannot be opened, is rotated, south-up or not placed, or differs from the first in CRS,
            bands, type, nodata, palette or pixel size; or the rasters lie too far apart.
    """
    if not paths:
        msg = "A mosaic needs at least one raster, got none."
        raise SourceError(msg)
    parts = [_describe(path) for path in paths]
    first = parts[0]
    for part in parts[1:]:
        _check_alike(first, part)
    width, height = first.pixel
    left, top = min(part.left for part in parts), max(part.top for part in parts)
    # (column, row) of each part's corner
    places = [(round((part.left - left) / width), round((top - part.top) / height)) for part in parts]
    columns = max(col + part.shape[1] for part, (col, _) in zip(parts, places, strict=True))
    rows = max(row + part.shape[0] for part, (_, row) in zip(parts, places, strict=True))
    _check_extent(parts, rows, columns)
    root = ET.Element("VRTDataset", rasterXSize=str(columns), rasterYSize=str(rows))
    if first.crs:
        _add(root, "SRS", first.crs.to_wkt())
    _add(root, "GeoTransform", ", ".join(repr(float(value)) for value in (left, width, 0, top, 0, -height)))
    if common := frozenset.intersection(*(part.overviews for part in parts)):
        _add(root, "OverviewList", " ".join(map(str, sorted(common))))
    masked: Literal["nodata", "mask"] = "nodata" if first.mask == "nodata" else "mask"
    for band in range(1, len(first.dtypes) + 1):
        _add_band(root, band, parts, places, folder, masked)
    if masked == "mask" and ColorInterp.alpha not in first.interpretations:
        holder = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        for part, place in zip(parts, places, strict=True):
            _add_source(holder, "mask,1", part, place, folder, nodata=0.0)
    ET.indent(root)
    target = folder / "mosaic.vrt"
    text = ET.tostring(root, encoding="utf-8")
    if not (target.is_file() and target.read_bytes() == text):  # others may be reading it
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.write_bytes(text)
        draft.replace(target)
    return target


def _describe(path: str) -> _Part:
    try:
        # what a server sends must not be a VRT, which names files of this computer; rasterio.open takes one driver only
        drivers = None if url_of(path) is None else list(REMOTE_DRIVERS)
        with rasterio.Env(), DatasetReader(path, driver=drivers) as dataset:
            if dataset.count == 0:
                msg = f"{redacted(path)!r} has no bands."
                raise SourceError(msg, "Give one of its parts; rio info FILE lists them.")
            matrix = dataset.transform
            if matrix.is_identity:
                msg = f"{redacted(path)!r} is not placed on the ground, so it cannot be merged."
                raise SourceError(msg, "Leave --merge out, or give it a place: gdal_translate -a_ullr ...")
            if matrix.b or matrix.d or matrix.a <= 0 or matrix.e >= 0:
                how = "rotated" if matrix.b or matrix.d else "not north-up"
                msg = f"{redacted(path)!r} is {how}; a mosaic needs rasters whose first row is the northern one."
                raise SourceError(msg, f"Warp it first: rio warp {redacted(path)} OUT.tif --dst-crs {dataset.crs}")
            flags = [flag for band in dataset.mask_flag_enums for flag in band]
            palette = dataset.colormap(1) if ColorInterp.palette in dataset.colorinterp else None
            return _Part(
                path, dataset.shape, matrix.c, matrix.f, (matrix.a, -matrix.e), dataset.crs, tuple(dataset.dtypes),
                tuple(dataset.nodatavals), tuple(dataset.colorinterp), tuple(dataset.descriptions), palette,
                "nodata" if MaskFlags.nodata in flags
                else "mask" if MaskFlags.alpha in flags or MaskFlags.per_dataset in flags else "none",
                dataset.block_shapes[0], frozenset(dataset.overviews(1)),
            )  # fmt: skip
    except RasterioError as error:
        if (explained := explain(path, error)) is not None:
            raise explained from error
        msg = f"{path!r} cannot be opened as a raster: {detail_of(error)}"
        raise SourceError(msg, "Check the file with: rio info FILE") from error


def _check_alike(first: _Part, other: _Part) -> None:
    """Refuse a raster that is not on the grid of the first.

    Raises:
        SourceError: With both files and what to do.
    """
    alpha = [ColorInterp.alpha in part.interpretations for part in (first, other)]
    sizes = [f"{part.pixel[0]:.9g} x {part.pixel[1]:.9g}" for part in (first, other)]
    crs = [part.crs.to_string() if part.crs else "no CRS" for part in (first, other)]
    warp = f"Warp it first: rio warp {redacted(other.path)} OUT.tif --like {redacted(first.path)}"
    convert = f"Convert one of them first, e.g. gdal_translate -ot {_GDAL_TYPES.get(first.dtypes[0], 'TYPE')} IN OUT"
    same_size = all(math.isclose(a, b, rel_tol=_SAME) for a, b in zip(first.pixel, other.pixel, strict=True))
    for alike, what, values, hint in (
        (first.crs == other.crs, "CRS", crs, warp),
        (same_size, "pixel size", sizes, warp),
        (
            len(first.dtypes) == len(other.dtypes), "number of bands", [len(first.dtypes), len(other.dtypes)],
            "Choose the same bands from each: gdal_translate -b 1 -b 2 -b 3 IN OUT",
        ),
        (first.dtypes == other.dtypes, "data type", [first.dtypes[0], other.dtypes[0]], convert),
        (
            list(map(repr, first.nodata)) == list(map(repr, other.nodata)), "nodata value",
            [first.nodata[0], other.nodata[0]], f"Set it first: rio edit-info --nodata VALUE {redacted(other.path)}",
        ),
        (
            alpha[0] == alpha[1], "alpha band", ["one" if has else "none" for has in alpha],
            "Choose the same bands from each: gdal_translate -b 1 -b 2 -b 3 IN OUT",
        ),
        (
            first.palette == other.palette, "palette", ["its own", "its own"],
            "Turn both into colours first: gdal_translate -expand rgb IN OUT",
        ),
    ):  # fmt: skip
        if not alike:
            names = f"{redacted(first.path)!r} and {redacted(other.path)!r}"
            msg = f"{names} cannot be merged: {what} {values[0]} and {values[1]}."
            raise SourceError(msg, f"{hint} - or leave --merge out, for one run a file.")


def _check_extent(parts: Sequence[_Part], rows: int, columns: int) -> None:
    covered = sum(part.shape[0] * part.shape[1] for part in parts)
    if max(rows, columns) >= 2**31 or covered < _EMPTIEST * rows * columns:
        far = max(parts, key=lambda part: math.hypot(part.left - parts[0].left, part.top - parts[0].top))
        msg = (
            f"The rasters lie far apart: together they would be {columns} x {rows} pixels, nearly all without data; "
            f"{redacted(far.path)!r} is farthest from {redacted(parts[0].path)!r}."
        )
        raise SourceError(msg, "Leave --merge out, for one run a file, or merge rasters that lie together.")


def _add(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _add_band(
    root: ET.Element,
    band: int,
    parts: Sequence[_Part],
    places: Sequence[tuple[int, int]],
    folder: Path,
    masked: Literal["nodata", "mask"],
) -> None:
    first = parts[0]
    dtype, nodata = first.dtypes[band - 1], first.nodata[band - 1]
    if dtype not in _GDAL_TYPES:
        msg = f"{redacted(first.path)!r} holds {dtype} values; geovl reads real ones."
        raise SourceError(msg, "Make an amplitude raster first, e.g. with gdal_calc.py.")
    element = ET.SubElement(root, "VRTRasterBand", dataType=_GDAL_TYPES[dtype], band=str(band))
    if description := first.descriptions[band - 1]:
        _add(element, "Description", description)
    if nodata is not None:
        _add(element, "NoDataValue", repr(nodata))
    interpretation = first.interpretations[band - 1]
    _add(element, "ColorInterp", _INTERPRETATIONS.get(interpretation, "Undefined"))
    if interpretation == ColorInterp.palette and first.palette is not None:
        table = ET.SubElement(element, "ColorTable")
        for index in range(max(first.palette) + 1):
            color = first.palette.get(index, (0, 0, 0, 0))
            ET.SubElement(table, "Entry", {f"c{i}": str(value) for i, value in enumerate(color, 1)})
    if interpretation == ColorInterp.alpha:
        nodata = 0.0  # what is transparent must not hide an earlier raster
    for part, place in zip(parts, places, strict=True):
        use_mask = masked == "mask" and part.mask == "mask" and interpretation != ColorInterp.alpha
        _add_source(element, str(band), part, place, folder, nodata=nodata, use_mask=use_mask)


def _add_source(
    element: ET.Element,
    band: str,
    part: _Part,
    place: tuple[int, int],
    folder: Path,
    *,
    nodata: float | None = None,
    use_mask: bool = False,
) -> None:
    """Add one raster to a band; pixels that have ``nodata`` or are masked leave what is there."""
    plain = nodata is None and not use_mask
    source = ET.SubElement(element, "SimpleSource" if plain else "ComplexSource")
    name, relative = _named(part.path, folder)
    _add(source, "SourceFilename", name, relativeToVRT="1" if relative else "0")
    _add(source, "SourceBand", band)
    rows, columns = part.shape
    dtype = "Byte" if band.startswith("mask") else _GDAL_TYPES[part.dtypes[int(band) - 1]]
    ET.SubElement(
        source, "SourceProperties", RasterXSize=str(columns), RasterYSize=str(rows), DataType=dtype,
        BlockXSize=str(part.block[1]), BlockYSize=str(part.block[0]),
    )  # fmt: skip
    size = {"xSize": str(columns), "ySize": str(rows)}
    ET.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    ET.SubElement(source, "DstRect", {"xOff": str(place[0]), "yOff": str(place[1]), **size})
    if nodata is not None:
        _add(source, "NODATA", repr(nodata))
    if use_mask:
        _add(source, "UseMaskBand", "true")


def _named(path: str, folder: Path) -> tuple[str, bool]:
    """Return how a VRT in a folder names a raster, and whether that is relative to the VRT."""
    if not Path(path).is_file():
        return path, False
    whole = Path(path).resolve()
    root = folder.resolve()
    return (whole.relative_to(root).as_posix(), True) if whole.is_relative_to(root) else (str(whole), False)
