"""Between pixels and the descriptor grid; Text4Seg, https://arxiv.org/abs/2410.09855, section 3.1.

Both directions take the nearest: a cell has the label of the one pixel at its centre, not of the majority.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Label = TypeVar("Label", bound=np.generic)


def to_grid(labels: NDArray[Label], shape: tuple[int, int]) -> NDArray[Label]:
    """Reduce labels to a grid: ``grid[r, c] = labels[floor((r + 0.5) H / h), floor((c + 0.5) W / w)]``.

    Args:
        labels: (..., H, W).
        shape: (h, w), rows and columns of the grid; both axes are scaled by themselves.

    Returns:
        (..., h, w), of the same type.
    """
    rows, cols = (
        (2 * np.arange(cells) + 1) * side // (2 * cells) for cells, side in zip(shape, labels.shape[-2:], strict=True)
    )
    return labels[..., rows[:, None], cols]


def to_pixels(grid: NDArray[Label], size: tuple[int, int]) -> NDArray[Label]:
    """Enlarge a grid: ``pixels[y, x] = grid[floor(y h / H), floor(x w / W)]``.

    Args:
        grid: (..., h, w).
        size: (H, W), height and width in pixels.

    Returns:
        (..., H, W), of the same type.
    """
    rows, cols = (np.arange(side) * cells // side for side, cells in zip(size, grid.shape[-2:], strict=True))
    return grid[..., rows[:, None], cols]


def cell_size(size: tuple[int, int], shape: tuple[int, int], gsd: float) -> tuple[float, float]:
    """Return height and width of a cell on the ground, in metres.

    Args:
        size: Height and width of the window in pixels.
        shape: Rows and columns of the grid.
        gsd: Metres per pixel.
    """
    return size[0] / shape[0] * gsd, size[1] / shape[1] * gsd
