"""The STAC Item of a run: valid by pystac, true to the run's files, and nothing in it that nobody knows."""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urljoin

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pyproj import Transformer
from typer.testing import CliRunner

from geovl import api, runs
from geovl.cli.app import app
from geovl.errors import ExportError, RunError
from geovl.export.formats import FORMATS, export
from geovl.pipeline import SegmentOptions, load_segmenter, segment
from geovl.types import ClassPrompt, Vocabulary
from tests.fakes import UTM, BrightnessSegmenter, blobs, write_tif

STAC = FORMATS["stac"]
AIRPORT = Path(__file__).parents[1] / "examples" / "airport.tif"
NAMES = ("dark <script>", 'say "bright"')


def vocabulary(*names):
    return Vocabulary(tuple(ClassPrompt(name, (name,)) for name in names))


def make(folder, store, names=NAMES, pixels=None, file="a tile & more #1.tif", **profile):
    """A run over a small raster."""
    folder.mkdir(exist_ok=True, parents=True)
    path = write_tif(folder / file, blobs(60, 80) if pixels is None else pixels, **profile)
    return segment(str(path), vocabulary(*names), BrightnessSegmenter(), store, SegmentOptions(min_area=0.0))


def change(run, **source):
    """Change what a manifest says of the source."""
    manifest = run.manifest
    manifest["source"] |= source
    (run.path / "run.json").write_text(json.dumps(manifest))


def item_of(run, path, **how):
    warnings = export(api.layer(run), path, STAC, **how)
    file = path if path.is_file() else path / "item.json"
    return json.loads(file.read_text(), parse_constant=pytest.fail), warnings


def named(href, file):
    """The file that a relative href of an Item means."""
    base = file.resolve().as_uri()
    assert "://" not in href
    return Path(unquote(urljoin(base, href).removeprefix("file://")))


def check(item):
    """Ask pystac, which has its own copy of STAC's schemas; the extensions' it reads itself, and no network is used."""
    pystac = pytest.importorskip("pystac", reason='pystac is not installed: pip install "geovl[standards]"')
    pytest.importorskip("jsonschema", reason='jsonschema is not installed: pip install "geovl[standards]"')
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    JsonSchemaSTACValidator().validate_core(item, pystac.STACObjectType.ITEM, "1.1.0")
    return pystac.Item.from_dict(item, migrate=False)


def test_an_item_is_valid_and_pystac_reads_what_it_says(tmp_path, store):
    run = make(tmp_path / "in", store)
    item, warnings = item_of(run, tmp_path / "a.stac.json")
    assert warnings == ()
    read = check(item)
    from pystac.extensions.classification import ClassificationExtension
    from pystac.extensions.file import FileExtension
    from pystac.extensions.projection import ProjectionExtension
    from pystac.extensions.table import TableExtension

    projection = ProjectionExtension.ext(read)
    assert (projection.code, projection.shape) == ("EPSG:32632", [60, 80])
    assert projection.transform == list(UTM)[:6]
    labels, segments = read.assets["labels"], read.assets["segments"]
    assert FileExtension.ext(labels).size == (run.path / "labels.tif").stat().st_size
    classes = ClassificationExtension.ext(labels).classes
    assert [(c.value, c.name) for c in classes] == [
        (0, "background"),
        (1, "dark-script"),
        (2, "say-bright"),
        (255, "nodata"),
    ]
    assert TableExtension.ext(segments).row_count == len(run.to_geodataframe())


def test_an_item_says_what_the_manifest_says(tmp_path, store):
    run = make(tmp_path / "in", store)
    item, _ = item_of(run, tmp_path / "a.stac.json")
    said, manifest = item["properties"], run.manifest
    assert item["id"] == run.id
    assert said["processing:level"] == "L4"
    assert said["processing:software"] == {"geovl": manifest["geovl"]}
    assert said["processing:expression"]["expression"]["prompts"] == {name: [name] for name in NAMES}
    assert said["processing:expression"]["expression"]["model"]["id"] == "brightness"
    classes = item["assets"]["labels"]["classification:classes"][1:-1]
    assert [c["title"] for c in classes] == list(NAMES)
    assert ["#" + c["color_hint"] for c in classes] == [c["color"] for c in manifest["classes"]]
    assert item["assets"]["scores"]["raster:scale"] * 254 == pytest.approx(1)
    bounds = rasterio.open(run.path / "labels.tif").bounds
    assert said["proj:bbox"] == list(bounds)


def test_every_file_is_where_the_item_says_and_has_the_hash_that_it_says(tmp_path, store):
    run = make(tmp_path / "in", store)
    (tmp_path / "out" / "deep").mkdir(parents=True)
    file = tmp_path / "out" / "deep" / "a.stac.json"
    item, _ = item_of(run, file)
    (source,) = item["links"]
    for entry in (*item["assets"].values(), source):
        found = named(entry["href"], file)
        assert found.is_file()
        assert entry["file:checksum"] == "1220" + runs.sha256(found)
        assert entry["file:size"] == found.stat().st_size
    assert source["rel"] == "derived_from"
    assert source["type"] == "image/tiff; application=geotiff"
    assert {p.name for p in (tmp_path / "out" / "deep").iterdir()} == {"a.stac.json"}
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved")
    moved = tmp_path.parent / f"{tmp_path.name}-moved" / "out" / "deep" / "a.stac.json"
    assert named(item["assets"]["labels"]["href"], moved).is_relative_to(moved.parents[2])
    assert named(item["assets"]["labels"]["href"], moved).is_file()


def test_a_folder_has_copies_and_names_nothing_outside_itself(tmp_path, store):
    run = make(tmp_path / "in", store)
    item, _ = item_of(run, tmp_path / "out")
    text = (tmp_path / "out" / "item.json").read_text()
    assert "../" not in text
    assert str(tmp_path) not in text
    assert item["links"] == []
    assert item["properties"]["geovl:source"]["sha256"] == run.manifest["source"]["sha256"]
    made = {p.name for p in (tmp_path / "out").iterdir()}
    assert made == {"item.json", "labels.tif", "scores.tif", "segments.parquet"}
    for asset in item["assets"].values():
        file = named(asset["href"], tmp_path / "out" / "item.json")
        assert asset["file:checksum"] == "1220" + runs.sha256(file)
        if file.suffix == ".tif":
            assert "profile=cloud-optimized" in asset["type"]
            with rasterio.open(file) as copy, rasterio.open(run.path / file.name) as own:
                assert copy.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                np.testing.assert_array_equal(copy.read(), own.read())
                assert (copy.nodata, copy.scales) == (own.nodata, own.scales)
    check(item)


def test_a_folder_is_replaced_whole_and_only_if_it_holds_an_item(tmp_path, store):
    run = make(tmp_path / "in", store)
    item_of(run, tmp_path / "out")
    (tmp_path / "out" / "old.txt").write_text("old")
    with pytest.raises(ExportError, match="there already") as caught:
        item_of(run, tmp_path / "out")
    assert "--overwrite" in caught.value.hint
    item_of(run, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "old.txt").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years")
    with pytest.raises(ExportError, match=r"no folder with an item\.json"):
        item_of(run, tmp_path / "other", overwrite=True)
    (run.path / "segments.parquet").unlink()
    with pytest.raises((ExportError, RunError)):
        item_of(run, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "segments.parquet").is_file(), "what was there stays"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_file_of_the_run_that_was_changed_is_told(tmp_path, store):
    run = make(tmp_path / "in", store)
    with (run.path / "scores.tif").open("ab") as file:
        file.write(b"x")
    with pytest.raises(RunError, match=r"scores\.tif") as caught:
        item_of(run, tmp_path / "a.stac.json")
    assert run.id in caught.value.hint
    assert {p.name for p in tmp_path.iterdir()} == {"in", "store"}


# ---- time


def test_an_item_in_is_the_date_of_the_item_out(tmp_path):
    write_tif(tmp_path / "picture.tif", blobs(60, 80))
    assets = {"visual": {"href": "picture.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]}}
    given = {
        "type": "Feature", "stac_version": "1.0.0", "id": "one", "geometry": None, "links": [], "assets": assets,
        "properties": {"datetime": "2023-04-05T06:07:08Z"},
    }  # fmt: skip
    (tmp_path / "item.json").write_text(json.dumps(given))
    run = api.segment(str(tmp_path / "item.json"), "building", store=tmp_path / "store")
    assert run.manifest["source"]["datetime"] == "2023-04-05T06:07:08Z"
    item, _ = item_of(run, tmp_path / "out.stac.json")
    assert item["properties"]["datetime"] == "2023-04-05T06:07:08Z"


def test_the_time_is_that_of_the_picture_where_it_is_known_and_else_that_of_the_run(tmp_path, store):
    run = make(tmp_path / "in", store)
    item, _ = item_of(run, tmp_path / "a.json")
    assert item["properties"]["datetime"] == item["properties"]["created"]
    assert item["properties"]["datetime"].endswith("Z")
    assert "not known" in item["properties"]["description"]
    change(run, datetime="2021-06-01T12:00:00+02:00")
    item, _ = item_of(run, tmp_path / "b.json")
    assert item["properties"]["datetime"] == "2021-06-01T10:00:00Z"
    assert "description" not in item["properties"]
    for wrong in ("yesterday", "2021-06-01", None, 7):
        change(run, datetime=wrong)
        item, _ = item_of(run, tmp_path / "c.json", overwrite=True)
        assert item["properties"]["datetime"] == item["properties"]["created"]


# ---- place


def test_the_footprint_is_where_proj_puts_the_corners(tmp_path, store):
    run = make(tmp_path / "in", store, transform=Affine(50, 0, 600_000, 0, -50, 5_000_000))
    item, _ = item_of(run, tmp_path / "a.json")
    with rasterio.open(run.path / "labels.tif") as labels:
        corners = shapely.box(*labels.bounds)
    wanted = gpd.GeoSeries([shapely.segmentize(corners, 100)], crs=32632).to_crs(4326).iloc[0]
    found = shapely.from_geojson(json.dumps(item["geometry"]))
    assert found.is_valid
    assert found.exterior.is_ccw
    assert shapely.hausdorff_distance(found, wanted) < 2e-4 * shapely.length(wanted)
    assert item["bbox"] == pytest.approx(wanted.bounds, abs=1e-4)


def test_the_footprint_has_what_had_data_only(tmp_path, store):
    pixels = blobs(60, 80)
    pixels[:] = np.maximum(pixels, 1)
    pixels[:, :, :40] = 0
    pixels[:, :20] = 0
    run = make(tmp_path / "in", store, pixels=pixels, nodata=0)
    item, _ = item_of(run, tmp_path / "a.json")
    x, y = Transformer.from_crs(32632, 4326, always_xy=True).transform(
        *(UTM @ (np.array([40, 80, 80, 40]), np.array([20, 20, 60, 60])))
    )
    found = shapely.from_geojson(json.dumps(item["geometry"]))
    wanted = shapely.Polygon(np.stack([x, y], axis=1))
    assert shapely.area(shapely.symmetric_difference(found, wanted)) < 0.01 * wanted.area


def test_a_footprint_across_the_antimeridian_has_its_west_east_of_its_east(tmp_path, store):
    run = make(tmp_path / "in", store, crs="EPSG:32760", transform=Affine(400, 0, 810_000, 0, -400, 8_000_000))
    item, _ = item_of(run, tmp_path / "a.json")
    assert item["geometry"]["type"] == "MultiPolygon"
    west, _, east, _ = item["bbox"]
    assert 179 < west < 180
    assert -180 < east < -179
    check(item)


def test_a_footprint_around_a_pole_reaches_it(tmp_path, store):
    run = make(tmp_path / "in", store, crs="EPSG:3031", transform=Affine(30_000, 0, -1_200_000, 0, -30_000, 900_000))
    item, _ = item_of(run, tmp_path / "a.json")
    west, south, east, north = item["bbox"]
    assert (west, south, east) == (-180, -90, 180)
    assert -81 < north < -70
    check(item)


@pytest.mark.parametrize(
    ("crs", "words"),
    [
        (None, "no CRS"),
        ('LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]', "not tied to the Earth"),
    ],
)
def test_a_raster_without_a_place_on_earth_has_neither_geometry_nor_bbox(tmp_path, store, crs, words):
    run = make(tmp_path / "in", store, crs=crs)
    item, (warning,) = item_of(run, tmp_path / "a.json")
    assert words in warning
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["proj:code"] is None
    assert item["properties"]["proj:shape"] == [60, 80]
    check(item)


def test_a_crs_without_a_code_is_written_out(tmp_path, store):
    run = make(
        tmp_path / "in", store, crs="+proj=laea +lat_0=45 +lon_0=10 +ellps=GRS80", transform=Affine(1, 0, 0, 0, -1, 0)
    )
    item, _ = item_of(run, tmp_path / "a.json")
    assert item["properties"]["proj:code"] is None
    assert "Lambert Azimuthal" in item["properties"]["proj:wkt2"]
    assert item["bbox"][0] == pytest.approx(10, abs=0.01)


# ---- names


def test_hostile_names_stay_names(tmp_path, store):
    names = ("<script>alert(1)</script>", "\u202egnidliub 🛬", "x" * 300, "Nodata", "nodata!", "東京", "]]>&\"'\\")
    run = make(tmp_path / "in", store, names, file="<b>'\"& 🛬 100%.tif")
    file = tmp_path / 'say "it" <&> #1%.stac.json'
    item, _ = item_of(run, file)
    classes = item["assets"]["labels"]["classification:classes"]
    assert [c["title"] for c in classes[1:-1]] == list(names)
    words = [c["name"] for c in classes]
    assert len({word.casefold() for word in words}) == len(words)
    assert all(word.isascii() and word.replace("-", "").replace("_", "").isalnum() for word in words)
    assert named(item["links"][0]["href"], file).is_file()
    assert len(item["properties"]["title"]) < 250
    check(item)


def test_a_source_on_a_server_is_linked_by_its_url(tmp_path, store):
    run = make(tmp_path / "in", store)
    change(run, path="https://example.test/a b/ü.tif", sha256=None, bytes=None)
    for target in ("a.json", "folder"):
        item, _ = item_of(run, tmp_path / target)
        (link,) = item["links"]
        assert link["href"] == "https://example.test/a%20b/%C3%BC.tif"
        assert "file:checksum" not in link
    change(run, path="S2A_32TQM", sha256=None)
    item, _ = item_of(run, tmp_path / "b.json")
    assert item["links"] == []
    assert item["properties"]["geovl:source"] == {"name": "S2A_32TQM"}


# ---- the model


def test_the_model_of_a_run_has_an_item_of_its_own_beside(tmp_path, store):
    run = segment(str(AIRPORT), vocabulary("water"), load_segmenter("nano"), store)
    for target, beside in (
        (tmp_path / "a.stac.json", tmp_path / "a.model.json"),
        (tmp_path / "out", tmp_path / "out" / "model.json"),
    ):
        item, _ = item_of(run, target)
        (link,) = [link for link in item["links"] if "mlm:name" in link]
        assert (link["rel"], link["processing:level"]) == ("derived_from", "L4")
        file = target if target.is_file() else target / "item.json"
        assert named(link["href"], file) == beside.resolve()
        model = json.loads(beside.read_text())
        assert model["properties"]["mlm:name"] == link["mlm:name"]
        weights = run.manifest["model"]["weights"]
        checksums = {asset["title"]: asset.get("file:checksum") for asset in model["assets"].values()}
        assert {name: f"1220{digest}" for name, digest in weights.items()}.items() <= checksums.items()
        check(item)
        check(model)


def test_a_model_whose_weights_are_others_than_the_catalogs_has_no_item(tmp_path, store):
    run = segment(str(AIRPORT), vocabulary("water"), load_segmenter("nano"), store)
    manifest = run.manifest
    manifest["model"]["weights"]["nano.onnx"] = "0" * 64
    (run.path / "run.json").write_text(json.dumps(manifest))
    item, _ = item_of(run, tmp_path / "a.stac.json")
    assert not (tmp_path / "a.model.json").exists()
    assert not [link for link in item["links"] if "mlm:name" in link]
    assert item["properties"]["processing:expression"]["expression"]["model"]["id"] == "nano"


def test_relative_paths_of_working_folders_serve_too(tmp_path, store, monkeypatch):
    run = make(tmp_path / "in", store)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    item, _ = item_of(run, Path("a.json"))
    assert item["assets"]["labels"]["href"] == f"../{Path(os.path.relpath(run.path, tmp_path)).as_posix()}/labels.tif"


# ---- the command line


def test_the_command_writes_items_folders_styles_and_colours(tmp_path, store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make(tmp_path / "in", store)

    def call(*arguments):
        return CliRunner().invoke(app, ["export", run.id, "--store", str(store.root), *arguments])

    for arguments, made in (
        (("-f", "stac"), {f"{run.id}.stac.json"}),
        (("-f", "stac", "-o", "out"), {"out"}),
        (("-o", "b.stac.json"), {"b.stac.json"}),
        (("-f", "cog", "--no-style"), {f"{run.id}-labels.tif"}),
        (("-o", "c.fgb"), {"c.fgb", "c.qml", "c.sld"}),
        (("-o", "d.parquet", "--no-style", "--colors"), {"d.parquet"}),
    ):
        before = {path.name for path in tmp_path.iterdir()}
        done = call(*arguments)
        assert done.exit_code == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.strip() in made
        assert {path.name for path in tmp_path.iterdir()} - before == made
    assert json.loads(Path("b.stac.json").read_text())["id"] == run.id
    streamed = json.loads(call("-o", "-", "--colors").stdout)
    assert {f["properties"]["fill"] for f in streamed["features"]} == {c["color"] for c in run.manifest["classes"]}
    for wrong in (("-f", "cog", "--colors", "-o", "e.tif"), ("-f", "stac", "-o", "-")):
        done = call(*wrong)
        assert done.exit_code == 2
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    assert not Path("e.tif").exists()
