"""What tracing, joining and regularising do with flat arrays alike."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def ranges(first: Ints, length: Ints) -> Ints:
    """Concatenate ``arange(first[i], first[i] + length[i])``."""
    before = np.cumsum(length) - length
    return np.repeat(first - before, length) + np.arange(int(length.sum()))


def components(count: int, one: Ints, two: Ints) -> Ints:
    """Lowest member of the component of each of ``count`` items that pairs link."""
    root = np.arange(count)
    while True:
        low = np.minimum(root[one], root[two])
        new = root.copy()
        for side in (one, two):
            np.minimum.at(new, side, low)
            np.minimum.at(new, root[side], low)
        while not np.array_equal(further := new[new], new):
            new = further
        if np.array_equal(new, root):
            return root
        root = new
