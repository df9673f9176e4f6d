"""Fits the chance from which a cell is written as the target.

A writer that is uncertain where something is gives every place a small chance; with one half as the limit it would
write nothing. The limit with the best mean overlap on pictures of the training side is taken instead.
"""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geovl.learn.nano_text.data import Cache
from geovl.learn.nano_text.train import Drawer, Recipe
from geovl.learn.nano_text.wording import say
from geovl.segmenters.nano_text.writer import Networks

log = logging.getLogger(__name__)

THRESHOLDS = (0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.07)
_TOGETHER = 16


def overlap(networks: Networks, drawer: Drawer, index: list[int], side: int = 32) -> float:
    """Return the mean IoU of grids over truths that have a target."""
    found = []
    for first in range(0, len(index), _TOGETHER):
        part = index[first : first + _TOGETHER]
        said = [say(drawer.cache.expression(i), {}, np.random.default_rng(i)) for i in part]
        batch = drawer.batch(part, said, side)
        cells = networks.fuse(batch.features.numpy(), batch.words.numpy(), batch.there.numpy())
        true: NDArray[np.bool_] = batch.grid.numpy() > 0  # (n, side, side)
        for answer, grid in zip(networks.write(cells), true, strict=True):
            either = int(np.count_nonzero((answer.grid > 0) | grid))
            found.append(int(np.count_nonzero((answer.grid > 0) & grid)) / max(either, 1))
    return float(np.mean(found))


def fit(folder: Path, cache: Path, count: int = 320, seed: int = 0) -> float:
    """Return the best of :data:`THRESHOLDS`.

    Args:
        folder: With the exported graphs.
        cache: Of real pictures of the training side, and rendered ones, which are left out.
        count: Truths that are looked at.
        seed: Chooses them.
    """
    networks, drawer = Networks(["CPUExecutionProvider"], 1, folder), Drawer(Cache(cache), Recipe())
    kept = drawer.cache
    rng = np.random.default_rng(seed)
    real = [
        int(i) for i in rng.permutation(len(kept))[: 20 * count]
        if kept.told[i]["source"] != "rendered" and kept.told[i]["kind"] != "absent" and kept.grid(int(i)).any()
    ][:count]  # fmt: skip
    best = (0.0, THRESHOLDS[0])
    for threshold in THRESHOLDS:
        networks.threshold = threshold
        found = overlap(networks, drawer, real)
        log.info("threshold %g: mean IoU %.4f over %d truths", threshold, found, len(real))
        best = max(best, (found, threshold))
    return best[1]
