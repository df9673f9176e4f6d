"""Windows cover everything once or blended, and stitching does not depend on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geovl.errors import UsageError
from geovl.stitch import SCORE_NODATA, SCORE_SCALE, Decision, Stitcher, decide, enlarge, settle
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


def bands(grid, scores, valid, decision, order):
    """Feed windows cut from whole-raster scores, the rows of windows in any order; return the settled bands."""
    made = {}
    for row in order(range(len(grid.rows.starts))):
        stitcher = Stitcher(grid, row, decision)
        for col in range(len(grid.cols.starts)):
            window = grid.window(row, col)
            made[row] = stitcher.add(col, scores[(slice(None), *window.slices)], valid[window.slices])
    below = {row: band.below for row, band in made.items()}
    return [settle(made[row], below[row - 1], decision) if row else made[row] for row in sorted(made)]


def stitched(grid, scores, valid, threshold=0.5, nodata=255, order=list):
    """Put the bands together."""
    found = bands(grid, scores, valid, Decision(len(scores), threshold, nodata), order)
    row = 0
    for band in found:
        assert band.window.row == row
        row += band.window.height
    return np.concatenate([band.labels for band in found]), np.concatenate([band.scores for band in found])


@given(plans, st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from([list, reversed]))
def test_a_per_pixel_model_gives_the_whole_image_answer_for_every_plan(case, classes, seed, order):
    height, width, size, overlap = case
    rng = np.random.default_rng(seed)
    scores = brightness_scores(rng.integers(0, 256, (height, width)), classes)
    valid = rng.random((height, width)) > 0.1
    labels, best = np.empty((height, width), np.uint8), np.empty((height, width), np.uint8)
    decide(scores, 0.5, labels, best)
    labels[~valid], best[~valid] = 255, SCORE_NODATA
    got_labels, got_best = stitched(plan((height, width), size, overlap), scores, valid, order=order)
    np.testing.assert_array_equal(got_labels, labels)
    np.testing.assert_array_equal(got_best, best)


@pytest.mark.parametrize("along", ["cols", "rows"])
def test_a_zone_runs_from_one_window_to_the_other(along):
    shape = (40, 80) if along == "cols" else (80, 40)
    grid = plan(shape, 48, 16)
    decision = Decision(1, 0.0, 255, unknown=True)
    made = []
    for row in range(len(grid.rows.starts)):
        stitcher = Stitcher(grid, row, decision)
        for col in range(len(grid.cols.starts)):
            window = grid.window(row, col)
            scores = np.full((2, window.height, window.width), float(max(row, col)), np.float32)
            scores[1] = 1 - scores[0]
            band = stitcher.add(col, scores, np.ones((window.height, window.width), bool))
        made.append(settle(band, made[-1].below, decision) if made else band)
    scores, unknown = (np.concatenate([getattr(band, name) for band in made]) for name in ("scores", "unknown"))
    line = (scores[0] if along == "cols" else scores[:, 0]).astype(int)
    first, stop = getattr(grid, along).zones[0]
    assert (line[:first] == 0).all()
    assert (line[stop:] == SCORE_SCALE).all()
    assert (np.diff(line[first - 1 : stop + 1]) > 0).all()
    assert (scores.astype(int) + unknown == SCORE_SCALE).all()


def test_the_highest_score_wins_and_the_threshold_is_inclusive():
    scores = np.array([[[0.4, 0.5, 0.7]], [[0.3, 0.5, 0.9]]], np.float32)
    labels, best = np.empty((1, 3), np.uint8), np.empty((1, 3), np.uint8)
    decide(scores, 0.5, labels, best)
    assert labels.tolist() == [[0, 1, 2]]
    assert best.tolist() == [[round(v * SCORE_SCALE) for v in (0.4, 0.5, 0.9)]]


def test_a_score_that_is_no_number_is_background():
    labels, best = np.empty((1, 2), np.uint8), np.empty((1, 2), np.uint8)
    decide(np.array([[[np.nan, 0.9]]], np.float32), 0.0, labels, best)
    assert labels.tolist() == [[0, 1]]
    assert best.tolist() == [[0, round(0.9 * SCORE_SCALE)]]


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
