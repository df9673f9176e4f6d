"""Formats that GDAL's vector drivers write, through pyogrio, a batch at a time."""

import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyogrio
from pyproj import CRS, Transformer

from geovl.errors import GeovlError
from geovl.export.formats import Layer
from geovl.export.styles import SHAPEFILE_BYTES, polygons_qml, polygons_sld, unfit
from geovl.vectors import flat, wkb_array

_SHORT = {"perimeter_m": "perim_m"}
_WGS84 = CRS.from_epsg(4326)


def _write(batches: pa.RecordBatchReader, crs: CRS | None, path: Path, driver: str, layer: str, **options: str) -> None:
    """Hand polygons to GDAL as they are read.

    Raises:
        OSError: GDAL could not write.
        RunError: The polygons could not be read.
    """
    code = None if crs is None else crs.to_epsg()
    faults: list[GeovlError] = []
    try:
        with warnings.catch_warnings():
            if crs is None:  # pixels: the run has said so
                warnings.filterwarnings("ignore", "'crs' was not provided|Longitude .* has been modified")
            warnings.filterwarnings("ignore", "(?s)Value .* has been truncated")  # which its writer says
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(batches.schema, _watched(batches, faults)),
                path,
                driver=driver,
                layer=layer,
                geometry_name="geometry",
                geometry_type="Polygon",
                crs=None if crs is None else f"EPSG:{code}" if code else crs.to_wkt("WKT1_GDAL"),
                layer_options=options or None,
            )
    except RuntimeError as error:  # of which pyogrio's own are kinds
        if faults:
            raise faults[0] from error
        raise OSError(_short(str(error))) from error


def _watched(batches: Iterable[pa.RecordBatch], faults: list[GeovlError]) -> Iterator[pa.RecordBatch]:
    """Yield batches and keep what went wrong with reading them: GDAL only hears that something did."""
    try:
        yield from batches
    except GeovlError as error:
        faults.append(error)
        raise


def _short(text: str) -> str:
    """Cut the middle out of what GDAL says, which may quote pages of SQL."""
    return text if len(text) <= 300 else f"{text[:120]} … {text[-120:]}"


def _check_end(path: Path, end: bytes) -> None:
    """Make sure that a text file ends as it must: some drivers do not hear that the disk is full.

    Raises:
        OSError: It does not.
    """
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 64, 0))
        if not file.read().rstrip().endswith(end):
            msg = f"{path.name} was cut short; is the disk full?"
            raise OSError(msg)


def _check_shapefile(path: Path, count: int) -> None:
    """Make sure that the parts of a Shapefile are as long as they must be, as :func:`_check_end` does.

    Raises:
        OSError: They are not.
    """
    for suffix in (".shp", ".shx", ".dbf"):
        part = path.with_suffix(suffix)
        with part.open("rb") as file:
            head = file.read(100)
        size = 2 * int.from_bytes(head[24:28], "big")  # in words of 16 bits
        if suffix == ".dbf":
            size = int.from_bytes(head[8:10], "little") + count * int.from_bytes(head[10:12], "little")
        if len(head) < 32 or part.stat().st_size < size:
            msg = f"{part.name} was cut short; is the disk full?"
            raise OSError(msg)
    if path.with_suffix(".prj").exists():
        _check_end(path.with_suffix(".prj"), b"]")


def write_gpkg(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write a GeoPackage whose classes have colours in QGIS and in map servers."""
    _write(layer.batches(), layer.crs, path, "GPKG", "segments")
    try:
        _style(path, layer.colors)
    except sqlite3.Error as error:
        raise OSError(str(error)) from error
    return unfit(layer.colors)


def _style(path: Path, colors: dict[str, str]) -> None:
    """Add the style of a GeoPackage, where QGIS and GDAL keep it: as QML and as SLD."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT(256),"
            " f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30),"
            " styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),"
            " update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
            " styleQML, styleSLD, useAsDefault, description, owner) VALUES ('', '', 'segments', 'geom', 'classes',"
            " ?, ?, 1, 'one colour per class', '')",
            (polygons_qml(colors), polygons_sld(colors, "segments")),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES ('layer_styles', 'attributes',"
            " 'layer_styles')"
        )


def write_flatgeobuf(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write FlatGeobuf with a spatial index."""
    _write(layer.batches(), layer.crs, path, "FlatGeobuf", layer.name)
    return ()


def write_shapefile(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write a Shapefile; ``perimeter_m`` becomes ``perim_m``."""
    batches = layer.batches()
    names = [_SHORT.get(name, name) for name in batches.schema.names]
    schema = pa.schema([field.with_name(name) for field, name in zip(batches.schema, names, strict=True)])
    renamed = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches)
    _write(
        pa.RecordBatchReader.from_batches(schema, renamed),
        layer.crs,
        path,
        "ESRI Shapefile",
        path.stem,
        ENCODING="UTF-8",
    )
    _check_shapefile(path, layer.count)
    said: tuple[str, ...] = ("Shapefile names have 10 characters: perimeter_m is perim_m.",)
    if any(len(name.encode(errors="replace")) > SHAPEFILE_BYTES for name in layer.colors):
        said += (f"Shapefile texts have {SHAPEFILE_BYTES} bytes: longer names of classes were cut.",)
    return said


def write_kml(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write KML in WGS 84, one placemark per segment, named by its class."""
    crs, batches = layer.crs, layer.batches()
    said: tuple[str, ...] = ()
    if crs is None:
        said = ("The run has no CRS: the KML holds pixel coordinates, which no viewer will place rightly.",)
    schema = batches.schema.append(pa.field("Name", batches.schema.field("class").type))
    named = pa.RecordBatchReader.from_batches(schema, _placemarks(batches, crs, schema))
    _write(named, crs if crs is None else _WGS84, path, "KML", "segments")
    _check_end(path, b"</kml>")
    return said


def _placemarks(batches: pa.RecordBatchReader, crs: CRS | None, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield batches in WGS 84, where they have a CRS, with the class as name."""
    to_wgs84 = None if crs is None else Transformer.from_crs(crs, _WGS84, always_xy=True)
    for batch in batches:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {"Name": batch["class"]}
        if to_wgs84 is not None:
            coordinates, rings, polygons = flat(batch["geometry"])
            lon, lat = to_wgs84.transform(coordinates[:, 0], coordinates[:, 1])
            columns["geometry"] = wkb_array(np.stack([lon, lat], axis=1), rings, polygons)
        yield pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)
