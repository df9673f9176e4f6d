"""Segmenters and rasters that tests make themselves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from geovl.types import Chip, ModelRecord, PromptNote, Scores, Vocabulary

UTM = Affine(0.5, 0, 600_000, 0, -0.5, 5_000_000)
"""0.5 m pixels in UTM zone 32N, north up."""


class BrightnessSegmenter:
    """Scores class i by how near a pixel's red value lies to the middle of the i-th equal share of 0..255.

    It looks at single pixels only, so the right answer is known for every window plan.
    """

    record = ModelRecord("brightness", "brightness", {}, "1", (0.1, 2.0), "CC0-1.0")
    halo = 0
    multiple = 32

    def understand(self, vocabulary: Vocabulary) -> tuple[PromptNote, ...]:
        return tuple(PromptNote(name, "known", (name,), 1.0) for name in vocabulary.names)

    def segment(self, chips: Sequence[Chip], vocabulary: Vocabulary) -> list[Scores]:
        return [Scores(brightness_scores(chip.pixels[0], len(vocabulary)), "probability") for chip in chips]


def brightness_scores(red: np.ndarray, classes: int) -> np.ndarray:
    """Scores float32 (classes, height, width) of :class:`BrightnessSegmenter`."""
    middles = (np.arange(classes, dtype=np.float32) + 0.5)[:, None, None] * np.float32(255 / classes)
    return np.clip(1 - np.abs(red[None].astype(np.float32) - middles) / 128, 0, 1).astype(np.float32)


def write_tif(
    path: Path, pixels: np.ndarray, crs: str | None = "EPSG:32632", transform: Affine = UTM, **profile
) -> Path:
    """Write (bands, height, width) as a GeoTIFF."""
    bands, height, width = pixels.shape
    if bands == 3 and pixels.dtype == np.uint8:
        profile = {"photometric": "RGB"} | profile
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=pixels.dtype, crs=crs,
        transform=transform, **profile,
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    return path


def blobs(height: int, width: int, seed: int = 0, cell: int = 9) -> np.ndarray:
    """uint8 (3, height, width) of flat blocks, so that regions are larger than pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, height // cell + 1, width // cell + 1), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((1, cell, cell), np.uint8))[:, :height, :width])
