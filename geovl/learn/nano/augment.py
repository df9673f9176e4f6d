"""Random crops, zooms, turns and colours, the same for a picture and its codes."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def colour(pixels: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Vary contrast, brightness, white balance, saturation, gamma, sharpness, noise and JPEG quality."""
    value = pixels.astype(np.float32)
    if rng.random() < 0.8:
        gain = np.exp(rng.normal(0, 0.22)) * np.exp(rng.normal(0, 0.07, 3))
        value = (value - 127) * gain.astype(np.float32) + 127 + rng.normal(0, 16) + rng.normal(0, 5, 3)
    if rng.random() < 0.4:
        grey = value.mean(2, keepdims=True)
        value = grey + (value - grey) * float(rng.uniform(0.4, 1.5))
    if rng.random() < 0.3:
        value = (255 * (np.clip(value, 0, 255) / 255) ** np.exp(rng.normal(0, 0.25))).astype(np.float32)
    if rng.random() < 0.2:
        value = cv2.GaussianBlur(value, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.15:
        value = value + rng.normal(0, rng.uniform(2, 9), value.shape).astype(np.float32)
    found = np.clip(value, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        packed = cv2.imencode(".jpg", found, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))])[1]
        found = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return found


def view(
    sample: Sample, zoom: tuple[float, float], size: int, rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Cut, zoom, turn and flip: pixels uint8 (size, size, 3) and their codes (size, size)."""
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
    codes = cv2.resize(codes, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    quarter = int(rng.integers(4))
    pixels, codes = np.rot90(pixels, quarter), np.rot90(codes, quarter)
    if rng.random() < 0.5:
        pixels, codes = pixels[:, ::-1], codes[:, ::-1]
    return np.ascontiguousarray(pixels, np.uint8), np.ascontiguousarray(codes, np.uint16)


def _targets(sample: Sample, codes: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return what the middle of each location is told: uint8 (h / 4, w / 4, concepts)."""
    half = STRIDE // 2
    return sample.table[codes[half::STRIDE, half::STRIDE]]


@dataclass(frozen=True, slots=True)
class Stickers:
    """Pictures whose objects may be pasted over others."""

    samples: Sequence[Sample]
    codes: tuple[int, ...]
    """Codes of the objects."""
    zoom: tuple[float, float]
    """As for :func:`crop`."""


def crop(
    sample: Sample, zoom: tuple[float, float], size: int, rng: Generator, stickers: Stickers | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make one training pair.

    Args:
        sample: The labelled picture.
        zoom: Source pixels per training pixel, from and to.
        size: Side of the result in pixels.
        rng: Source of chance.
        stickers: Paste the objects of one of these over the picture.

    Returns:
        Pixels uint8 (3, size, size), and targets uint8 (concepts, size / 4, size / 4)
        with 1 present, 0 absent, 255 unknown.
    """
    pixels, codes = view(sample, zoom, size, rng)
    targets = _targets(sample, codes)
    if stickers is not None:
        over = stickers.samples[int(rng.integers(len(stickers.samples)))]
        sheet, marks = view(over, stickers.zoom, size, rng)
        shape = np.isin(marks, stickers.codes)
        soft = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), 0.6)[..., None]
        pixels = (soft * sheet + (1 - soft) * pixels).astype(np.uint8)
        half = STRIDE // 2
        inside = shape[half::STRIDE, half::STRIDE]
        targets[inside] = _targets(over, marks)[inside]
    coloured = colour(pixels, rng)
    return np.ascontiguousarray(coloured.transpose(2, 0, 1)), np.ascontiguousarray(targets.transpose(2, 0, 1))


def mix(pixels: NDArray[np.uint8], targets: NDArray[np.uint8], share: float, rng: Generator) -> None:
    """Replace a rectangle of some pictures of a batch by the next picture's, in place.

    Args:
        pixels: uint8 (n, 3, s, s).
        targets: uint8 (n, concepts, s / 4, s / 4).
        share: Of the pictures that get a rectangle, 0..1.
        rng: Source of chance.
    """
    count, side = len(targets), targets.shape[2]
    given, told = pixels.copy(), targets.copy()
    for index in range(count):
        if rng.random() >= share:
            continue
        height, width = (int(rng.integers(side // 4, side * 3 // 4 + 1)) for _ in range(2))
        row, col = int(rng.integers(0, side - height + 1)), int(rng.integers(0, side - width + 1))
        other = (index + 1) % count
        targets[index, :, row : row + height, col : col + width] = told[other, :, row : row + height, col : col + width]
        rows, cols = (slice(STRIDE * a, STRIDE * (a + b)) for a, b in ((row, height), (col, width)))
        pixels[index, :, rows, cols] = given[other, :, rows, cols]
