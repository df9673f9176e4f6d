"""The picture and the labels lie where the raster lies."""

import json
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

from geovl.errors import RunError, SourceError
from geovl.views.backdrop import MERCATOR, backdrop, grid, labels_on
from tests.fakes import UTM
from tests.view.conftest import run_of


def test_the_own_grid_shows_the_raster_as_it_is(tmp_path, store):
    run = run_of(tmp_path, store)
    shown = backdrop(run, 4000)
    with rasterio.open(tmp_path / "scene.tif") as source:
        assert (shown.pixels[..., :3] == np.moveaxis(source.read(), 0, -1)).all()
        assert shown.box.transform == source.transform
    assert (shown.pixels[..., 3] == 255).all()
    assert (labels_on(run, shown.box) == np.where(run.labels() == 255, 0, run.labels())).all()


def test_a_small_picture_covers_the_same_ground(tmp_path, store):
    run = run_of(tmp_path, store)
    large, small = backdrop(run, 4000).box, backdrop(run, 80).box
    assert small.shape == (60, 80)
    for box in (large, small):
        corner = box.transform @ (box.shape[1], box.shape[0])
        assert corner == pytest.approx(large.transform @ (320, 240))
    assert labels_on(run, small).shape == (60, 80)


def test_in_web_mercator_each_place_keeps_its_label_and_its_colour(tmp_path, store):
    run = run_of(tmp_path, store)
    shown = backdrop(run, 1000, MERCATOR)
    found, own = labels_on(run, shown.box), run.labels()
    with rasterio.open(tmp_path / "scene.tif") as source:
        back = Transformer.from_crs(MERCATOR, source.crs, always_xy=True)
        transform, pixels = ~source.transform, source.read(1)
    rng = np.random.default_rng(0)
    right = total = 0
    for row, col in zip(rng.integers(0, found.shape[0], 400), rng.integers(0, found.shape[1], 400), strict=True):
        x, y = shown.box.transform @ (col + 0.5, row + 0.5)
        there = transform @ back.transform(x, y)
        if not (1 <= there[0] < 319 and 1 <= there[1] < 239):
            continue
        near = own[int(there[1]) - 1 : int(there[1]) + 2, int(there[0]) - 1 : int(there[0]) + 2]
        if near.min() != near.max():
            continue  # at an edge either is right
        total += 1
        right += int(
            found[row, col] == near[0, 0]
            and abs(int(shown.pixels[row, col, 0]) - int(pixels[int(there[1]), int(there[0])])) < 12
        )
    assert total > 100
    assert right == total


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(0.01, 0, 178.5, 0, -0.01, 10)),  # across the antimeridian
        ("EPSG:32601", Affine(100, 0, 150_000, 0, -100, 12_000)),
        ("EPSG:3460", Affine(1000, 0, 1_900_000, 0, -1000, 4_000_000)),  # Fiji's
        ("EPSG:4326", Affine(0.01, 0, 200, 0, -0.01, 10)),  # longitudes from 0 to 360
        ("EPSG:4326", Affine(360 / 320, 0, 0, 0, -150 / 240, 75)),
        ("EPSG:32632", UTM @ Affine.rotation(30)),
        ("EPSG:32632", Affine(0.5, 0, 600_000, 0, 0.5, 5_000_000)),  # south up
    ],
)
def test_wherever_it_lies_on_earth_it_is_whole_in_web_mercator(tmp_path, store, crs, transform):
    run = run_of(tmp_path, store, ("a", "b", "c"), crs=crs, transform=transform)
    shown = backdrop(run, 800, MERCATOR)
    assert min(shown.box.shape) > 100
    found, own = labels_on(run, shown.box), run.labels()
    clear = shown.pixels[..., 3] > 0
    back = Transformer.from_crs(shown.box.crs, crs, always_xy=True)
    rows, cols = np.nonzero(clear)
    chosen = np.random.default_rng(0).integers(0, len(rows), 2000)
    rows, cols = rows[chosen], cols[chosen]
    x, y = back.transform(*(shown.box.transform @ (cols + 0.5, rows + 0.5)))
    if crs == "EPSG:4326":  # a longitude is the same a turn further
        x = transform.c + (x - transform.c) % 360
    col, row = (np.floor(part).astype(int) for part in ~transform @ (x, y))
    inside = (col >= 2) & (col < 318) & (row >= 2) & (row < 238)
    assert inside.sum() > 1500
    rows, cols, row, col = (part[inside] for part in (rows, cols, row, col))
    near = np.stack([own[row + down, col + right] for down in (-2, 0, 2) for right in (-2, 0, 2)])
    flat = near.min(axis=0) == near.max(axis=0)
    assert (found[rows, cols][flat] == np.where(near[4] == 255, 0, near[4])[flat]).all()
    assert clear.mean() > 0.4


def test_what_has_no_data_is_clear(tmp_path, store):
    from geovl.pipeline import segment
    from geovl.types import Vocabulary
    from tests.fakes import write_tif
    from tests.view.conftest import Patches, scene

    pixels = scene()
    pixels[0, :40, :40] = 30
    path = write_tif(tmp_path / "holes.tif", pixels + 1, nodata=1)
    run = segment(str(path), Vocabulary.from_prompts(["a"]), Patches(), store)
    shown = backdrop(run, 4000)
    assert (shown.pixels[..., 3] == 0).any()
    assert (shown.pixels[10, 10, 3]) == 255
    assert not labels_on(run, shown.box)[shown.pixels[..., 3] == 0].any()


def test_a_source_that_went_or_changed_is_told_and_the_labels_keep_their_place(tmp_path, store):
    run = run_of(tmp_path, store)
    box = backdrop(run, 512, MERCATOR).box
    source = tmp_path / "scene.tif"
    source.write_bytes(source.read_bytes() + b"more")
    with pytest.raises(SourceError, match="was changed") as told:
        backdrop(run, 512)
    assert run.id in told.value.hint
    source.unlink()
    with pytest.raises(SourceError, match="is not there"):
        backdrop(run, 512)
    left = grid(run, 512, MERCATOR)
    assert left.shape == box.shape
    assert left.transform == box.transform
    assert labels_on(run, left).any()


def test_without_crs_the_grid_is_that_of_the_pixels(tmp_path, store):
    run = run_of(tmp_path, store, crs=None, transform=None)
    assert backdrop(run, 4000, MERCATOR).box.crs is None
    assert labels_on(run, backdrop(run, 100).box).shape == (75, 100)


def as_said(run, **source):
    """Make a run's manifest say something else of its source."""
    told = run.manifest
    (run.path / "run.json").write_text(json.dumps(told | {"source": told["source"] | source}))


def test_a_source_of_another_shape_or_on_a_server_is_told_without_asking_for_it(tmp_path, store, monkeypatch):
    run = run_of(tmp_path, store)
    as_said(run, shape=[10, 10])
    with pytest.raises(SourceError, match="320 x 240 pixels now"):
        backdrop(run, 512)
    as_said(run, bands=[7, 8, 9])
    with pytest.raises(SourceError, match="changed"):
        backdrop(run, 512)

    def opened(*_arguments, **_how):
        raise AssertionError

    monkeypatch.setattr("geovl.views.backdrop.Raster", opened)
    for path in ("https://example.org/a.tif", "/vsicurl/https://example.org/a.tif", "an item",
                 "/vsizip/vsicurl/https://example.org/a.zip/a.tif"):  # fmt: skip
        as_said(run, path=path, bytes=None, sha256=None)
        with pytest.raises(SourceError, match="not a file of this computer"):
            backdrop(run, 512)


def test_a_source_within_an_archive_is_shown(tmp_path, store):
    from geovl.pipeline import segment
    from geovl.types import Vocabulary
    from tests.fakes import write_tif
    from tests.view.conftest import Patches, scene

    path = write_tif(tmp_path / "scene.tif", scene())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "scene.tif")
    run = segment(f"/vsizip/{tmp_path}/a.zip/scene.tif", Vocabulary.from_prompts(["a"]), Patches(), store)
    assert (backdrop(run, 4000).pixels[..., 0] == scene()[0]).all()
    (tmp_path / "a.zip").unlink()
    with pytest.raises(SourceError):
        backdrop(run, 512)


def test_a_vrt_of_rasters_on_a_server_asks_for_nothing_offline(tmp_path, store, monkeypatch):
    run = run_of(tmp_path, store)
    vrt = tmp_path / "remote.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="320" rasterYSize="240"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        "<SourceFilename>/vsicurl/https://example.org/a.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    as_said(run, path=str(vrt), bytes=vrt.stat().st_size)
    monkeypatch.setenv("GEOVL_OFFLINE", "1")
    with pytest.raises(SourceError, match="GEOVL_OFFLINE"):
        backdrop(run, 512)


def test_what_web_mercator_has_no_place_for_is_refused(tmp_path, store):
    run = run_of(tmp_path, store, crs="EPSG:3031", transform=Affine(1000, 0, -160_000, 0, -1000, 120_000))
    with pytest.raises(RunError, match="Web Mercator ends"):
        backdrop(run, 512, MERCATOR)
    with pytest.raises(RunError, match="Web Mercator ends"):
        grid(run, 512, MERCATOR)
    assert backdrop(run, 512).box.crs is not None


def test_a_damaged_run_is_told(tmp_path, store):
    run = run_of(tmp_path, store)
    box = backdrop(run, 100).box
    (run.path / "labels.tif").write_bytes(b"II*\0")
    with pytest.raises(RunError, match=r"labels\.tif"):
        labels_on(run, box)
