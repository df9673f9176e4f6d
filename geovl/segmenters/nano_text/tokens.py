"""The tokens that nano-text writes: a label, a count, the end of a row, the end.

They are the pieces of R-RLE text, with one token for each label and each count; :func:`spell` gives the text.
``others *3| ship *2`` is ``OTHERS, COUNT + 3, TARGET, COUNT + 2``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from geovl.segmenters.text_as_mask.dialects import CLOSE, OPEN, TEXT4SEG

BEGIN, OTHERS, TARGET, COUNT = 0, 1, 2, 2
"""``COUNT + n`` is the count n, from 1 to 32."""
ROW, END = 35, 36
TOKENS = 37
"""Size of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Written:
    """An answer, and what the writer knows while it writes it; all arrays (t,)."""

    tokens: NDArray[np.int64]
    row: NDArray[np.int64]
    """Of the next cell, once the token is written; the last row behind the end."""
    col: NDArray[np.int64]
    """Of the next cell; the number of columns behind a full row."""
    decided: NDArray[np.bool_]
    """Whether what follows the token is for the writer to decide; the rest is forced by the grammar."""


def write(grid: NDArray[np.integer]) -> Written:
    """Return the tokens of a grid (h, w) of 0 and 1, with :data:`BEGIN` before them."""
    height, width = grid.shape
    steps: list[tuple[int, int, int, bool]] = [(BEGIN, 0, 0, True)]
    for row, cells in enumerate(grid.tolist()):
        col = 0
        for value, run in groupby(cells):
            count = sum(1 for _ in run)
            # the label of the first run of a row is free, every other is the other one
            steps.append((TARGET if value else OTHERS, row, col, True))
            col += count
            steps.append((COUNT + count, row, col, False))
        steps.append((ROW, row + 1, 0, True) if row + 1 < height else (END, row, width, False))
    tokens, rows, cols, decided = (np.array(column) for column in zip(*steps, strict=True))
    return Written(tokens, rows, cols, decided)


def runs(tokens: Sequence[int]) -> Iterator[Iterator[tuple[int, int]]]:
    """Yield for each row its runs: 0 or 1, and how many cells."""
    rows: list[list[tuple[int, int]]] = [[]]
    label = 0
    for token in tokens:
        if token in {OTHERS, TARGET}:
            label = token - OTHERS
        elif COUNT < token < ROW:
            rows[-1].append((label, token - COUNT))
        elif token == ROW:
            rows.append([])
    yield from map(iter, rows)


def spell(tokens: Sequence[int], phrase: str) -> str:
    """Return an answer as R-RLE text, with its tags."""
    names = (TEXT4SEG.background, phrase)
    rows = (TEXT4SEG.item.join(f"{names[label]}{TEXT4SEG.count}{n}" for label, n in row) for row in runs(tokens))
    return f"{OPEN}{TEXT4SEG.row.join(rows)}{TEXT4SEG.end}{CLOSE}"
