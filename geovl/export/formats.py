"""The formats that a run can be written in, and the one way to write a file: whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from geovl.errors import ExportError, UsageError
from geovl.vectors import ROWS, read_batches, read_head

if TYPE_CHECKING:
    import pyarrow as pa
    from pyproj import CRS


@dataclass(frozen=True, slots=True)
class Format:
    """One file format."""

    name: str
    suffixes: tuple[str, ...]
    """The first is the usual one."""
    description: str
    writer: str
    """``module:function``; the function takes (layer, path) and returns warnings."""
    stdout: bool = False
    """Whether it can be streamed; its writer then also takes a binary file."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What is written."""

    file: Path
    """GeoParquet with the columns ``geovl.vectors.COLUMNS``."""
    labels: Path
    """The label raster."""
    colors: dict[str, str]
    """Class to ``#rrggbb``."""
    name: str
    """Name of the layer inside the file."""

    @property
    def count(self) -> int:
        """Number of polygons; errors as in :meth:`batches`."""
        return read_head(self.file).count

    @property
    def crs(self) -> "CRS | None":
        """Of the polygons, None for pixels; errors as in :meth:`batches`."""
        return read_head(self.file).crs

    def batches(self) -> "pa.RecordBatchReader":
        """Return the polygons, geometry as WKB, ``ROWS`` at a time.

        Raises:
            RunError: The file is missing or damaged.
        """
        return read_batches(self.file, ROWS)


_OGR = "geovl.export.ogr:"
FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("geojson", (".geojson", ".json"), "RFC 7946: WGS 84, for the web", "geovl.export.geojson:write", True),
        Format("gpkg", (".gpkg",), "GeoPackage with a QGIS style", _OGR + "write_gpkg"),
        Format("geoparquet", (".parquet",), "GeoParquet 1.1, for large results", "geovl.export.geoparquet:write"),
        Format("flatgeobuf", (".fgb",), "FlatGeobuf, indexed", _OGR + "write_flatgeobuf"),
        Format("shapefile", (".shp",), "ESRI Shapefile; names cut to 10 characters", _OGR + "write_shapefile"),
        Format("kml", (".kml",), "KML: WGS 84, for Google Earth", _OGR + "write_kml"),
        Format("csv", (".csv",), "CSV with WKT geometry", "geovl.export.csv:write"),
        Format("cog", (".tif", ".tiff"), "label raster as Cloud Optimized GeoTIFF", "geovl.export.cog:write"),
    )
}


def resolve(name: str | None, path: Path | None) -> Format:
    """Choose a format by its name, else by a file's suffix, else GeoJSON.

    Raises:
        UsageError: No such format; the known ones are named.
    """
    if name is not None:
        if name.lower() not in FORMATS:
            msg = f"There is no format {name!r}; known are {', '.join(FORMATS)}."
            raise UsageError(msg)
        return FORMATS[name.lower()]
    if path is None:
        return FORMATS["geojson"]
    for entry in FORMATS.values():
        if path.suffix.lower() in entry.suffixes:
            return entry
    known = ", ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    msg = f"The suffix of {path.name!r} is not that of a format; known are {known}."
    raise UsageError(msg, "Rename the file or give --format")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written.

    Raises:
        ExportError: It is there already, is a folder, or its folder is missing or not writable.
    """
    if path.is_dir():
        msg = f"{path} is a folder, a file was expected."
        raise ExportError(msg)
    if path.exists() and not overwrite:
        msg = f"{path} is there already."
        raise ExportError(msg, "Replace it with --overwrite, or choose another name.")
    if not path.parent.is_dir():
        msg = f"The folder {path.parent} does not exist."
        raise ExportError(msg, f"Make it first: mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK):
        msg = f"The folder {path.parent} is not writable."
        raise ExportError(msg, "Choose another folder.")


def export(layer: Layer, path: Path | BinaryIO, chosen: Format, *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a layer.

    The file is made in a hidden folder beside the target and renamed into place, so an
    interrupted export leaves the target as it was.

    Args:
        layer: What to write.
        path: Target file, or a binary stream where the format allows it.
        chosen: Its format.
        overwrite: Replace a file that is there.

    Returns:
        Warnings, one sentence each.

    Raises:
        ExportError: The target is there, cannot be written, or the disk is full.
    """
    module, _, function = chosen.writer.partition(":")
    writer: Callable[..., tuple[str, ...]] = getattr(import_module(module), function)
    if not isinstance(path, Path):
        return writer(layer, path)
    check_target(path, overwrite=overwrite)
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
        warnings = writer(layer, folder / path.name)
        made = sorted(folder.iterdir(), key=lambda file: file.name == path.name)  # the target itself comes last
        for file in made:
            file.replace(path.parent / file.name)
    except (OSError, RuntimeError) as error:  # GDAL's errors come as RuntimeError
        msg = f"{path} cannot be written: {error}"
        raise ExportError(msg, "Nothing was kept of it; the run is untouched.") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return warnings
