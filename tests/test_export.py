"""Every format is read back by another library; GeoJSON follows RFC 7946; a failed export leaves nothing."""

import errno
import io
import json
import os
import resource
import signal
import sqlite3
from xml.etree import ElementTree as ET

import fiona
import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
from geopandas.testing import assert_geodataframe_equal
from pyproj import Transformer
from shapely.geometry import shape

from geovl.errors import ExportError, GeovlError, UsageError
from geovl.export import formats, geoparquet
from geovl.export.formats import FORMATS, Layer, export, resolve
from geovl.types import Polygons
from geovl.vectors import SegmentsWriter
from tests.fakes import write_tif


def make_frame(count=3, crs="EPSG:32632"):
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
    return gpd.GeoDataFrame(
        {
            "class": [f"class <{i % 40}> & ü" for i in range(count)], "prompt": ["p, q"] * count,
            "score": [0.123456] * count, "area_m2": [float("nan") if crs is None else 575.0] * count,
            "perimeter_m": [1.0] * count, "model": ["m"] * count, "run": ["r"] * count,
        },
        geometry=squares, crs=crs,
    ).astype(dict.fromkeys(("class", "prompt", "model", "run"), "str"))  # fmt: skip


def save(frame, path):
    """Write a frame as a run's file of segments, through the writer that runs use."""
    names = sorted(set(frame["class"])) or ["none"]
    label = np.array([names.index(name) + 1 for name in frame["class"]], np.int64)
    real = [frame[name].to_numpy(np.float64) for name in ("score", "area_m2", "perimeter_m")]
    batch = Polygons.empty()
    if len(frame):
        _, coordinates, (rings, polygons) = shapely.to_ragged_array(frame.geometry.to_numpy())
        batch = Polygons(coordinates, rings, polygons, label, real[0], np.ones(len(frame), np.int64), *real[1:])
    phrases = [dict(zip(frame["class"], frame["prompt"], strict=True)).get(name, "") for name in names]
    with SegmentsWriter(path, frame.crs, names, phrases, "m", "r") as writer:
        writer.append(batch)


def make_layer(tmp_path, count=3, crs="EPSG:32632", frame=None):
    frame = make_frame(count, crs) if frame is None else frame
    save(frame, tmp_path / "segments.parquet")
    labels = write_tif(tmp_path / "labels.tif", np.array([[[0, 1, 2, 255]] * 4], np.uint8), nodata=255)
    colors = {f"class <{i}> & ü": "#ff0000" for i in range(count)}
    return Layer(tmp_path / "segments.parquet", labels, colors, "r")


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
        expected = {g.normalize().wkt for g in make_frame(count).geometry}
        assert {polygon.normalize().wkt for polygon in read} == expected


VECTORS = ("gpkg", "flatgeobuf", "shapefile", "kml", "csv", "geoparquet")


def write_whole(frame, path, name):
    """Write all at once, by geopandas: the oracle for writing by batches."""
    if name == "csv":
        table = frame.drop(columns="geometry").assign(wkt=frame.geometry.to_wkt(rounding_precision=7))
        pd.DataFrame(table).to_csv(path, index=False)
    elif name == "geoparquet":
        frame.to_parquet(path, compression="zstd", schema_version="1.1.0", write_covering_bbox=True)
    else:
        options, driver, layer = {}, "FlatGeobuf", "r"
        if name == "gpkg":
            driver, layer = "GPKG", "segments"
        elif name == "shapefile":
            driver, layer, options = "ESRI Shapefile", path.stem, {"ENCODING": "UTF-8"}
            frame = frame.rename(columns={"perimeter_m": "perim_m"})
        elif name == "kml":
            driver, layer = "KML", "segments"
            frame = (frame if frame.crs is None else frame.to_crs(4326)).assign(Name=frame["class"])
        pyogrio.write_dataframe(frame, path, driver=driver, layer=layer, geometry_type="Polygon", layer_options=options)


@pytest.mark.parametrize("crs", ["EPSG:4326", None, "+proj=laea +lat_0=45 +lon_0=10 +ellps=GRS80"])
@pytest.mark.parametrize("count", [0, 30])
@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_batches_give_the_same_file_as_all_at_once(tmp_path, monkeypatch, name, count, crs):
    monkeypatch.setattr(formats, "ROWS", 7)
    frame = make_frame(count, crs)
    frame["score"] = np.linspace(0, 1, count)
    frame.loc[::5, "area_m2"] = np.nan
    if crs == "EPSG:4326":
        frame.geometry = frame.geometry.affine_transform([1e-5, 0, 0, 1e-5, 3, -3]).set_crs(4326)
    layer, suffix = make_layer(tmp_path, count, frame=frame), FORMATS[name].suffixes[0]
    assert layer.count == count
    assert layer.crs == frame.crs
    for folder in ("now", "whole"):
        (tmp_path / folder).mkdir()
    export(layer, tmp_path / "now" / f"a{suffix}", FORMATS[name], style=False)
    write_whole(frame, tmp_path / "whole" / f"a{suffix}", name)
    now, whole = ({p.name: p for p in (tmp_path / folder).iterdir()} for folder in ("now", "whole"))
    assert set(now) == set(whole)
    if name == "geoparquet":
        assert_geodataframe_equal(gpd.read_parquet(now["a.parquet"]), gpd.read_parquet(whole["a.parquet"]))
    elif name == "gpkg":  # has the time in it
        assert_geodataframe_equal(*(pyogrio.read_dataframe(p["a.gpkg"], layer="segments") for p in (now, whole)))
        infos = [pyogrio.read_info(p["a.gpkg"], layer="segments") for p in (now, whole)]
        assert str(infos[0]) == str(infos[1])
    else:
        for part, path in now.items():
            assert path.read_bytes() == whole[part].read_bytes(), part


def test_a_run_of_an_earlier_geovl_is_exported(tmp_path):
    layer, frame = make_layer(tmp_path), make_frame()
    frame.to_parquet(layer.file, compression="zstd", schema_version="1.1.0", write_covering_bbox=True)
    for name in VECTORS:
        path = tmp_path / f"out{FORMATS[name].suffixes[0]}"
        export(layer, path, FORMATS[name])
        if name not in {"csv", "geoparquet"}:
            options = {"layer": "segments"} if name == "gpkg" else {}
            assert len(pyogrio.read_dataframe(path, **options)) == 3
    assert_geodataframe_equal(gpd.read_parquet(tmp_path / "out.parquet"), frame)


def test_damage_that_is_met_on_the_way_leaves_no_file(tmp_path):
    layer = make_layer(tmp_path, 200)
    whole = layer.file.read_bytes()
    layer.file.write_bytes(whole[:300] + bytes(2000) + whole[2300:])
    for name in ("gpkg", "flatgeobuf", "shapefile", "kml", "csv"):
        with pytest.raises(GeovlError, match="not readable"):
            export(layer, tmp_path / f"out{FORMATS[name].suffixes[0]}", FORMATS[name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.tif", "segments.parquet"]


@pytest.mark.parametrize("limit", [300, 3000, 20_000])
@pytest.mark.parametrize("name", VECTORS)
def test_a_full_disk_is_never_missed(tmp_path, name, limit):
    """Some of GDAL's drivers do not hear of it: the file would be there, cut short."""
    count = {300: 5, 3000: 60, 20_000: 400}[limit]
    layer = make_layer(tmp_path, count)
    target = tmp_path / "out"
    target.mkdir()
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        if name == "geoparquet" and layer.file.stat().st_size <= limit:
            pytest.skip("it fits")
        with pytest.raises(ExportError, match="cannot be written"):
            export(layer, target / f"a{FORMATS[name].suffixes[0]}", FORMATS[name])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(target.iterdir()) == []


def test_geojson_is_rfc_7946_and_stands_where_proj_says(tmp_path):
    layer, out = make_layer(tmp_path), io.BytesIO()
    export(layer, out, FORMATS["geojson"])
    loaded = json.loads(out.getvalue(), parse_constant=pytest.fail)
    assert "crs" not in loaded
    transformer = Transformer.from_crs(32632, 4326, always_xy=True)
    for feature, source in zip(loaded["features"], make_frame().geometry, strict=True):
        polygon = shape(feature["geometry"])
        assert polygon.exterior.is_ccw
        assert not polygon.interiors[0].is_ccw
        wanted = shapely.Polygon([transformer.transform(*p) for p in source.exterior.coords])
        assert polygon.exterior.hausdorff_distance(wanted.exterior) < 2e-7
        for ring in feature["geometry"]["coordinates"]:
            assert all(len(repr(v).split(".")[-1]) <= 7 for point in ring for v in point)
        assert feature["properties"]["score"] == 0.1235


def test_a_polygon_across_the_antimeridian_is_cut_in_two(tmp_path):
    square = shapely.box(810_000, 8_000_000, 825_000, 8_010_000)  # UTM 60 south, across 180°
    frame = gpd.GeoDataFrame(make_frame(1).drop(columns="geometry"), geometry=[square], crs="EPSG:32760")
    out = io.BytesIO()
    export(make_layer(tmp_path, frame=frame), out, FORMATS["geojson"])
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
        ((*place, qml, sld, default),) = database.execute(
            "SELECT f_table_name, f_geometry_column, styleQML, styleSLD, useAsDefault FROM layer_styles"
        ).fetchall()
        assert database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall() == [
            tuple(place)
        ]
    assert default == 1
    assert [p.name for p in tmp_path.iterdir() if p.suffix in {".qml", ".sld"}] == []
    for text, tag in ((qml, ".//category"), (sld, ".//{http://www.opengis.net/ogc}Literal")):
        found = ET.fromstring(text).findall(tag)  # noqa: S314 - our own
        assert [c.get("value", c.text) for c in found] == [f"class <{i}> & ü" for i in range(3)]


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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.tif", "out.parquet", "segments.parquet"]


def test_a_format_is_chosen_by_name_or_suffix(tmp_path):
    assert resolve("GPKG", None).name == "gpkg"
    for entry in FORMATS.values():
        for suffix in entry.suffixes:
            assert resolve(None, tmp_path / f"a{suffix}") is entry
    with pytest.raises(UsageError, match="geoparquet"):
        resolve("dxf", None)
    with pytest.raises(UsageError, match="gpkg"):
        resolve(None, tmp_path / "a.dxf")
