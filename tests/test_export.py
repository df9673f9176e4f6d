"""Every format is read back by another library; GeoJSON follows RFC 7946; a failed export leaves nothing."""

import errno
import io
import json
import os
import sqlite3

import fiona
import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from pyproj import Transformer
from shapely.geometry import shape

from geovl.errors import ExportError, UsageError
from geovl.export import geoparquet
from geovl.export.formats import FORMATS, Layer, export, resolve
from tests.fakes import write_tif


def make_layer(tmp_path, count=3, crs="EPSG:32632"):
    squares = [
        shapely.Polygon(
            [
                (600_000 + 50 * i, 5e6),
                (600_030 + 50 * i, 5e6),
                (600_030 + 50 * i, 5e6 + 20),
                (600_000 + 50 * i, 5e6 + 20),
            ],
            [[(600_010 + 50 * i, 5e6 + 5), (600_020 + 50 * i, 5e6 + 5), (600_015 + 50 * i, 5e6 + 10)]],
        )
        for i in range(count)
    ]
    frame = gpd.GeoDataFrame(
        {
            "class": [f"class <{i}> & ü" for i in range(count)], "prompt": ["p"] * count, "score": [0.123456] * count,
            "area_m2": [float("nan") if crs is None else 575.0] * count, "perimeter_m": [1.0] * count,
            "model": ["m"] * count, "run": ["r"] * count,
        },
        geometry=squares, crs=crs,
    )  # fmt: skip
    labels = write_tif(tmp_path / "labels.tif", np.array([[[0, 1, 2, 255]] * 4], np.uint8), nodata=255)
    return Layer(frame, labels, {f"class <{i}> & ü": "#ff0000" for i in range(count)}, "r")


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("name", ["geojson", "gpkg", "flatgeobuf", "shapefile", "kml", "csv", "geoparquet"])
def test_vector_formats_are_read_back_by_another_library(tmp_path, name, count):
    layer = make_layer(tmp_path, count)
    path = tmp_path / f"out{FORMATS[name].suffixes[0]}"
    export(layer, path, FORMATS[name])
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    if name == "csv":
        lines = path.read_text().splitlines()
        assert len(lines) == count + 1
        assert lines[0].endswith("run,wkt")
        return
    if name == "geoparquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        assert table.num_rows == count
        assert "bbox" in table.column_names
        assert json.loads(table.schema.metadata[b"geo"])["version"] == "1.1.0"
        return
    if name == "kml":
        assert path.read_text().count("<Placemark") == count
        return
    with fiona.open(path) as source:
        names = set(source.schema["properties"])
        read = [shape(feature["geometry"]) for feature in source]
    assert len(read) == count
    if count or name != "geojson":
        assert "class" in names
        assert ("perim_m" if name == "shapefile" else "perimeter_m") in names
    if name not in {"geojson", "kml"}:
        expected = {g.normalize().wkt for g in layer.segments.geometry}
        assert {polygon.normalize().wkt for polygon in read} == expected


def test_geojson_is_rfc_7946_and_stands_where_proj_says(tmp_path):
    layer, out = make_layer(tmp_path), io.BytesIO()
    export(layer, out, FORMATS["geojson"])
    loaded = json.loads(out.getvalue(), parse_constant=pytest.fail)
    assert "crs" not in loaded
    transformer = Transformer.from_crs(32632, 4326, always_xy=True)
    for feature, source in zip(loaded["features"], layer.segments.geometry, strict=True):
        polygon = shape(feature["geometry"])
        assert polygon.exterior.is_ccw
        assert not polygon.interiors[0].is_ccw
        wanted = shapely.Polygon([transformer.transform(*p) for p in source.exterior.coords])
        assert polygon.exterior.hausdorff_distance(wanted.exterior) < 2e-7
        for ring in feature["geometry"]["coordinates"]:
            assert all(len(repr(v).split(".")[-1]) <= 7 for point in ring for v in point)
        assert feature["properties"]["score"] == 0.1235


def test_a_polygon_across_the_antimeridian_is_cut_in_two(tmp_path):
    layer = make_layer(tmp_path, 1)
    square = shapely.box(810_000, 8_000_000, 825_000, 8_010_000)  # UTM 60 south, across 180°
    frame = gpd.GeoDataFrame(layer.segments.drop(columns="geometry"), geometry=[square], crs="EPSG:32760")
    out = io.BytesIO()
    export(Layer(frame, layer.labels, {}, "r"), out, FORMATS["geojson"])
    (feature,) = json.loads(out.getvalue())["features"]
    polygon = shape(feature["geometry"])
    assert polygon.geom_type == "MultiPolygon"
    assert polygon.bounds[0] == -180
    assert polygon.bounds[2] == 180
    assert all(part.bounds[2] - part.bounds[0] < 1 for part in polygon.geoms)


def test_pixel_space_is_written_with_a_warning_and_without_nan(tmp_path):
    out = io.BytesIO()
    (warning,) = export(make_layer(tmp_path, crs=None), out, FORMATS["geojson"])
    assert "pixel" in warning
    assert json.loads(out.getvalue(), parse_constant=pytest.fail)["features"][0]["properties"]["area_m2"] is None


def test_geopackage_carries_a_style_for_qgis(tmp_path):
    path = tmp_path / "out.gpkg"
    export(make_layer(tmp_path), path, FORMATS["gpkg"])
    with sqlite3.connect(path) as database:
        ((table, qml, default),) = database.execute(
            "SELECT f_table_name, styleQML, useAsDefault FROM layer_styles"
        ).fetchall()
    assert (table, default) == ("segments", 1)
    from xml.etree import ElementTree as ET

    categories = ET.fromstring(qml.split("]>")[-1].split(">", 1)[1]).findall(".//category")  # noqa: S314
    assert [c.get("value") for c in categories] == [f"class <{i}> & ü" for i in range(3)]


def test_the_label_raster_keeps_nodata_as_a_cog(tmp_path):
    path = tmp_path / "out.tif"
    export(make_layer(tmp_path), path, FORMATS["cog"])
    with rasterio.open(path) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.nodata == 255
        assert dataset.read(1)[0].tolist() == [0, 1, 2, 255]


def test_a_failed_export_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    layer, path = make_layer(tmp_path), tmp_path / "out.parquet"
    path.write_text("old")
    with pytest.raises(ExportError, match="there already") as caught:
        export(layer, path, FORMATS["geoparquet"])
    assert "--overwrite" in caught.value.hint

    def full(_layer, target):
        target.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(geoparquet, "write", full)
    with pytest.raises(ExportError, match="No space left"):
        export(layer, path, FORMATS["geoparquet"], overwrite=True)
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.tif", "out.parquet"]


def test_a_format_is_chosen_by_name_or_suffix(tmp_path):
    assert resolve("GPKG", None).name == "gpkg"
    for entry in FORMATS.values():
        for suffix in entry.suffixes:
            assert resolve(None, tmp_path / f"a{suffix}") is entry
    with pytest.raises(UsageError, match="geoparquet"):
        resolve("dxf", None)
    with pytest.raises(UsageError, match="gpkg"):
        resolve(None, tmp_path / "a.dxf")
