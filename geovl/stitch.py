"""Blend window scores into labels, one band of windows at a time.

Inside a zone (see :mod:`geovl.windows`) the two windows' scores are mixed with weights
that run linearly from one to the other, first along columns, then along rows. Mixing is
written ``a + w * (b - a)``: where both windows agree the result is bit for bit their
score, so a per-pixel model gives the same raster for every window size.

Kept in memory: the labels and scores of one band of windows (2 bytes a pixel) and the
float scores of its zones. Nothing grows with the height of the raster.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geovl.types import Axis, Window, WindowGrid

SCORE_SCALE = 254
"""Scores are stored as uint8: ``round(score * SCORE_SCALE)``."""
SCORE_NODATA = 255


@dataclass(frozen=True, slots=True)
class Band:
    """Finished rows of the output, over the raster's whole width."""

    window: Window
    labels: NDArray[np.unsignedinteger]
    """(height, width): 0 background, i + 1 class i, ``nodata`` where the source has none."""
    scores: NDArray[np.uint8]
    """(height, width): score of the winning class in 1/254; 255 where the source has no data."""


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
    top = scores[0].copy()
    labels[...] = 1
    for index in range(1, len(scores)):
        wins = scores[index] > top
        labels[wins] = index + 1
        np.copyto(top, scores[index], where=wins)
    labels[top < threshold] = 0
    np.clip(top, 0.0, 1.0, out=top)
    best[...] = np.rint(top * SCORE_SCALE).astype(np.uint8)


class Stitcher:
    """Takes the windows of a grid in order and gives back finished bands.

    Args:
        grid: The plan; windows must come in its order.
        classes: Number of classes.
        threshold: Lowest score of a class, 0..1.
        nodata: Label of pixels without data; also decides uint8 or uint16.
    """

    def __init__(self, grid: WindowGrid, classes: int, threshold: float, nodata: int) -> None:
        self._grid = grid
        self._threshold = threshold
        self._nodata = nodata
        self._classes = classes
        self._dtype = np.uint8 if nodata <= 255 else np.uint16
        self._width = grid.cols.starts[-1] + grid.cols.size
        self._below: NDArray[np.float32] | None = None  # row zone of the band above: (classes, zone, width)
        self._next_below: NDArray[np.float32] | None = None
        self._right: NDArray[np.float32] | None = None  # column zone of the window to the left: (classes, rows, zone)
        self._labels: NDArray[np.unsignedinteger]
        self._scores: NDArray[np.uint8]

    def add(self, row: int, col: int, probabilities: NDArray[np.float32], valid: NDArray[np.bool_]) -> Iterator[Band]:
        """Take the scores of the window at grid position (row, col).

        Args:
            row: Grid row.
            col: Grid column.
            probabilities: float32 (classes, height, width), 0..1, of the window's size.
            valid: bool (height, width), True where the source has data.

        Yields:
            The band that this window completes, if it completes one.
        """
        rows, cols = self._grid.rows, self._grid.cols
        top, bottom = self._band_rows(rows, row)
        if col == 0:
            self._start_band(rows, row, bottom - top)
        start = cols.starts[col]
        left, right = cols.zone_before(col), cols.zone_after(col)
        if self._right is not None:
            zone = slice(left[0] - start, left[1] - start)
            probabilities = probabilities.copy()
            probabilities[:, :, zone] = _mix(self._right, probabilities[:, :, zone], _ramp(left[1] - left[0]))
        last = col == len(cols.starts) - 1
        self._right = None if last else probabilities[:, :, right[0] - start : right[1] - start].copy()
        self._finish(row, (left[0], right[0]), probabilities[:, :, left[0] - start : right[0] - start])
        # Every window that sees a pixel reads the same mask, so the last one to write it is as good as any.
        hidden = ~valid[top - rows.starts[row] : bottom - rows.starts[row], left[0] - start : right[0] - start]
        self._labels[:, left[0] : right[0]][hidden] = self._nodata
        self._scores[:, left[0] : right[0]][hidden] = SCORE_NODATA
        if last:
            self._below = self._next_below
            yield Band(Window(top, 0, bottom - top, self._width), self._labels, self._scores)

    @staticmethod
    def _band_rows(rows: Axis, row: int) -> tuple[int, int]:
        """Rows [top, bottom) that are final once grid row ``row`` is done."""
        return rows.zone_before(row)[0], rows.zone_after(row)[0]

    def _start_band(self, rows: Axis, row: int, height: int) -> None:
        self._labels = np.empty((height, self._width), self._dtype)
        self._scores = np.empty((height, self._width), np.uint8)
        zone = rows.zone_after(row)
        self._next_below = np.empty((self._classes, zone[1] - zone[0], self._width), np.float32)

    def _finish(self, row: int, span: tuple[int, int], part: NDArray[np.float32]) -> None:
        """Mix with the band above, decide what is final, keep what the band below needs."""
        rows = self._grid.rows
        start = rows.starts[row]
        above, below = rows.zone_before(row), rows.zone_after(row)
        columns = slice(*span)
        height = above[1] - above[0]
        if self._next_below is not None:
            self._next_below[:, :, columns] = part[:, below[0] - start : below[1] - start]
        final = part[:, above[0] - start : below[0] - start]
        if height and self._below is not None:
            final = final.copy()
            weights = _ramp(height)[:, None]
            final[:, :height] = _mix(self._below[:, :, columns], final[:, :height], weights)
        decide(final, self._threshold, self._labels[:, columns], self._scores[:, columns])
