"""Descriptors: what is written is read back, whatever the grid; the automaton lets nothing else be written."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geovl.errors import ModelError, PromptError, UsageError
from geovl.segmenters.text_as_mask.automaton import Automaton
from geovl.segmenters.text_as_mask.dialects import DIALECTS, GEOGROUND, LEGACY, TEXT4SEG, dialect_of
from geovl.segmenters.text_as_mask.grammar import FORMS, check_vocabulary, clean_label, decode, encode
from geovl.segmenters.text_as_mask.grid import cell_size, to_grid, to_pixels

LABELS = ["others", "ship", "ships dock", "the largest building"]
shapes = st.tuples(st.integers(1, 9), st.integers(1, 12))
grids = shapes.flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(0, len(LABELS) - 1)))
words = st.text(st.characters(codec="utf-8", exclude_characters="|*;,", exclude_categories=("Cc", "Cs")), max_size=12)


class Characters:
    """A tokenizer whose tokens are characters."""

    def encode(self, text, *, add_special_tokens):
        return [ord(c) for c in text]

    def decode(self, token_ids, *, skip_special_tokens):
        return "".join(map(chr, token_ids))


class Pairs(Characters):
    """One whose tokens are up to two characters, which merge across any border."""

    def encode(self, text, *, add_special_tokens):
        return [ord(text[i]) + (ord(text[i + 1]) << 21 if i + 1 < len(text) else 0) for i in range(0, len(text), 2)]

    def decode(self, token_ids, *, skip_special_tokens):
        return "".join(chr(i % 2**21) + (chr(i >> 21) if i >> 21 else "") for i in token_ids)


@pytest.mark.parametrize("dialect", [TEXT4SEG, LEGACY], ids=lambda d: d.name)
@pytest.mark.parametrize("form", FORMS)
@given(grid=grids)
def test_any_grid_is_read_back(dialect, form, grid):
    text = f"Sure: <seg>{encode(grid, LABELS, form, dialect)}</seg>."
    found = decode(text, grid.shape, LABELS, referring=False, dialect=dialect)
    assert found.status == "ok"
    assert found.exact
    assert np.array_equal(found.grid, grid)


@given(grid=shapes.flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(0, 1))))
def test_the_binary_dialect_names_its_target_whatever_was_asked_for(grid):
    text = encode(grid, ["others", "a red roof"], dialect=GEOGROUND)
    assert not set(text) - set("01 *;,23456789")
    found = decode(f"<seg>{text}</seg>", grid.shape, ["others", "a red roof"], referring=True, dialect=GEOGROUND)
    assert found.exact
    assert np.array_equal(found.grid, grid)


def test_the_binary_dialect_names_one_thing_at_a_time():
    with pytest.raises(UsageError, match="one thing"):
        encode(np.zeros((2, 2), int), ["others", "ship", "dock"], dialect=GEOGROUND)


@given(text=st.text(max_size=200), referring=st.booleans())
def test_any_text_is_read_as_something(text, referring):
    for answer in (text, f"<seg>{text}", f"<seg>{text}</seg>"):
        found = decode(answer, (4, 5), LABELS, referring=referring)
        assert found.grid.shape == (4, 5)
        assert found.status != "ok" or not found.grid.any() or "*" in answer or any(x in answer for x in LABELS[1:])
        assert 0 <= found.grid.min() <= found.grid.max() < (2 if referring else len(LABELS))


@given(grid=grids, cut=st.floats(0, 1))
def test_a_cut_answer_keeps_the_rows_before_the_cut_and_never_claims_to_be_whole(grid, cut):
    text = f"<seg>{encode(grid, LABELS)}</seg>"
    part = text[: int(cut * (len(text) - len("</seg>")))]
    found = decode(part, grid.shape, LABELS, referring=False)
    assert not found.exact
    whole = part.count("\n")
    assert np.array_equal(found.grid[:whole], grid[:whole])
    assert not found.grid[whole + 1 :].any()


@given(grid=grids, row=st.integers(0, 8), extra=st.integers(-3, 5))
def test_a_wrong_count_stays_in_its_row(grid, row, extra):
    assume(grid.shape[0] > 1)
    row %= grid.shape[0]
    lines = encode(grid, LABELS).split("\n")
    head, _, count = lines[row].rpartition("*")
    lines[row] = f"{head}*{max(int(count) + extra, 0)}"
    found = decode("<seg>" + "\n".join(lines) + "</seg>", grid.shape, LABELS, referring=False)
    others = [r for r in range(grid.shape[0]) if r != row]
    assert np.array_equal(found.grid[others], grid[others])


@given(label=words)
def test_a_label_is_refused_or_survives_the_round_trip(label):
    try:
        cleaned = clean_label(label)
    except PromptError:
        return
    assume(cleaned.casefold() not in {"others", ""})
    grid = np.array([[0, 1, 1], [1, 0, 1]])
    found = decode(f"<seg>{encode(grid, ['others', cleaned])}</seg>", grid.shape, ["others", cleaned], referring=False)
    assert np.array_equal(found.grid, grid)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["a|b"], "separate labels"), (["a *2 b"], "separate labels"), (["a\nb"], "separate labels"),
        (["<seg>"], "separate labels"), (["  "], "empty"), (["Others"], "background"), (["ship", "SHIP"], "twice"),
        (["red  roof", "red roof"], "twice"),
    ],
)  # fmt: skip
def test_labels_that_would_confuse_are_refused(labels, told):
    with pytest.raises(PromptError, match=told):
        check_vocabulary(["others", *labels])


def test_a_label_with_a_comma_is_refused_only_where_commas_separate():
    assert check_vocabulary(["others", "ship, red"])[1] == "ship, red"
    with pytest.raises(PromptError, match="dialect"):
        check_vocabulary(["others", "ship, red"], LEGACY)


def test_a_grid_outside_its_vocabulary_is_refused():
    for grid in (np.array([[4]]), np.array([[-1]]), np.zeros(3, int), np.zeros((0, 2), int)):
        with pytest.raises(UsageError, match="places 0 to 3"):
            encode(grid, LABELS)
    with pytest.raises(UsageError, match="no form"):
        encode(np.zeros((1, 1), int), LABELS, "zip")
    with pytest.raises(UsageError, match="no dialect"):
        dialect_of("klingon")
    assert [dialect_of(name).name for name in DIALECTS] == list(DIALECTS)


@given(shape=shapes, factor=st.integers(1, 9))
def test_a_grid_survives_pixels_that_are_a_multiple_of_it(shape, factor):
    grid = np.arange(shape[0] * shape[1]).reshape(shape)
    size = (shape[0] * factor, shape[1] * factor)
    assert np.array_equal(to_grid(to_pixels(grid, size), shape), grid)


def test_a_cell_is_measured_on_the_ground():
    assert cell_size((512, 256), (16, 32), 0.5) == (16.0, 4.0)


@given(grid=grids, before=st.sampled_from(["", "Sure:\r\n", "\uff0a "]), crlf=st.booleans())
def test_each_cell_knows_the_words_that_said_it(grid, before, crlf):
    text = f"{before}<seg>{encode(grid, LABELS)}</seg>"
    text = text.replace("\n", "\r\n") if crlf else text
    found = decode(text, grid.shape, LABELS, referring=False)
    for label, item in zip(found.grid.ravel(), found.items.ravel(), strict=True):
        assert text[slice(*found.spans[item])].startswith(f"{LABELS[label]} *")
    assert len(found.spans) == len(np.unique(found.items)), "every run is of some cell"


def test_what_was_filled_was_said_by_nothing():
    found = decode("<seg>ship *2\n others *1", (3, 4), LABELS, referring=False)
    assert found.items.tolist() == [[0, 0, -1, -1], [1, -1, -1, -1], [-1] * 4]
    assert decode("no", (2, 2), LABELS, referring=True).items.tolist() == [[-1, -1]] * 2


# the automaton


def automata(tokenizer, opening="<seg>"):
    return st.builds(lambda shape: Automaton(tokenizer, LABELS, shape, opening=opening), shapes)


@pytest.mark.parametrize("tokenizer", [Characters(), Pairs()], ids=["characters", "pairs"])
@given(data=st.data())
def test_whatever_is_allowed_parses_exactly(tokenizer, data):
    automaton = data.draw(automata(tokenizer, data.draw(st.sampled_from(["<seg>", "It is: <seg>"]))))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    state, tokens = automaton.start(), []
    while allowed := automaton.allowed(state):
        tokens.append(int(rng.choice(allowed)))
        state = automaton.advance(state, tokens[-1])
    text = tokenizer.decode(tokens, skip_special_tokens=False)
    found = decode(text, automaton.shape, LABELS, referring=False)
    assert found.exact, text
    assert np.array_equal(found.grid, automaton.grid(tokens))
    assert text.endswith(f"<seg>{encode(found.grid, LABELS)}</seg>"), "canonical: neighbouring runs differ"


@pytest.mark.parametrize("tokenizer", [Characters(), Pairs()], ids=["characters", "pairs"])
@given(grid=grids)
def test_every_grid_can_be_written(tokenizer, grid):
    automaton = Automaton(tokenizer, LABELS, grid.shape)
    state, tokens = automaton.start(), automaton.tokens(grid)
    for token in tokens:
        assert token in automaton.allowed(state)
        assert not automaton.complete(state)
        state = automaton.advance(state, token)
    assert automaton.complete(state)
    assert np.array_equal(automaton.grid(tokens), grid)
    assert tokenizer.decode(tokens, skip_special_tokens=False) == f"<seg>{encode(grid, LABELS)}</seg>"


@given(grid=grids, cut=st.integers(0, 400))
def test_runs_know_the_tokens_that_said_them(grid, cut):
    automaton = Automaton(Characters(), LABELS, grid.shape)
    tokens = automaton.tokens(grid)
    text = "".join(map(chr, tokens))
    for run in automaton.runs(tokens):
        assert text[slice(*run.label_tokens)].endswith(LABELS[run.label])
        assert text[slice(*run.count_tokens)] == f" *{run.count}"
        assert run.label_tokens[1] == run.count_tokens[0]
    part = [(run.row, run.label, run.count) for run in automaton.runs(tokens[:cut])]
    whole = [(run.row, run.label, run.count) for run in automaton.runs(tokens)]
    # a count that is cut off may still be a count: "*1" of "*12"
    assert part[:-1] == whole[: max(len(part) - 1, 0)]


def test_what_may_not_follow_is_refused():
    automaton = Automaton(Characters(), LABELS, (2, 3))
    with pytest.raises(ValueError, match="may not follow"):
        automaton.advance(automaton.start(), ord("x"))
    state = automaton.start()
    for char in "<seg>ship *3":
        state = automaton.advance(state, ord(char))
    assert automaton.allowed(state) == (ord("\n"),), "the row is full"


def test_a_tokenizer_that_loses_text_is_refused():
    class Lossy(Characters):
        def encode(self, text, *, add_special_tokens):
            return [ord(c) for c in text if c != "\n"]

    with pytest.raises(ModelError, match="give back"):
        Automaton(Lossy(), LABELS, (2, 2)).allowed(Automaton(Lossy(), LABELS, (2, 2)).start())


def test_labels_that_a_tokenizer_spells_alike_are_refused():
    class Folding(Characters):
        def encode(self, text, *, add_special_tokens):
            return [ord(c) for c in text.replace("x", "y")]

        def decode(self, token_ids, *, skip_special_tokens):
            return super().decode(token_ids, skip_special_tokens=False)

    with pytest.raises(ModelError):
        Automaton(Folding(), ["others", "x", "y"], (2, 2)).tokens(np.zeros((2, 2), int))
