"""What a multimodal language model is asked so that it answers with a mask as text: one fixed wording a question.

Text4Seg (https://arxiv.org/abs/2410.09855) trains on families of questions, each in many wordings drawn by chance;
here a family has one, so that runs can be repeated, and :data:`WORDING` says which.

| family | asks for | labels of the answer, beside the background |
| --- | --- | --- |
| ``open`` | everything, by any name | any |
| ``referring`` | one thing, by its phrase; several at a time too | the phrase |
| ``closed`` | the classes of a list | those of the list that are there |
| ``parts`` | the parts of a thing | the parts |
| ``part`` | one part of a thing; several at a time too | the part |

Checkpoints that were not trained on masks as text are told the format too (``Question.shape``), and held to it while
they write; see :mod:`geovl.segmenters.text_as_mask.automaton`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from geovl.errors import PromptError, UsageError
from geovl.segmenters.text_as_mask.automaton import Tokenizer
from geovl.segmenters.text_as_mask.dialects import CLOSE, OPEN, TEXT4SEG, Dialect
from geovl.segmenters.text_as_mask.grammar import check_vocabulary, clean_label, encode, spelled

WORDING = "1"
"""Version of all that is worded here: to be raised with any change, since answers change too."""

Family = Literal["open", "referring", "closed", "parts", "part"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Share = Literal["tile", "class-list"]
"""What many prompts begin with alike, so that it can be computed once: ``tile``, the picture comes first, as all
checkpoints were trained; ``class-list``, the question comes first."""
SHARES: tuple[Share, ...] = get_args(Share)
Picture = TypeVar("Picture")

TRIGGER = "Now segment this image."
"""What stands behind a picture whose question came before it."""

_QUESTIONS: dict[Family, str] = {
    "open": "Segment the whole image and name everything in it.",
    "referring": "Segment only {names} in the image.",
    "closed": "Segment the image into these categories: {names}.",
    "parts": "Segment the {whole} in the image into its parts.",
    "part": "Segment only the {names} of the {whole} in the image.",
}
_PREAMBLES: dict[Family, str] = {
    "open": "Here is the whole image, segmented:",
    "referring": "Here is the mask of {names}:",
    "closed": "Here is the image, segmented into these categories:",
    "parts": "Here are the parts of the {whole}:",
    "part": "Here is the mask of the {names} of the {whole}:",
}
_FORMAT = """

Divide the image into a grid of {rows} rows and {columns} columns of equal cells and write the label of each cell, \
row by row from the top, each row from left to right.
{labels}
In each row write runs of cells with the same label: the label, a blank, * and the number of cells. The numbers of a \
row add up to {columns}. Put {item} between the runs of a row and {row} between rows{end}. Write {open} before the \
first row and {close} behind the last, and nothing after that.
Example of 2 rows and 3 columns:
{open}{example}{close}"""
_EXAMPLE = np.array([[0, 0, 1], [1, 1, 1]])
_SPOKEN = {"\n": "a line feed", " ": "a blank", "|": "a bar", ",": "a comma", ";": "a semicolon"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a picture.

    Raises:
        UsageError: No such family or order, more or fewer names than the family or the dialect takes.
        PromptError: A name that could not be read back from an answer.
    """

    family: Family
    names: tuple[str, ...] = ()
    """What answers may name beside the background, in the order of its labels: phrases, classes, parts. None for
    ``open``."""
    whole: str = ""
    """The thing whose parts are asked for."""
    dialect: Dialect = TEXT4SEG
    """How the model spells."""
    lists_background: bool = True
    """Whether a closed list begins with the word for the background, as the checkpoints were evaluated."""
    shape: tuple[int, int] | None = None
    """Rows and columns of the grid where the model must be told how to write one; None for a model that was trained
    on it."""
    share: Share = "tile"
    """Whether the picture or the question comes first."""

    def __post_init__(self) -> None:
        _check_word("family of questions", self.family, FAMILIES)
        _check_word("order", self.share, SHARES)
        if self.shape is not None and min(self.shape) < 1:
            msg = f"A grid has at least one row and one column, got {self.shape[0]} x {self.shape[1]}."
            raise UsageError(msg)
        _check_count(self.family, self.names)
        _check_whole(self.family, self.whole)
        vocabulary = check_vocabulary(self.vocabulary, self.dialect)
        spelled(vocabulary, self.dialect)
        object.__setattr__(self, "names", vocabulary[1:])
        object.__setattr__(self, "whole", self.whole and clean_label(self.whole))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The background, then the names: what the numbers of a grid mean."""
        return (self.dialect.background, *self.names)

    @property
    def text(self) -> str:
        """The question, with the format where the model must be told it."""
        asked = _filled(_QUESTIONS[self.family], self, self.vocabulary if _lists_all(self) else self.names)
        if self.dialect.target is not None:
            asked += f" Write the mask as text: {self.dialect.target} inside, {self.dialect.background} elsewhere."
        return asked if self.shape is None else asked + _format(self, self.shape)

    def parts(self, picture: Picture) -> tuple[str | Picture, ...]:
        """Return what a user says, in order: texts and the picture."""
        if self.share == "tile":
            return picture, self.text
        return self.text, picture, TRIGGER


def answer_prefix(question: Question) -> str:
    """Return what an answer begins with, with the tag that opens the payload.

    A decoder that is held to the grammar starts here; models that were trained on it write a sentence of their own.
    """
    return f"{_filled(_PREAMBLES[question.family], question, question.names)}\n{OPEN}"


def token_budget(
    tokenizer: Tokenizer, vocabulary: Sequence[str], shape: tuple[int, int], dialect: Dialect = TEXT4SEG,
    opening: str = OPEN,
) -> int:  # fmt: skip
    """Return how many tokens an answer in row-wise runs can take at most.

    ``h w (T + 3) + h`` with ``T`` the longest label in tokens, for a grid whose every cell differs from the next, or
    more where the tokenizer spells separators in more pieces; and the tokens of what stands around the rows. Most
    answers need a small part of that.

    Args:
        tokenizer: Of the model.
        vocabulary: The background, then the labels.
        shape: (h, w).
        dialect: How the model spells.
        opening: What the answer begins with, with the tag that opens the payload.
    """

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    labels = spelled(check_vocabulary(vocabulary, dialect), dialect)
    longest = max(count(label) for label in labels)
    one = count(f"{dialect.count}1")
    run = max(longest + 3, *(count(dialect.item + label) + one for label in labels))
    row = max(1, count(dialect.row))
    return shape[0] * shape[1] * run + shape[0] * row + count(opening) + count(dialect.end + CLOSE)


def _check_count(family: Family, names: Sequence[str]) -> None:
    """Refuse questions about nothing, and names where the model shall find them; it may do so for parts."""
    if (family == "open" and names) or (family not in {"open", "parts"} and not names):
        wanted = "none" if names else "at least one"
        msg = f"A question of the family {family!r} has {len(names)} names; expected {wanted}."
        raise UsageError(msg)


def _check_word(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        msg = f"There is no {what} {given!r}; there are {', '.join(known)}."
        raise UsageError(msg)


def _check_whole(family: Family, whole: str) -> None:
    needed = family in {"parts", "part"}
    if needed != bool(whole.strip()):
        told = "does not say of what thing" if needed else f"is not about the parts of {whole!r}"
        msg = f"A question of the family {family!r} {told}."
        raise UsageError(msg)


def _lists_all(question: Question) -> bool:
    return question.family == "closed" and question.lists_background


def _filled(wording: str, question: Question, names: Sequence[str]) -> str:
    """Fill the slots of a wording; names of parts are joined as they were in training, with a blank behind the bar."""
    between = "| " if question.family == "part" else "|"
    return _fill(wording, {"whole": question.whole, "names": between.join(names)})


def _fill(wording: str, slots: Mapping[str, str]) -> str:
    """Fill slots at once: what is filled in may hold braces itself."""
    return re.sub(r"\{(\w+)\}", lambda found: slots[found[1]], wording)


def _format(question: Question, shape: tuple[int, int]) -> str:
    """Say how a grid is written."""
    dialect = question.dialect
    known = question.vocabulary if question.names else (dialect.background, "water")
    slots = {
        "rows": str(shape[0]), "columns": str(shape[1]), "item": _spoken(dialect.item), "row": _spoken(dialect.row),
        "end": f", and {_spoken(dialect.end)} behind the last" if dialect.end else "", "open": OPEN, "close": CLOSE,
        "labels": _labels(question), "example": encode(_EXAMPLE, known, dialect=dialect),
    }  # fmt: skip
    return _fill(_FORMAT, slots)


def _labels(question: Question) -> str:
    """Say which labels there are."""
    dialect = question.dialect
    if not question.names:
        return f"The label is the name of what fills the cell, and {dialect.background} where nothing can be named."
    targets = question.names if dialect.target is None else (f"{dialect.target} ({question.names[0]})",)
    return f"Labels: {', '.join(targets)}, and {dialect.background} for everything else."


def _spoken(mark: str) -> str:
    """Say a separator in words."""
    return " and ".join(_SPOKEN.get(char, repr(char)) for char in mark)


# ----------------------------------------------------------------------------------------------------- envelopes


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around a question, for checkpoints without a chat template or that were trained with another one."""

    name: str
    """As catalog records call it."""
    before: str
    """Behind the token that begins a text, before what the user says."""
    behind: str
    """Between what the user says and the answer."""
    after_picture: str = "\n"
    """Between a picture and the text behind it."""

    def around(self, question: Question, picture: str) -> str:
        """Return the prompt, with the word for a picture at its place."""
        first, *rest = question.parts(picture)
        inner = first
        for last, part in zip((first, *rest), rest, strict=False):
            inner += (self.after_picture if last == picture else "\n") + part
        return f"{self.before}{inner}{self.behind}"


_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
_DEEPSEEK = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.\n\n"
)

ENVELOPES: dict[str, Envelope] = {
    envelope.name: envelope
    for envelope in (
        Envelope("llava", f"{_VICUNA}USER: ", " ASSISTANT:"),
        Envelope("llava-swift", "USER: ", "\nASSISTANT:"),
        Envelope("deepseek-vl", f"{_DEEPSEEK}User: ", "\n\nAssistant:", after_picture=""),
        Envelope("bare", "", "", after_picture=""),
    )
}
"""``llava``: how the code of LLaVA-1.5 trains; ``llava-swift``: the same model in ms-swift, without the sentence of the
system, as Text4Seg's adapters were trained; ``deepseek-vl``; ``bare``: nothing at all, as PaliGemma is asked."""


def envelope_of(name: str) -> Envelope:
    """Return an envelope by its name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in ENVELOPES:
        msg = f"There is no envelope {name!r}; there are {', '.join(ENVELOPES)}."
        raise UsageError(msg)
    return ENVELOPES[name]


def refuse_marks(question: Question, marks: Sequence[str]) -> None:
    """Refuse names that hold what a model takes for more than text.

    Args:
        question: What is asked.
        marks: Special tokens: the word for a picture, the end of a turn, ...

    Raises:
        PromptError: A name holds one.
    """
    for name in (*question.names, question.whole):
        found = next((mark for mark in marks if mark.strip() and mark in name), None)
        if found is not None:
            msg = f"Prompt {name!r} holds {found!r}, which this model does not read as text."
            raise PromptError(msg, "Say it in other words.")
