"""The grammar of descriptors over the tokens of a tokenizer: what may be written next, so that every answer parses.

With the labels and the shape of the grid known, the text is a regular language: a state is the row, the cells left in
it, the label before, and the tokens of the piece that is being written. Where only one token may follow, nothing needs
to be sampled (jump-forward).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from geovl.errors import ModelError
from geovl.segmenters.text_as_mask.dialects import CLOSE, OPEN, TEXT4SEG, Dialect
from geovl.segmenters.text_as_mask.grammar import check_vocabulary, spelled

Phase = Literal["opening", "first", "item", "row", "count", "end"]
Tokens = tuple[int, ...]


class Tokenizer(Protocol):
    """What is needed of a tokenizer; those of transformers fit."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ids."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """Where in an answer a writer stands."""

    phase: Phase
    row: int
    """Of the run that is being written."""
    left: int
    """Cells of the row that no run has yet; a run is counted once its count is complete."""
    label: int
    """Of the last run: the next one in the row must differ."""
    path: Tokens
    """Tokens of the piece so far."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an answer, and the tokens that said it."""

    row: int
    label: int
    count: int
    label_tokens: tuple[int, int]
    """First and stop: where its label stands, with the separator before it."""
    count_tokens: tuple[int, int]
    """First and stop of its count."""


class Automaton:
    """What may follow what; fits the constraint of :mod:`geovl.segmenters.text_as_mask.generate`.

    Args:
        tokenizer: Of the model.
        vocabulary: The background, then the labels.
        shape: (h, w).
        dialect: How the model spells.
        opening: What the answer begins with, with the tag that opens the payload.

    Raises:
        PromptError: A label that could not be read back.
        ModelError: The tokenizer does not give back what it is given.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocabulary: Sequence[str], shape: tuple[int, int], dialect: Dialect = TEXT4SEG,
        opening: str = OPEN,
    ) -> None:  # fmt: skip
        self.shape = shape
        self.dialect = dialect
        self.labels = spelled(check_vocabulary(vocabulary, dialect), dialect)
        self._tokenizer = tokenizer
        self._opening = opening
        self._allowed: dict[State, Tokens] = {}

    @cached_property
    def _pieces(self) -> dict[Phase, list[tuple[Tokens, int]]]:
        """The spellings of each phase and what they mean: a place in the labels, or a count."""
        run = self.labels[0] + self.dialect.count + "1"
        opened = self._opening
        lead: dict[Phase, tuple[str, str]] = {
            "first": (opened, ""), "item": (opened + run, self.dialect.item), "row": (opened + run, self.dialect.row),
        }  # fmt: skip
        pieces: dict[Phase, list[tuple[Tokens, int]]] = {
            phase: [(self._within(context, mark + label), index) for index, label in enumerate(self.labels)]
            for phase, (context, mark) in lead.items()
        }
        named = opened + self.labels[0]
        pieces["count"] = [(self._within(named, f"{self.dialect.count}{n}"), n) for n in range(1, self.shape[1] + 1)]
        pieces["end"] = [(self._within(opened + run, self.dialect.end + CLOSE), 0)]
        pieces["opening"] = [(self._within("", opened), 0)]
        for phase, some in pieces.items():
            if len({tokens for tokens, _ in some}) != len(some):
                msg = f"The tokenizer spells two {'counts' if phase == 'count' else 'labels'} alike: {self.labels}."
                raise ModelError(msg, "Say them in other words.")
        return pieces

    def _within(self, context: str, piece: str) -> Tokens:
        """Return the tokens of a piece as they are behind a context."""
        before = self._tokenizer.encode(context, add_special_tokens=False) if context else []
        both = self._tokenizer.encode(context + piece, add_special_tokens=False)
        tokens = tuple(both[len(before) :])
        if both[: len(before)] != before:  # something merges across the border: the piece by itself, then
            tokens = tuple(self._tokenizer.encode(piece, add_special_tokens=False))
        if (
            not tokens
            or self._tokenizer.decode([*before, *tokens], skip_special_tokens=False).strip()
            != (self._tokenizer.decode(before, skip_special_tokens=False) + piece).strip()
        ):
            msg = f"The tokenizer does not give back {piece!r}; its answers cannot be constrained."
            raise ModelError(msg, "Use --set constrained=false.")
        return tokens

    def start(self) -> State:
        """Return the state before anything is written."""
        return State("opening" if self._opening else "first", 0, self.shape[1], -1, ())

    def allowed(self, state: State) -> Tokens:
        """Return the tokens that may follow, sorted; none when the answer is complete."""
        found = self._allowed.get(state)
        if found is None:
            options = {tokens[len(state.path)] for tokens, _ in self._going_on(state)}
            done = self._done(state)
            if done is not None and (following := self._next(state, done)) is not None:
                options |= {tokens[0] for tokens, _ in self._going_on(following)}
            found = self._allowed[state] = tuple(sorted(options))
        return found

    def advance(self, state: State, token: int) -> State:
        """Return the state after a token.

        Raises:
            ValueError: The token may not follow.
        """
        path = (*state.path, token)
        if any(tokens[: len(path)] == path for tokens, _ in self._going_on(state)):
            return replace(state, path=path)
        done = self._done(state)
        following = None if done is None else self._next(state, done)
        if following is None or not any(tokens[0] == token for tokens, _ in self._going_on(following)):
            msg = f"token {token} may not follow {state}"
            raise ValueError(msg)
        return replace(following, path=(token,))

    def _going_on(self, state: State) -> list[tuple[Tokens, int]]:
        """Return the spellings that the path of a state may still become."""
        size = len(state.path)
        return [
            (tokens, value) for tokens, value in self._pieces[state.phase]
            if len(tokens) > size and tokens[:size] == state.path and self._fits(state, value)
        ]  # fmt: skip

    def _fits(self, state: State, value: int) -> bool:
        if state.phase == "count":
            return value <= state.left
        return state.phase != "item" or value != state.label

    def _done(self, state: State) -> int | None:
        """Return what the path of a state means if it is a whole piece."""
        mine = ((tokens, value) for tokens, value in self._pieces[state.phase] if self._fits(state, value))
        return next((value for tokens, value in mine if tokens == state.path), None)

    def _next(self, state: State, value: int) -> State | None:
        """Return the state before the next piece, once a piece is whole; None behind the end."""
        if state.phase == "opening":
            return replace(state, phase="first", path=())
        if state.phase in {"first", "item", "row"}:
            return replace(state, phase="count", label=value, path=())
        if state.phase == "end":
            return None
        left = state.left - value
        if left:
            return replace(state, phase="item", left=left, path=())
        if state.row + 1 == self.shape[0]:
            return replace(state, phase="end", left=0, path=())
        return State("row", state.row + 1, self.shape[1], -1, ())

    def complete(self, state: State) -> bool:
        """Whether nothing may follow."""
        return not self.allowed(state)

    def runs(self, tokens: Sequence[int]) -> Iterator[Run]:
        """Yield the runs that tokens of an answer say; an answer that was cut off ends with its last whole run.

        Raises:
            ValueError: Tokens that may not follow each other.
        """
        states = [self.start()]
        for token in tokens:
            states.append(self.advance(states[-1], token))
        states.append(State("end", 0, 0, -1, ()))
        began = label_at = 0
        for place, (state, following) in enumerate(pairwise(states)):
            if state.phase == following.phase and len(following.path) > len(state.path):
                continue  # within a piece
            value = self._done(state)
            if state.phase == "count" and value is not None:
                yield Run(state.row, state.label, value, (label_at, began), (began, place))
            label_at, began = (began if state.phase in {"first", "item", "row"} else label_at), max(place, 0)

    def grid(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Return the grid of a whole answer, int64 (h, w); cells that it does not reach are background.

        Raises:
            ValueError: Tokens that may not follow each other.
        """
        grid = np.zeros(self.shape, np.int64)
        filled = [0] * self.shape[0]
        for run in self.runs(tokens):
            grid[run.row, filled[run.row] : filled[run.row] + run.count] = run.label
            filled[run.row] += run.count
        return grid

    def tokens(self, grid: NDArray[np.integer]) -> list[int]:
        """Return the tokens of a grid, piece by piece: the inverse of :meth:`grid`."""
        found = list(self._pieces["opening"][0][0]) if self._opening else []
        spell = {phase: {value: tokens for tokens, value in some} for phase, some in self._pieces.items()}
        for row, cells in enumerate(grid.tolist()):
            starts = [0, *(i for i, (a, b) in enumerate(pairwise(cells), 1) if a != b), len(cells)]
            for first, stop in pairwise(starts):
                phase: Phase = "item" if first else "row" if row else "first"
                found += [*spell[phase][cells[first]], *spell["count"][stop - first]]
        return [*found, *spell["end"][0]]
