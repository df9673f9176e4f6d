"""Sharpen scores to the pixels of the picture, without weights: a guided filter with a colour guide.

The scores of a class are explained, in every square window, by the colours of the pixels in it: ``a . colour + b`` by
least squares, kept from running wild by ``epsilon``. A pixel's colour is put into the average of the windows that hold
it: K. He, J. Sun, X. Tang, "Guided Image Filtering", ECCV 2010 and TPAMI 35(6), 2013; there, for a guide of three
channels, with ``m`` and ``C`` the mean and covariance of the guide ``I`` in a window, and ``p`` the scores,

    a = (C + epsilon 1)^-1 (mean(I p) - m mean(p))      (19)
    b = mean(p) - a . m                                 (20)
    q = mean(a) . I + mean(b)                           (21)

That is :func:`guided`. It also blurs: where colours explain nothing, ``q`` is a mean of means of ``p``. So
:func:`sharpened` keeps the scores and adds only what colours explain, the sum without that mean of means:

    q = p + mean(a) . I - mean(a . m)

Coarse scores gain borders by that and flat ground is left as it was; ``tests/benchmarks/refine.py`` measures both.

With ``subsample`` windows stand at every such pixel only, and ``a`` and ``b`` are interpolated: K. He, J. Sun, "Fast
Guided Filter", arXiv:1505.00996, 2015. There the pictures are thinned out; here ``mean`` still is that of all pixels,
by sums over blocks that lie on the grid of the raster.

Made for windows of a raster: what a pixel gets depends on the pixels at most :func:`halo` away, and not at all, to the
last bit, on where the window begins. Sums over squares are therefore not differences of running totals, whose rounding
depends on all that came before: they are sums of pairs, of pairs of pairs and so on, as exact as float32 allows.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RADIUS = 24
"""Of the windows, pixels: one and a half times the stride of a vision transformer of patches of 16."""
EPSILON = 3e-4
"""Of guide values in 0..1: an edge whose variance is well above this is one."""
SUBSAMPLE = 4
"""Pixels per window position, along each side."""
GRAIN = 1
"""Pixels by which the guide is averaged first, to each side: noise of a camera or of JPEG is nothing to follow."""

_LEAST = 1e-6  # of epsilon: less is lost in the rounding of a covariance
_STRIP = 1 << 17  # numbers worked on at once, so that they stay in the cache


def halo(radius: int = RADIUS, subsample: int = SUBSAMPLE, grain: int = GRAIN) -> int:
    """Return how far away, in pixels, another pixel can be and still matter to a refined score."""
    reach = _reach(radius, subsample)
    # a window, the windows averaged with it and, between blocks, the next block, whose far end is nearly one further
    return (2 * reach if subsample == 1 else (2 * reach + 2) * subsample - 1) + grain


def sharpened(
    scores: Floats,
    pixels: NDArray[np.uint8],
    radius: int = RADIUS,
    epsilon: float = EPSILON,
    *,
    valid: NDArray[np.bool_] | None = None,
    subsample: int = SUBSAMPLE,
    grain: int = GRAIN,
    origin: tuple[int, int] = (0, 0),
) -> Floats:
    """Add to scores what the colours of their pixels explain of them.

    Args:
        scores: float32 (channels, height, width), 0..1; what is no number counts as 0.
        pixels: uint8 (3, height, width).
        radius: Of the windows, pixels, at least 1; larger than the picture is allowed; best one to one and a half
            times the stride of the model.
        epsilon: Above 0: variance of the guide, in values of 0..1, below which there is no edge; less than 1e-6
            counts as 1e-6.
        valid: bool (height, width), True where there is data; other pixels neither give nor take: their scores are
            returned as they are. All when None.
        subsample: Pixels per window position along each side; 1 is the filter as first published.
        grain: Pixels by which the guide is averaged first, to each side; 0 for the filter as published.
        origin: Row and column of the raster at which the pixels begin; matters only where ``subsample`` is above 1.

    Returns:
        float32 (channels, height, width), 0..1, a new array.

    Raises:
        ValueError: Sizes that do not fit, or a radius, epsilon, subsample or grain out of range.
    """
    return Guide.of(pixels, radius, epsilon, valid=valid, subsample=subsample, grain=grain, origin=origin).sharpen(
        scores
    )


def guided(
    scores: Floats,
    pixels: NDArray[np.uint8],
    radius: int = RADIUS,
    epsilon: float = EPSILON,
    *,
    valid: NDArray[np.bool_] | None = None,
    subsample: int = SUBSAMPLE,
    grain: int = GRAIN,
    origin: tuple[int, int] = (0, 0),
) -> Floats:
    """Filter scores as published, which smooths them; arguments, result and errors are those of :func:`sharpened`."""
    return Guide.of(pixels, radius, epsilon, valid=valid, subsample=subsample, grain=grain, origin=origin).smooth(
        scores
    )


@dataclass(frozen=True, slots=True)
class Guide:
    """What the filter needs of a picture, once for all classes."""

    colours: Floats
    """(3, height, width): the guide, -0.5..0.5."""
    valid: NDArray[np.bool_] | None
    """(height, width), None where all is."""
    reach: int
    """Blocks from the middle of a window to its side."""
    blocks: "_Blocks"
    weights: Floats
    """(rows, columns) of blocks: valid pixels in each."""
    inverse: Floats
    """(rows, columns): 1 over the valid pixels of the window around each block, 0 where there is none."""
    means: Floats
    """(3, rows, columns): mean colour of that window."""
    factors: Floats
    """(6, rows, columns): ``L`` (21, 31, 32) and 1 over ``D`` of ``C + epsilon 1 = L D L'`` of that window."""

    @classmethod
    def of(
        cls,
        pixels: NDArray[np.uint8],
        radius: int = RADIUS,
        epsilon: float = EPSILON,
        *,
        valid: NDArray[np.bool_] | None = None,
        subsample: int = SUBSAMPLE,
        grain: int = GRAIN,
        origin: tuple[int, int] = (0, 0),
    ) -> Self:
        """Look at a picture; arguments and errors are those of :func:`sharpened`."""
        if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != np.uint8:
            msg = f"Pixels must be uint8 (3, height, width), got {pixels.dtype} {pixels.shape}"
            raise ValueError(msg)
        if valid is not None and valid.shape != pixels.shape[1:]:
            msg = f"The mask must be {pixels.shape[1:]}, got {valid.shape}"
            raise ValueError(msg)
        if not epsilon > 0:
            msg = f"epsilon must be above 0, got {epsilon}"
            raise ValueError(msg)
        if grain < 0:
            msg = f"grain must be at least 0, got {grain}"
            raise ValueError(msg)
        reach = _reach(radius, subsample)
        mask = None if valid is None or valid.all() else valid
        blocks = _Blocks.over(pixels.shape[1:], subsample, origin)
        colours = np.multiply(pixels, np.float32(1 / 255), dtype=np.float32)
        colours -= np.float32(0.5)  # halves what rounding takes
        if mask is not None:
            colours *= mask
        ones = np.ones(pixels.shape[1:], np.float32) if mask is None else mask.astype(np.float32)
        if grain:
            share = ones / np.maximum(_box(ones, grain), 1)  # 0 without data
            for colour in colours:
                np.multiply(_box(colour, grain), share, out=colour)
        weights = blocks.sums(ones)
        counts = _box(weights, reach)
        inverse = np.divide(1, counts, out=np.zeros_like(counts), where=counts > 0)
        means = np.stack([_box(blocks.sums(colour), reach) for colour in colours])
        means *= inverse
        covariance = []  # 11, 21, 22, 31, 32, 33
        for row in range(3):
            for column in range(row + 1):
                product = _box(blocks.sums(colours[row], colours[column]), reach)
                product *= inverse
                product -= means[row] * means[column]
                covariance.append(product)
        factors = _factorize(covariance, np.float32(max(epsilon, _LEAST)))
        return cls(colours, mask, reach, blocks, weights, inverse, means, factors)

    def sharpen(self, scores: Floats) -> Floats:
        """Add to scores what colours explain, see :func:`sharpened`; a class costs little beside the picture.

        Args:
            scores: float32 (channels, height, width), 0..1.

        Returns:
            float32 (channels, height, width), 0..1, a new array.

        Raises:
            ValueError: The scores are of another size than the picture.
        """
        return self._refine(scores, keep=True)

    def smooth(self, scores: Floats) -> Floats:
        """Filter scores as published, see :func:`guided`; the rest is as for :meth:`sharpen`."""
        return self._refine(scores, keep=False)

    def _refine(self, scores: Floats, *, keep: bool) -> Floats:
        if scores.ndim != 3 or scores.shape[1:] != self.colours.shape[1:]:
            msg = f"Scores must be (channels, {', '.join(map(str, self.colours.shape[1:]))}), got {scores.shape}"
            raise ValueError(msg)
        out = np.empty(scores.shape, np.float32)
        for plane, refined in zip(scores, out, strict=True):
            given = np.fmax(plane, np.float32(0))  # of a number and no number the number
            np.minimum(given, np.float32(1), out=given)
            self._combine(self._explain(given, keep=keep), given if keep else None, refined)
            if self.valid is not None:
                np.copyto(refined, given, where=~self.valid)
        return out

    def _explain(self, scores: Floats, *, keep: bool) -> Floats:
        """Return ``a`` and ``b`` of every block, averaged over the windows that hold it: (4, rows, columns).

        Where the scores are kept, ``b`` is without their mean.
        """
        if self.valid is not None:
            scores = scores * self.valid
        mean = _box(self.blocks.sums(scores), self.reach)
        mean *= self.inverse
        found = np.empty((4, *mean.shape), np.float32)
        for colour, average, out in zip(self.colours, self.means, found, strict=False):
            product = _box(self.blocks.sums(scores, colour), self.reach)
            product *= self.inverse
            np.subtract(product, average * mean, out=out)
        _solve(self.factors, found)
        found[3] = 0 if keep else mean
        for slope, average in zip(found, self.means, strict=False):
            found[3] -= slope * average
        found *= self.weights
        for plane in found:
            np.multiply(_box(plane, self.reach), self.inverse, out=plane)
        return found

    def _combine(self, coefficients: Floats, given: Floats | None, out: Floats) -> None:
        """Put every pixel's colour into its coefficients, (4, rows, columns) of blocks, and add what was given."""
        height, width = out.shape
        size, first = self.blocks.size, self.blocks.first[0]
        lows, steps = self.blocks.between(coefficients)
        count = max(_STRIP // (4 * width), 1)
        for phase in range(size):
            start, weight = self.blocks.place(phase)
            rows = np.arange(self.blocks.shape[0]) * size + phase - first
            inside = np.flatnonzero((rows >= 0) & (rows < height))
            for begin in range(0, len(inside), count):
                part = inside[begin : begin + count]
                block = slice(part[0] + start, part[-1] + start + 1)
                pixel = slice(rows[part[0]], rows[part[-1]] + 1, size)
                mixed = steps[:, block] * weight if size > 1 else lows[:, block].copy()
                if size > 1:
                    mixed += lows[:, block]
                mixed[:3] *= self.colours[:, pixel]
                for plane in mixed[:3]:
                    mixed[3] += plane
                if given is not None:
                    mixed[3] += given[pixel]
                np.clip(mixed[3], 0, 1, out=out[pixel])


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Squares of pixels that lie on the grid of the raster; those at the sides of a window may be cut."""

    size: int
    """Pixels along each side."""
    first: tuple[int, int]
    """Row and column of the first pixel in the first block."""
    pixels: tuple[int, int]
    """Height and width."""
    shape: tuple[int, int]
    """Rows and columns of blocks."""

    @classmethod
    def over(cls, pixels: tuple[int, ...], size: int, origin: tuple[int, int]) -> Self:
        height, width = pixels
        top, left = (start % size for start in origin)
        return cls(size, (top, left), (height, width), (-(-(top + height) // size), -(-(left + width) // size)))

    def sums(self, values: Floats, times: Floats | None = None) -> Floats:
        """Return the sums over blocks of values, (height, width), or of the products of two."""
        size, (top, left), (height, width), (rows, columns) = self.size, self.first, self.pixels, self.shape
        if size == 1:
            return values if times is None else values * times
        found = np.empty(self.shape, np.float32)
        count = max(_STRIP // (columns * size * size), 1)
        padded = np.zeros((count * size, columns * size), np.float32)
        for begin in range(0, rows, count):
            stop = min(begin + count, rows)
            start, end = max(begin * size - top, 0), min(stop * size - top, height)
            offset = start + top - begin * size
            inside = padded[offset : offset + end - start, left : left + width]
            if times is None:
                np.copyto(inside, values[start:end])
            else:
                np.multiply(values[start:end], times[start:end], out=inside)
            padded[offset + end - start :] = 0  # above the first strip it still is
            tall = padded.reshape(count, size, columns * size)[: stop - begin]
            part = tall[:, 0] + tall[:, 1]
            for row in range(2, size):
                part += tall[:, row]
            np.add(part[:, ::size], part[:, 1::size], out=found[begin:stop])
            for column in range(2, size):
                found[begin:stop] += part[:, column::size]
        return found

    def place(self, phase: int) -> tuple[int, np.float32]:
        """Return where pixel ``phase`` of a block lies: steps past the middle of the block before, and the rest."""
        if self.size == 1:
            return 0, np.float32(0)
        whole, rest = divmod((phase + 0.5) / self.size + 0.5, 1)
        return int(whole), np.float32(rest)

    def between(self, values: Floats) -> tuple[Floats, Floats]:
        """Interpolate values of blocks, (planes, rows, columns), along columns, and get ready to do so along rows.

        Returns:
            ``lows`` (planes, rows + 2, width) and ``steps`` (planes, rows + 1, width): between the middles of blocks
            i - 1 and i the values are ``lows[i] + weight * steps[i]``. The first and last row are there twice.
        """
        if self.size == 1:
            return values, values
        planes, (rows, columns), width = len(values), self.shape, self.pixels[1]
        sides = np.pad(values, ((0, 0), (0, 0), (1, 1)), mode="edge")
        steps = np.diff(sides, axis=2)
        wide = np.empty((planes, rows, columns, self.size), np.float32)
        for phase in range(self.size):
            start, weight = self.place(phase)
            np.multiply(steps[:, :, start : start + columns], weight, out=wide[..., phase])
            wide[..., phase] += sides[:, :, start : start + columns]
        flat = wide.reshape(planes, rows, -1)[:, :, self.first[1] : self.first[1] + width]
        lows = np.pad(flat, ((0, 0), (1, 1), (0, 0)), mode="edge")
        return lows, np.diff(lows, axis=1)


def _reach(radius: int, subsample: int) -> int:
    """Return the radius in blocks."""
    if radius < 1 or subsample < 1:
        msg = f"radius and subsample must be at least 1, got {radius} and {subsample}"
        raise ValueError(msg)
    return max(round(radius / subsample), 1)


def _box(values: Floats, reach: int) -> Floats:
    """Return the sums over squares of ``2 * reach + 1`` a side, cut at the sides of the picture: (rows, columns)."""
    return _along(_along(values, reach, 0), reach, 1)


def _along(values: Floats, reach: int, axis: int) -> Floats:
    """Return the sums over ``2 * reach + 1`` neighbours along one axis.

    Sums of 1, 2, 4, ... neighbours are each made of two of the last; those that the width is made of, in binary, are
    added up. The order in which a sum is made is the same everywhere.
    """
    if axis == 1:
        return _along(values.T, reach, 0).T  # memory stays as it is
    length = len(values)
    reach = min(reach, length - 1)
    if reach == 0:
        return values.copy()
    runs = np.pad(values, ((reach, reach), (0, 0)))
    spare = np.empty_like(runs)
    total = np.zeros_like(values)
    covered, size, width = 0, 1, 2 * reach + 1
    while True:
        if width & size:
            total += runs[covered : covered + length]
            covered += size
        if covered == width:
            return total
        left = len(runs) - size
        runs, spare = np.add(runs[:left], runs[size:], out=spare[:left]), runs
        size *= 2


def _factorize(covariance: list[Floats], epsilon: np.float32) -> Floats:
    """Return ``L`` and 1 over ``D`` of covariance matrices (11, 21, 22, 31, 32, 33) with epsilon on the diagonal.

    No pivot of such a matrix is below epsilon, whatever rounding made of it.
    """
    c11, c21, c22, c31, c32, c33 = covariance
    d1 = np.maximum(c11, 0) + epsilon
    l21, l31 = c21 / d1, c31 / d1
    d2 = np.maximum(c22 - l21 * c21, 0) + epsilon
    l32 = (c32 - l31 * c21) / d2
    d3 = np.maximum(c33 - l31 * c31 - l32 * l32 * d2, 0) + epsilon
    return np.stack([l21, l31, l32, 1 / d1, 1 / d2, 1 / d3])


def _solve(factors: Floats, vectors: Floats) -> None:
    """Replace the first three planes of ``vectors`` by the solution of ``L D L' x = vectors``."""
    l21, l31, l32, d1, d2, d3 = factors
    x, y, z = vectors[:3]
    y -= l21 * x
    z -= l31 * x
    z -= l32 * y
    x *= d1
    y *= d2
    z *= d3
    y -= l32 * z
    x -= l21 * y
    x -= l31 * z
