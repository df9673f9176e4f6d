"""Refine the grid of a text-as-mask model: sharp masks from a promptable network, the coarse ones where it went astray.

Every connected part of a class is asked for by itself: with points, a box and its coarse mask, and again with the
logits of the answer, three times in all, as Text4Seg does (https://arxiv.org/abs/2410.09855, section 3.3) for a whole
class. Then

- an answer that has too little in common with the coarse mask is another object: the part stays coarse and is flagged
  (:func:`least_agreement`);
- a pixel that several answers claim goes to the one that is surest of it, by what the network says of its mask as a
  whole times the probability at the pixel; of two equally sure ones to that of the pixel's own cell. The order of
  classes has no say;
- parts that stay coarse keep what lies half a cell within them (a quarter, where they are thin); nearer to their
  border, where a grid is not to be trusted, they give way to answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geovl.errors import UsageError
from geovl.segmenters.promptable.models import Answer, Frame, Picture, PromptableSegmenter
from geovl.segmenters.promptable.prompts import Cells, Key, Prompt, connected, first_cell, inner, mask_prompt, prompt_of
from geovl.segmenters.text_as_mask.grid import to_pixels

Labels = NDArray[np.integer]
Status = Literal["refined", "disagrees", "whole", "small", "crowded"]


@dataclass(frozen=True, slots=True)
class Options:
    """How parts are refined.

    Raises:
        UsageError: A value out of range.
    """

    points: int = 10
    """Of each kind, inside and outside."""
    rounds: int = 3
    """How often a part is asked about."""
    floor: float = 0.5
    """Least IoU of an answer with the coarse mask, see :func:`least_agreement`; 0 takes every answer that is not
    empty."""
    smallest: int = 1
    """Cells of a part; those of fewer stay coarse. One cell may be a ship: the default refines all."""
    most: int = 64
    """Parts of a picture that are refined, the largest first; others stay coarse. A class on 16 x 16 cells has no
    more."""

    def __post_init__(self) -> None:
        least = {"points": 1, "rounds": 1, "floor": 0, "smallest": 1, "most": 0}
        for name, low in least.items():
            if not getattr(self, name) >= low:
                msg = f"Refinement was given {name}={getattr(self, name)}; expected at least {low}."
                raise UsageError(msg)
        if self.floor > 1:
            msg = f"Refinement was given floor={self.floor}; expected 0 to 1."
            raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Part:
    """What became of a connected part of a class."""

    label: int
    """As in the grid."""
    cell: tuple[int, int]
    """Row and column of its first cell, which tells it apart from others."""
    cells: int
    """How many it has."""
    status: Status
    """``refined``; or it stayed coarse: the answer ``disagrees``, it fills the ``whole`` picture and has no border, or
    it is too ``small`` or one too many (``crowded``)."""
    predicted_iou: float | None = None
    """What the network believes the IoU of its mask with the truth to be; None where it was not asked."""
    agreement: float | None = None
    """IoU of the answer with the coarse mask; None where the network was not asked."""

    @property
    def flagged(self) -> bool:
        """Whether it has a border that should have been refined and is not."""
        return self.status not in {"refined", "whole"}


@dataclass(frozen=True, slots=True)
class Refined:
    """What became of a grid."""

    labels: Labels
    """(H, W) of the picture, values and type as in the grid."""
    parts: tuple[Part, ...]
    """In the order of their first cells."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A part before it is judged."""

    label: int
    cells: Cells
    status: Status
    """Why it is not asked about; ``refined`` where it is."""

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.cells))

    @property
    def place(self) -> tuple[int, int]:
        return first_cell(self.cells)

    def judged(self, status: Status, predicted: float | None = None, agreement: float | None = None) -> Part:
        return Part(self.label, self.place, self.area, status, predicted, agreement)


def refine(
    segmenter: PromptableSegmenter, picture: Picture, grid: Labels, key: tuple[int, str], options: Options | None = None
) -> Refined:
    """Refine the masks of a grid.

    Args:
        segmenter: The network.
        picture: What its :meth:`~PromptableSegmenter.embed` gave; the network looks at it only if there is something
            to ask, and once for any number of grids.
        grid: (h, w) over the whole picture: 0 is background.
        key: Seed of the run and name of the picture, and of the expression where several are asked about one picture:
            the points follow from them and from each part's place, whatever else there is.
        options: The defaults, where None.

    Raises:
        ValueError: The grid is no grid.
        OutOfMemoryError: The network runs out of memory.
    """
    if grid.ndim != 2 or not np.issubdtype(grid.dtype, np.integer):
        msg = f"A grid must be whole numbers (rows, columns), got {grid.dtype} {grid.shape}"
        raise ValueError(msg)
    options = options or Options()
    candidates = _candidates(grid, picture.size, options)
    asked = [candidate for candidate in candidates if candidate.status == "refined"]
    prompts = _prompts(segmenter.frame, asked, grid, picture.size, key, options.points)
    answers = segmenter.predict(picture, prompts, options.rounds)
    board = _Board(to_pixels(grid, picture.size))
    coarse = [candidate for candidate in candidates if candidate.status != "refined"]
    parts = [candidate.judged(candidate.status) for candidate in coarse]
    for candidate, answer in zip(asked, answers, strict=True):
        logits = segmenter.enlarged(answer.logits, picture.size)
        part = _judged(candidate, answer, logits > 0, picture.size, options.floor)
        parts.append(part)
        if part.status == "refined":
            board.claim(candidate.label, logits, answer.predicted_iou)
        else:
            coarse.append(candidate)
    for candidate in coarse:
        board.keep(candidate.cells)
    return Refined(board.labels, tuple(sorted(parts, key=_place)))


def least_agreement(cells: int, floor: float = 0.5) -> float:
    """Return the least IoU with the coarse mask that an answer about a part must have.

    A perfect mask agrees with its own grid only so far, the less the smaller the object: of random rectangles, one in
    a hundred agrees by less than 0.15 where it has one cell, 0.28 with two, 0.38 with three, 0.42 with four, 0.56 with
    six. So the floor counts in full from four cells, and below in proportion to the cells.

    Args:
        cells: Of the part.
        floor: For parts of four cells and more.
    """
    return floor * min(cells, 4) / 4


def _place(part: Part) -> tuple[int, int]:
    return part.cell


def _candidates(grid: Labels, size: tuple[int, int], options: Options) -> list[_Candidate]:
    """Return all parts of all classes, the largest first, and say which are asked about."""
    found = [
        _Candidate(int(label), cells, _excused(cells, size, options.smallest))
        for label in np.unique(grid[grid != 0])
        for cells in connected(grid == label)
    ]
    found.sort(key=lambda candidate: (-candidate.area, candidate.place))
    left = options.most
    for index, candidate in enumerate(found):
        if candidate.status == "refined":
            left -= 1
            if left < 0:
                found[index] = replace(candidate, status="crowded")
    return found


def _excused(cells: Cells, size: tuple[int, int], smallest: int) -> Status:
    """Say why a part need not be asked about, or ``refined``."""
    if cells.all():
        return "whole"
    # a grid finer than the picture has cells without a pixel
    return "refined" if np.count_nonzero(cells) >= smallest and to_pixels(cells, size).any() else "small"


def _prompts(
    frame: Frame,
    candidates: Sequence[_Candidate],
    grid: Labels,
    size: tuple[int, int],
    key: tuple[int, str],
    count: int,
) -> list[Prompt]:
    # other parts of the class may belong to the same object: no point says that they do not
    outside = {label: inner(grid != label, size) for label in {candidate.label for candidate in candidates}}
    return [
        prompt_of(
            candidate.cells,
            outside[candidate.label],
            size,
            mask_prompt(candidate.cells, size, frame.logits, padded=frame.padded),
            Key(*key, "{},{}".format(*candidate.place)),
            count,
        )
        for candidate in candidates
    ]


def _judged(candidate: _Candidate, answer: Answer, mask: Cells, size: tuple[int, int], floor: float) -> Part:
    """Compare an answer, (H, W), with the coarse mask."""
    coarse = to_pixels(candidate.cells, size)
    agreement = float(np.count_nonzero(mask & coarse) / np.count_nonzero(mask | coarse))
    good = agreement > 0 and agreement >= least_agreement(candidate.area, floor)
    return candidate.judged("refined" if good else "disagrees", answer.predicted_iou, agreement)


class _Board:
    """The labels of a picture while parts settle who has which pixel.

    Args:
        own: (H, W), the label of each pixel's own cell.
    """

    def __init__(self, own: Labels) -> None:
        self.labels = np.zeros_like(own)
        self._own = own
        self._best = np.zeros(own.shape, np.float32)  # how sure the answer is that has the pixel; 0 where none has

    def claim(self, label: int, logits: NDArray[np.float32], predicted_iou: float) -> None:
        """Give an answer, (H, W), the pixels of its mask that no other one is surer of."""
        trusted = np.float32(np.clip(np.nan_to_num(predicted_iou), 1e-3, 1))  # a mask has its pixels in any case
        sure = np.where(logits > 0, trusted / (1 + np.exp(-np.abs(logits))), np.float32(0))
        won = (sure > self._best) | ((sure == self._best) & (sure > 0) & (self._own == label))
        self.labels[won], self._best[won] = label, sure[won]

    def keep(self, cells: Cells) -> None:
        """Give a part that stays coarse what lies well within it, and what no answer has."""
        size = (self._own.shape[0], self._own.shape[1])
        kept = inner(cells, size) | (to_pixels(cells, size) & (self._best == 0))
        self.labels[kept] = self._own[kept]
