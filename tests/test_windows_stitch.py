"""Windows cover everything once or blended, and stitching does not depend on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geovl.errors import UsageError
from geovl.stitch import SCORE_NODATA, SCORE_SCALE, Stitcher, decide, enlarge
from geovl.windows import plan
from tests.fakes import brightness_scores

plans = st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(32, 120), st.integers(0, 40)).filter(
    lambda p: p[3] * 3 <= p[2]
)


@given(plans)
def test_every_pixel_is_decided_by_one_window_or_by_two_inside_one_zone(case):
    height, width, size, overlap = case
    grid = plan((height, width), size, overlap)
    for axis, length in ((grid.rows, height), (grid.cols, width)):
        deciders = np.zeros(length, int)
        for index, start in enumerate(axis.starts):
            assert start >= 0
            assert start + axis.size <= length
            before, after = axis.zone_before(index), axis.zone_after(index)
            assert start <= before[0] <= before[1] <= after[0] <= after[1] <= start + axis.size
            deciders[before[0] : after[1]] += 1
        expected = np.ones(length, int)
        for first, stop in axis.zones:
            assert stop - first == overlap
            expected[first:stop] = 2
        assert (deciders == expected).all()


def stitched(grid, scores, valid, threshold=0.5, nodata=255):
    """Feed windows cut from whole-raster scores and put the bands together."""
    stitcher = Stitcher(grid, len(scores), threshold, nodata)
    labels, best, row = [], [], 0
    for i, j, window in grid:
        cut = (slice(None), *window.slices)
        for band in stitcher.add(i, j, scores[cut], valid[window.slices]):
            assert band.window.row == row
            row += band.window.height
            labels.append(band.labels)
            best.append(band.scores)
    return np.concatenate(labels), np.concatenate(best)


@given(plans, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_per_pixel_model_gives_the_whole_image_answer_for_every_plan(case, classes, seed):
    height, width, size, overlap = case
    rng = np.random.default_rng(seed)
    scores = brightness_scores(rng.integers(0, 256, (height, width)), classes)
    valid = rng.random((height, width)) > 0.1
    labels, best = np.empty((height, width), np.uint8), np.empty((height, width), np.uint8)
    decide(scores, 0.5, labels, best)
    labels[~valid], best[~valid] = 255, SCORE_NODATA
    got_labels, got_best = stitched(plan((height, width), size, overlap), scores, valid)
    np.testing.assert_array_equal(got_labels, labels)
    np.testing.assert_array_equal(got_best, best)


def test_a_zone_runs_from_one_window_to_the_other():
    grid = plan((40, 80), 48, 16)
    stitcher = Stitcher(grid, 1, 0.0, 255)
    bands = []
    for row, col, window in grid:
        scores = np.full((1, window.height, window.width), float(col), np.float32)
        bands += stitcher.add(row, col, scores, np.ones((window.height, window.width), bool))
    line = bands[0].scores[0].astype(int)
    first, stop = grid.cols.zones[0]
    assert (line[:first] == 0).all()
    assert (line[stop:] == SCORE_SCALE).all()
    assert (np.diff(line[first - 1 : stop + 1]) > 0).all()


def test_the_highest_score_wins_and_the_threshold_is_inclusive():
    scores = np.array([[[0.4, 0.5, 0.7]], [[0.3, 0.5, 0.9]]], np.float32)
    labels, best = np.empty((1, 3), np.uint8), np.empty((1, 3), np.uint8)
    decide(scores, 0.5, labels, best)
    assert labels.tolist() == [[0, 1, 2]]
    assert best.tolist() == [[round(v * SCORE_SCALE) for v in (0.4, 0.5, 0.9)]]


@pytest.mark.parametrize(("size", "overlap"), [(16, 0), (64, 30), (64, -1)])
def test_a_plan_without_pixels_of_its_own_is_refused(size, overlap):
    with pytest.raises(UsageError, match=str(size)):
        plan((100, 100), size, overlap)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(0, 9))
def test_enlarged_scores_cover_the_window_and_keep_straight_slopes(height, width, factor, padding):
    """Interpolation gives back what is linear in between, and never leaves the range of what it got."""
    rows, cols = -(-height // factor), -(-width // factor)
    coarse = np.full((2, rows + padding, cols + padding), 99, np.float32)  # what was padded must not be looked at
    y = (np.arange(rows) + 0.5) / rows
    x = (np.arange(cols) + 0.5) / cols
    coarse[:, :rows, :cols] = (y[:, None] + 2 * x) / 3
    fine = enlarge(coarse, (height, width), factor)
    assert fine.shape == (2, height, width)
    assert fine.min() >= coarse[:, :rows, :cols].min() - 1e-6
    assert fine.max() <= coarse[:, :rows, :cols].max() + 1e-6
    there = ((np.arange(height) + 0.5)[:, None] / height + 2 * (np.arange(width) + 0.5) / width) / 3
    inner = np.s_[:, factor : height - factor, factor : width - factor]
    np.testing.assert_allclose(fine[inner], np.broadcast_to(there, fine.shape)[inner], atol=1e-5)
