"""The contract that every backend fits."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from geovl.types import Chip, ModelRecord, PromptNote, Scores, Vocabulary


@runtime_checkable
class Segmenter(Protocol):
    """Turns chips and a vocabulary into scores.

    A segmenter is stateless towards its caller: the same chips and vocabulary give the
    same scores, in any order and in any batch. It may cache what it derives from text.
    """

    record: ModelRecord
    """The model this is."""
    halo: int
    """Pixels of context at a chip's border whose scores depend on what lies outside; windows
    should overlap by at least twice this."""
    multiple: int
    """Chip sides must be a multiple of this; the caller pads."""

    def understand(self, vocabulary: Vocabulary) -> tuple[PromptNote, ...]:
        """Say how well each class is known, before any pixel is read.

        Returns:
            One note per class, in order.

        Raises:
            PromptError: A class that the model cannot answer, naming the nearest ones it can.
        """
        ...

    def segment(self, chips: Sequence[Chip], vocabulary: Vocabulary) -> list[Scores]:
        """Score every pixel of every chip against every class.

        Args:
            chips: All of one shape, sides multiples of ``multiple``.
            vocabulary: The classes.

        Returns:
            One Scores per chip, float32 (classes, height, width), same size as the chip.
        """
        ...


@runtime_checkable
class HasWindows(Protocol):
    """What a segmenter adds that does best with windows of a size of its own."""

    def windows(self, classes: int) -> tuple[int, int]:
        """Return side and overlap of windows in pixels as the model sees them, for so many classes."""
        ...


@runtime_checkable
class KnowsUnknown(Protocol):
    """What a segmenter adds that can tell where a picture shows nothing that it was taught."""

    def familiarity(self, chips: Sequence[Chip]) -> list[NDArray[np.float32]]:
        """Return how well each pixel fits the best of everything that the model was taught.

        Args:
            chips: As for :meth:`Segmenter.segment`.

        Returns:
            One float32 (height, width) per chip, 0 (nothing known) to 1.
        """
        ...


@runtime_checkable
class Refers(Protocol):
    """What a segmenter adds that reads referring expressions ("the largest building"), not only names of things.

    It sees one window at a time. Where a raster has several, it is asked for the things (*building*), and which of them
    an expression means is settled over all of them; see :mod:`geovl.segmenters.text_as_mask.expressions`.
    """

    refers: Literal["rules", "anything"]
    """``rules``: it reads what these rules settle, and nothing else; ``anything``: any phrase, of which only those that
    need a whole scene are settled."""
    reads_whole: bool
    """Whether it is given the whole expression where one window shows the whole raster; else rules settle that too."""


@runtime_checkable
class HasCells(Protocol):
    """What a segmenter adds that tells a window by the cells of a grid, so that small things come out coarse."""

    cells: int
    """Rows and columns of the grid that a window is cut into."""


@runtime_checkable
class HasBatch(Protocol):
    """What a segmenter adds that does best with several chips at once."""

    batch: int
    """How many."""
