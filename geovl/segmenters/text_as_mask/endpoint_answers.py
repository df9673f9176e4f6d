"""Questions to a served model, its answers, and where answers are kept so that none is asked for twice."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from geovl.errors import ModelError
from geovl.segmenters.text_as_mask.endpoint_grammar import AnswerGrammar

Pixels = NDArray[np.uint8]
FaultKind = Literal[
    "timeout", "unreachable", "broken", "busy", "server", "refused", "too-long", "garbled", "empty", "cut"
]
_PASSING: frozenset[FaultKind] = frozenset({"timeout", "unreachable", "broken", "busy", "server"})
_ALIVE: frozenset[FaultKind] = frozenset({"empty", "cut"})


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a model is asked about one tile."""

    parts: tuple[str | Pixels, ...]
    """Texts, and pictures as uint8 (3, height, width), in the order in which the model was trained to see them."""
    system: str | None = None
    """What stands before the conversation."""
    answers: AnswerGrammar | None = None
    """What may be answered; None: anything."""

    def __post_init__(self) -> None:
        for part in self.parts:
            if not isinstance(part, str) and (part.ndim != 3 or part.shape[0] != 3 or part.dtype != np.uint8):
                msg = f"A picture must be uint8 (3, height, width), got {part.dtype} {part.shape}"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an answer, as the model wrote it."""

    raw: bytes
    """UTF-8; one character may be spread over several tokens."""
    logprob: float
    """Natural logarithm of its probability, given all before it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a question has no answer, or not a whole one."""

    kind: FaultKind
    """``timeout``, ``unreachable``, ``broken`` (cut off on its way), ``busy`` and ``server`` may pass; ``refused``,
    ``too-long``, ``garbled`` (not an answer at all), ``empty`` and ``cut`` (at the most tokens) would come again."""
    message: str
    """What happened, one sentence."""
    hint: str | None = None

    @property
    def passing(self) -> bool:
        """Whether the same question may be answered later."""
        return self.kind in _PASSING

    @property
    def alive(self) -> bool:
        """Whether the server did its work, and the fault is in what the model wrote."""
        return self.kind in _ALIVE


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, or why it did not."""

    text: str = ""
    finish: str | None = None
    """Why it ended, in the server's word: ``stop``, ``length``."""
    tokens: tuple[Token, ...] | None = None
    """None where the server does not tell; the last may be the mark that ended the answer, which ``text`` lacks."""
    fault: Fault | None = None
    """None where all is well. With ``cut`` there is text, up to where it was cut."""


def question_key(question: Question, settings: Mapping[str, Any]) -> str:
    """Return what tells a question from every other one, wherever it is asked.

    Args:
        question: Its pictures count by their pixels, not by how they are sent.
        settings: Whatever else decides the answer: the model's name, the most tokens, ...
    """
    told = {
        "version": 1,
        "settings": settings,
        "system": question.system,
        "parts": [part if isinstance(part, str) else {"picture": _pixels_sha256(part)} for part in question.parts],
        "answers": question.answers and [question.answers.grammar, question.answers.regex],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _pixels_sha256(pixels: Pixels) -> str:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


class AnswerStore(Protocol):
    """Where answers are kept."""

    def get(self, key: str) -> Answer | None:
        """Return the answer to a question, None where it is not known."""
        ...

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; called by several threads at once."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerFolder:
    """Answers as one file each, for any number of threads and processes at once.

    A file appears when it is whole, so a process may be killed at any moment. One that is damaged is a miss.
    """

    folder: Path
    """Made when something is kept."""

    def get(self, key: str) -> Answer | None:
        """Return the answer to a question, None where there is no whole one."""
        try:
            digest, _, told = self._path(key).read_text("utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        return _from_json(told) if digest == _sha256(key, told) else None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            ModelError: The folder cannot be written to.
        """
        told = _to_json(answer)
        target = self._path(key)
        draft = target.with_name(f".{target.stem}.{secrets.token_hex(6)}")  # of this writer alone
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_text(f"{_sha256(key, told)}\n{told}", "utf-8")
                draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            msg = f"Answers cannot be kept in {self.folder}: {error.strerror or error}."
            raise ModelError(msg, "Free disk space, or name another folder.") from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"


def _sha256(key: str, told: str) -> str:
    return hashlib.sha256(f"{key}\n{told}".encode()).hexdigest()


def _to_json(answer: Answer) -> str:
    tokens = answer.tokens and [[token.raw.hex(), token.logprob] for token in answer.tokens]
    fault = answer.fault and [answer.fault.kind, answer.fault.message, answer.fault.hint]
    return json.dumps({"text": answer.text, "finish": answer.finish, "tokens": tokens, "fault": fault})


def _from_json(told: str) -> Answer:
    """Read what :func:`_to_json` wrote; its digest has been checked."""
    kept = json.loads(told)
    tokens = kept["tokens"]
    return Answer(
        kept["text"],
        kept["finish"],
        None if tokens is None else tuple(Token(bytes.fromhex(raw), logprob) for raw, logprob in tokens),
        kept["fault"] and Fault(*kept["fault"]),
    )
