"""``--gsd``: the model is shown coarser or finer pixels, the answer stays on the raster's grid."""

import dataclasses

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geovl import inference
from geovl.errors import UsageError
from geovl.pipeline import Execution, SegmentOptions, segment
from geovl.types import Chip, Vocabulary, Window
from tests.fakes import UTM, BrightnessSegmenter, blobs, write_tif

TWO = Vocabulary.from_prompts(["dark", "bright"])
PLAIN = SegmentOptions(window=64, overlap=16, threshold=0, simplify=0, min_area=0)


class Seeing(BrightnessSegmenter):
    """Remembers what it was shown."""

    def __init__(self):
        self.shown = []

    def segment(self, chips, vocabulary):
        self.shown += [(chip.gsd, chip.pixels.shape) for chip in chips]
        return super().segment(chips, vocabulary)


@pytest.mark.parametrize(
    ("gsd", "wanted", "scale"),
    [
        (0.5, 0.5, 1),
        (0.5, 0.6, 1),
        (0.5, 1.0, 2),
        (0.5, 2.4, 5),
        (0.5, 0.25, -2),
        (0.5, 0.1, -5),
        (0.5, 0.4, 1),
        (10.0, 1.0, -10),
    ],
)
def test_the_nearest_whole_factor_is_taken(gsd, wanted, scale):
    assert inference.scale_of(gsd, BrightnessSegmenter(), wanted) == scale


def test_what_cannot_be_is_told():
    with pytest.raises(UsageError, match="32 times"):
        inference.scale_of(0.5, BrightnessSegmenter(), 40.0)
    with pytest.raises(UsageError, match="no resolution"):
        inference.scale_of(None, BrightnessSegmenter(), 1.0)
    for gsd in (0, -1, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="--gsd"):
            SegmentOptions(gsd=gsd)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_what_is_made_finer_keeps_means_and_comes_back(height, width, factor, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    valid = np.random.default_rng(seed).random((height, width)) < 0.7
    chip = inference.magnified(Chip(pixels, valid, Window(0, 0, height, width), 2.0), factor)
    assert chip.pixels.shape == (3, height * factor, width * factor)
    assert chip.gsd == 2.0 / factor
    np.testing.assert_array_equal(chip.valid[::factor, ::factor], valid)
    if valid.any():
        assert chip.pixels[:, chip.valid].min() >= pixels[:, valid].min()
        assert chip.pixels[:, chip.valid].max() <= pixels[:, valid].max()
    repeated = pixels.repeat(factor, 1).repeat(factor, 2).astype(np.float32)
    np.testing.assert_allclose(inference.reduced(repeated, factor), pixels, rtol=1e-6)


@pytest.mark.parametrize(("gsd", "shown"), [(0.25, 0.25), (2.0, 2.0), (0.5, 0.5), (None, 0.5)])
def test_the_model_is_shown_what_was_asked_for_and_the_answer_is_on_the_grid(tmp_path, store, gsd, shown):
    path = write_tif(tmp_path / "tile.tif", blobs(150, 200, cell=12))
    segmenter = Seeing()
    run = segment(str(path), TWO, segmenter, store, dataclasses.replace(PLAIN, gsd=gsd))
    assert {seen for seen, _ in segmenter.shown} == {shown}
    assert max(max(shape[1:]) for _, shape in segmenter.shown) <= 64, "windows are as large to the model as ever"
    assert run.labels().shape == (150, 200)
    assert run.manifest["working_gsd"] == shown


def test_finer_pixels_of_a_model_that_sees_single_pixels_change_only_edges(tmp_path, store):
    pixels = blobs(150, 200, cell=12)
    path = write_tif(tmp_path / "tile.tif", pixels)
    plain = segment(str(path), TWO, BrightnessSegmenter(), store, PLAIN).labels()
    finer = segment(str(path), TWO, BrightnessSegmenter(), store, dataclasses.replace(PLAIN, gsd=0.1)).labels()
    inside = np.ones_like(plain, bool)
    inside[::12] = inside[:, ::12] = inside[11::12] = inside[:, 11::12] = False  # pixels at the blocks' borders
    np.testing.assert_array_equal(plain[inside], finer[inside])


def test_a_raster_without_a_place_has_no_resolution(tmp_path, store):
    path = write_tif(tmp_path / "tile.tif", blobs(60, 60), crs=None, transform=Affine.identity())
    with pytest.raises(UsageError, match="no resolution"):
        segment(str(path), TWO, BrightnessSegmenter(), store, dataclasses.replace(PLAIN, gsd=1.0))


def test_degrees_count_in_metres(tmp_path, store):
    degrees = Affine(0.5 / 111_320, 0, 10, 0, -0.5 / 111_320, 0.001)
    path = write_tif(tmp_path / "tile.tif", blobs(60, 60), crs="EPSG:4326", transform=degrees)
    segmenter = Seeing()
    segment(str(path), TWO, segmenter, store, dataclasses.replace(PLAIN, gsd=1.0))
    assert {round(seen, 2) for seen, _ in segmenter.shown} == {1.0}
    assert UTM.a == 0.5


def test_what_has_no_data_gives_nothing_to_what_is_beside_it():
    pixels = np.full((3, 4, 6), 200, np.uint8)
    valid = np.ones((4, 6), bool)
    valid[:, 3:] = False
    pixels[:, ~valid] = 0
    chip = inference.magnified(Chip(pixels, valid, Window(0, 0, 4, 6), 1.0), 4)
    assert (chip.pixels[:, chip.valid] == 200).all()


@pytest.mark.parametrize("scale", [2, 8, 16, 32])
@pytest.mark.parametrize("channels", [1, 10, 150])
def test_windows_of_a_coarser_view_are_as_large_as_memory_allows(scale, channels):
    grid = inference.plan_windows((20_000, 20_000), 1152, 128, scale, channels)
    side = grid.rows.size
    assert side % scale == 0
    assert side // scale >= 64
    assert side == 64 * scale or 4 * 3 * channels * side * side <= 2.5e9


def test_runs_are_the_same_where_the_factor_is(tmp_path, store):
    path = str(write_tif(tmp_path / "tile.tif", blobs(150, 200)))
    found = {
        segment(
            path,
            TWO,
            BrightnessSegmenter(),
            store,
            dataclasses.replace(PLAIN, gsd=gsd),
            execution=Execution(resume=True),
        ).id
        for gsd in (1.0, 1.05)
    }
    assert len(found) == 1


def test_the_warning_tells_what_the_model_sees(tmp_path, store):
    path = str(write_tif(tmp_path / "tile.tif", blobs(150, 200)))
    run = segment(path, TWO, BrightnessSegmenter(), store, dataclasses.replace(PLAIN, gsd=10.0))
    assert any("sees 10 m per pixel" in warning for warning in run.manifest["warnings"])


def test_refining_is_told_where_a_window_lies(monkeypatch):
    seen = []
    monkeypatch.setattr(inference, "sharpened", lambda scores, _pixels, **told: seen.append(told) or scores)
    valid = np.ones((4, 4), bool)
    chip = Chip(np.zeros((3, 4, 4), np.uint8), valid, Window(24, 40, 4, 4), 1.0)
    for scale in (1, 4, -2):
        inference.refined(np.zeros((1, 4, 4), np.float32), chip, scale)
    assert [told["origin"] for told in seen] == [(24, 40), (6, 10), (48, 80)]
    assert all(told["valid"] is valid for told in seen)
