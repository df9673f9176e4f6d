"""Questions have one wording each, which is what was said to be wording 1; examples in them can be read back."""

import hashlib
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geovl.errors import PromptError, UsageError
from geovl.segmenters.text_as_mask.automaton import Automaton
from geovl.segmenters.text_as_mask.dialects import CLOSE, DIALECTS, GEOGROUND, LEGACY, OPEN, TEXT4SEG
from geovl.segmenters.text_as_mask.grammar import decode, encode
from geovl.segmenters.text_as_mask.prompts import (
    ENVELOPES,
    FAMILIES,
    TRIGGER,
    WORDING,
    Question,
    answer_prefix,
    envelope_of,
    refuse_marks,
    token_budget,
)

QUESTIONS = {
    "open": Question("open"),
    "referring": Question("referring", ("the red ship",)),
    "closed": Question("closed", ("ship", "harbour crane")),
    "parts": Question("parts", ("wing", "engine"), whole="aircraft"),
    "part": Question("part", ("wing",), whole="aircraft"),
}
PICTURE = object()
letters = st.characters(codec="utf-8", exclude_characters="|*;,<>", exclude_categories=("C", "Z"))
names = st.text(letters, min_size=1).filter(lambda name: name.casefold() != "others")


# Wording


def test_the_wording_is_the_one_that_has_this_number():
    said = [*(question.text for question in QUESTIONS.values()), *map(answer_prefix, QUESTIONS.values()), TRIGGER]
    said += [replace(question, shape=(16, 16)).text for question in QUESTIONS.values()]
    said += [replace(QUESTIONS["referring"], dialect=dialect, shape=(16, 24)).text for dialect in DIALECTS.values()]
    said += [envelope.around(QUESTIONS["open"], "<image>") for envelope in ENVELOPES.values()]
    digest = hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]
    assert {WORDING: digest} == {"1": "28bcd3ef99ba79f7"}, "answers change with the wording: give it a new number"


def test_every_family_has_a_question_and_a_beginning_of_its_answer():
    assert set(QUESTIONS) == set(FAMILIES)
    assert len({question.text for question in QUESTIONS.values()}) == len(FAMILIES)
    for question in QUESTIONS.values():
        preamble, line_feed, tag = answer_prefix(question).rpartition("\n")
        assert tag == OPEN
        assert line_feed
        assert preamble
        assert "\n" not in preamble + question.text
        assert "{" not in preamble + question.text


def test_names_stand_once_in_their_question_and_where_they_should_in_the_answer():
    for family in ("referring", "part"):
        question = QUESTIONS[family]
        assert question.text.count(question.names[0]) == answer_prefix(question).count(question.names[0]) == 1
    for family in ("parts", "part"):
        question = QUESTIONS[family]
        assert question.text.count("aircraft") == answer_prefix(question).count("aircraft") == 1
    assert "wing" not in QUESTIONS["parts"].text, "the parts are for the model to name"


def test_a_closed_list_is_joined_by_bars_and_begins_with_the_background_if_wanted():
    question = QUESTIONS["closed"]
    assert "others|ship|harbour crane" in question.text
    bare = replace(question, lists_background=False).text
    assert "others" not in bare
    assert "ship|harbour crane" in bare
    assert replace(question, lists_background=False).vocabulary == question.vocabulary
    assert "only a|b in" in Question("referring", ("a", "b")).text
    assert "mask of a|b:" in answer_prefix(Question("referring", ("a", "b")))
    assert "only the wing| tail of" in Question("part", ("wing", "tail"), whole="aircraft").text, "as of data of parts"


@given(name=names, whole=names)
def test_whatever_the_names_are_they_are_said_as_they_are(name, whole):
    question = Question("part", (name,), whole=whole)
    cleaned = " ".join(whole.split())
    assert question.text == QUESTIONS["part"].text.replace("aircraft", "\0").replace("wing", name).replace(
        "\0", cleaned
    )


def test_slots_in_names_are_not_filled():
    question = Question("part", ("{whole} {names}",), whole="{names} {example}", shape=(2, 2))
    assert "the {whole} {names} of the {names} {example} in" in question.text
    assert "{rows}" in Question("referring", ("{rows}",), shape=(2, 2)).text


# The format


@pytest.mark.parametrize(("family", "dialect"), [*product(FAMILIES, DIALECTS.values())], ids=str)
def test_the_example_is_read_back_and_the_grid_is_named(family, dialect):
    if dialect.target and family not in {"referring", "part"}:
        with pytest.raises(UsageError, match="one thing at a time"):
            replace(QUESTIONS[family], dialect=dialect)
        return
    question = replace(QUESTIONS[family], dialect=dialect, shape=(12, 34))
    example = question.text[question.text.rindex(OPEN) :]
    vocabulary = question.vocabulary if question.names else ("others", "water")
    found = decode(example, (2, 3), vocabulary, referring=False, dialect=dialect)
    assert found.exact
    assert found.grid.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert "12 rows and 34 columns" in question.text
    assert "add up to 34" in question.text
    assert question.text.startswith(replace(question, shape=None).text)


def test_the_labels_of_each_dialect_are_told():
    ship = replace(QUESTIONS["referring"], shape=(4, 4))
    assert "Labels: the red ship, and others for everything else." in ship.text
    assert "Put a bar and a blank between the runs" in ship.text
    assert "and a line feed and a blank between rows, and a line feed behind the last." in ship.text
    binary = replace(ship, dialect=GEOGROUND)
    assert "Write the mask as text: 1 inside, 0 elsewhere." in binary.text
    assert "Labels: 1 (the red ship), and 0 for everything else." in binary.text
    assert "between the runs of a row and a semicolon between rows. Write" in binary.text
    assert binary.vocabulary == ("0", "the red ship")
    assert "the red ship" in answer_prefix(binary)


# Order


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=lambda question: question.family)
def test_the_picture_comes_first_unless_the_question_shall(question):
    assert question.parts(PICTURE) == (PICTURE, question.text)
    assert replace(question, share="class-list").parts(PICTURE) == (question.text, PICTURE, TRIGGER)


def test_envelopes_are_those_that_were_trained_with():
    asked, first = QUESTIONS["open"], replace(QUESTIONS["open"], share="class-list")
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    around = {name: envelope.around(asked, "<p>") for name, envelope in ENVELOPES.items()}
    assert around["llava"] == f"{system} USER: <p>\n{asked.text} ASSISTANT:"
    assert around["llava-swift"] == f"USER: <p>\n{asked.text}\nASSISTANT:"
    assert around["deepseek-vl"].endswith(f"\n\nUser: <p>{asked.text}\n\nAssistant:")
    assert around["bare"] == f"<p>{asked.text}"
    assert ENVELOPES["llava-swift"].around(first, "<p>") == f"USER: {asked.text}\n<p>\n{TRIGGER}\nASSISTANT:"
    assert envelope_of("llava") is ENVELOPES["llava"]
    with pytest.raises(UsageError, match="no envelope 'x'; there are llava, llava-swift"):
        envelope_of("x")


# What cannot be asked


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Question("all"), "no family of questions 'all'; there are open, referring"),
        (lambda: Question("open", share="both"), "no order 'both'; there are tile, class-list"),
        (lambda: Question("open", ("ship",)), "'open' has 1 names; expected none"),
        (lambda: Question("referring"), "'referring' has 0 names; expected at least one"),
        (lambda: Question("closed"), "'closed' has 0 names; expected at least one"),
        (lambda: Question("part", whole="c"), "'part' has 0 names; expected at least one"),
        (lambda: Question("part", ("a",)), "does not say of what thing"),
        (lambda: Question("parts", whole=" "), "does not say of what thing"),
        (lambda: Question("closed", ("a",), whole="b"), "is not about the parts of 'b'"),
        (lambda: Question("open", shape=(0, 3)), "at least one row and one column, got 0 x 3"),
        (lambda: Question("referring", ("a", "b"), dialect=GEOGROUND), "one thing at a time"),
    ],
)
def test_questions_that_mean_nothing(make, match):
    with pytest.raises(UsageError, match=match):
        make()


@pytest.mark.parametrize("name", ["", "a|b", "a *3", "a\nb", "<seg>", "x</seg>", "Others", "SHIP"])
def test_names_that_could_not_be_read_back(name):
    with pytest.raises(PromptError):
        Question("closed", ("ship", name))


def test_names_are_trimmed_as_labels_are():
    question = Question("part", ("  left   wing ",), whole=" an\taircraft ")
    assert question.names == ("left wing",)
    assert question.whole == "an aircraft"
    with pytest.raises(PromptError):
        Question("part", ("wing",), whole="a|b")
    with pytest.raises(PromptError, match="holds what separates labels"):
        Question("referring", ("a, b",), dialect=LEGACY)


@pytest.mark.parametrize("question", [Question("referring", ("a <image>",)), Question("parts", whole="<image>")])
def test_names_that_are_marks_of_a_model(question):
    refuse_marks(question, ["</s>", " ", ""])
    with pytest.raises(PromptError, match="'<image>', which this model does not read as text"):
        refuse_marks(question, ["</s>", "<image>"])


# Budgets


class Pieces:
    """A tokenizer of words and single signs, as spelt by those that Text4Seg was trained with."""

    pattern = re.compile(r" ?[^\W\d]+|\d| ?[^\w\s]|\s")

    def encode(self, text, *, add_special_tokens):
        return [int.from_bytes(piece.encode(), "big") for piece in self.pattern.findall(text)]

    def decode(self, token_ids, *, skip_special_tokens):
        return "".join(i.to_bytes((i.bit_length() + 7) // 8, "big").decode() for i in token_ids)


class Counts(Pieces):
    """One that has a token for each count, with its star."""

    pattern = re.compile(r" ?[^\W\d]+| \*\d+| ?[^\w\s]|\s")


class Characters:
    """A tokenizer whose tokens are characters."""

    def encode(self, text, *, add_special_tokens):
        return [ord(c) for c in text]

    def decode(self, token_ids, *, skip_special_tokens):
        return "".join(map(chr, token_ids))


def test_the_budget_is_the_published_bound_and_what_stands_around_the_rows():
    vocabulary = ("others", "ship", "the red roof")
    around = Pieces().encode(f"{OPEN}\n{CLOSE}", add_special_tokens=False)
    for (h, w), tokenizer in product([(16, 16), (3, 5)], [Pieces(), Counts()]):
        bound = h * w * (3 + 3) + h * 2
        assert token_budget(tokenizer, vocabulary, (h, w)) == bound + len(around)
    longer = token_budget(Pieces(), vocabulary, (3, 5), opening="Here it is:\n<seg>")
    assert longer == token_budget(Pieces(), vocabulary, (3, 5)) + 5


@pytest.mark.parametrize("tokenizer", [Pieces(), Characters()], ids=lambda tokenizer: type(tokenizer).__name__)
@pytest.mark.parametrize("dialect", [TEXT4SEG, LEGACY], ids=lambda dialect: dialect.name)
@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 14)).flatmap(
        lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(0, 2))
    )
)
def test_no_answer_is_longer_than_its_budget(tokenizer, dialect, grid):
    question = Question("closed", ("ship", "the red roof"), dialect=dialect)
    opening = answer_prefix(question)
    budget = token_budget(tokenizer, question.vocabulary, grid.shape, dialect, opening)
    written = f"{opening}{encode(grid, question.vocabulary, dialect=dialect)}{CLOSE}"
    assert len(tokenizer.encode(written, add_special_tokens=False)) <= budget
    automaton = Automaton(tokenizer, question.vocabulary, grid.shape, dialect, opening)
    assert len(automaton.tokens(grid)) <= budget
    assert tokenizer.decode(automaton.tokens(grid), skip_special_tokens=False) == written
