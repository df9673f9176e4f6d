"""Blend window scores into labels, one band of windows at a time.

Inside a zone (see :mod:`geovl.windows`) the two windows' scores are mixed with weights
that run linearly from one to the other, first along columns, then along rows. Mixing is
written ``a + w * (b - a)``: where both windows agree the result is bit for bit their
score, so a per-pixel model gives the same raster for every window size.

A band needs nothing of the bands around it until its zones are mixed (:func:`settle`):
bands can be made in any order and on any machine, with the same result.

Kept in memory: the labels and scores of one band of windows (2 bytes a pixel) and the
float scores of its zones. Nothing grows with the height of the raster.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geovl.types import Window, WindowGrid

SCORE_SCALE = 254
"""Scores are stored as uint8: ``round(score * SCORE_SCALE)``."""
SCORE_NODATA = 255


@dataclass(frozen=True, slots=True)
class Band:
    """Rows of the output, over the raster's whole width, that one row of windows decides."""

    row: int
    """Row of windows in the grid."""
    window: Window
    """Rows of the raster, from the zone shared with the band above to that shared with the band below."""
    labels: NDArray[np.unsignedinteger]
    """(height, width): 0 background, i + 1 class i, ``nodata`` where the source has none."""
    scores: NDArray[np.uint8]
    """(height, width): score of the winning class in 1/254; 255 where the source has no data."""
    unknown: NDArray[np.uint8] | None
    """(height, width): how unlike everything taught, in 1/254, 255 without data; None where it was not asked for."""
    above: NDArray[np.float32] | None
    """(channels, zone, width): this band's own scores in the zone shared with the band above, which are still to be
    mixed with that band's; None once they are, and in the first band. Channels are the classes and, where it was
    asked for, how unknown a pixel is."""
    below: NDArray[np.float32] | None
    """(channels, zone, width): the same for the band below; None in the last band."""
    marks: tuple[str, ...] = ()
    """Those of the scores of its windows; see :class:`geovl.types.Scores`."""


def _ramp(length: int) -> NDArray[np.float32]:
    """Weights of the second window over a zone, strictly between 0 and 1."""
    return ((np.arange(length, dtype=np.float32) + 0.5) / max(length, 1)).astype(np.float32)


def _mix(first: NDArray[np.float32], second: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return first + weights * (second - first)


def enlarge(scores: NDArray[np.float32], shape: tuple[int, int], factor: int) -> NDArray[np.float32]:
    """Bring scores of a coarser grid to that of the window, by linear interpolation.

    Args:
        scores: float32 (classes, h, w), h at least ``ceil(height / factor)``; what lies beyond is cut off.
        shape: Height and width of the window.
        factor: Pixels of the window per pixel of the scores, along each side.

    Returns:
        float32 (classes, height, width).
    """
    rows, cols = (-(-length // factor) for length in shape)
    scores = scores[:, :rows, :cols]
    if factor == 1:
        return scores
    for axis, length in zip((1, 2), shape, strict=True):
        used = scores.shape[axis]
        at = (np.arange(length) + 0.5) * used / length - 0.5
        left = np.clip(np.floor(at).astype(np.int64), 0, used - 1)
        right = np.minimum(left + 1, used - 1)
        weight = np.clip(at - left, 0, 1).astype(np.float32)
        weight = weight[:, None] if axis == 1 else weight
        scores = _mix(np.take(scores, left, axis=axis), np.take(scores, right, axis=axis), weight)
    return scores


def decide(
    scores: NDArray[np.float32], threshold: float, labels: NDArray[np.unsignedinteger], best: NDArray[np.uint8]
) -> None:
    """Write the winning class and its score.

    A pixel is class i + 1 where score i is the highest (the first of equals) and reaches
    the threshold, else background.

    Args:
        scores: float32 (classes, height, width), 0..1.
        threshold: Lowest score of a class, 0..1.
        labels: Receives the labels, (height, width).
        best: Receives the highest score in 1/254, (height, width).
    """
    top = scores[0] if len(scores) == 1 else scores[0].copy()
    labels[...] = 1
    for index in range(1, len(scores)):
        wins = scores[index] > top
        labels[wins] = index + 1
        np.copyto(top, scores[index], where=wins)
    labels *= top >= threshold  # a score that is no number reaches nothing
    _store(top, best)


def _store(shares: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """Write shares of 0..1 in 1/254; what is no number counts as 0."""
    counts = shares * np.float32(SCORE_SCALE)
    np.rint(counts, out=counts)
    np.fmax(counts, 0, out=counts)
    np.minimum(counts, SCORE_SCALE, out=counts)
    np.copyto(out, counts, casting="unsafe")


@dataclass(frozen=True, slots=True)
class Decision:
    """How scores become labels."""

    classes: int
    threshold: float
    """Lowest score of a class, 0..1."""
    nodata: int
    """Label of pixels without data; also decides uint8 or uint16."""
    unknown: bool = False
    """Whether a last channel of the scores says how unknown a pixel is."""

    @property
    def channels(self) -> int:
        """Channels of the scores."""
        return self.classes + self.unknown

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Of the labels."""
        return np.uint8 if self.nodata <= 255 else np.uint16

    def write(self, scores: NDArray[np.float32], band: Band, rows: slice, columns: slice) -> None:
        """Decide part of a band, in place; pixels without data are left for the caller to mark.

        Args:
            scores: float32 (channels, height, width), 0..1.
            band: Receives the result.
            rows: Of the band.
            columns: Of the band.
        """
        decide(scores[: self.classes], self.threshold, band.labels[rows, columns], band.scores[rows, columns])
        if band.unknown is not None:
            _store(scores[-1], band.unknown[rows, columns])


class Stitcher:
    """Takes the windows of one row of a grid, from left to right, and gives back its band.

    Args:
        grid: The plan.
        row: Row of the grid.
        decision: How scores become labels.
    """

    def __init__(self, grid: WindowGrid, row: int, decision: Decision) -> None:
        self._cols = grid.cols
        self._decision = decision
        self._start = grid.rows.starts[row]
        self._above, self._below = grid.rows.zone_before(row), grid.rows.zone_after(row)
        self._right: NDArray[np.float32] | None = None  # zone of the window to the left: (channels, rows, zone)
        top, bottom = self._above[0], self._below[0]
        width = grid.cols.starts[-1] + grid.cols.size
        shape = (bottom - top, width)
        self._band = Band(
            row,
            Window(top, 0, *shape),
            np.empty(shape, decision.dtype),
            np.empty(shape, np.uint8),
            np.empty(shape, np.uint8) if decision.unknown else None,
            self._zone(self._above, width) if row else None,
            self._zone(self._below, width) if row < len(grid.rows.starts) - 1 else None,
        )

    def _zone(self, zone: tuple[int, int], width: int) -> NDArray[np.float32]:
        return np.empty((self._decision.channels, zone[1] - zone[0], width), np.float32)

    def add(self, col: int, scores: NDArray[np.float32], valid: NDArray[np.bool_]) -> Band | None:
        """Take the scores of a window.

        Args:
            col: Column of the grid; columns must come in order.
            scores: float32 (channels, height, width), 0..1, of the window's size.
            valid: bool (height, width), True where the source has data.

        Returns:
            The band with the last window, None before.
        """
        cols, band = self._cols, self._band
        start = cols.starts[col]
        left, right = cols.zone_before(col), cols.zone_after(col)
        if self._right is not None:
            zone = slice(left[0] - start, left[1] - start)
            scores = scores.copy()
            scores[:, :, zone] = _mix(self._right, scores[:, :, zone], _ramp(left[1] - left[0]))
        last = col == len(cols.starts) - 1
        self._right = None if last else scores[:, :, right[0] - start : right[1] - start].copy()
        columns = slice(left[0], right[0])
        part = scores[:, :, left[0] - start : right[0] - start]
        for zone_rows, kept in ((self._above, band.above), (self._below, band.below)):
            if kept is not None:
                kept[:, :, columns] = part[:, zone_rows[0] - self._start : zone_rows[1] - self._start]
        rows = slice(self._above[0] - self._start, self._below[0] - self._start)
        self._decision.write(part[:, rows], band, slice(None), columns)
        # every window that sees a pixel reads the same mask, so the last one to write it is as good as any
        seen = valid[rows, left[0] - start : right[0] - start]
        if not seen.all():
            _hide(band, (slice(None), columns), ~seen, self._decision.nodata)
        return band if last else None


def settle(band: Band, before: NDArray[np.float32], decision: Decision) -> Band:
    """Mix the zone that a band shares with the band above, in place.

    Args:
        band: One that still has ``above``.
        before: ``below`` of the band above.
        decision: As for the :class:`Stitcher`.

    Returns:
        The band, settled.
    """
    if band.above is None:
        return band
    zone = slice(0, before.shape[1])
    hidden = band.labels[zone] == decision.nodata
    mixed = _mix(before, band.above, _ramp(before.shape[1])[:, None])
    decision.write(mixed, band, zone, slice(None))
    _hide(band, (zone, slice(None)), hidden, decision.nodata)
    return replace(band, above=None)


def _hide(band: Band, part: tuple[slice, slice], hidden: NDArray[np.bool_], nodata: int) -> None:
    """Mark the pixels of a part of a band that have no data."""
    band.labels[part][hidden] = nodata
    for shares in (band.scores, band.unknown):
        if shares is not None:
            shares[part][hidden] = SCORE_NODATA
