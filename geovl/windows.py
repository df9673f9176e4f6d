"""Plan the overlapping windows that cover a raster, and where one hands over to the next.

Windows form a grid, so the plan is two independent axes. Along one axis neighbouring
windows overlap, and inside each overlap lies one *zone*: the pixels that both decide.
Zones never touch each other, so no pixel is decided by more than two windows an axis;
that is what makes blending exact for a model whose answer does not depend on context.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from geovl.errors import UsageError
from geovl.types import Window


@dataclass(frozen=True, slots=True)
class Axis:
    """The windows along one axis: ``starts[i]`` and the one ``size`` that all share."""

    starts: tuple[int, ...]
    size: int
    zones: tuple[tuple[int, int], ...]
    """``zones[i]``: pixels [start, stop) decided by windows i and i + 1 together."""

    def zone_before(self, index: int) -> tuple[int, int]:
        """Return the zone shared with the window before, empty for the first."""
        return self.zones[index - 1] if index else (self.starts[0], self.starts[0])

    def zone_after(self, index: int) -> tuple[int, int]:
        """Return the zone shared with the window after, empty for the last."""
        end = self.starts[-1] + self.size
        return self.zones[index] if index < len(self.zones) else (end, end)


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """Windows over a raster, in the order in which they are worked on: row by row."""

    rows: Axis
    cols: Axis

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.cols.starts)

    def window(self, row: int, col: int) -> Window:
        """Return the window at grid position (row, col)."""
        return Window(self.rows.starts[row], self.cols.starts[col], self.rows.size, self.cols.size)

    def __iter__(self) -> Iterator[tuple[int, int, Window]]:
        for row in range(len(self.rows.starts)):
            for col in range(len(self.cols.starts)):
                yield row, col, self.window(row, col)


def _axis(length: int, size: int, overlap: int) -> Axis:
    if length <= size:
        return Axis((0,), length, ())
    step = size - overlap
    starts = [*range(0, length - size, step), length - size]  # the last one is moved back inside
    zones = []
    for left, right in zip(starts, starts[1:], strict=False):
        shared = left + size - right  # at least the overlap that was asked for
        first = right + (shared - overlap) // 2
        zones.append((first, first + overlap))
    return Axis(tuple(starts), size, tuple(zones))


def plan(shape: tuple[int, int], size: int = 1152, overlap: int = 128) -> WindowGrid:
    """Cover a raster with windows of one size.

    Args:
        shape: Height and width of the raster, pixels.
        size: Side of a window, pixels; cut to the raster where that is smaller.
        overlap: Pixels over which neighbouring windows are blended, at most a third of ``size``.

    Returns:
        The grid; every pixel lies in at least one window.

    Raises:
        UsageError: A size or overlap that leaves no pixel to one window alone.
    """
    if size < 32:
        msg = f"Window size is {size}; it must be at least 32 pixels."
        raise UsageError(msg)
    if overlap < 0 or overlap * 3 > size:
        msg = f"Overlap is {overlap}; with windows of {size} pixels it must lie in 0..{size // 3}."
        raise UsageError(msg)
    height, width = shape
    return WindowGrid(_axis(height, size, overlap), _axis(width, size, overlap))
