"""Tiles asked of a served model: vLLM, SGLang, llama.cpp, ``transformers serve``, whatever speaks OpenAI's chat API.

An engine batches by itself what reaches it at once, keeps what questions have in common, and can hold a model to a
grammar; so questions are simply sent, several at a time, and answers come back in their order. A question whose
answer fails is asked again while that may help. What is wrong with one question is told with its answer and stops no
other; what is wrong with all of them (no such model, no key, no server any more) ends the work, and with a store
every answer so far is kept.

The key of a server is read from ``GEOVL_ENDPOINT_KEY``, sent to that server, and appears nowhere else.
"""

import json
import os
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from geovl.errors import GeovlError, ModelError, UsageError
from geovl.segmenters.text_as_mask.endpoint_answers import Answer, AnswerStore, Fault, Question, question_key
from geovl.segmenters.text_as_mask.endpoint_chat import (
    error_text,
    read_answer,
    refuse_hopeless,
    request_body,
    retry_after,
    status_fault,
)
from geovl.segmenters.text_as_mask.endpoint_grammar import FORMS, Engine, Form, request_fields
from geovl.segmenters.text_as_mask.endpoint_http import DisturbedError, Link, Reply, Request, server_url

Constraint = Literal["auto", "vllm", "sglang", "llama.cpp", "none"]
CONSTRAINTS: tuple[Constraint, ...] = get_args(Constraint)

_CHAT = "/v1/chat/completions"
_PAUSE = 0.5  # seconds before the second try at most, twice that before the third, ...
_LONGEST = 30.0  # seconds, of such a pause
_PATIENCE = 300.0  # seconds that a server may ask for
_DAY = 86400.0
_GREETING = 30.0  # seconds for what costs a server no work
_OWNERS: dict[str, Engine] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}


@dataclass(frozen=True, slots=True)
class Server:
    """What answers under an address."""

    engine: Engine
    models: tuple[str, ...] = ()
    """Those it offers; empty where it does not say."""
    version: str | None = None
    """Of vLLM only."""


@dataclass(slots=True)
class _Health:
    """How the server fares, over all questions."""

    answered: bool = False
    """Whether any question was answered yet."""
    failed: int = 0
    """Questions in a row, in the order in which they ended, that were not."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, fault: Fault | None) -> int:
        """Count a question that ended; returns how many failed in a row."""
        with self.lock:
            good = fault is None or fault.alive
            self.answered = self.answered or good
            self.failed = 0 if good else self.failed + 1
            return self.failed


@dataclass(eq=False, slots=True)
class Endpoint:
    """A served model.

    Raises:
        UsageError: An address, a number or a choice that means nothing.
        ModelError: The network is forbidden, and the server is not on this machine.
    """

    url: str
    """Where it is served, with or without ``/v1``."""
    model: str
    """As the server calls it; this is all that is known of its weights, so it should name their version too."""
    concurrency: int = 8
    """Questions under way at once; engines batch them."""
    timeout: float = 300.0
    """Seconds for one answer, the wait in the server's queue included."""
    retries: int = 5
    """Further tries of a question whose fault may pass; one only where the server hung."""
    max_tokens: int = 3072
    """Of an answer."""
    constraint: Constraint = "auto"
    """Whose fields hold the model to a question's grammar; ``auto``: those of the engine, ``none``: nobody's."""
    form: Form = "grammar"
    """As what they are sent; an engine with Outlines inside takes expressions only."""
    logprobs: bool = True
    """Whether to ask for the probabilities of tokens. Not every server tells them."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request, such as ``{"chat_template_kwargs": {"enable_thinking": False}}``."""
    give_up: int = 10
    """Questions in a row, each after all its tries, whose failure means that the server is gone."""
    store: AnswerStore | None = None
    """Where answers are looked up, and kept as soon as they come."""
    _link: Link = field(init=False, repr=False)
    _server: Server | None = field(init=False, repr=False, default=None)
    _health: _Health = field(init=False, repr=False, default_factory=_Health)

    def __post_init__(self) -> None:
        self.url = server_url(self.url)
        if not self.model.strip():
            msg = "The name of the served model is empty."
            raise UsageError(msg, f"See what is served: {self.url}/v1/models")
        for name, least in (("concurrency", 1), ("retries", 0), ("max_tokens", 1), ("give_up", 1)):
            if getattr(self, name) < least:
                msg = f"{name} must be at least {least}, got {getattr(self, name)}."
                raise UsageError(msg)
        if not 0 < self.timeout <= _DAY:
            msg = f"timeout must be seconds, at most a day, got {self.timeout}."
            raise UsageError(msg)
        if self.constraint not in CONSTRAINTS or self.form not in FORMS:
            msg = f"There is no constraint {self.constraint!r} in the form {self.form!r}."
            raise UsageError(msg, f"Constraints are {', '.join(CONSTRAINTS)}; forms are {', '.join(FORMS)}.")
        self._link = self._new_link()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. They are opened again when they are needed."""
        closed, self._link = self._link, self._new_link()
        closed.stop()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the answers beside the questions, for stores and manifests: neither key nor address."""
        names = ("model", "max_tokens", "constraint", "form", "logprobs")
        return {**{name: getattr(self, name) for name in names}, "extra": dict(self.extra)}

    @property
    def engine(self) -> Engine:
        """Whose fields hold the model to a grammar; ``other``: nothing does. May ask the server what it is."""
        if self.constraint == "auto":
            return self.server().engine
        return "other" if self.constraint == "none" else self.constraint

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return one answer for each question, in order.

        One call at a time; several times as many questions as may be under way keep a server busy.

        Raises:
            ModelError: No question can be answered: no such server, model or key; nothing but faults from the
                beginning; or so many of them in a row that the server seems gone.
        """
        keys = [question_key(question, self.settings) if self.store else "" for question in questions]
        answers = [self.store.get(key) if self.store else None for key in keys]
        missing = [index for index, answer in enumerate(answers) if answer is None]
        fresh = self._ask_all([(questions[index], keys[index]) for index in missing])
        if fresh and not self._health.answered and fresh[0].fault is not None:
            raise ModelError(fresh[0].fault.message, fresh[0].fault.hint)
        found = iter(fresh)
        return [next(found) if answer is None else answer for answer in answers]

    def server(self) -> Server:
        """Return what answers under the address; asks it once.

        Raises:
            ModelError: Nothing does, or not without a key.
        """
        if self._server is None:
            listed = self._tried(self._link, Request("GET", "/v1/models", _GREETING), _listing)
            if listed.fault is not None and listed.fault.passing:
                hint = f"Start a server there (vllm serve {self.model}), or check the address."
                raise ModelError(listed.fault.message, hint)
            self._server = self._recognized(_json_dict(listed.text).get("data"))
        return self._server

    def _recognized(self, cards: object) -> Server:
        """Return the server that lists models so; one that does not list any may still have them."""
        known = [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []
        owners = [str(card.get("owned_by")) for card in known]
        engine: Engine = next((_OWNERS[owner] for owner in owners if owner in _OWNERS), "other")
        models = tuple(card["id"] for card in known if isinstance(card.get("id"), str))
        return Server(engine, models, self._version() if "vllm" in {engine, self.constraint} else None)

    def _version(self) -> str | None:
        told = self._tried(self._link, Request("GET", "/version", _GREETING), _listing)
        version = _json_dict(told.text).get("version")
        return version if isinstance(version, str) else None

    def _new_link(self) -> Link:
        return Link(self.url, os.environ.get("GEOVL_ENDPOINT_KEY", ""))

    def _ask_all(self, asked: Sequence[tuple[Question, str]]) -> list[Answer]:
        if not asked:
            return []
        self.server()
        link = self._link  # cut when this ends early, also for questions that have hardly begun
        futures: list[Future[Answer]] = []
        with ThreadPoolExecutor(min(self.concurrency, len(asked)), "geovl-endpoint") as pool:
            try:  # an interrupt may come while they are still being handed out
                futures.extend(pool.submit(self._answer_or_stop, link, question, key) for question, key in asked)
                wait(futures, return_when=FIRST_EXCEPTION)
                if link.why is not None:
                    raise link.why
                return [future.result() for future in futures]
            finally:
                if len(futures) < len(asked) or link.stopped.is_set() or not all(future.done() for future in futures):
                    pool.shutdown(wait=False, cancel_futures=True)
                    self.close()

    def _answer_or_stop(self, link: Link, question: Question, key: str) -> Answer:
        """Return the answer to one question, or end the work on all of them before another is begun."""
        try:
            return self._answer(link, question, key)
        except GeovlError as error:
            link.stop(error)
            raise

    def _answer(self, link: Link, question: Question, key: str) -> Answer:
        """Return the answer to one question, which may be a fault."""
        body = request_body(question, self.model, self.max_tokens, self._fields(question))
        answer = self._tried(link, Request("POST", _CHAT, self.timeout, body), self._read)
        failed = self._health.note(answer.fault)
        if answer.fault is not None and failed >= self.give_up:
            msg = f"{failed} questions in a row had no answer; the last of them: {answer.fault.message}"
            hint = "See to the server; then give the same command with --resume: finished windows are kept."
            raise ModelError(msg, hint)
        if self.store is not None and (answer.fault is None or answer.fault.alive):
            self.store.put(key, answer)
        return answer

    def _fields(self, question: Question) -> dict[str, Any]:
        """Return what is asked for beside the question."""
        server = self.server()
        fields: dict[str, Any] = {"logprobs": True} if self.logprobs else {}
        if server.engine in {"vllm", "sglang"}:  # over that of a checkpoint; runs of labels repeat
            fields["repetition_penalty"] = 1.0
        if question.answers is not None:
            fields |= request_fields(self.engine, server.version, question.answers, self.form)
        return fields | dict(self.extra)

    def _read(self, reply: Reply, link: Link) -> Answer:
        if reply.status in {400, 404, 405}:
            self._refuse_model(reply, link)
        return read_answer(reply, link, self.max_tokens)

    def _refuse_model(self, reply: Reply, link: Link) -> None:
        """Refuse what cannot be asked here at all.

        Raises:
            ModelError: The server has no such model, or no such API.
        """
        said = error_text(reply, link)
        models = self.server().models
        named = re.search(rf"[`'\"]{re.escape(self.model)}[`'\"]", said) is not None
        if models and self.model not in models and (named or reply.status != 400):
            msg = f"{self.url} serves no model {self.model!r}; it serves {', '.join(map(repr, models))}."
            raise ModelError(link.clean(msg), "Name one of these.")
        if reply.status != 400:
            msg = f"{self.url}{_CHAT} is not there (HTTP {reply.status}{': ' + said if said else ''})."
            raise ModelError(msg, "Check the address: it must be that of an OpenAI-compatible server.")

    def _tried(self, link: Link, asked: Request, read: Callable[[Reply, Link], Answer]) -> Answer:
        """Ask until there is an answer, or a fault that stays.

        Raises:
            ModelError: What is wrong is wrong with every question.
        """
        turn = 0
        while True:
            answer, pause = _once(link, asked, read)
            if answer.fault is None or not self._again(answer.fault, turn, pause):
                return answer
            backoff = min(_LONGEST, _PAUSE * 2**turn) * random.uniform(0.5, 1)  # noqa: S311 - only spreads the load
            link.stopped.wait(max(pause, backoff))
            turn += 1

    def _again(self, fault: Fault, turn: int, pause: float) -> bool:
        """Tell whether to try once more: a server that hung twice would hang again, and each time costs minutes."""
        most = min(self.retries, 1) if fault.kind == "timeout" else self.retries
        return fault.passing and turn < most and pause <= _PATIENCE


def _once(link: Link, asked: Request, read: Callable[[Reply, Link], Answer]) -> tuple[Answer, float]:
    """Ask once; returns the answer, and the seconds that the server wants to be left alone."""
    try:
        reply = link.request(asked)
    except DisturbedError as error:
        return Answer(fault=Fault(error.kind, error.message, "See whether the server runs, and its log.")), 0.0
    refuse_hopeless(reply, link)
    return read(reply, link), retry_after(reply)


def _listing(reply: Reply, link: Link) -> Answer:
    """Return what a server tells about itself."""
    if reply.status != 200:
        return Answer(fault=status_fault(reply, link))
    return Answer(reply.body.decode("utf-8", "replace"))


def _json_dict(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
