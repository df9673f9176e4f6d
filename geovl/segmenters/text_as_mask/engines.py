"""Who answers questions about chips: a model in this process, or one that a server runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geovl.segmenters.text_as_mask.dialects import OPEN
from geovl.segmenters.text_as_mask.endpoint import Endpoint
from geovl.segmenters.text_as_mask.endpoint_answers import Answer, AnswerFolder
from geovl.segmenters.text_as_mask.endpoint_answers import Question as Sent
from geovl.segmenters.text_as_mask.endpoint_grammar import answer_grammar
from geovl.segmenters.text_as_mask.prompts import Question
from geovl.segmenters.text_as_mask.reading import Said
from geovl.segmenters.text_as_mask.settings import Settings

MOST_TOKENS = 3069
"""Of an answer; as the reference allows."""
_PREAMBLE = 200  # characters of the sentence with which trained models begin


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question about a picture."""

    pixels: NDArray[np.uint8]
    """uint8 (3, height, width)."""
    question: Question


class Engine(Protocol):
    """What answers questions."""

    batch: int
    """Chips that it does best with at once."""
    name: str
    """Of the weights, as they were loaded: decides the result."""

    def answer(self, asked: Sequence[Asked]) -> list[Said]:
        """Return an answer for each question, in order.

        Raises:
            ModelError: Nothing can be answered.
        """
        ...


class ServedEngine:
    """Sends questions to a server.

    Args:
        model: What the server calls the model.
        settings: Its address, and how it is asked.
        answers: Folder in which answers are kept, so that none is asked for twice; None keeps none.
    """

    def __init__(self, model: str, settings: Settings, answers: Path | None = None) -> None:
        self.name = model
        self.batch = 3 * settings.concurrency
        self._shape = (settings.grid, settings.grid)
        self._constrained = settings.constrained
        self._endpoint = Endpoint(
            settings.endpoint, model, settings.concurrency, settings.timeout,
            max_tokens=settings.tokens or MOST_TOKENS, constraint="auto" if settings.constrained else "none",
            store=None if answers is None else AnswerFolder(answers),
        )  # fmt: skip

    def answer(self, asked: Sequence[Asked]) -> list[Said]:
        """Return an answer for each question; see :class:`Engine`."""
        return [said(found) for found in self._endpoint.ask([self._sent(one) for one in asked])]

    def _sent(self, asked: Asked) -> Sent:
        question = asked.question
        grammar = None
        if self._constrained and question.names:
            preamble = 0 if question.shape is not None else _PREAMBLE
            grammar = answer_grammar(question.vocabulary, self._shape, question.dialect, preamble)
        return Sent(question.parts(asked.pixels), answers=grammar)


def said(answer: Answer) -> Said:
    """Return what a server's answer says; one that was cut off keeps its text."""
    fault = answer.fault
    if fault is not None and fault.kind not in {"cut", "empty"}:
        return Said("", failed=fault.message)
    tokens = tuple((token.raw, token.logprob) for token in answer.tokens or ())
    return Said(answer.text, tokens, cut=fault is not None and fault.kind == "cut")


def opened(text: str) -> str:
    """Return an answer with the tag that opens its payload, which a grammar may have given to the model."""
    return text if OPEN in text else OPEN + text
