"""From an answer to scores: what each cell shows, how sure the model was of it, and what was wrong with the answer.

The score of a cell is that of its run: the product of the probabilities of the tokens that said it, its label and its
count, as the model generated them. Models that do not tell probabilities give votes: 1 and 0. A cell that an answer did
not give, and was filled, is worth half of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geovl.segmenters.text_as_mask.grammar import Decoded

Floats = NDArray[np.float32]

REPAIRED, UNREAD, FAILED, CUT = "repaired", "unread", "failed", "cut"
"""What may be wrong with an answer: something in it had to be repaired; there was no mask in it; there was none at all;
it was cut off by the limit on tokens."""
_SURE = 0.5  # least score of a cell whose label was chosen: another was less likely at each step


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered."""

    text: str
    tokens: tuple[tuple[bytes, float], ...] = ()
    """UTF-8 and natural logarithm of the probability of each token, in order; together the end of ``text``, but for the
    mark that ends an answer. Empty where the model does not tell."""
    cut: bool = False
    """Whether it was cut off by a limit."""
    failed: str = ""
    """Why there is no answer; empty where there is one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, read."""

    scores: Floats
    """float32 (labels, h, w), 0..1: of each label but the background."""
    marks: tuple[str, ...]
    """What was wrong; see :data:`REPAIRED`."""


def item_scores(said: Said, spans: Sequence[tuple[int, int]]) -> Floats | None:
    """Return how sure a model was of each item of its answer.

    Args:
        said: The answer.
        spans: First and stop of each item in its text.

    Returns:
        float32 (items,): the product of the probabilities of the tokens that reach into it; None where the model told
        none, or what it told is not its text.
    """
    whole, tokens = said.text.encode(), said.tokens
    if tokens and not whole.endswith(b"".join(raw for raw, _ in tokens)):
        tokens = tokens[:-1]  # the mark that ends an answer
    if not tokens or not whole.endswith(b"".join(raw for raw, _ in tokens)):
        return None
    at = np.cumsum([0, *(len(char.encode()) for char in said.text)])  # of characters, in bytes
    lengths = np.array([len(raw) for raw, _ in tokens])
    stops = np.cumsum(lengths) + len(whole) - lengths.sum()
    total = np.concatenate([[0.0], np.cumsum([value for _, value in tokens])])
    # a token belongs to an item if any of its bytes do
    starts, ends = at[np.array(spans, np.int64).reshape(-1, 2).T]
    first = np.searchsorted(stops, starts, side="right")
    last = np.searchsorted(stops - lengths, ends, side="left")
    sure: Floats = np.exp(np.minimum(total[last] - total[first], 0)).astype(np.float32)
    return sure


def read(said: Said, decoded: Decoded, labels: int) -> Reading:
    """Give scores to the cells of a decoded answer.

    Args:
        said: The answer.
        decoded: What it says; see :func:`geovl.segmenters.text_as_mask.grammar.decode`.
        labels: How many labels there are beside the background.
    """
    shape = (labels, *decoded.grid.shape)
    if said.failed:
        return Reading(np.zeros(shape, np.float32), (FAILED,))
    marks = [CUT] if said.cut else []
    if decoded.status != "ok":
        return Reading(np.zeros(shape, np.float32), (*marks, UNREAD))
    if not decoded.exact:
        marks.append(REPAIRED)
    sure = item_scores(said, decoded.spans)
    given = decoded.items >= 0
    cells = np.ones(decoded.grid.shape, np.float32)
    if sure is not None and given.any():
        cells[given] = sure[decoded.items[given]]
    cells[~given] = 0.5
    chosen = np.maximum(cells, _SURE)  # what was written stays above the usual threshold
    scores = (decoded.grid == np.arange(1, labels + 1)[:, None, None]) * chosen
    return Reading(scores.astype(np.float32), tuple(marks))
