"""From a coarse mask to what a promptable segmenter is asked: connected parts, and points, a box and logits of each.

Points and logits are those of Text4Seg, https://arxiv.org/abs/2410.09855, section 3.3 and its code. What is done
otherwise: every connected part is asked for by itself and has a box; points keep away from the border of the coarse
mask, which is off by up to half a cell; they are the same in every run; logits know of the padding that a picture that
is no square is given.
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from geovl.segmenters.text_as_mask.grid import to_pixels

Cells = NDArray[np.bool_]
Points = NDArray[np.int64]
Box = tuple[int, int, int, int]

EPSILON = 0.001
"""What a coarse mask is sure of inside is 1 less this, outside this."""
_FINE = 4  # steps per cell in which distances from a border are measured


@dataclass(frozen=True, slots=True)
class Key:
    """What the points of an object follow from, whatever else is in the run."""

    seed: int
    """Of the run."""
    tile: str
    """Name of the picture, and of the expression where several are asked about one picture."""
    object: str = ""
    """Name of the object within the picture."""

    def generator(self) -> np.random.Generator:
        """Return numbers that are the same on every machine and in any order of work."""
        text = json.dumps([self.seed, self.tile, self.object])
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()))


@dataclass(frozen=True, slots=True)
class Prompt:
    """All that is asked about one object, in pixels of the picture."""

    positives: Points
    """(n, 2): columns and rows, x first, of pixels that belong to it."""
    negatives: Points
    """(m, 2): of pixels that do not."""
    box: Box
    """First column, first row, last column, last row."""
    logits: NDArray[np.float32]
    """(side, side) of the network's canvas, above 0 inside; see :func:`mask_prompt`."""


def prompt_of(
    part: Cells, outside: Cells, size: tuple[int, int], logits: NDArray[np.float32], key: Key, count: int
) -> Prompt:
    """Put together what is asked about a part.

    Args:
        part: (h, w), its cells.
        outside: (H, W), the pixels that negatives are drawn from, see :func:`inner`.
        size: H and W.
        logits: (side, side), see :func:`mask_prompt`.
        key: What the points follow from.
        count: Points of each kind.
    """
    positives, negatives = points(inner(part, size), outside, count, key)
    return Prompt(positives, negatives, box_of(part, size), logits)


# ----------------------------------------------------------------------------------------------------- parts, distances


def connected(cells: Cells) -> list[Cells]:
    """Return the connected parts of a mask, corners included, in the order of their first cells.

    Args:
        cells: (h, w).

    Returns:
        Each (h, w); none where the mask is empty.
    """
    # every cell takes the greatest number of its neighbours until a part has that of its first cell
    numbers = np.where(cells, np.arange(cells.size, 0, -1).reshape(cells.shape), 0)
    while True:
        spread = np.where(cells, _around(numbers, 1, 0).max(axis=(2, 3)), 0)
        if np.array_equal(spread, numbers):
            return [numbers == number for number in np.unique(numbers[cells])[::-1]]
        numbers = spread


def first_cell(cells: Cells) -> tuple[int, int]:
    """Return row and column of the first cell, row by row, of a mask that is not empty."""
    row, col = divmod(int(cells.argmax()), cells.shape[1])
    return row, col


def inner(cells: Cells, size: tuple[int, int]) -> Cells:
    """Return the pixels that are at least half a cell away from all that is not in a mask.

    Where that leaves nothing, as in parts one cell wide, a quarter of a cell; else all pixels. The edge of the picture
    is no border.

    Args:
        cells: (h, w).
        size: Height and width of the picture in pixels.

    Returns:
        (H, W); empty only where no pixel is in the mask.
    """
    fine = cells.repeat(_FINE, axis=0).repeat(_FINE, axis=1)
    pixels = to_pixels(cells, size)
    for reach in (_FINE // 2, _FINE // 4):
        kept = to_pixels(_eroded(fine, reach), size) & pixels
        if kept.any():
            return kept
    return pixels


def _eroded(mask: Cells, reach: int) -> Cells:
    """Return what is left of a mask when all within ``reach`` of its border is taken away."""
    return np.asarray(_around(mask, reach, fill=True).all(axis=(2, 3)))


def _around(values: NDArray[np.generic], reach: int, fill: float) -> NDArray[np.generic]:
    """Return the square of neighbours of every value: (h, w, 2 reach + 1, 2 reach + 1)."""
    side = 2 * reach + 1
    return sliding_window_view(np.pad(values, reach, constant_values=fill), (side, side))


# ------------------------------------------------------------------------------------------------------------- prompts


def points(inside: Cells, outside: Cells, count: int, key: Key) -> tuple[Points, Points]:
    """Draw pixels that belong to an object and pixels that do not: uniformly, none twice.

    Args:
        inside: (H, W), those that positives are drawn from.
        outside: (H, W), those that negatives are drawn from.
        count: Of each kind; fewer if there are fewer.
        key: What the draw follows from: the same key and masks, the same points.

    Returns:
        (n, 2) and (m, 2): columns and rows, x first.
    """
    generator = key.generator()
    return _drawn(inside, count, generator), _drawn(outside, count, generator)


def _drawn(mask: Cells, count: int, generator: np.random.Generator) -> Points:
    given = np.flatnonzero(mask)
    chosen = generator.choice(given, min(count, len(given)), replace=False)
    return np.stack([chosen % mask.shape[1], chosen // mask.shape[1]], axis=1).astype(np.int64)


def box_of(cells: Cells, size: tuple[int, int]) -> Box:
    """Return the box of a mask that is not empty, made larger by one cell to each side and cut at the picture's edge.

    Args:
        cells: (h, w).
        size: Height and width of the picture in pixels.

    Returns:
        First column, first row, last column, last row, in pixels.
    """
    (top, bottom), (left, right) = (
        _stretch(np.flatnonzero(cells.any(axis=axis)), cells.shape[1 - axis], size[1 - axis]) for axis in (1, 0)
    )
    return left, top, right, bottom


def _stretch(taken: NDArray[np.intp], cells: int, pixels: int) -> tuple[int, int]:
    """Return the first and last pixel of the cells that are taken along an axis and of one more at each end."""
    begin, stop = max(int(taken[0]) - 1, 0), min(int(taken[-1]) + 2, cells)
    first, end = (-(-edge * pixels // cells) for edge in (begin, stop))  # of the pixels that ``to_pixels`` gives them
    return first, max(end - 1, first)


def mask_prompt(cells: Cells, size: tuple[int, int], side: int = 256, *, padded: bool = True) -> NDArray[np.float32]:
    """Return a coarse mask as logits, as if they were what the network said before.

    They are ``logit(1 - EPSILON)`` inside and its negative outside, enlarged bilinearly with half-pixel centres.

    Args:
        cells: (h, w).
        size: Height and width of the picture in pixels.
        side: Of the square canvas of logits.
        padded: Whether the network keeps the shape of a picture and fills its canvas up with padding, below or to the
            right, as SAM does. Logits are 0 there, which says nothing. SAM 2 and 3 stretch the picture instead.

    Returns:
        float32 (side, side).
    """
    height, width = fitted(size, side) if padded else (side, side)
    sure = np.where(cells, 1.0, -1.0) * math.log((1 - EPSILON) / EPSILON)
    canvas = np.zeros((side, side), np.float32)
    canvas[:height, :width] = _bilinear(cells.shape[0], height) @ sure @ _bilinear(cells.shape[1], width).T
    return canvas


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return height and width of a picture whose long side is made ``side``, rounded half up; at least 1."""
    height, width = (max(int(length * side / max(size) + 0.5), 1) for length in size)
    return height, width


def _bilinear(cells: int, pixels: int) -> NDArray[np.float64]:
    """Return the matrix (pixels, cells) that interpolates between the centres of cells."""
    centres = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    return np.asarray(np.maximum(1 - np.abs(centres[:, None] - np.arange(cells)), 0))
