"""Greedy answers to many requests at once, by a decoding loop of its own.

What requests begin with alike is read once. Their own tokens stand in caches with room to grow: transformers' growing
caches copy all they hold with every token, which costs more than everything else. The tokens of all requests go through
the model in one row without padding, so that requests may be of different lengths and may take different numbers of
forced tokens at once; those that are done leave. With enough requests and a long enough beginning, relay attention
reads that beginning once a step for all of them; see :mod:`geovl.segmenters.text_as_mask.relay`.

Models that this does not fit, see :mod:`geovl.segmenters.text_as_mask.sharing`, are decoded by their own attention.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geovl.segmenters.text_as_mask import lockstep
from geovl.segmenters.text_as_mask.answers import Answer, Constraint, Generated, Request, advance
from geovl.segmenters.text_as_mask.cache import Prefix, Ragged
from geovl.segmenters.text_as_mask.network import Network, Piece
from geovl.segmenters.text_as_mask.relay import fused_works
from geovl.segmenters.text_as_mask.sharing import (
    Share,
    read_prefix,
    shared_length,
    unsuitable,
    warn_once,
    why_nothing,
)

__all__ = ["Constraint", "Decoder", "Generated", "Request", "Settings", "Share", "generate"]

RELAY_REQUESTS, RELAY_TOKENS = 8, 256
"""From how many requests and shared tokens on relay attention pays."""
_WORTH = 64  # tokens that need not be read twice: a pass of its own for the beginning costs about as much


@dataclass(frozen=True, slots=True)
class Settings:
    """How to decode."""

    new_tokens: int = 3069
    """The most tokens of an answer; as many as Text4Seg's evaluation allows."""
    stops: frozenset[int] | None = None
    """Ids that end an answer without a constraint; None: as the model's own settings say."""
    share: Share | None = None
    """What requests share at most; None: as much as they can."""
    relay: bool | None = None
    """Read the shared beginning once a step, by relay attention; None: where that pays."""
    tokens_at_once: int = 4096
    """The most tokens of prompts in one pass, where they are of several requests: bounds memory."""

    def __post_init__(self) -> None:
        if self.new_tokens < 0 or self.tokens_at_once < 1:
            msg = f"Tokens must be at least 0 new and 1 at once, got {self.new_tokens} and {self.tokens_at_once}"
            raise ValueError(msg)


def generate(model: Any, requests: Sequence[Request], settings: Settings | None = None) -> list[Generated]:
    """Answer requests.

    Args:
        model: Of transformers: a causal language model, or one that takes pictures too; in evaluation mode.
        requests: What is asked; they go through the model together.
        settings: How to decode.

    Returns:
        An answer for each, in order.

    Raises:
        ModelError: The model gave scores that are no numbers.
    """
    return Decoder(model, settings, keeps=False).generate(requests)


class Decoder:
    """Answers batch after batch; what one batch began with is there for the next.

    Args:
        model: Of transformers: a causal language model, or one that takes pictures too; in evaluation mode. Its weights
            must not change.
        settings: How to decode.
        keeps: Keep the keys of a beginning for later batches.
    """

    def __init__(self, model: Any, settings: Settings | None = None, *, keeps: bool = True) -> None:
        self.network = Network(model)
        self.settings = settings or Settings()
        self._keeps = keeps
        self._prefix: Prefix | None = None

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """Answer requests, which go through the model together.

        Returns:
            An answer for each, in order.

        Raises:
            ModelError: The model gave scores that are no numbers.
        """
        settings = self.settings
        stops = self.network.stops if settings.stops is None else settings.stops
        answers = [Answer(request, settings.new_tokens, stops) for request in requests]
        active = [answer for answer in answers if not answer.done]
        if active:
            with torch.inference_mode():
                self._write(active)
        return [answer.generated() for answer in answers]

    def _write(self, answers: list[Answer]) -> None:
        longest = max(len(answer.request.ids) for answer in answers) + self.settings.new_tokens
        reason = unsuitable(self.network, longest)
        if reason is not None:
            warn_once(self.network.model, reason)
            lockstep.decode(self.network, answers)
            return
        places = [_positions(self.network, answer.request) for answer in answers]
        prefix = self._shared(answers, places[0])
        room = max(len(answer.request.ids) for answer in answers) - _length(prefix) + _WORTH
        relay = self._relays(len(answers), prefix)
        cache = Ragged(len(answers), room, prefix, relay=relay, device=self.network.model.device)
        batch = Batch(self.network, cache, answers, places)
        batch.begin(_length(prefix), self.settings.tokens_at_once)
        while batch.answers:
            batch.step()

    def _relays(self, requests: int, prefix: Prefix | None) -> bool:
        """Tell whether to read the shared beginning by relay attention."""
        if prefix is None:
            return False
        if self.settings.relay is not None:
            return self.settings.relay
        fused = self.network.model.device.type == "cpu" and fused_works()
        return fused and requests >= RELAY_REQUESTS and len(prefix) >= RELAY_TOKENS

    def _shared(self, answers: list[Answer], places: Tensor) -> Prefix | None:
        """Return what requests begin with, read before or now; None where that does not pay."""
        requests = [answer.request for answer in answers]
        prompts, images = [request.ids for request in requests], [request.images for request in requests]
        network, share = self.network, self.settings.share
        length = shared_length(prompts, images, network.placeholders, share)
        known = self._known(prompts, images)
        if known is not None and (length - len(known)) * (len(requests) - 1) < _WORTH:
            return known
        if not length and (self.settings.relay or share == "tile"):
            warn_once(network.model, why_nothing(images, network.placeholders))
        saved = length * (len(requests) - 1 + int(self._keeps))
        if not length or (saved < _WORTH and not self.settings.relay):
            return None
        begun = prompts[0][:length]
        shown = requests[0].images if network.placeholders.intersection(begun) else {}
        prefix = read_prefix(network, begun, places[:, :length], shown)
        self._prefix = prefix if self._keeps else None
        return prefix

    def _known(self, prompts: list[Sequence[int]], images: list[Mapping[str, Tensor]]) -> Prefix | None:
        """Return what these requests begin with of what earlier ones began with, None if nothing."""
        if self._prefix is None:
            return None
        told = self._prefix
        # one token more than there is, as every prompt keeps one
        ids, shown = [*told.ids, -1], told.images or images[0]
        length = shared_length([ids, *prompts], [shown, *images], self.network.placeholders, self.settings.share)
        return told.cropped(length) if length else None


class Batch:
    """Requests that are decoded together.

    Args:
        network: The model.
        cache: For as many requests.
        answers: Just begun, one for each.
        places: Positions of their whole prompts, int64 (axes, tokens) each.
    """

    def __init__(self, network: Network, cache: Ragged, answers: list[Answer], places: list[Tensor]) -> None:
        self.answers = list(answers)
        """Those that are not done, in the order of the cache."""
        self._network, self._cache, self._places = network, cache, places
        self._next = [int(positions.max()) + 1 for positions in places]

    def begin(self, start: int, tokens_at_once: int) -> None:
        """Read prompts, behind what all begin with, and choose first tokens.

        Args:
            start: Tokens that all begin with.
            tokens_at_once: The most in one pass, if they are of several requests.
        """
        for rows in _groups([answer.request for answer in self.answers], start, tokens_at_once):
            some = [self.answers[row] for row in rows]
            pieces = [self._prompt(row, start) for row in rows]
            now = self._cache.plan([len(piece.ids) for piece in pieces], rows)
            shown = [_shown(answer.request, start, self._network.placeholders) for answer in some]
            images = {name: torch.cat([one[name] for one in shown]) for name in shown[0]}
            self._go_on(some, self._network.read(pieces, self._cache, now.last, images))
        self._leave()

    def step(self) -> None:
        """Read what was chosen last, and choose next tokens."""
        pieces = [self._fed(row) for row in range(len(self.answers))]
        now = self._cache.plan([len(piece.ids) for piece in pieces])
        self._go_on(self.answers, self._network.read(pieces, self._cache, now.last))
        self._leave()

    def _prompt(self, row: int, start: int) -> Piece:
        """Return what is left of a prompt, and what the answer must begin with."""
        fed = self._fed(row)
        ids = [*self.answers[row].request.ids[start:], *fed.ids]
        return Piece(ids, torch.cat([self._places[row][:, start:], fed.positions], 1))

    def _fed(self, row: int) -> Piece:
        """Return the tokens of an answer that the model has not read."""
        ids, self.answers[row].feed = self.answers[row].feed, []
        first = self._next[row]
        self._next[row] += len(ids)
        return Piece(ids, torch.arange(first, first + len(ids)).expand(self._network.axes, -1))

    def _go_on(self, answers: list[Answer], scores: Tensor) -> None:
        for answer in answers:
            answer.steps += 1
        advance(answers, scores)

    def _leave(self) -> None:
        """Let answers that are done make place: the last one moves there."""
        for row in reversed(range(len(self.answers))):
            if self.answers[row].done:
                self._cache.drop(row)
                self.answers[row], self._next[row] = self.answers[-1], self._next[-1]
                self.answers.pop()
                self._next.pop()


def _groups(requests: Sequence[Request], start: int, tokens: int) -> Iterator[list[int]]:
    """Yield requests that may be read in one pass: their pictures can be joined, and they are not too long together."""
    group: list[int] = []
    used, kind = 0, None
    for row, request in enumerate(requests):
        length, own = len(request.ids) - start, {name: tuple(one.shape[1:]) for name, one in request.images.items()}
        if group and (own != kind or used + length > tokens):
            yield group
            group, used = [], 0
        group, used, kind = [*group, row], used + length, own
    yield group


def _shown(request: Request, start: int, placeholders: frozenset[int]) -> Mapping[str, Tensor]:
    """Return what the model takes of the pictures behind the beginning."""
    return request.images if placeholders.intersection(request.ids[start:]) else {}


def _positions(network: Network, request: Request) -> Tensor:
    """Return the positions of a whole prompt, int64 (axes, tokens)."""
    return network.positions(request.ids, {**request.images, **request.token_types} if request.images else {})


def _length(prefix: Prefix | None) -> int:
    return 0 if prefix is None else len(prefix)
