"""Answers of a multimodal language model in this process, through transformers."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from geovl.segmenters.devices import torch_device
from geovl.segmenters.text_as_mask import generate
from geovl.segmenters.text_as_mask.automaton import Automaton
from geovl.segmenters.text_as_mask.engines import MOST_TOKENS, Asked
from geovl.segmenters.text_as_mask.generate import Decoder, Generated, Request
from geovl.segmenters.text_as_mask.models import Mllm, load, memory, prepare
from geovl.segmenters.text_as_mask.prompts import Question, answer_prefix, token_budget
from geovl.segmenters.text_as_mask.reading import Said
from geovl.segmenters.text_as_mask.settings import Settings
from geovl.types import ModelRecord

_BATCH = {"cpu": 4}
"""Chips at once by kind of device; on others eight, from which relay attention pays."""
_SAMPLES, _SAMPLE = 64, 65_536
"""Blocks of each file of weights that its fingerprint looks at, and bytes of each."""


class LocalEngine:
    """Loads a model and asks it.

    Args:
        record: Names the weights.
        settings: How it is asked.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ModelError: The weights are missing, damaged or of another kind, or the device is not there.
    """

    def __init__(self, record: ModelRecord, settings: Settings, device: str) -> None:
        where = torch_device(device)
        source = record.source if record.revision is None else f"{record.source}@{record.revision}"
        self._mllm = load(
            source, device=where, precision=settings.precision, envelope=settings.envelope, side=settings.side or None
        )
        self._settings = settings
        self.batch = _BATCH.get(where.type, 8)
        self.name = fingerprint(self._mllm.files)
        self._grammar = lru_cache(256)(self._new_grammar)
        self._decoders: dict[int, Decoder] = {}

    def answer(self, asked: Sequence[Asked]) -> list[Said]:
        """Return an answer for each question, in order; see :class:`~geovl.segmenters.text_as_mask.engines.Engine`.

        Raises:
            PromptError: A prompt that is longer than the model takes.
            OutOfMemoryError: The questions do not fit into the memory of the device together.
        """
        if not asked:
            return []
        with memory(self._mllm.name):
            requests = [self._request(one) for one in asked]
            budget = max(self._budget(one.question) for one in asked)
            longest = max(len(request.ids) for request in requests)
            if self._mllm.context is not None:
                budget = min(budget, self._mllm.context - longest)
            found = self._decoder(budget).generate(requests)
        return [said(self._mllm.tokenizer, one) for one in found]

    def _request(self, asked: Asked) -> Request:
        given = prepare(self._mllm, asked.pixels, asked.question)
        grammar = self._grammar(asked.question) if self._settings.constrained and asked.question.names else None
        return Request(given.ids, given.images, given.token_types, grammar)

    def _new_grammar(self, question: Question) -> Automaton:
        shape = (self._settings.grid, self._settings.grid)
        opening = answer_prefix(question)
        return Automaton(self._mllm.tokenizer, question.vocabulary, shape, question.dialect, opening)

    def _budget(self, question: Question) -> int:
        """Return the most tokens of an answer."""
        if self._settings.tokens:
            return self._settings.tokens
        shape = (self._settings.grid, self._settings.grid)
        opening = answer_prefix(question)
        worst = token_budget(self._mllm.tokenizer, question.vocabulary, shape, question.dialect, opening)
        return min(worst, MOST_TOKENS)

    def _decoder(self, tokens: int) -> Decoder:
        if tokens not in self._decoders:
            relay = {"auto": None, "on": True, "off": False}[self._settings.relay]
            stops = frozenset(self._mllm.stops)
            self._decoders[tokens] = Decoder(self._mllm.model, generate.Settings(tokens, stops, relay=relay))
        return self._decoders[tokens]

    @property
    def model(self) -> Mllm:
        """The model, for looking at."""
        return self._mllm


def said(tokenizer: Any, answer: Generated) -> Said:
    """Return an answer as text, with the probability of each of its tokens."""
    ids = list(answer.tokens)
    text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    stops = _stops(tokenizer, ids, text)
    pieces = tuple(text[first:stop].encode() for first, stop in zip([0, *stops], stops, strict=False))
    return Said(text, tuple(zip(pieces, answer.log_probs, strict=True)), cut=not answer.finished)


def _stops(tokenizer: Any, ids: list[int], text: str) -> list[int]:
    """Return how many characters of a text have been written after each of its tokens."""
    if not ids:
        return []
    if getattr(tokenizer, "is_fast", False):
        again = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if list(again["input_ids"]) == ids:
            return _rising([stop for _, stop in again["offset_mapping"]], len(text))
    # another way to cut the text into tokens than the tokenizer's own
    lengths = [
        len(tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for count in range(1, len(ids) + 1)
    ]
    return _rising(lengths, len(text))


def _rising(stops: list[int], end: int) -> list[int]:
    """Return places that never fall and end with the text: a character may be spread over several tokens."""
    rising = np.minimum(np.maximum.accumulate(stops), end).tolist()
    return [*rising[:-1], end]


def fingerprint(files: Sequence[Path]) -> str:
    """Return what tells weights apart without reading all of them: sha256 over names, sizes, and samples of each file.

    Args:
        files: Of tens of gigabytes, perhaps.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as handle:
            for index in range(_SAMPLES if size > _SAMPLES * _SAMPLE else 1):
                handle.seek(index * size // _SAMPLES)
                digest.update(handle.read(_SAMPLE if size > _SAMPLES * _SAMPLE else size))
    return f"sampled sha256 {digest.hexdigest()}"
