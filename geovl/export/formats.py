"""The formats that a run can be written in, and the one way to write a file: whole or not at all.

A GeoPackage carries its style, a raster its colour table. Beside the formats that cannot, styles are written as
files of their own, ``.qml`` for QGIS and ``.sld`` for map servers, and beside a raster ``.aux.xml``, from which GDAL
takes class names. They are made and moved with the file itself. Under the name of the first QGIS also keeps a style
that somebody made there, so a style that geovl did not write is never replaced.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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
    styles: str = ""
    """``module:function`` that takes a layer and returns what stands beside the file, suffix to text, and warnings."""
    colors: bool = True
    """Whether polygons can have a column of colours."""
    usual: str = ""
    """What the usual name has behind the run's id, where another format would share its styles."""
    folder: str = ""
    """``module:function`` like ``writer`` that fills a folder, for a target without suffix."""


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
    colored: bool = False
    """Whether each polygon has its colour as a property."""
    target: Path | None = None
    """Where the file will stand; it is made elsewhere."""

    @property
    def count(self) -> int:
        """Number of polygons; errors as in :meth:`batches`."""
        return read_head(self.file).count

    @property
    def crs(self) -> "CRS | None":
        """Of the polygons, None for pixels; errors as in :meth:`batches`."""
        return read_head(self.file).crs

    def batches(self) -> "pa.RecordBatchReader":
        """Return the polygons, geometry as WKB, ``ROWS`` at a time; ``color`` is the last column where colours are in.

        Raises:
            RunError: The file is missing or damaged.
        """
        found = read_batches(self.file, ROWS)
        if not self.colored:
            return found
        import pyarrow as pa  # noqa: PLC0415 - slow to import, and not every format needs it

        schema = found.schema.append(pa.field("color", pa.string()))
        return pa.RecordBatchReader.from_batches(schema, self._painted(found, schema))

    def _painted(self, batches: "pa.RecordBatchReader", schema: "pa.Schema") -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa  # noqa: PLC0415 - as above

        for batch in batches:
            yield pa.RecordBatch.from_arrays([*batch.columns, self.paint(batch["class"])], schema=schema)

    def paint(self, classes: "pa.Array") -> "pa.StringArray":
        """Return the colour of each class of a column, ``#rrggbb``."""
        import pyarrow as pa  # noqa: PLC0415 - as above

        coded = classes.cast(pa.string()).dictionary_encode()
        colors = [self.colors.get(name, _GREY) for name in coded.dictionary.to_pylist()]
        return pa.array(colors, pa.string()).take(coded.indices)


_GREY = "#808080"
_MARK = re.compile("<!-- geovl: [a-z]+ -->")
AUX = ".aux.xml"
"""What GDAL calls the file beside a raster that holds what the raster cannot."""
ITEM = "item.json"
"""Name of the STAC Item in a folder of its own."""
_OGR = "geovl.export.ogr:"
_STYLES = "geovl.export.styles:"
FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            "geojson", (".geojson", ".json"), "RFC 7946: WGS 84, for the web",
            "geovl.export.geojson:write", stdout=True, styles=_STYLES + "polygons",
        ),
        Format("gpkg", (".gpkg",), "GeoPackage with its style inside", _OGR + "write_gpkg"),
        Format(
            "geoparquet", (".parquet",), "GeoParquet 1.1, for large results",
            "geovl.export.geoparquet:write", styles=_STYLES + "polygons",
        ),
        Format(
            "flatgeobuf", (".fgb",), "FlatGeobuf, indexed", _OGR + "write_flatgeobuf", styles=_STYLES + "polygons"
        ),
        Format(
            "shapefile", (".shp",), "ESRI Shapefile; names cut to 10 characters",
            _OGR + "write_shapefile", styles=_STYLES + "shapefile",
        ),
        Format("kml", (".kml",), "KML: WGS 84, for Google Earth", _OGR + "write_kml"),
        Format("csv", (".csv",), "CSV with WKT geometry", "geovl.export.csv:write"),
        Format(
            "cog", (".tif", ".tiff"), "label raster as Cloud Optimized GeoTIFF", "geovl.export.cog:write",
            styles=_STYLES + "labels", colors=False, usual="-labels",
        ),
        Format(
            "stac", (".stac.json",), "STAC Item of the run; -o FOLDER: with copies of its files",
            "geovl.export.stac:write", colors=False, folder="geovl.export.stac:fill",
        ),
    )
}  # fmt: skip


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
    endings = {suffix: entry for entry in FORMATS.values() for suffix in entry.suffixes}
    for suffix in sorted(endings, key=len, reverse=True):  # .stac.json before .json
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return endings[suffix]
    known = ", ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    msg = f"The suffix of {path.name!r} is not that of a format; known are {known}."
    raise UsageError(msg, "Rename the file or give --format")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written.

    Raises:
        ExportError: It is there already, is a folder, its folder is missing or not writable, or its name is too long.
    """
    there = _there(path)
    if path.is_dir():
        msg = f"{path} is a folder, a file was expected."
        raise ExportError(msg)
    if there and not overwrite:
        msg = f"{path} is there already."
        raise ExportError(msg, "Replace it with --overwrite, or choose another name.")
    _check_parent(path)


def _there(path: Path) -> bool:
    """Tell whether there is something of a name.

    Raises:
        ExportError: Nothing can be called that.
    """
    try:
        return path.exists()
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}."
        raise ExportError(msg, "Choose another name.") from error


def _check_parent(path: Path) -> None:
    """Refuse a target in a folder that is missing or not writable; errors as in :func:`check_target`."""
    if not path.parent.is_dir():
        msg = f"The folder {path.parent} does not exist."
        raise ExportError(msg, f"Make it first: mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK):
        msg = f"The folder {path.parent} is not writable."
        raise ExportError(msg, "Choose another folder.")


def export(
    layer: Layer, path: Path | BinaryIO, chosen: Format, *, overwrite: bool = False, style: bool = True
) -> tuple[str, ...]:
    """Write a layer.

    The file is made in a hidden folder beside the target and renamed into place, so an
    interrupted export leaves the target as it was.

    Args:
        layer: What to write.
        path: Target file, or a binary stream where the format allows it; a folder for a format that fills one.
        chosen: Its format.
        overwrite: Replace a file that is there, and styles of geovl's own beside it.
        style: Also write styles beside a format that cannot carry one.

    Returns:
        Warnings, one sentence each.

    Raises:
        UsageError: Colours are asked for of a format without polygons.
        ExportError: The target is there, cannot be written, or the disk is full.
    """
    if layer.colored and not chosen.colors:
        msg = f"Colours as a property belong to polygons, and {chosen.name} has none."
        raise UsageError(msg, "Leave --colors out, or choose another format.")
    write = _function(chosen.writer)
    if not isinstance(path, Path):
        return tuple(write(layer, path))
    layer = replace(layer, target=path)
    fills = bool(chosen.folder) and path.suffix.lower() != ".json"
    (_check_folder if fills else check_target)(path, overwrite=overwrite)
    hidden: Path | None = None
    try:
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.stem[:40]}.", dir=path.parent))
        made = hidden / path.name
        if fills:
            made.mkdir()
            warnings = tuple(_function(chosen.folder)(layer, made))
            _swap(made, path, hidden / "replaced")
        else:
            warnings = tuple(write(layer, made))
            if style and chosen.styles:
                styles, said = _function(chosen.styles)(layer)
                warnings += (*said, *_style(styles, made, path, overwrite=overwrite))
            _place(made, path, overwrite=overwrite)
    except (OSError, RuntimeError) as error:  # GDAL's errors come as RuntimeError
        msg = f"{path} cannot be written: {error}"
        raise ExportError(msg, "Nothing was kept of it; the run is untouched.") from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
    return warnings


def _function(name: str) -> Callable[..., Any]:
    """Return what ``module:function`` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def _style(styles: Mapping[str, str], made: Path, path: Path, *, overwrite: bool) -> Iterator[str]:
    """Write styles beside what was made, where they may then stand beside the target; tell of those that may not."""
    for suffix, text in styles.items():
        there = beside(path, suffix)
        if not there.exists() or (overwrite and _replaceable(there, text)):
            beside(made, suffix).write_text(text, encoding="utf-8")
        elif there.read_bytes() != text.encode():
            why = "" if overwrite else " or --overwrite"
            yield f"{there.name} is there already and was kept: its colours may be others. Choose another name{why}."


def beside(path: Path, suffix: str) -> Path:
    """Return where a style of a file stands: ``a.qml`` beside ``a.fgb``, but ``a.tif.aux.xml``, as GDAL has it."""
    return path.with_name(path.name + suffix) if suffix == AUX else path.with_suffix(suffix)


def _replaceable(there: Path, text: str) -> bool:
    """Tell whether a style belongs to the file that is replaced: its mark says that geovl wrote it, or it has none."""
    mark = _MARK.search(text)
    return mark is None or mark[0].encode() in there.read_bytes()[:4096]


def _place(made: Path, path: Path, *, overwrite: bool) -> None:
    """Move a file, and what was made with it, to where it was to be.

    Raises:
        ExportError: A part of it is there.
    """
    parts = sorted(made.parent.iterdir(), key=lambda file: file == made)  # the target itself comes last
    taken = [part.name for part in parts if part != made and (path.parent / part.name).exists()]
    if taken and not overwrite:
        msg = f"{path.parent / taken[0]} is there already, and is a part of {path.name}."
        raise ExportError(msg, "Replace it with --overwrite, or choose another name.")
    if overwrite and beside(path, AUX).exists() and not beside(made, AUX).exists():
        beside(path, AUX).unlink()  # GDAL's notes on the file that is replaced
    for part in parts:
        part.replace(path.parent / part.name)


def _check_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that cannot be filled.

    Raises:
        ExportError: There is something that is no earlier export, or its folder is missing or not writable.
    """
    if _there(path):
        ours = (path / ITEM).is_file()
        msg = f"{path} is there already{'' if ours else f', and is no folder with an {ITEM}'}."
        if not (ours and overwrite):
            raise ExportError(msg, "Replace it with --overwrite." if ours else "Choose another name.")
    _check_parent(path)


def _swap(made: Path, path: Path, aside: Path) -> None:
    """Put a folder in the place of another, or leave that as it was."""
    if path.exists():
        path.rename(aside)
    try:
        made.rename(path)
    except BaseException:
        if aside.exists():
            aside.rename(path)
        raise
