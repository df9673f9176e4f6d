"""The compiled tracer gives what the one in NumPy gives, array by array."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geovl.polygonize import polygonize
from geovl.polygonize.trace import Strip, trace
from geovl.types import GeoBox

pytest.importorskip("numba")
from geovl.polygonize import compiled


def rasters(dtype):
    """Rasters of noise, of blocks, and of blocks with single pixels of other labels."""
    shapes = st.tuples(st.integers(1, 16), st.one_of(st.integers(1, 16), st.sampled_from([31, 64, 70])))

    def of(shape):
        most = st.integers(1, 3).flatmap(lambda top: arrays(dtype, shape, elements=st.integers(0, top)))
        return most | st.tuples(most, st.integers(2, 4), st.integers(0, 2**16), st.sampled_from([0.0, 0.1])).map(blocks)

    return shapes.flatmap(of)


def blocks(drawn):
    small, size, seed, share = drawn
    height, width = small.shape
    large = np.kron(small, np.ones((size, size), small.dtype))[:height, :width]
    rng = np.random.default_rng(seed)
    return np.where(rng.random(large.shape) < share, rng.integers(0, 4, large.shape), large).astype(small.dtype)


def cut(labels, above, below):
    """Take a strip from a raster: its first and last rows belong to others where it is cut there."""
    height = len(labels)
    first, last = int(above and height > 2), height - int(below and height > 2)
    block = np.zeros((last - first + 2, labels.shape[1] + 2), labels.dtype)
    block[1:-1, 1:-1] = labels[first:last]
    if first:
        block[0, 1:-1] = labels[0]
    if last < height:
        block[-1, 1:-1] = labels[-1]
    return Strip(block, bool(first), last < height)


def assert_same(strip, scores, least):
    expected, found = trace(strip, scores, least), compiled.trace(strip, scores, least)
    for field in dataclasses.fields(expected):
        one, other = getattr(expected, field.name), getattr(found, field.name)
        np.testing.assert_array_equal(other, one, err_msg=field.name, strict=len(one) > 0)


CROSSED = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], np.uint8)
CHECKERS = (np.indices((7, 8)).sum(axis=0) % 2 + 1).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_array_is_that_of_the_tracer_in_numpy(dtype):
    @given(rasters(dtype), st.booleans(), st.booleans(), st.integers(0, 5), st.integers(0, 2**16))
    @example(CROSSED.astype(dtype), False, False, 0, 0)
    @example(CROSSED[:, ::-1].astype(dtype), False, False, 0, 0)
    @example(CROSSED.repeat(2, axis=0).astype(dtype), True, True, 2, 0)
    @example(CHECKERS.astype(dtype), True, True, 0, 0)
    @example(np.zeros((3, 3), dtype), True, True, 0, 0)
    def check(labels, above, below, least, seed):
        strip = cut(labels, above, below)
        shape = (strip.height, labels.shape[1])
        scores = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        assert_same(strip, scores, least)

    check()


@pytest.mark.parametrize("salt", [0.02, 0.5, 1.0])
def test_tables_that_grow_while_a_strip_is_swept_lose_nothing(salt):
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, 4, (20, 50)), np.ones((15, 15), int))
    labels = np.where(rng.random(labels.shape) < salt, rng.integers(0, 4, labels.shape), labels).astype(np.uint8)
    scores = rng.integers(0, 256, labels.shape).astype(np.uint8)
    for above, below, least in ((False, False, 0), (True, True, 4)):
        strip = cut(labels, above, below)
        assert_same(strip, scores[: strip.height], least)


def test_sums_of_large_regions_do_not_wrap_around():
    labels = np.ones((4200, 4200), np.uint8)
    scores = np.full(labels.shape, 255, np.uint8)
    found = compiled.trace(cut(labels, above=False, below=False), scores)
    assert found.total.tolist() == [255.0 * labels.size]
    assert found.pixels.tolist() == [labels.size]


def test_inputs_may_be_read_only_and_lie_in_any_order_and_are_not_changed():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, (20, 30)).astype(np.uint8)
    strip = cut(labels, above=False, below=False)
    scores = rng.integers(0, 256, labels.shape).astype(np.uint8)
    other = Strip(np.asfortranarray(strip.block), cut_above=False, cut_below=False)
    other.block.flags.writeable = False
    before = strip.block.copy(), scores.copy()
    assert_same(other, np.asfortranarray(scores), 0)
    assert_same(strip, scores, 0)
    np.testing.assert_array_equal(strip.block, before[0])
    np.testing.assert_array_equal(scores, before[1])


@given(rasters(np.uint8), st.sampled_from([1, 2, 5, 100]))
def test_polygons_are_the_same_over_strips(labels, rows):
    scores = np.random.default_rng(3).integers(0, 255, labels.shape).astype(np.uint8)
    box = GeoBox(labels.shape, Affine.identity(), None)

    def run(tracer):
        return list(
            polygonize(
                lambda a, b: labels[a:b], lambda a, b: scores[a:b], box,
                nodata=255, score_scale=254, simplify=0, rows=rows, tracer=tracer,
            )
        )  # fmt: skip

    expected, found = run(trace), run(compiled.trace)
    assert len(found) == len(expected)
    for one, other in zip(expected, found, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(other, field.name), getattr(one, field.name), strict=True)


def test_without_numba_only_this_module_cannot_be_imported():
    code = (
        "import sys\nsys.modules['numba'] = None\nimport geovl.polygonize\n"
        "try:\n    import geovl.polygonize.compiled\nexcept ImportError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"
