"""Refinement is the guided filter, agrees between overlapping windows to the last bit, and never leaves 0..1."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import geovl.segmenters.refine
from geovl.segmenters.refine import Guide, guided, halo, sharpened


def picture(shape, seed=0, spread=256):
    return np.random.default_rng(seed).integers(0, spread, (3, *shape), dtype=np.uint8)


def noise(channels, shape, seed=1):
    return np.random.default_rng(seed).random((channels, *shape)).astype(np.float32)


def squares(valid, radius):
    """For each pixel, the indices of the valid ones in the square around it."""
    height, width = valid.shape
    index = np.arange(height * width).reshape(height, width)
    for y in range(height):
        for x in range(width):
            part = slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)
            yield index[part][valid[part]]


def by_least_squares(scores, pixels, radius, epsilon, valid, keep, grain):
    """The filter, window by window, from its definition: ridge regression of scores on colours."""
    colours = (pixels.reshape(3, -1) / 255).T  # (pixels, 3)
    if grain:
        colours = np.array([colours[near].mean(0) if len(near) else np.zeros(3) for near in squares(valid, grain)])
    flat = scores.astype(float).ravel()
    models = np.zeros((len(flat), 4))
    means = np.zeros(len(flat))
    for at, near in enumerate(squares(valid, radius)):
        if len(near):
            table = np.c_[colours[near], np.ones(len(near))]
            left = table.T @ table + len(near) * np.diag([epsilon] * 3 + [0])
            models[at] = np.linalg.solve(left, table.T @ flat[near])
            means[at] = flat[near].mean()
    out = flat.copy()
    for at, near in enumerate(squares(valid, radius)):
        if valid.flat[at]:
            found = models[near].mean(0) @ [*colours[at], 1]
            out[at] = flat[at] + found - means[near].mean() if keep else found
    return np.clip(out, 0, 1).reshape(scores.shape)


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=60, deadline=None)
@given(
    shape=SIZES,
    radius=st.sampled_from([1, 2, 3, 7, 1000]),
    epsilon=st.sampled_from([1e-4, 1e-2, 1.0]),
    spread=st.sampled_from([2, 30, 256]),
    holes=st.booleans(),
    keep=st.booleans(),
    grain=st.sampled_from([0, 1, 2, 50]),
    seed=st.integers(0, 999),
)
def test_it_is_ridge_regression_in_every_window(shape, radius, epsilon, spread, holes, keep, grain, seed):
    pixels, scores = picture(shape, seed, spread), noise(1, shape, seed + 1)
    valid = np.random.default_rng(seed + 2).random(shape) > 0.4 if holes else np.ones(shape, bool)
    found = (sharpened if keep else guided)(scores, pixels, radius, epsilon, valid=valid, subsample=1, grain=grain)
    expected = by_least_squares(scores[0], pixels, radius, epsilon, valid, keep, grain)
    np.testing.assert_allclose(found[0], expected, atol=max(1e-8 / epsilon, 2e-6))


@pytest.mark.parametrize("subsample", [1, 2, 4])
def test_a_step_of_colour_becomes_the_step_of_the_scores(subsample):
    pixels = np.zeros((3, 64, 64), np.uint8)
    pixels[:, :, 30:] = np.array([200, 120, 60])[:, None, None]
    truth = (pixels[0] > 0).astype(np.float32)
    blurred = np.clip((np.arange(64) - 30 + 8) / 16, 0, 1).astype(np.float32) * np.ones((64, 1), np.float32)
    sharp = sharpened(blurred[None], pixels, 8, 1e-4, subsample=subsample, grain=0)[0]
    middle = np.s_[:, 26:34]
    assert np.abs(blurred - truth)[middle].max() > 0.4
    assert np.abs(sharp - truth)[middle].max() < 0.3
    assert np.abs(sharp - truth).mean() < 0.5 * np.abs(blurred - truth).mean()


@pytest.mark.parametrize("subsample", [2, 3, 4])
def test_subsampling_changes_little(subsample):
    y, x = np.mgrid[:60, :70] / 60
    pixels = np.stack([127 + 120 * np.sin(5 * x), 127 + 120 * np.cos(4 * y + x), 255 * y]).astype(np.uint8)
    scores = (0.5 + 0.4 * np.sin(6 * x * y)).astype(np.float32)[None]
    for function in (sharpened, guided):
        exact = function(scores, pixels, 12, 1e-2, subsample=1)
        thinned = function(scores, pixels, 12, 1e-2, subsample=subsample)
        assert np.abs(thinned - exact).mean() < 0.2 * np.abs(exact - scores).mean()


@pytest.mark.parametrize("radius", [1, 4, 500])
def test_without_colours_guided_is_a_mean_of_means_and_sharpened_nothing(radius):
    shape = (11, 14)
    pixels, scores = np.full((3, *shape), 93, np.uint8), noise(2, shape)
    for plane, out in zip(scores, guided(scores, pixels, radius, subsample=1), strict=True):
        around = list(squares(np.ones(shape, bool), radius))
        means = np.array([plane.ravel()[near].mean() for near in around])
        np.testing.assert_allclose(out.ravel(), [means[near].mean() for near in around], atol=1e-5)
    for subsample in (1, 2, 4):
        np.testing.assert_allclose(sharpened(scores, pixels, radius, subsample=subsample), scores, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    radius=st.sampled_from([1, 5, 16, 10**6]),
    subsample=st.integers(1, 9),
    origin=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    level=st.floats(0, 1, width=32),
    seed=st.integers(0, 99),
)
def test_equal_scores_stay_equal(shape, radius, subsample, origin, level, seed):
    pixels, scores = picture(shape, seed), np.full((1, *shape), level, np.float32)
    valid = np.random.default_rng(seed).random(shape) > 0.3
    for function in (sharpened, guided):
        found = function(scores, pixels, radius, valid=valid, subsample=subsample, origin=origin)
        np.testing.assert_allclose(found, scores, atol=1e-4)


def test_equal_scores_stay_equal_beside_blocks_without_data():
    scores = np.full((1, 40, 40), 0.7, np.float32)
    valid = np.zeros((40, 40), bool)
    valid[16:24, 16:24] = True
    found = guided(scores, picture((40, 40)), 1, valid=valid, subsample=8)
    np.testing.assert_allclose(found, scores, atol=1e-4)


@pytest.mark.parametrize("subsample", [1, 3, 4])
def test_work_in_strips_changes_nothing(subsample, monkeypatch):
    shape = (83, 30)
    pixels, scores = picture(shape), noise(2, shape)
    at_once = sharpened(scores, pixels, 5, subsample=subsample, origin=(2, 1))
    monkeypatch.setattr(geovl.segmenters.refine, "_STRIP", 1000)
    np.testing.assert_array_equal(sharpened(scores, pixels, 5, subsample=subsample, origin=(2, 1)), at_once)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    radius=st.sampled_from([1, 3, 16, 10**6]),
    subsample=st.integers(1, 9),
    origin=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    epsilon=st.sampled_from([1e-30, 1e-6, 1e-3, 1e3]),
    seed=st.integers(0, 99),
)
@example(shape=(1, 3), radius=1, subsample=1, origin=(0, 0), share=1.0, epsilon=1e-30, seed=0)
def test_any_picture_gives_numbers_of_0_to_1(shape, radius, subsample, origin, share, epsilon, seed):
    rng = np.random.default_rng(seed)
    scores = noise(2, shape, seed)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    scores[rng.random(scores.shape) < 0.1] = np.inf
    before = scores.copy()
    valid = rng.random(shape) < share
    for function in (sharpened, guided):
        found = function(scores, picture(shape, seed), radius, epsilon, valid=valid, subsample=subsample, origin=origin)
        assert found.shape == scores.shape
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1  # false of what is no number, too
    np.testing.assert_array_equal(scores, before)


@settings(max_examples=40, deadline=None)
@given(
    radius=st.sampled_from([1, 2, 5, 8]),
    subsample=st.integers(1, 5),
    start=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    origin=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    holes=st.booleans(),
    smooth=st.booleans(),
    grain=st.integers(0, 2),
)
def test_a_window_agrees_with_the_whole_beyond_the_halo(radius, subsample, start, origin, holes, smooth, grain):
    function = partial(guided if smooth else sharpened, grain=grain)
    shape, side, reach = (90, 95), 60, halo(radius, subsample, grain)
    pixels, scores = picture(shape), noise(2, shape)
    valid = np.random.default_rng(3).random(shape) > (0.3 if holes else -1)
    whole = function(scores, pixels, radius, valid=valid, subsample=subsample, origin=origin)
    part = np.s_[start[0] : start[0] + side, start[1] : start[1] + side]
    here = (origin[0] + start[0], origin[1] + start[1])
    window = function(scores[:, *part], pixels[:, *part], radius, valid=valid[part], subsample=subsample, origin=here)
    inner = np.s_[:, reach : side - reach, reach : side - reach]
    np.testing.assert_array_equal(window[inner], whole[:, *part][inner])


@pytest.mark.parametrize("grain", [0, 2])
@pytest.mark.parametrize(("radius", "subsample"), [(1, 1), (4, 1), (4, 2), (6, 3), (8, 4)])
def test_the_halo_is_as_wide_as_said_and_needed(radius, subsample, grain):
    reach = halo(radius, subsample, grain)
    side = 2 * reach + 20
    pixels, scores = picture((side, side)), noise(1, (side, side))
    farthest = 0
    for shift in range(subsample):
        at = side // 2 + shift
        changed = scores.copy()
        changed[0, at, at] = 1 - changed[0, at, at]
        brighter = pixels.copy()
        brighter[:, at, at] ^= 255
        refine = partial(guided, radius=radius, subsample=subsample, grain=grain)
        before = refine(scores, pixels)
        for after in (refine(changed, pixels), refine(scores, brighter)):
            moved = np.argwhere(after[0] != before[0]) - at
            farthest = max(farthest, np.abs(moved).max())
    assert farthest <= reach
    assert farthest >= reach - subsample - 1


@pytest.mark.parametrize("subsample", [1, 4])
def test_classes_do_not_see_each_other(subsample):
    shape = (33, 41)
    pixels, scores = picture(shape), noise(4, shape)
    guide = Guide.of(pixels, 6, subsample=subsample)
    together = guide.sharpen(scores)
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(guide.sharpen(scores[order]), together[order])
    np.testing.assert_array_equal(guide.sharpen(scores[1:2]), together[1:2])
    assert guide.sharpen(scores[:0]).shape == (0, *shape)


@pytest.mark.parametrize("function", [sharpened, guided])
def test_shares_still_add_up_to_one(function):
    first = 0.3 + 0.4 * noise(1, (40, 50))
    both = function(np.concatenate([first, 1 - first]), picture((40, 50)), 6)
    assert 0 < both.min() < both.max() < 1  # nothing was cut
    np.testing.assert_allclose(both.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("subsample", [1, 2, 4])
@pytest.mark.parametrize("function", [sharpened, guided])
def test_pixels_without_data_neither_give_nor_take(function, subsample):
    shape = (37, 30)
    pixels, scores = picture(shape), noise(2, shape)
    valid = np.ones(shape, bool)
    valid[10:20, 5:] = False
    valid[30, 3] = False
    first = function(scores, pixels, 5, valid=valid, subsample=subsample)
    np.testing.assert_array_equal(first[:, ~valid], scores[:, ~valid])
    other, painted = scores.copy(), pixels.copy()
    other[:, ~valid] = 1 - other[:, ~valid]
    painted[:, ~valid] = 255 - painted[:, ~valid]
    np.testing.assert_array_equal(
        function(other, painted, 5, valid=valid, subsample=subsample)[:, valid], first[:, valid]
    )
    assert (function(scores, pixels, 5, subsample=subsample)[:, valid] != first[:, valid]).any()


def test_a_strip_without_data_is_as_if_it_were_not_there():
    pixels, scores = picture((40, 48)), noise(1, (40, 48))
    valid = np.ones((40, 48), bool)
    valid[:, 32:] = False
    cut = sharpened(scores[:, :, :32], pixels[:, :, :32], 6, subsample=1)
    found = sharpened(scores, pixels, 6, valid=valid, subsample=1)
    np.testing.assert_allclose(found[:, :, :32], cut, atol=1e-5)


def test_sums_do_not_drift():
    shape = (1, 300_000)
    scores = noise(1, shape)
    found = guided(scores, np.zeros((3, *shape), np.uint8), 2, subsample=1)[0, 0]
    weights = np.convolve(np.full(5, 0.2), np.full(5, 0.2))  # a mean of means
    np.testing.assert_allclose(found[4:-4], np.convolve(scores[0, 0].astype(float), weights, "valid"), atol=3e-7)


def test_what_does_not_fit_is_told():
    pixels, scores = picture((8, 9)), noise(1, (8, 9))
    with pytest.raises(ValueError, match=r"Scores must be \(channels, 8, 9\), got \(1, 9, 8\)"):
        sharpened(scores.transpose(0, 2, 1), pixels)
    with pytest.raises(ValueError, match="Pixels must be uint8"):
        sharpened(scores, pixels.astype(np.float32))
    with pytest.raises(ValueError, match=r"mask must be \(8, 9\)"):
        sharpened(scores, pixels, valid=np.ones((9, 8), bool))
    for radius, subsample in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            sharpened(scores, pixels, radius, subsample=subsample)
        with pytest.raises(ValueError, match="at least 1"):
            halo(radius, subsample)
    with pytest.raises(ValueError, match="grain"):
        sharpened(scores, pixels, grain=-1)
    for epsilon in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="epsilon"):
            sharpened(scores, pixels, epsilon=epsilon)
