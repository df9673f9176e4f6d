"""Styles and colours: read by XML parsers and by GDAL, whatever classes are called; nobody's own style is lost."""

import csv
import ctypes
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geovl.cli.export import export as command
from geovl.errors import ExportError, RunError, UsageError
from geovl.export import styles
from geovl.export.formats import FORMATS, Layer, export
from tests.fakes import write_tif
from tests.test_export import make_frame, save

HOSTILE = {
    "<script>alert(1)</script>": "#e6194b",
    "say \"runway\" & 'road'": "#3cb44b",
    "]]> -- <!-- & &amp;": "#4363d8",
    "\u202egnidliub": "#f58231",
    "🛬 Straße 東京": "#911eb4",
    "  blanks\tand\nlines  ": "#42d4f4",
    "x" * 300: "#f032e6",
    "é" * 150: "#bfef45",
}
SE, OGC, SLD = ("{http://www.opengis.net/" + name + "}" for name in ("se", "ogc", "sld"))


def parsed(text):
    return ET.fromstring(text)  # noqa: S314 - our own


def make(folder, colors=None, labels=None, **profile):
    """A layer with one polygon of each class."""
    colors = HOSTILE if colors is None else colors
    folder.mkdir(exist_ok=True)
    frame = make_frame(len(colors))
    frame["class"] = list(colors)
    save(frame, folder / "segments.parquet")
    values = np.arange(len(colors) + 1, dtype=np.uint8)[None, None] if labels is None else labels
    path = write_tif(folder / "labels.tif", values, **({"nodata": 255} | profile))
    return Layer(folder / "segments.parquet", path, colors, "a run")


def qml_classes(text):
    """Class to its label and colour, as a style of polygons has them."""
    root = parsed(text)
    fills = {symbol.get("name"): symbol.find(".//Option[@name='color']").get("value") for symbol in root.iter("symbol")}
    return {c.get("value"): (c.get("label"), fills[c.get("symbol")]) for c in root.iter("category")}


def sld_classes(text):
    return {
        rule.find(f".//{OGC}Literal").text: rule.find(f".//{SE}Fill/{SE}SvgParameter[@name='fill']").text
        for rule in parsed(text).iter(f"{SE}Rule")
    }


# ---- what a style says


def test_a_style_of_polygons_finds_each_class_by_its_name_and_gives_its_colour():
    qml, sld = styles.polygons_qml(HOSTILE), styles.polygons_sld(HOSTILE, "a <run>")
    assert list(qml_classes(qml)) == list(sld_classes(sld)) == list(HOSTILE)
    assert list(sld_classes(sld).values()) == list(HOSTILE.values())
    for name, (label, fill) in qml_classes(qml).items():
        red, green, blue, alpha = map(int, fill.split(","))
        assert f"#{red:02x}{green:02x}{blue:02x}" == HOSTILE[name]
        assert alpha == round(255 * styles.FILL_OPACITY)
        assert label.isprintable()
        assert "\u202e" not in label
    assert parsed(qml).find("renderer-v2").attrib["attr"] == "class"
    assert [element.tag for element in parsed(sld).iter(f"{OGC}PropertyName")] == [f"{OGC}PropertyName"] * len(HOSTILE)
    assert parsed(sld).find(f"{SLD}NamedLayer/{SE}Name").text == "a <run>"


def test_a_style_of_labels_has_the_classes_and_a_clear_background():
    qml, sld = styles.labels_qml(HOSTILE), styles.labels_sld(HOSTILE, "r")
    entries = [(e.get("value"), e.get("color"), e.get("alpha")) for e in parsed(qml).iter("paletteEntry")]
    assert entries[0] == ("0", "#000000", "0")
    assert entries[1:] == [(str(i), color, "255") for i, color in enumerate(HOSTILE.values(), 1)]
    colors = parsed(sld).find(f".//{SLD}ColorMap")
    assert colors.get("type") == "values"
    assert [(e.get("quantity"), e.get("opacity")) for e in colors] == [
        (str(i), "1" if i else "0") for i in range(len(HOSTILE) + 1)
    ]
    assert all(e.get("label").isprintable() for e in colors)


@given(st.lists(st.text(st.characters(exclude_categories=()), min_size=1, max_size=30), min_size=1, unique=True))
def test_every_style_is_well_formed_whatever_the_names(names):
    colors = dict.fromkeys(names, "#123456")
    for text in (
        styles.polygons_qml(colors),
        styles.polygons_sld(colors, names[0]),
        styles.labels_qml(colors),
        styles.labels_sld(colors, names[0]),
        styles.categories(colors, 255),
    ):
        text.encode()
        parsed(text)
    if not styles.unfit(names):
        assert list(qml_classes(styles.polygons_qml(colors))) == names
        assert list(sld_classes(styles.polygons_sld(colors, "r"))) == names


def test_a_name_that_xml_cannot_hold_is_told(tmp_path):
    layer = make(tmp_path / "run", {"bell\x07": "#ff0000", "road": "#00ff00"})
    for name in ("gpkg", "flatgeobuf"):
        (warning,) = export(layer, tmp_path / f"a{FORMATS[name].suffixes[0]}", FORMATS[name])
        assert "bell" in warning
        assert "\x07" not in warning
        assert "road" not in warning


# ---- what stands beside a file

STYLED = [name for name, entry in FORMATS.items() if entry.styles and name != "cog"]


@pytest.mark.parametrize("name", STYLED)
def test_polygons_that_cannot_carry_a_style_have_it_beside_them(tmp_path, name):
    layer, path = make(tmp_path / "run"), tmp_path / f"a.b{FORMATS[name].suffixes[0]}"
    export(layer, path, FORMATS[name])
    classes = qml_classes((tmp_path / "a.b.qml").read_text())
    assert list(classes) == list(sld_classes((tmp_path / "a.b.sld").read_text()))
    frame = gpd.read_parquet(path) if name == "geoparquet" else pyogrio.read_dataframe(path)
    assert set(frame["class"]) == set(classes), "FlatGeobuf sorts them by place"
    before = sorted(p.name for p in tmp_path.iterdir())
    plain = tmp_path / f"plain{FORMATS[name].suffixes[0]}"
    export(layer, plain, FORMATS[name], style=False)
    assert not {"plain.qml", "plain.sld"} & {p.name for p in tmp_path.iterdir()}
    assert [p for p in before if not (tmp_path / p).exists()] == []


def gdalinfo(path):
    """What gdalinfo prints of a file, by the GDAL that rasterio brings along."""
    found = sorted((Path(rasterio.__file__).parents[1] / "rasterio.libs").glob("libgdal*"))
    if not found:
        pytest.skip("rasterio uses a GDAL of the system, whose name is not known")
    gdal = ctypes.CDLL(str(found[0]))
    gdal.GDALOpen.restype, gdal.GDALOpen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    gdal.GDALInfo.restype, gdal.GDALInfo.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_void_p]
    gdal.GDALClose.argtypes = [ctypes.c_void_p]
    gdal.GDALAllRegister()
    dataset = gdal.GDALOpen(str(path).encode(), 0)
    assert dataset
    text = gdal.GDALInfo(dataset, None).decode()
    gdal.GDALClose(dataset)
    return text


def test_gdal_shows_colours_and_names_of_the_classes_of_a_cog(tmp_path):
    colors = {"building <a>": "#e6194b", "road & rail": "#3cb44b"}
    layer = make(tmp_path / "run", colors)
    with rasterio.open(layer.labels, "r+") as labels:
        labels.write_colormap(1, {0: (0, 0, 0, 0), 1: (230, 25, 75, 255), 2: (60, 180, 75, 255)})
    export(layer, tmp_path / "a.tif", FORMATS["cog"])
    text = gdalinfo(tmp_path / "a.tif")
    assert "LAYOUT=COG" in text
    assert "NoData Value=255" in text
    assert re.search(r"Categories:\s+0: background\s+1: building <a>\s+2: road & rail\n", text)
    assert "1: 230,25,75,255" in text
    rows = re.findall(r"<F>(.*?)</F>", text[text.index("<GDALRasterAttributeTable") :])
    assert rows[6:12] == ["1", "building &lt;a&gt;", "230", "25", "75", "255"]
    assert rows[-6:-4] == ["255", "nodata"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.qml", "a.sld", "a.tif", "a.tif.aux.xml", "run"]


def test_more_classes_than_a_colour_table_has_room_for_have_their_colours_beside_the_cog(tmp_path):
    colors = {f"class {i}": f"#{i:06x}" for i in range(1, 301)}
    layer = make(tmp_path / "run", colors, np.arange(301, dtype=np.uint16)[None, None], nodata=65535)
    export(layer, tmp_path / "a.tif", FORMATS["cog"])
    text = gdalinfo(tmp_path / "a.tif")
    assert "300: class 300\n" in text
    rows = re.findall(r"<F>(.*?)</F>", text[text.index("<GDALRasterAttributeTable") :])
    assert rows[6 * 300 : 6 * 301] == ["300", "class 300", "0", "1", "44", "255"]
    assert rows[-6] == "65535"


def test_a_cog_without_styles_is_one_file_and_forgets_what_was_noted_of_the_one_it_replaces(tmp_path):
    layer, path = make(tmp_path / "run", {"road": "#00ff00"}), tmp_path / "a.tif"
    export(layer, path, FORMATS["cog"], style=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "run"]
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    export(layer, path, FORMATS["cog"], style=False, overwrite=True)
    assert not (tmp_path / "a.tif.aux.xml").exists()
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    export(layer, path, FORMATS["cog"], overwrite=True)
    assert "road" in (tmp_path / "a.tif.aux.xml").read_text()


def test_a_style_that_somebody_made_is_never_replaced(tmp_path):
    layer, path, own = make(tmp_path / "run"), tmp_path / "a.fgb", tmp_path / "a.qml"
    own.write_text("<qgis>mine</qgis>")
    for overwrite in (False, True):
        (warning,) = export(layer, path, FORMATS["flatgeobuf"], overwrite=overwrite)
        assert "a.qml" in warning
        assert own.read_text() == "<qgis>mine</qgis>"
    assert export(layer, path, FORMATS["flatgeobuf"], overwrite=True, style=False) == ()


def test_a_style_of_geovl_is_replaced_with_overwrite_only_and_only_by_one_of_its_kind(tmp_path):
    first, second = make(tmp_path / "one", {"road": "#00ff00"}), make(tmp_path / "two", {"water": "#0000ff"})
    qml = tmp_path / "a.qml"
    assert export(first, tmp_path / "a.fgb", FORMATS["flatgeobuf"]) == ()
    assert export(first, tmp_path / "a.geojson", FORMATS["geojson"]) == (), "the same style serves both"
    warnings = export(second, tmp_path / "a.parquet", FORMATS["geoparquet"])
    assert [word.split()[0] for word in warnings] == ["a.qml", "a.sld"]
    assert list(qml_classes(qml.read_text())) == ["road"]
    assert export(second, tmp_path / "a.fgb", FORMATS["flatgeobuf"], overwrite=True) == ()
    assert list(qml_classes(qml.read_text())) == ["water"]
    (tmp_path / "a.tif").write_text("old")
    warnings = export(second, tmp_path / "a.tif", FORMATS["cog"], overwrite=True)
    assert len(warnings) == 2
    assert list(qml_classes(qml.read_text())) == ["water"]


def test_a_style_that_cannot_be_written_leaves_no_file(tmp_path, monkeypatch):
    layer = make(tmp_path / "run")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(styles, "polygons_sld", full)
    for name in STYLED:
        with pytest.raises(ExportError, match="No space left"):
            export(layer, tmp_path / f"a{FORMATS[name].suffixes[0]}", FORMATS[name])
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_parts_of_a_file_are_not_replaced_without_overwrite(tmp_path):
    layer = make(tmp_path / "run")
    (tmp_path / "a.dbf").write_text("another's")
    with pytest.raises(ExportError, match=r"a\.dbf"):
        export(layer, tmp_path / "a.shp", FORMATS["shapefile"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.dbf", "run"]
    assert (tmp_path / "a.dbf").read_text() == "another's"
    export(layer, tmp_path / "a.shp", FORMATS["shapefile"], overwrite=True)
    assert len(pyogrio.read_dataframe(tmp_path / "a.shp")) == len(HOSTILE)


def test_a_file_name_is_cut_for_the_hidden_folder_only(tmp_path):
    layer, name = make(tmp_path / "run", {"road": "#00ff00"}), "é" * 100 + ".fgb"
    export(layer, tmp_path / name, FORMATS["flatgeobuf"])
    assert (tmp_path / name).is_file()


# ---- colours as properties


def test_geojson_has_colours_as_simplestyle_on_demand(tmp_path):
    layer = make(tmp_path / "run")
    coloured = Layer(layer.file, layer.labels, layer.colors, layer.name, colored=True)
    export(layer, tmp_path / "a.geojson", FORMATS["geojson"])
    export(coloured, tmp_path / "b.geojson", FORMATS["geojson"])
    plain, painted = (json.loads((tmp_path / f"{n}.geojson").read_text())["features"] for n in "ab")
    for without, feature in zip(plain, painted, strict=True):
        told = feature["properties"]
        color = HOSTILE[told["class"]]
        assert [told.pop(key) for key in ("fill", "stroke", "fill-opacity")] == [color, color, styles.FILL_OPACITY]
        assert feature == without


@pytest.mark.parametrize("name", ["gpkg", "geoparquet", "flatgeobuf", "shapefile", "csv"])
def test_other_formats_have_a_column_of_colours_on_demand(tmp_path, name):
    layer = make(tmp_path / "run", {"road": "#00ff00", "water": "#0000ff"})
    coloured = Layer(layer.file, layer.labels, {"road": "#00ff00"}, layer.name, colored=True)
    path = tmp_path / f"a{FORMATS[name].suffixes[0]}"
    export(coloured, path, FORMATS[name])
    if name == "csv":
        found = [row["color"] for row in csv.DictReader(path.open())]
    elif name == "geoparquet":
        found = list(gpd.read_parquet(path)["color"])
    else:
        found = list(pyogrio.read_dataframe(path, **({"layer": "segments"} if name == "gpkg" else {}))["color"])
    assert sorted(found) == ["#00ff00", "#808080"], "a class without colour is grey"


def test_coloured_geoparquet_is_the_run_with_one_column_more(tmp_path):
    layer = make(tmp_path / "run")
    rows = pq.read_table(layer.file)
    pq.write_table(rows, layer.file, row_group_size=3)
    export(Layer(layer.file, layer.labels, HOSTILE, "r", colored=True), tmp_path / "a.parquet", FORMATS["geoparquet"])
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        assert file.num_row_groups == 3
        assert file.schema_arrow.metadata[b"geo"] == rows.schema.metadata[b"geo"]
        assert file.read().drop_columns("color").equals(rows)
    read = gpd.read_parquet(tmp_path / "a.parquet", bbox=(600_000, 5e6, 600_040, 5e6 + 1))
    assert read.crs.to_epsg() == 32632
    assert list(read["color"]) == ["#e6194b"]
    assert shapely.equals(read.geometry.iloc[0], gpd.read_parquet(layer.file).geometry.iloc[0])


def test_a_run_of_an_earlier_geovl_gets_its_colours_too(tmp_path):
    layer = make(tmp_path / "run")
    frame = gpd.read_parquet(layer.file).assign(score=np.float32(0.5))
    frame.to_parquet(layer.file, compression="zstd", schema_version="1.1.0", write_covering_bbox=True)
    export(Layer(layer.file, layer.labels, HOSTILE, "r", colored=True), tmp_path / "a.parquet", FORMATS["geoparquet"])
    read = gpd.read_parquet(tmp_path / "a.parquet")
    assert dict(zip(read["class"], read["color"], strict=True)) == HOSTILE
    assert read.crs == frame.crs


def test_segments_that_are_damaged_are_told_and_leave_nothing(tmp_path):
    layer = make(tmp_path / "run")
    data = layer.file.read_bytes()
    layer.file.write_bytes(data[:200] + bytes(1200) + data[1400:])
    with pytest.raises(RunError, match="not readable"):
        export(
            Layer(layer.file, layer.labels, HOSTILE, "r", colored=True), tmp_path / "a.parquet", FORMATS["geoparquet"]
        )
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["cog", "stac"])
def test_what_has_no_polygons_takes_no_colours(tmp_path, name):
    layer = make(tmp_path / "run")
    with pytest.raises(UsageError, match=name) as caught:
        export(Layer(layer.file, layer.labels, HOSTILE, "r", colored=True), tmp_path / "a", FORMATS[name])
    assert "--colors" in caught.value.hint


# ---- help


def test_help_lists_every_format_with_its_suffix_and_what_stands_beside_it():
    rows = [re.split(r"\s{2,}", line.strip()) for line in command.__doc__.splitlines()]
    told = {row[0]: row for row in rows if len(row) == 4 and row[0] in FORMATS}
    assert list(told) == list(FORMATS)
    for name, entry in FORMATS.items():
        beside = {"": "-", "geovl.export.styles:labels": ".qml .sld .aux.xml"}.get(entry.styles, ".qml .sld")
        assert (told[name][1], told[name][3]) == (entry.suffixes[0], beside)
