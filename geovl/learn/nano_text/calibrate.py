"""Fits the chance from which a cell is written as the target.

A writer that is uncertain where something is gives every place a small chance; with one half as the limit it would
write nothing. The limit is taken with which expressions about pictures of the training side are answered best, as
``geovl segment`` answers them: things are asked for, which of them are meant is settled by rules.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geovl.learn.nano_text.data import CELLS, Cache
from geovl.learn.nano_text.evaluate import settled
from geovl.learn.nano_text.train import Drawer, Recipe
from geovl.learn.nano_text.wording import say
from geovl.segmenters.nano_text.writer import Networks
from geovl.segmenters.text_as_mask.grid import to_grid
from geovl.settling import settlement, smallest
from geovl.types import Vocabulary

log = logging.getLogger(__name__)

THRESHOLDS = (0.6, 0.5, 0.42, 0.35, 0.28, 0.22, 0.16)
_TOGETHER = 16
_PIXELS = 8  # of a cell, where regions are told apart
_THING = smallest(_PIXELS)


def overlap(networks: Networks, drawer: Drawer, index: Sequence[int]) -> float:
    """Return the mean IoU of settled answers over truths, on grids; of a truth without target 1 if nothing is found."""
    said = [say(drawer.cache.expression(i), {}, np.random.default_rng(i)) for i in index]
    plans = [settlement(Vocabulary.from_prompts([phrase])) for phrase in said]
    things = [(i, entry.phrases[0]) for i, plan in zip(index, plans, strict=True) for entry in plan.asked.classes]
    asked = list(dict.fromkeys(things))
    chances = dict(zip(asked, _written(networks, drawer, asked), strict=True))
    found = []
    for i, phrase, plan in zip(index, said, plans, strict=True):
        mine = {entry.phrases[0]: chances[i, entry.phrases[0]] for entry in plan.asked.classes}
        grid = to_grid(settled(phrase, mine, _THING).astype(np.uint8), (CELLS, CELLS)) > 0
        true = drawer.cache.grid(i, CELLS) > 0
        either = int(np.count_nonzero(grid | true))
        found.append(int(np.count_nonzero(grid & true)) / either if either else 1.0)
    return float(np.mean(found))


def _written(networks: Networks, drawer: Drawer, asked: Sequence[tuple[int, str]]) -> list[NDArray[np.float32]]:
    """Return the chances that are written for things in the crops of truths, float32 (pixels, pixels) each."""
    out = []
    cell = np.ones((_PIXELS, _PIXELS), np.float32)
    for first in range(0, len(asked), _TOGETHER):
        part = asked[first : first + _TOGETHER]
        cells = networks.fuse(*drawer.read([i for i, _ in part], [phrase for _, phrase in part], CELLS))
        out += [np.kron(answer.chances, cell) for answer in networks.write(cells)]
    return out


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
        if kept.told[i]["source"] != "rendered" and (kept.told[i]["kind"] == "absent" or kept.grid(int(i)).any())
    ][:count]  # fmt: skip
    best = (0.0, THRESHOLDS[0])
    for threshold in THRESHOLDS:
        networks.threshold = threshold
        found = overlap(networks, drawer, real)
        log.info("threshold %g: mean IoU %.4f over %d truths", threshold, found, len(real))
        best = max(best, (found, threshold))
    return best[1]
