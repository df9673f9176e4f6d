"""Questions to a language model, and answers while they are written: greedily, and by a grammar if there is one.

Where a grammar leaves one token, nothing is asked: the token is taken, and read together with what follows
(jump-forward).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from geovl.errors import ModelError


class Constraint(Protocol):
    """What an answer may be; :class:`geovl.segmenters.text_as_mask.automaton.Automaton` is one."""

    def start(self) -> Any:
        """Return the state before anything is written."""
        ...

    def allowed(self, state: Any) -> Sequence[int]:
        """Return the ids that may follow; none when the answer is complete."""
        ...

    def advance(self, state: Any, token: int) -> Any:
        """Return the state behind a token."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A prompt as a model takes it."""

    ids: Sequence[int]
    """Of the whole prompt; every token of a picture has the id of its placeholder."""
    images: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model takes of its pictures, by the names of its arguments: ``pixel_values``, ``image_grid_thw``, ... Of
    several requests they are joined along their first axis."""
    token_types: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model takes for each token, int64 (1, tokens): ``mm_token_type_ids``, ``token_type_ids``."""
    constraint: Constraint | None = None
    """Where None, any token may follow, and the answer ends at one of the stops."""

    def __post_init__(self) -> None:
        if not len(self.ids):
            msg = "A prompt needs at least one token, got none"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer."""

    tokens: tuple[int, ...]
    """What was written, without the stop that ended it."""
    log_probs: tuple[float, ...]
    """Natural logarithm of each token's chance among those that were allowed, at most 0: how sure the model was of its
    choice. 0 where it was forced. Without a constraint the same as ``free``."""
    free: tuple[float, ...]
    """The same among all tokens: low where the model would have written something else altogether. 0 where forced, as
    nothing was asked."""
    forced: tuple[bool, ...]
    """Which tokens were the only ones allowed."""
    steps: int
    """Passes through the model that it took part in, the one over its prompt among them, the one over what it shares
    with others not."""
    finished: bool
    """It came to its end; otherwise it was cut at the most tokens allowed."""


class Choice(NamedTuple):
    """The likeliest token."""

    token: int
    log_prob: float
    """Among those allowed."""
    free: float
    """Among all."""


class Answer:
    """An answer while it is written.

    Args:
        request: What is asked.
        new_tokens: The most tokens it may have.
        stops: Ids that end it where it has no constraint.
    """

    def __init__(self, request: Request, new_tokens: int, stops: frozenset[int]) -> None:
        self.request = request
        self.feed: list[int] = []
        """Tokens of the answer that the model has not read."""
        self.steps = 0
        self.done = self.finished = False
        self._most, self._stops = new_tokens, stops
        self._tokens: list[int] = []
        self._chances: list[tuple[float, float]] = []
        self._forced: list[bool] = []
        self._state = None if request.constraint is None else request.constraint.start()
        self._force()

    @property
    def allowed(self) -> Sequence[int] | None:
        """Ids that may follow; None for any."""
        constraint = self.request.constraint
        return None if constraint is None else constraint.allowed(self._state)

    def take(self, choice: Choice) -> None:
        """Go on with a token, and with all that must follow it."""
        if self.request.constraint is None and choice.token in self._stops:
            self.done = self.finished = True
            return
        self._add(choice.token, (choice.log_prob, choice.free), forced=False)
        self._force()

    def generated(self) -> Generated:
        """Return the answer as it stands."""
        log_probs, free = zip(*self._chances, strict=True) if self._chances else ((), ())
        return Generated(tuple(self._tokens), log_probs, free, tuple(self._forced), self.steps, self.finished)

    def _force(self) -> None:
        """Take tokens as long as there is no choice, and see whether that was the end."""
        while not self.done:
            allowed = self.allowed
            self.finished = allowed is not None and not allowed
            self.done = self.finished or len(self._tokens) >= self._most
            if self.done or allowed is None or len(allowed) > 1:
                return
            self._add(allowed[0], (0.0, 0.0), forced=True)

    def _add(self, token: int, chances: tuple[float, float], *, forced: bool) -> None:
        if self.request.constraint is not None:
            self._state = self.request.constraint.advance(self._state, token)
        self._tokens.append(token)
        self._chances.append(chances)
        self._forced.append(forced)
        self.feed.append(token)


def choose(scores: Tensor, allowed: Sequence[Sequence[int] | None]) -> list[Choice]:
    """Return the likeliest token of each row.

    Args:
        scores: float32 (b, vocabulary).
        allowed: For each row the ids that it may be, at least one; None for all.

    Raises:
        ModelError: Scores that are no numbers.
    """
    if any(ids is not None for ids in allowed):
        scores = scores.cpu()  # once, not for every row
    totals = scores.logsumexp(-1).tolist()
    if not all(map(math.isfinite, totals)):
        msg = "The model gave scores that are no numbers."
        raise ModelError(msg, "Its weights may need more precision: --set precision=float32.")
    values, tokens = (part.tolist() for part in scores.max(-1))
    found = []
    for row, (ids, total) in enumerate(zip(allowed, totals, strict=True)):
        if ids is None:
            chance = min(0.0, values[row] - total)  # rounding may leave more than certainty
            found.append(Choice(tokens[row], chance, chance))
        else:
            found.append(_among(scores[row], ids, total))
    return found


def _among(scores: Tensor, ids: Sequence[int], total: float) -> Choice:
    """Return the likeliest of some tokens."""
    some = scores[torch.tensor(ids)]
    place = int(some.argmax())
    value = float(some[place])
    return Choice(ids[place], min(0.0, value - float(some.logsumexp(0))), min(0.0, value - total))


def advance(answers: Sequence[Answer], scores: Tensor) -> None:
    """Let answers go on by one choice each.

    Args:
        answers: None of them done.
        scores: Behind what they have read, float32 (answers, vocabulary).
    """
    for answer, choice in zip(answers, choose(scores, [answer.allowed for answer in answers]), strict=True):
        answer.take(choice)
