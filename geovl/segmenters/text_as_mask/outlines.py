"""Scores of cells drawn to the outlines that a promptable network (SAM, SAM 2, SAM 3) sees around them."""

import numpy as np
from numpy.typing import NDArray

from geovl.segmenters.devices import torch_device
from geovl.segmenters.promptable.models import load
from geovl.segmenters.promptable.refine import refine
from geovl.segmenters.text_as_mask.grid import to_grid
from geovl.segmenters.text_as_mask.reading import Floats
from geovl.types import Chip

LEAST = 0.5
"""Score from which a cell is shown to the network as the thing."""


class Outliner:
    """Draws outlines.

    Args:
        place: Folder or repository of the network.
        device: Where to run it; ``auto`` is the GPU where there is one.

    Raises:
        ModelError: It cannot be loaded.
    """

    def __init__(self, place: str, device: str) -> None:
        self._network = load(place, torch_device(device))

    def __call__(self, chip: Chip, scores: Floats, cells: int) -> Floats:
        """Return scores (labels, height, width) of a chip with the outlines of the network.

        Where the network agrees with the cells, pixels of its mask have the mean score of the cells that it is of, all
        others none. Where it does not, the cells stay as they are; see
        :mod:`geovl.segmenters.promptable.refine`.

        Args:
            chip: What they are about.
            scores: float32, of cells, enlarged to pixels.
            cells: Rows and columns of the grid that the network is shown.
        """
        if not (scores >= LEAST).any():
            return scores
        best = scores.argmax(0)
        labels = np.where(scores.max(0) >= LEAST, best + 1, 0)
        grid = to_grid(labels, (min(cells, labels.shape[0]), min(cells, labels.shape[1])))
        # windows of a raster are known by where they begin: the same points whatever else is in the batch
        name = f"{chip.window.row},{chip.window.col}"
        found = refine(self._network, self._network.embed(chip.pixels), grid, (0, name)).labels
        return np.stack([_valued(found == label, one) for label, one in enumerate(scores, 1)])


def _valued(mask: NDArray[np.bool_], scores: Floats) -> Floats:
    """Give the pixels of a mask (h, w) the mean of the scores (h, w) that count."""
    sure = scores[scores >= LEAST]
    return (mask * (sure.mean() if len(sure) else 0.0)).astype(np.float32)
