"""Noise, blur and the other pixel work of the renderer; all arrays are float32."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]


def _hat(size: int, cells: float, offset: float) -> "Plane":
    """Weights (size, nodes) that interpolate nodes ``cells`` apart smoothly along one axis of ``size`` pixels."""
    at = (np.arange(size) / cells + offset).astype(np.float32)
    left = at.astype(np.int64)
    part = at - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((size, int(left[-1]) + 2), np.float32)
    rows = np.arange(size)
    weights[rows, left] = 1 - part
    weights[rows, left + 1] = part
    return weights


def noise(rng: np.random.Generator, size: int, cells: tuple[float, ...]) -> "Plane":
    """Return smooth noise (size, size) of standard deviation near 1, one octave for each cell width in pixels.

    Cells below one pixel become white noise.
    """
    total = np.zeros((size, size), np.float32)
    for cell in cells:
        if cell <= 1:
            total += rng.standard_normal((size, size), np.float32)
            continue
        rows = _hat(size, cell, rng.uniform())
        cols = _hat(size, cell, rng.uniform())
        nodes = rng.standard_normal((rows.shape[1], cols.shape[1]), np.float32) * 1.4
        total += rows @ nodes @ cols.T
    return total / np.float32(max(len(cells), 1) ** 0.5)


def blur(image: "Plane", radius: float) -> "Plane":
    """Blur the last two axes with a Gaussian of ``radius`` pixels (its standard deviation)."""
    if radius < 0.15:
        return image
    reach = max(1, int(np.ceil(2.5 * radius)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (-1, -2):
        length = image.shape[axis]
        pad = [(0, 0)] * image.ndim
        pad[axis] = (reach, reach)
        padded = np.pad(image, pad, mode="edge")
        image = np.zeros_like(image)
        for step, weight in enumerate(kernel):
            cut = [slice(None)] * image.ndim
            cut[axis] = slice(step, step + length)
            image += weight * padded[tuple(cut)]
    return image


@cache
def _dct() -> "Plane":
    """Return the orthonormal 8-point cosine transform, (8, 8)."""
    k, n = np.mgrid[:8, :8]
    matrix = np.cos(np.pi * (2 * n + 1) * k / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    single: Plane = matrix.astype(np.float32)
    return single


def block_noise(image: "Plane", strength: float) -> "Plane":
    """Coarsen (3, h, w) 0..255 as JPEG does: cosine coefficients of 8x8 blocks rounded to steps.

    Args:
        image: The picture; rows and columns beyond a multiple of 8 stay as they are.
        strength: Step of the lowest frequency; higher frequencies have steps up to eight times as wide.
    """
    height, width = image.shape[1] // 8 * 8, image.shape[2] // 8 * 8
    blocks = image[:, :height, :width].reshape(3, height // 8, 8, width // 8, 8).swapaxes(2, 3)
    matrix = _dct()
    k = np.arange(8)
    step = (strength * (1 + 0.5 * (k[:, None] + k[None, :]))).astype(np.float32)
    coarse = np.rint(matrix @ blocks @ matrix.T / step) * step
    out = image.copy()
    out[:, :height, :width] = (matrix.T @ coarse @ matrix).swapaxes(2, 3).reshape(3, height, width)
    return out
