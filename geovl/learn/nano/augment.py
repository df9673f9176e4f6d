"""Random crops, zooms, turns and colours, the same for a picture and its codes."""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from geovl.learn.nano.data import Sample

STRIDE = 4
"""Pixels per target, as per location of the network."""


def _cut(sample: Sample, side: int, rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Cut a random square of ``side`` pixels; pictures that are too small are mirrored outwards."""
    pixels, codes = sample.pixels, sample.codes
    short = [max(0, side - length) for length in codes.shape]
    if any(short):
        pads = (short[0] // 2, short[0] - short[0] // 2, short[1] // 2, short[1] - short[1] // 2)
        pixels = cv2.copyMakeBorder(pixels, *pads, cv2.BORDER_REFLECT).astype(np.uint8)
        codes = cv2.copyMakeBorder(codes, *pads, cv2.BORDER_REFLECT).astype(np.uint16)
    row, col = (int(rng.integers(0, length - side + 1)) for length in codes.shape)
    return pixels[row : row + side, col : col + side], codes[row : row + side, col : col + side]


def _colour(pixels: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Vary contrast, brightness, white balance, saturation, gamma, sharpness and noise."""
    value = pixels.astype(np.float32)
    if rng.random() < 0.8:
        gain = np.exp(rng.normal(0, 0.18)) * np.exp(rng.normal(0, 0.06, 3))
        value = (value - 127) * gain.astype(np.float32) + 127 + float(rng.normal(0, 14))
    if rng.random() < 0.4:
        grey = value.mean(2, keepdims=True)
        value = grey + (value - grey) * float(rng.uniform(0.4, 1.5))
    if rng.random() < 0.3:
        value = (255 * (np.clip(value, 0, 255) / 255) ** np.exp(rng.normal(0, 0.25))).astype(np.float32)
    if rng.random() < 0.2:
        value = cv2.GaussianBlur(value, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.15:
        value = value + rng.normal(0, rng.uniform(2, 9), value.shape).astype(np.float32)
    return np.clip(value, 0, 255).astype(np.uint8)


def crop(
    sample: Sample, zoom: tuple[float, float], size: int, rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make one training pair.

    Args:
        sample: The labelled picture.
        zoom: Source pixels per training pixel, from and to.
        size: Side of the result in pixels.
        rng: Source of chance.

    Returns:
        Pixels uint8 (3, size, size), and targets uint8 (concepts, size / 4, size / 4)
        with 1 present, 0 absent, 255 unknown.
    """
    factor = float(np.exp(rng.uniform(*np.log(zoom))))
    slanted = rng.random() < 0.35
    side = max(48, round(size * factor * (1.42 if slanted else 1)))
    pixels, codes = _cut(sample, side, rng)
    if slanted:
        turn = cv2.getRotationMatrix2D((side / 2 - 0.5, side / 2 - 0.5), rng.uniform(0, 360), 1.0)
        pixels = cv2.warpAffine(pixels, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        codes = cv2.warpAffine(codes, turn, (side, side), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
        inner = round(side / 1.42)
        low = (side - inner) // 2
        pixels, codes = pixels[low : low + inner, low : low + inner], codes[low : low + inner, low : low + inner]
    shrinks = pixels.shape[0] > size
    pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    # the middle of each location decides; plain "nearest" would take its upper left corner
    codes = cv2.resize(codes, (size // STRIDE, size // STRIDE), interpolation=cv2.INTER_NEAREST_EXACT)
    quarter = int(rng.integers(4))
    pixels, codes = np.rot90(pixels, quarter), np.rot90(codes, quarter)
    if rng.random() < 0.5:
        pixels, codes = pixels[:, ::-1], codes[:, ::-1]
    coloured = _colour(np.ascontiguousarray(pixels, dtype=np.uint8), rng)
    targets = sample.table[codes].transpose(2, 0, 1)
    return np.ascontiguousarray(coloured.transpose(2, 0, 1)), np.ascontiguousarray(targets)
