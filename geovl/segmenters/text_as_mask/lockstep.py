"""Greedy decoding by a model's own attention: for models whose requests cannot be read side by side.

Requests with prompts of the same length go together, a token each at a time, so that there is no padding that a model
could treat in a way of its own.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from geovl.segmenters.text_as_mask.answers import Answer, advance
from geovl.segmenters.text_as_mask.network import Network

_GROWTH = 1.5  # so that all copies together are at most two of what is there in the end
_ROOM = 64  # tokens


class InPlaceLayer(DynamicLayer):  # type: ignore[misc] # of transformers, which mypy is told to skip
    """A layer of transformers' growing cache that does not copy all it holds with every token."""

    keys: Tensor
    values: Tensor
    is_initialized: bool
    _room: list[Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Take keys and values (b, H_kv, L, d) in and return all, (b, H_kv, T, d)."""
        before = self.keys.shape[2] if self.is_initialized else 0
        length = before + key_states.shape[2]
        if not self.is_initialized or length > self._room[0].shape[2]:
            self._grow(key_states, value_states, int(length * _GROWTH) + _ROOM)
        self.keys, self.values = (store[:, :, :length] for store in self._room)
        self.keys[:, :, before:] = key_states
        self.values[:, :, before:] = value_states
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these requests, in this order."""
        length = self.keys.shape[2]
        self._room = [store.index_select(0, beam_idx.to(store.device)) for store in self._room]
        self.keys, self.values = (store[:, :, :length] for store in self._room)

    def _grow(self, keys: Tensor, values: Tensor, room: int) -> None:
        old = (self.keys, self.values) if self.is_initialized else (keys[:, :, :0], values[:, :, :0])
        self._room = [part.new_empty(*part.shape[:2], room, part.shape[3]) for part in old]
        for store, part in zip(self._room, old, strict=True):
            store[:, :, : part.shape[2]] = part
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True


def decode(network: Network, answers: Sequence[Answer]) -> None:
    """Write answers to their ends.

    Args:
        network: The model.
        answers: Just begun.
    """
    for group in _alike(answers):
        _decode(network, group)


def _alike(answers: Sequence[Answer]) -> Iterator[list[Answer]]:
    """Yield answers to prompts of the same length that give the model the same kinds of things."""

    def kind(answer: Answer) -> tuple[int, list[str], list[str]]:
        request = answer.request
        return len(request.ids), sorted(request.images), sorted(request.token_types)

    for _, group in groupby(sorted((one for one in answers if not one.done), key=kind), key=kind):
        yield list(group)


def _decode(network: Network, group: list[Answer]) -> None:
    cache = _cache(network)
    shrinks = network.axes == 1  # models with several axes keep an offset for each request, out of reach
    told: dict[str, Any] = {**_joined([one.request.images for one in group])}
    told |= _joined([one.request.token_types for one in group])
    ids = [list(one.request.ids) for one in group]
    while True:
        scores = _read(network, cache, ids, told)
        for answer in group:
            answer.steps += int(not answer.done)
        asked = [place for place, answer in enumerate(group) if not answer.done and not answer.feed]
        if asked:
            advance([group[place] for place in asked], scores[asked])
        kept = [place for place, answer in enumerate(group) if not answer.done]
        if not kept:
            return
        if shrinks and len(kept) < len(group):
            cache.reorder_cache(torch.tensor(kept))
            group = [group[place] for place in kept]
        ids = [[answer.feed.pop(0) if answer.feed else 0] for answer in group]
        told = {}


def _read(network: Network, cache: Any, ids: list[list[int]], told: dict[str, Any]) -> Tensor:
    """Return the scores behind the last tokens, float32 (b, vocabulary)."""
    if "logits_to_keep" in network.parameters:
        told = {**told, "logits_to_keep": 1}
    given = torch.tensor(ids, device=network.model.device)
    found = network.model(input_ids=given, **told, **{network.cache_name: cache}, use_cache=True)
    logits: Tensor = found.logits
    return logits[:, -1].float()


def _joined(parts: Sequence[Any]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _cache(network: Network) -> Any:
    """Return transformers' own cache for a model, its layers of full attention replaced by ones that copy less."""
    cache = DynamicCache(config=network.text)
    cache.layers = [InPlaceLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:
        cache.layer_class_to_replicate = InPlaceLayer
    return cache
