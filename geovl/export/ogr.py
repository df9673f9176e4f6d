"""Formats that GDAL's vector drivers write, through pyogrio."""

import sqlite3
from pathlib import Path
from xml.sax.saxutils import quoteattr

import geopandas as gpd
import pyogrio
from pyogrio.errors import DataSourceError

from geovl.export.formats import Layer

_SHORT = {"perimeter_m": "perim_m"}


def _write(frame: gpd.GeoDataFrame, path: Path, driver: str, layer: str, **options: str) -> None:
    """Write a frame of polygons.

    Raises:
        OSError: GDAL could not write.
    """
    try:
        pyogrio.write_dataframe(
            frame, path, driver=driver, layer=layer, geometry_type="Polygon", layer_options=options or None
        )
    except DataSourceError as error:
        raise OSError(str(error)) from error


def write_gpkg(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write a GeoPackage whose classes have colours in QGIS."""
    _write(layer.segments, path, "GPKG", "segments")
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT(256),"
            " f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30),"
            " styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),"
            " update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
            " styleQML, styleSLD, useAsDefault, description, owner) VALUES ('', '', 'segments', 'geom', 'classes',"
            " ?, '', 1, 'one colour per class', '')",
            (_qml(layer.colors),),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES ('layer_styles', 'attributes',"
            " 'layer_styles')"
        )
    database.close()
    return ()


def write_flatgeobuf(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write FlatGeobuf with a spatial index."""
    _write(layer.segments, path, "FlatGeobuf", layer.name)
    return ()


def write_shapefile(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write a Shapefile; ``perimeter_m`` becomes ``perim_m``."""
    _write(layer.segments.rename(columns=_SHORT), path, "ESRI Shapefile", path.stem, ENCODING="UTF-8")
    return ("Shapefile names have 10 characters: perimeter_m is perim_m.",)


def write_kml(layer: Layer, path: Path) -> tuple[str, ...]:
    """Write KML in WGS 84, one placemark per segment, named by its class."""
    frame = layer.segments
    warnings: tuple[str, ...] = ()
    if frame.crs is None:
        warnings = ("The run has no CRS: the KML holds pixel coordinates, which no viewer will place rightly.",)
    else:
        frame = frame.to_crs(4326)
    _write(frame.assign(Name=frame["class"]), path, "KML", "segments")
    return warnings


def _qml(colors: dict[str, str]) -> str:
    """Return a QGIS style: a fill per class."""
    categories, symbols = [], []
    for index, (name, color) in enumerate(colors.items()):
        red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        label = quoteattr(name)
        categories.append(f'<category value={label} label={label} symbol="{index}" render="true" type="string"/>')
        options = "".join(
            f'<Option type="QString" name="{key}" value="{value}"/>'
            for key, value in (
                ("color", f"{red},{green},{blue},110"), ("outline_color", f"{red},{green},{blue},255"),
                ("outline_width", "0.4"), ("style", "solid"),
            )
        )  # fmt: skip
        symbols.append(
            f'<symbol type="fill" name="{index}" alpha="1"><layer class="SimpleFill" enabled="1" locked="0" pass="0">'
            f'<Option type="Map">{options}</Option></layer></symbol>'
        )
    return (
        '<!DOCTYPE qgis PUBLIC "http://mrcc.com/qgis.dtd" "SYSTEM"><qgis version="3.22" styleCategories="Symbology">'
        '<renderer-v2 type="categorizedSymbol" attr="class" symbollevels="0" enableorderby="0"><categories>'
        f"{''.join(categories)}</categories><symbols>{''.join(symbols)}</symbols></renderer-v2></qgis>"
    )
