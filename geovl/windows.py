"""Plan the overlapping windows that cover a raster, and where one hands over to the next.

Windows form a grid, so the plan is two independent axes. Along one axis neighbouring
windows overlap, and inside each overlap lies one *zone*: the pixels that both decide.
Zones never touch each other, so no pixel is decided by more than two windows an axis;
that is what makes blending exact for a model whose answer does not depend on context.
"""

from itertools import pairwise

from geovl.errors import UsageError
from geovl.types import Axis, WindowGrid

SMALLEST = 32
"""Side of a window in pixels."""


def _axis(length: int, size: int, overlap: int) -> Axis:
    if length <= size:
        return Axis((0,), length, ())
    step = size - overlap
    starts = [*range(0, length - size, step), length - size]  # the last one is moved back inside
    zones = []
    for left, right in pairwise(starts):
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
    if size < SMALLEST:
        msg = f"Window size is {size}; it must be at least {SMALLEST} pixels."
        raise UsageError(msg)
    if overlap < 0 or overlap * 3 > size:
        msg = f"Overlap is {overlap}; with windows of {size} pixels it must lie in 0..{size // 3}."
        raise UsageError(msg)
    height, width = shape
    return WindowGrid(_axis(height, size, overlap), _axis(width, size, overlap))
