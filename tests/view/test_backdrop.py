"""The picture and the labels lie where the raster lies."""

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from geovl.errors import RunError, SourceError
from geovl.views.backdrop import MERCATOR, backdrop, grid, labels_on
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
    with pytest.raises(SourceError, match="was changed"):
        backdrop(run, 512)
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


def test_a_damaged_run_is_told(tmp_path, store):
    run = run_of(tmp_path, store)
    box = backdrop(run, 100).box
    (run.path / "labels.tif").write_bytes(b"II*\0")
    with pytest.raises(RunError, match=r"labels\.tif"):
        labels_on(run, box)
