"""Scores of answers: a cell is as sure as the tokens that said it."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geovl.segmenters.text_as_mask.grammar import decode, encode
from geovl.segmenters.text_as_mask.reading import Said, item_scores, read

LABELS = ("others", "ship", "d\u00f6ck \U0001f6a2")


def said(text, cuts, seed=0):
    """An answer in tokens that end at some places, each with a probability of its own."""
    rng = np.random.default_rng(seed)
    raw = text.encode()
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    parts = [raw[a:b] for a, b in pairwise(places)]
    return Said(text, tuple((part, float(np.log(rng.uniform(0.6, 1)))) for part in parts))


@given(
    grid=hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.integers(0, 2)),
    cuts=st.lists(st.integers(0, 500), max_size=40),
)
def test_a_cell_is_as_sure_as_the_tokens_that_said_it(grid, cuts):
    text = f"Sure: <seg>{encode(grid, LABELS)}</seg>"
    answer = said(text, cuts)
    decoded = decode(text, grid.shape, LABELS, referring=False)
    reading = read(answer, decoded, 2)
    assert reading.marks == ()
    ends = np.cumsum([len(part) for part, _ in answer.tokens])
    for row, col in np.ndindex(grid.shape):
        start, stop = (len(text[:at].encode()) for at in decoded.spans[decoded.items[row, col]])
        product = 1.0
        for end, (part, value) in zip(ends, answer.tokens, strict=True):
            if end > start and end - len(part) < stop:
                product *= np.exp(value)
        expected = np.zeros(2)
        if grid[row, col]:
            expected[grid[row, col] - 1] = max(product, 0.5)
        np.testing.assert_allclose(reading.scores[:, row, col], expected, rtol=1e-5)


def test_models_that_tell_no_probabilities_vote():
    text = "<seg>ship *2| others *1\n</seg>"
    decoded = decode(text, (1, 3), LABELS, referring=False)
    assert read(Said(text), decoded, 2).scores[0].tolist() == [[1, 1, 0]]
    assert item_scores(Said(text, ((b"something else", -0.1),)), decoded.spans) is None


def test_the_prompt_may_have_given_the_beginning():
    text = "<seg>ship *2| others *1\n</seg>"
    rest = text.removeprefix("<seg>").encode()
    answer = Said(text, ((rest[:7], np.log(0.8)), (rest[7:], np.log(0.9)), (b"<end>", -0.5)))
    decoded = decode(text, (1, 3), LABELS, referring=False)
    np.testing.assert_allclose(item_scores(answer, decoded.spans), [0.8, 0.9], rtol=1e-6)


def test_what_is_wrong_is_marked():
    def marks(text, **more):
        return read(Said(text, **more), decode(text, (2, 2), LABELS, referring=False), 2).marks

    assert marks("<seg>ship *2\n ship *2\n</seg>") == ()
    assert marks("<seg>ship *2\n ship *1\n</seg>") == ("repaired",)
    assert marks("<seg>ship *2\n", cut=True) == ("cut", "repaired")
    assert marks("I see a ship.") == ("unread",)
    assert marks("", cut=True) == ("cut", "unread")
    assert marks("", failed="HTTP 500") == ("failed",)


def test_filled_cells_are_worth_half():
    text = "<seg>ship *1\n ship *2\n</seg>"
    reading = read(Said(text), decode(text, (2, 2), LABELS, referring=False), 2)
    assert reading.scores[0].tolist() == [[1, 0.5], [1, 1]]
