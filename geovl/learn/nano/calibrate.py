"""Makes scores mean something: a slope and a middle for the logits of every concept.

A raw logit of one concept says nothing beside that of another. Two numbers per concept
mend that. The *middle* is the logit whose threshold gives the best overlap, so that a
score of 0.5 is the best place to cut. The *slope* is then chosen so that scores are as
near to the share of right pixels as they can be (least log loss).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from geovl.learn.nano.concepts import UNKNOWN

Draw = Callable[[Generator], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Draws a batch: pixels uint8 (n, 3, s, s), targets uint8 (n, concepts, s / 4, s / 4)."""

GRID = np.linspace(-12, 12, 241)
"""Logits at which thresholds are tried."""
_SLOPES = np.geomspace(0.25, 2.0, 31)
_LEVEL = 0.995
"""Thresholds that overlap this much as well as the best are as good; the middle one is taken."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pixels of every concept have which logit."""

    yes: NDArray[np.int64]
    """(concepts, bins): pixels that show the concept, by logit; bins lie between the thresholds."""
    no: NDArray[np.int64]
    """(concepts, bins): pixels that do not."""

    @classmethod
    def of(cls, net: torch.nn.Module, draw: Draw, text: torch.Tensor, count: int, seed: int) -> Self:
        """Count over ``count`` batches.

        Args:
            net: Maps pixels and text to logits (n, concepts, h, w).
            draw: Draws a batch.
            text: (concepts, 128).
            count: Batches.
            seed: Decides what is drawn.
        """
        rng = np.random.default_rng(seed)
        device = next(net.parameters()).device
        edges = np.concatenate([[-np.inf], GRID, [np.inf]])
        yes, no = (np.zeros((len(text), len(GRID) + 1), np.int64) for _ in range(2))
        for _ in range(count):
            pixels, targets = draw(rng)
            with torch.inference_mode():
                logits = net(torch.from_numpy(pixels).to(device), text.to(device)).float().cpu().numpy()
            for index in range(len(text)):
                truth, value = targets[:, index], logits[:, index]
                shown = truth == 1
                yes[index] += np.histogram(value[shown], edges)[0]
                no[index] += np.histogram(value[~shown & (truth != UNKNOWN)], edges)[0]
        return cls(yes, no)

    def __add__(self, other: Self) -> Self:
        """Count both together."""
        return type(self)(self.yes + other.yes, self.no + other.no)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns a logit into a score: ``sigmoid(slope * (logit - middle))``."""

    slope: NDArray[np.float64]
    """(concepts,)."""
    middle: NDArray[np.float64]
    """(concepts,), logits."""


def fit(counts: Counts) -> Calibration:
    """Fit slope and middle of every concept.

    Returns:
        Slope 1 and middle 0 for what no picture shows.
    """
    slope, middle = np.ones(len(counts.yes)), np.zeros(len(counts.yes))
    for index, (yes, no) in enumerate(zip(counts.yes, counts.no, strict=True)):
        if not yes.sum():
            continue
        overlap = overlaps(yes, no)
        # of a plateau the middle: its lower end would take in whatever is a little above the negatives
        middle[index] = float(np.median(GRID[overlap >= _LEVEL * overlap.max()]))
        losses = [log_loss(yes, no, float(candidate), float(middle[index])) for candidate in _SLOPES]
        slope[index] = _SLOPES[int(np.argmin(losses))]
    return Calibration(slope, middle)


def overlaps(yes: NDArray[np.int64], no: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU at each threshold of :data:`GRID`, of pixels counted by logit (bins)."""
    hits = yes[::-1].cumsum()[::-1][1:]
    false = no[::-1].cumsum()[::-1][1:]
    found: NDArray[np.float64] = hits / np.maximum(yes.sum() + false, 1)
    return found


def log_loss(yes: NDArray[np.int64], no: NDArray[np.int64], slope: float, middle: float) -> float:
    """Return the mean log loss of ``sigmoid(slope * (logit - middle))`` on counted pixels (bins)."""
    step = GRID[1] - GRID[0]
    centre = np.concatenate([GRID - step / 2, GRID[-1:] + step / 2])
    signed = slope * (centre - middle)
    cost = np.logaddexp(0, -signed) @ yes + np.logaddexp(0, signed) @ no
    return float(cost / max(int(yes.sum() + no.sum()), 1))
