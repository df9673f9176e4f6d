"""Between a descriptor grid and its text; Text4Seg, https://arxiv.org/abs/2410.09855, section 3.

Three forms are written: *plain* (a label for each cell), *irle* (runs over the whole grid) and *rrle* (runs within
each row; what models are trained on, since the marks of rows anchor positions). :func:`decode` reads what models
really answer, row by row, and says what it had to repair; :func:`decode_strict` does what the reference does.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from geovl.errors import PromptError, UsageError
from geovl.segmenters.text_as_mask.dialects import BACKGROUND, CLOSE, OPEN, TEXT4SEG, Dialect

Form = Literal["rrle", "irle", "plain"]
FORMS: tuple[Form, ...] = get_args(Form)
Status = Literal["ok", "missing", "empty", "unparsable"]
"""``missing``: no payload at all; ``empty``: nothing in it; ``unparsable``: no run in it."""
Ids = NDArray[np.int64]

_FULL_BAR, _FULL_STAR = "\uff5c", "\uff0a"  # full width, as some models write them
_RESERVED = ("|", "*", "\n", "\r", OPEN, CLOSE, _FULL_BAR, _FULL_STAR)
_WIDE = str.maketrans({_FULL_BAR: "|", _FULL_STAR: "*"})


def clean_label(label: str) -> str:
    """Return a label trimmed, with one blank for each inner stretch of white space.

    Raises:
        PromptError: Nothing is left, or it holds what separates labels.
    """
    # a line feed is refused rather than read as a blank: whoever sent one meant two labels
    inner = label.strip()
    found = [mark for mark in _RESERVED if mark in inner]
    if not inner or found:
        what = "is empty" if not inner else f"holds {', '.join(map(repr, found))}, which separate labels"
        msg = f"Prompt {label!r} {what}; a mask is written as text, which could not be read back."
        raise PromptError(msg, "Say it in other words.")
    return " ".join(inner.split())


def _writable(label: str) -> str:
    """Return a label as it is.

    Raises:
        PromptError: It could not be read back.
    """
    clean_label(label)
    if label != label.strip():
        msg = f"Label {label!r} has outer blanks, which would be lost in the text of a mask."
        raise PromptError(msg, "Trim it.")
    return label


def check_vocabulary(labels: Sequence[str], dialect: Dialect = TEXT4SEG) -> tuple[str, ...]:
    """Return a vocabulary whose grids can be written and read back.

    Args:
        labels: The background, then what is asked for.
        dialect: How it will be spelled.

    Raises:
        PromptError: A label is empty, reserved, given twice or called like the background.
    """
    cleaned = (labels[0], *(clean_label(label) for label in labels[1:]))
    seen = {dialect.background.casefold(), BACKGROUND}
    for label in cleaned[1:]:
        if label.casefold() in seen:
            background = label.casefold() in {dialect.background.casefold(), BACKGROUND}
            msg = f"Prompt {label!r} is {'the word for the background' if background else 'given twice'}."
            raise PromptError(msg, "Say it in other words." if background else "Give each class once.")
        if any(mark.strip() and mark.strip() in label for mark in (dialect.item, dialect.row)):
            msg = f"Prompt {label!r} holds what separates labels in the dialect {dialect.name}."
            raise PromptError(msg, "Say it in other words.")
        seen.add(label.casefold())
    return cleaned


def spelled(vocabulary: Sequence[str], dialect: Dialect) -> tuple[str, ...]:
    """Return the labels of a vocabulary as a dialect writes them.

    Args:
        vocabulary: The background, then what is asked for.
        dialect: One that has a word of its own for its target can name but one thing.

    Raises:
        UsageError: More things than the dialect can name.
    """
    if dialect.target is None:
        return (dialect.background, *vocabulary[1:])
    if len(vocabulary) != 2:
        msg = f"The dialect {dialect.name} names one thing at a time, {len(vocabulary) - 1} were given."
        raise UsageError(msg, "Ask for each by itself.")
    return dialect.background, dialect.target


def encode(
    grid: NDArray[np.integer], vocabulary: Sequence[str], form: Form = "rrle", dialect: Dialect = TEXT4SEG
) -> str:
    """Write a grid as the payload of an answer.

    Args:
        grid: Integers (h, w), places in ``vocabulary``.
        vocabulary: Labels; the first is the background.
        form: ``rrle``, ``irle`` or ``plain``.
        dialect: How to spell it.

    Returns:
        The text between the tags.

    Raises:
        PromptError: A label could not be read back as it stands.
        UsageError: No such form, or a cell without a label.
    """
    labels = [_writable(label) for label in spelled(vocabulary, dialect)]
    if form not in FORMS:
        msg = f"There is no form {form!r}; there are {', '.join(FORMS)}."
        raise UsageError(msg)
    if grid.ndim != 2 or not grid.size or int(grid.min()) < 0 or int(grid.max()) >= len(labels):
        msg = f"A grid must hold places 0 to {len(labels) - 1} of the vocabulary in (h, w), got {grid.shape}."
        raise UsageError(msg)
    if form == "rrle":
        return dialect.row.join(dialect.item.join(_runs(row, labels, dialect)) for row in grid) + dialect.end
    if form == "irle":
        return dialect.item.join(_runs(grid.ravel(), labels, dialect)) + dialect.end
    return dialect.item.join(labels[cell] for cell in grid.ravel()) + dialect.end


def _runs(cells: NDArray[np.integer], labels: Sequence[str], dialect: Dialect) -> Iterator[str]:
    for cell, run in groupby(cells.tolist()):
        yield f"{labels[cell]}{dialect.count}{sum(1 for _ in run)}"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an answer says, and how well it said it."""

    grid: Ids
    """int64 (h, w): places in the vocabulary; in referring mode 1 for whatever is not background."""
    status: Status
    exact: bool
    """Whether the answer was whole and nothing was dropped, cut, filled or unknown."""
    unknown: tuple[str, ...] = ()
    """Labels outside the vocabulary, as they were written, in order of appearance."""
    filled: int = 0
    """Cells that the answer did not give."""
    items: Ids = field(default_factory=lambda: np.empty((0, 0), np.int64))
    """int64 (h, w): which item of the answer each cell is from, -1 for those that were filled."""
    spans: tuple[tuple[int, int], ...] = ()
    """First and stop of each item in the text, in characters, without blanks around it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the text, without blanks around it."""

    text: str
    start: int
    """In the text."""

    def split(self, mark: str) -> "Iterator[_Part]":
        """Yield what stands between the matches of an expression and is not blank."""
        at = 0
        for found in [*re.finditer(mark, self.text), None]:
            stop = len(self.text) if found is None else found.start()
            piece = self.text[at:stop]
            if piece.strip():
                yield _Part(piece.strip(), self.start + at + len(piece) - len(piece.lstrip()))
            at = stop if found is None else found.end()


@dataclass(slots=True)
class _Row:
    """One line of an answer, read."""

    cells: list[int] = field(default_factory=list)
    """For each cell the item that says it."""
    runs: bool = False
    """Whether anything in it counts: a run, or a label that is known."""


class _Reader:
    """Reads the lines of one payload; section 4.2 of the method's specification, steps 3 to 7."""

    def __init__(self, shape: tuple[int, int], vocabulary: Sequence[str], dialect: Dialect) -> None:
        self.shape = shape
        self.dialect = dialect
        self.exact = True
        self.unknown: dict[str, None] = {}
        self.labels: list[str] = []
        """Of each item that says cells, as written."""
        self.spans: list[tuple[int, int]] = []
        self._ids = {" ".join(label.casefold().split()): index for index, label in reversed([*enumerate(vocabulary)])}
        self._exact = {label: index for index, label in reversed([*enumerate(vocabulary)])}
        for name in (BACKGROUND, dialect.background):
            self._ids[name] = self._exact[name] = 0
        if dialect.target is not None:
            self._ids[dialect.target] = self._exact[dialect.target] = 1

    def resolve(self, label: str) -> int | None:
        """Return the place of a label in the vocabulary, None where it is not in it."""
        label = label.strip()
        found = self._exact.get(label)
        return self._ids.get(" ".join(label.casefold().split())) if found is None else found

    def lines(self, payload: _Part) -> list[_Part]:
        """Cut a payload into lines that may be rows."""
        kept = list(payload.split(self._row_mark()))
        rows = [part for part in kept if self._may_be_row(part.text)]
        self.exact = self.exact and len(rows) == len(kept)
        return rows

    def _may_be_row(self, line: str) -> bool:
        return self._item_mark() in line or "*" in line or self.resolve(line) is not None

    def rows(self, lines: Sequence[_Part], *, closed: bool) -> list[_Row]:
        """Read each line; the last item of an answer that was cut off may be half a label."""
        found = []
        for number, line in enumerate(lines):
            items = list(line.split(re.escape(self._item_mark())))
            cut = len(items) - 1 if number == len(lines) - 1 and not closed else -1
            found.append(self._row(items, cut))
        return found

    def _row(self, items: Sequence[_Part], cut: int) -> _Row:
        row = _Row()
        for index, item in enumerate(items):
            label, star, count = item.text.rpartition("*")
            if star and re.fullmatch(r"[0-9]{1,6}", count.strip()):
                self._run(row, label.strip() or self.dialect.background, int(count), item)
            elif self.resolve(item.text) is None:
                self.unknown.setdefault(item.text)
            elif index == cut:
                self.exact = False
            else:
                self._say(row, item.text, 1, item)
        return row

    def _run(self, row: _Row, label: str, count: int, item: _Part) -> None:
        most = self.shape[0] * self.shape[1]
        self.exact = self.exact and count <= most
        if self.resolve(label) is None:
            self.unknown.setdefault(label)
        self._say(row, label, min(count, most), item)

    def _say(self, row: _Row, label: str, count: int, item: _Part) -> None:
        row.cells += [len(self.labels)] * count
        row.runs = True
        self.labels.append(label)
        self.spans.append((item.start, item.start + len(item.text)))

    def _row_mark(self) -> str:
        return re.escape(self.dialect.row.strip() or "\n") + r"|\n"

    def _item_mark(self) -> str:
        return self.dialect.item.strip()


def decode(
    text: str, shape: tuple[int, int], vocabulary: Sequence[str], *, referring: bool, dialect: Dialect = TEXT4SEG
) -> Decoded:
    """Read a whole answer of a model, each row by itself: a wrong count shifts nothing but its own row.

    Args:
        text: The answer, with its tags and whatever stands around them.
        shape: (h, w), rows and columns of the grid.
        vocabulary: The background, then what was asked for.
        referring: Whether one thing was asked for: then every label but the background means it.
        dialect: How the model spells.

    Returns:
        The grid, all background where the answer could not be read.
    """
    payload, closed = _payload(text)
    if payload is None:
        return _nothing(shape, "missing")
    reader = _Reader(shape, vocabulary, dialect)
    reader.exact = closed
    # as many characters as before, so that places in the text stay what they are
    plain = payload.text.replace(OPEN, " " * len(OPEN)).replace("\r\n", " \n").replace("\r", "\n").translate(_WIDE)
    if not plain.strip():
        return _nothing(shape, "empty")
    rows = reader.rows(reader.lines(_Part(plain, payload.start)), closed=closed)
    if not any(row.runs for row in rows):
        return replace(_nothing(shape, "unparsable"), unknown=tuple(reader.unknown))
    aligned = _aligned([row.cells for row in rows], shape)
    exact = reader.exact and not aligned.filled and not reader.unknown and aligned.fits
    ids = np.array([_id(reader, label, referring=referring) for label in reader.labels] + [0], np.int64)
    grid = ids[aligned.labels]  # the last of them, 0, is for rows that say nothing
    return Decoded(grid, "ok", exact, tuple(reader.unknown), aligned.filled, aligned.items, tuple(reader.spans))


def _nothing(shape: tuple[int, int], status: Status) -> Decoded:
    """Return an answer that could not be read: all background."""
    return Decoded(np.zeros(shape, np.int64), status, exact=False, items=np.full(shape, -1, np.int64))


def _id(reader: _Reader, label: str, *, referring: bool) -> int:
    found = reader.resolve(label)
    return int(found != 0) if referring else found or 0


def _payload(text: str) -> tuple[_Part | None, bool]:
    """Return what stands between the tags, None without the first, and whether the second is there."""
    before, opened, rest = text.partition(OPEN)
    payload, closed, _ = rest.partition(CLOSE)
    return (_Part(payload, len(before) + len(OPEN)) if opened else None), bool(closed)


@dataclass(frozen=True, slots=True)
class _Aligned:
    """The cells of an answer, brought to the shape of the grid."""

    labels: Ids
    """int64 (h, w): the item whose label each cell has, -1 for none."""
    items: Ids
    """int64 (h, w): the item that says it, -1 for cells that were filled."""
    filled: int
    fits: bool
    """Whether nothing had to be cut."""


def _aligned(rows: list[list[int]], shape: tuple[int, int]) -> _Aligned:
    """Bring rows of items to (h, w)."""
    height, width = shape
    flat = len(rows) == 1 and height > 1 and len(rows[0]) > width
    every = [rows[0]] if flat else [*rows[:height], *([[]] * (height - len(rows)))]
    wanted = height * width if flat else width
    pairs = [_lengthened(cells, wanted) for cells in every]
    labels = np.array([pair[0] for pair in pairs], np.int64).reshape(shape)
    items = np.array([pair[1] for pair in pairs], np.int64).reshape(shape)
    filled = sum(max(wanted - len(cells), 0) for cells in every)
    fits = (flat or len(rows) <= height) and all(len(cells) <= wanted for cells in rows)
    return _Aligned(labels, items, filled, fits)


def _lengthened(cells: list[int], wanted: int) -> tuple[list[int], list[int]]:
    """Cut cells, or fill them with the last of them: the items whose labels they have, and those that say them."""
    missing = max(wanted - len(cells), 0)
    return (cells + (cells[-1:] or [-1]) * missing)[:wanted], (cells + [-1] * missing)[:wanted]


@dataclass(frozen=True, slots=True)
class Strict:
    """What the reference implementation reads out of an answer, defects included."""

    cells: int
    """Cells in the answer, before it was filled or cut."""
    ids: Ids
    """int64 (h, w): labels numbered by appearance, ``others`` first."""
    referring: Ids
    """int64 (h, w): 1 where the number is above 0."""
    semantic: Ids
    """int64 (h, w): place in the vocabulary, 0 for unknown labels."""


def decode_strict(text: str, shape: tuple[int, int], vocabulary: Sequence[str]) -> Strict:
    """Read an answer as the reference does (for parity only): any defect spoils all of it.

    Args:
        text: The answer.
        shape: (h, w).
        vocabulary: The background, then the classes.

    Raises:
        IndexError: No payload.
        ValueError: What else the reference cannot read; in both cases it takes the whole grid for background.
    """
    payload = text.strip().split(OPEN)[1].partition(CLOSE)[0]  # nothing, between two opening tags
    joined = "|".join(
        "|".join([label] * int(count))
        for row in payload.strip("\n").split("\n ")
        for label, count in _strict_items(row.split("| "))
        if int(count) > 0
    )
    cells = [cell.strip() for cell in joined.split("|")]
    wanted = shape[0] * shape[1]
    full = (cells + cells[-1:] * (wanted - len(cells)))[:wanted]
    order = list(dict.fromkeys(full))
    if BACKGROUND in order:
        order = [BACKGROUND, *(label for label in order if label != BACKGROUND)]
    ids = np.array([order.index(cell) for cell in full], np.int64).reshape(shape)
    places = {label: index for index, label in reversed([*enumerate(vocabulary)])}
    semantic = np.array([places.get(cell, 0) for cell in full], np.int64).reshape(shape)
    return Strict(len(cells), ids, (ids > 0).astype(np.int64), semantic)


def _strict_items(items: Iterable[str]) -> Iterator[tuple[str, str]]:
    for item in items:
        label, count = item.split(" *")
        yield label, count
