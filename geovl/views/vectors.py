"""Polygons of a run as a page reads them: whole numbers, differences, as few bytes as they need.

A coordinate is a count of steps from the upper left corner, right and down, so that a page can draw it with one
multiplication. Each polygon begins with the coordinate of its first vertex less that of the polygon before, and each
vertex is what it lies beside the one before it; numbers are written as ZigZag varints (as protocol buffers have them),
then deflated.
"""

import base64
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geovl.runs import SEGMENTS, Run
from geovl.vectors import ROWS, flat, read_batches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_COLUMNS = ("class", "score", "area_m2", "geometry")


@dataclass(frozen=True, slots=True)
class Steps:
    """A grid of whole numbers over a map: ``x = left + step * column``, ``y = top - step * row`` (``+`` where down)."""

    left: float
    top: float
    step: float
    down: bool = False
    """Whether y grows downwards, as in pixels."""

    def round(self, points: Floats) -> Ints:
        """Return points (n, 2) as columns and rows, int64 (n, 2)."""
        rows = points[:, 1] - self.top if self.down else self.top - points[:, 1]
        return np.rint(np.stack([points[:, 0] - self.left, rows], 1) / self.step).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Packed:
    """All polygons of a run, each array deflated and in base64."""

    count: int
    vertices: str
    """Varints: for each vertex the difference of column and of row."""
    rings: str
    """Varints: vertices of each ring; none is written twice to close it."""
    parts: str
    """Varints: rings of each polygon."""
    labels: str
    """Varints: place of each polygon's class in the run."""
    scores: str
    """uint8: score in 1/254, 255 where there is none."""
    areas: str
    """float32, m², NaN where there is none."""


def pack(run: Run, steps: Steps, to_map: Callable[[Floats, Floats], tuple[Floats, Floats]]) -> Packed:
    """Return the polygons of a run, largest first, so that small ones are drawn over large ones.

    Args:
        run: A finished run.
        steps: The grid that vertices are put on; what is less than a step apart becomes one vertex.
        to_map: Turns x and y of the run's polygons into those of the map.

    Raises:
        RunError: The segments are missing or damaged.
    """
    where = run.path / SEGMENTS
    order = {name: index for index, name in enumerate(run.classes)}
    parts: list[tuple[NDArray[Any], ...]] = []
    for batch in read_batches(where, ROWS, _COLUMNS):
        points, rings, polygons = flat(batch["geometry"])
        points = np.stack(to_map(points[:, 0], points[:, 1]), 1)
        whole, lengths = _merged(steps.round(points), rings)
        label = np.array([order[name] for name in batch["class"].to_pylist()], np.int64)
        score = batch["score"].to_numpy(zero_copy_only=False)
        area = batch["area_m2"].to_numpy(zero_copy_only=False)
        parts.append((whole, lengths, np.diff(polygons), label, score, area))
    if not parts:
        parts = [(np.empty((0, 2), np.int64), *(np.empty(0, np.int64) for _ in range(3)), *(np.empty(0),) * 2)]
    whole, lengths, counts, label, score, area = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    best = np.argsort(-np.nan_to_num(area), kind="stable") if np.isfinite(area).any() else np.arange(len(label))
    whole, lengths, counts = _reordered(whole, lengths, counts, best)
    scores = np.where(np.isfinite(score[best]), np.rint(np.nan_to_num(score[best]) * 254), 255).astype(np.uint8)
    return Packed(
        len(label), _deflated(varints(_zigzag(np.diff(whole, axis=0, prepend=0)))), _deflated(varints(lengths)),
        _deflated(varints(counts)), _deflated(varints(label[best])), _deflated(scores.tobytes()),
        _deflated(area[best].astype("<f4").tobytes()),
    )  # fmt: skip


def _merged(points: Ints, rings: Ints) -> tuple[Ints, Ints]:
    """Drop vertices that repeat the one before them in their ring, and the one that closes it.

    Returns:
        Points (n, 2), and the vertices of each ring, three at least unless it has fewer.
    """
    same = np.zeros(len(points), np.bool_)
    same[1:] = (points[1:] == points[:-1]).all(1)
    same[rings[:-1]] = False
    last = rings[1:] - 1
    same[last[last > rings[:-1]]] = True  # a ring ends where it begins
    lengths = np.add.reduceat(~same, rings[:-1]).astype(np.int64) if len(rings) > 1 else np.empty(0, np.int64)
    return points[~same], lengths


def _reordered(points: Ints, lengths: Ints, counts: Ints, order: Ints) -> tuple[Ints, Ints, Ints]:
    """Put polygons into another order."""
    ring_starts = np.concatenate([[0], np.cumsum(counts)])
    rings = _ranges(ring_starts[order], counts[order])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return points[_ranges(starts[rings], lengths[rings])], lengths[rings], counts[order]


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return ``start, start + 1 ...`` of each range, one after the other."""
    ends = np.cumsum(lengths)
    first: Ints = np.repeat(starts - (ends - lengths), lengths)
    return first + np.arange(len(first))


def _zigzag(values: Ints) -> Ints:
    """Return whole numbers as counts: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return np.asarray(np.bitwise_xor(values << 1, values >> 63), np.int64).reshape(-1)


def varints(values: Ints) -> bytes:
    """Write counts in seven bits a byte, the lowest first; the eighth bit says that more follow."""
    left = values.astype(np.uint64)
    sizes = np.ones(len(left), np.int64)
    for bits in range(7, 64, 7):
        longer = left >= np.uint64(1 << bits)
        if not longer.any():
            break
        sizes += longer
    out = np.zeros(int(sizes.sum()), np.uint8)
    place = np.cumsum(sizes) - sizes
    while len(left):
        more = left > np.uint64(127)
        out[place] = (left & np.uint64(127)).astype(np.uint8) | np.where(more, 128, 0).astype(np.uint8)
        left, place = left[more] >> np.uint64(7), place[more] + 1
    return out.tobytes()


def _deflated(data: bytes) -> str:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return base64.b64encode(packer.compress(data) + packer.flush()).decode("ascii")


def unpack(text: str) -> bytes:
    """Return what was deflated."""
    return zlib.decompress(base64.b64decode(text), -15)


def read_varints(data: bytes) -> Iterator[int]:
    """Yield what :func:`varints` wrote."""
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0
