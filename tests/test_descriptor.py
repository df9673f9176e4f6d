"""``geovl descriptor``: masks as text and back, on rasters."""

import json

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from geovl.cli.app import app
from geovl.segmenters.text_as_mask.grid import to_grid, to_pixels
from tests.fakes import UTM


@pytest.fixture
def geovl():
    return lambda *arguments, **more: CliRunner().invoke(app, ["descriptor", *map(str, arguments)], **more)


@pytest.fixture
def labels(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (70, 90)).astype(np.uint8)
    values[0] = 255
    path = tmp_path / "labels.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=90, height=70, count=1, dtype="uint8", nodata=255, crs="EPSG:32632",
        transform=UTM,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)
        dataset.update_tags(classes="road\nroof")
    return path, np.where(values == 255, 0, values)


@pytest.mark.parametrize("form", ["rrle", "irle", "plain"])
def test_a_raster_becomes_text_and_a_raster_again(geovl, labels, tmp_path, form):
    path, values = labels
    text = geovl("encode", path, "--grid", "7x10", "--form", form)
    assert text.exit_code == 0, text.stderr
    assert text.stdout.startswith("<seg>")
    assert "roof" in text.stdout
    out = tmp_path / "again.tif"
    done = geovl(
        "decode", "-", "--grid", "7x10", "--label", "road", "--label", "roof", "--like", path, "-o", out,
        input=text.stdout,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "exact" in done.stderr
    with rasterio.open(path) as like, rasterio.open(out) as again:
        assert (again.crs, again.transform, again.shape) == (like.crs, like.transform, like.shape)
        assert again.tags()["classes"] == "road\nroof"
        assert np.array_equal(again.read(1), to_pixels(to_grid(values, (7, 10)), values.shape))


def test_json_tells_everything(geovl, labels):
    path, values = labels
    told = json.loads(geovl("encode", path, "--grid", "5", "--json").stdout)
    assert told["labels"] == ["others", "road", "roof"]
    assert told["grid"] == to_grid(values, (5, 5)).tolist()
    back = json.loads(
        geovl("decode", "-", "--grid", "5", "--label", "road", "--label", "roof", "--json", input=told["text"]).stdout
    )
    assert back == {
        "status": "ok",
        "exact": True,
        "filled": 0,
        "unknown": [],
        **{k: told[k] for k in ("labels", "grid")},
    }


def test_what_was_repaired_is_said(geovl):
    done = geovl("decode", "-", "--grid", "2x3", "--label", "ship", input="<seg>others *1| boat *1\n ship *3")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["...", "111"]
    assert "repaired, 1 cells filled, unknown labels: boat" in done.stderr
    referring = geovl(
        "decode", "-", "--grid", "2x3", "--label", "ship", "--referring", input="<seg>boat *3\n ship *3\n</seg>"
    )
    assert referring.stdout.splitlines() == ["111", "111"]


def test_the_strict_reading_is_the_references(geovl):
    short = "<seg>others *2\n ship *3\n</seg>"
    assert geovl("decode", "-", "--grid", "2x3", "--label", "ship", "--strict", input=short).stdout.splitlines() == [
        "..1",
        "111",
    ]
    done = geovl("decode", "-", "--grid", "2x3", "--label", "ship", "--strict", input="<seg>others\n</seg>")
    assert done.exit_code == 1
    assert "unparsable" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["decode", "-", "--grid", "0", "--label", "a"], "no shape"),
        (["decode", "-", "--grid", "4x4x4", "--label", "a"], "no shape"),
        (["decode", "-", "--grid", "100", "--label", "a"], "more than 4096"),
        (["decode", "-"], "No label"),
        (["decode", "-", "--label", "others"], "background"),
        (["decode", "-", "--label", "a|b"], "separate labels"),
        (["decode", "-", "--label", "a", "--dialect", "klingon"], "no dialect"),
        (["decode", "-", "--label", "a", "-o", "x.tif"], "go together"),
        (["decode", "missing.txt", "--label", "a"], "cannot be read"),
        (["encode", "missing.tif"], "cannot be read"),
        (["encode", "missing.tif", "--form", "zip"], "no form"),
    ],
)
def test_wrong_inputs_get_a_sentence(geovl, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = geovl(*arguments, input="<seg>a *1</seg>")
    assert done.exit_code in {1, 2}
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_rasters_that_are_no_labels_are_refused(geovl, labels, tmp_path):
    path, _ = labels
    few = geovl("encode", path, "--label", "road")
    assert few.exit_code == 1
    assert "holds the label 2" in few.stderr
    heights = tmp_path / "heights.tif"
    with rasterio.open(heights, "w", driver="GTiff", width=4, height=4, count=1, dtype="float32") as dataset:
        dataset.write(np.zeros((1, 4, 4), np.float32))
    done = geovl("encode", heights)
    assert done.exit_code == 1
    assert "labels are integers" in done.stderr


def test_prose_has_no_mask(geovl):
    done = geovl("decode", "-", "--label", "ship", input="I see no ship.")
    assert done.exit_code == 1
    assert "missing" in done.stderr
