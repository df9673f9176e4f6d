"""Tiles asked of a server that hangs, dies, lies or is gone: every tile has its answer or its fault, in order."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from geovl.errors import GeovlError, ModelError, PromptError, UsageError
from geovl.segmenters.text_as_mask import endpoint as endpoint_module
from geovl.segmenters.text_as_mask import endpoint_http
from geovl.segmenters.text_as_mask.dialects import DIALECTS, GEOGROUND
from geovl.segmenters.text_as_mask.endpoint import Endpoint
from geovl.segmenters.text_as_mask.endpoint_answers import Answer, AnswerFolder, Fault, Question, Token, question_key
from geovl.segmenters.text_as_mask.endpoint_chat import png, retry_after
from geovl.segmenters.text_as_mask.endpoint_grammar import answer_grammar, request_fields
from geovl.segmenters.text_as_mask.endpoint_http import Reply, server_url
from geovl.segmenters.text_as_mask.grammar import decode, encode

KEY = "sk-geovl-secret-0123456789"
VOCABULARY = ("others", "ship", "a road (paved)")


# A server that does as it is told


@dataclass(frozen=True)
class Act:
    """What the server does with one request."""

    body: bytes | str | dict = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    how: str = "send"
    """``hang``, ``drip``, ``reset``; ``cut``: promises more than it sends; ``close``: sends without a length;
    ``chunks``: ends in the middle of a chunk; ``quiet``: closes the connection behind a whole answer, unannounced."""


def said(text, **choice):
    return Act({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]})


def listing(owner="someone", *models):
    return Act({"data": [{"id": name, "owned_by": owner} for name in (models or ("m",))]})


class Fake(ThreadingHTTPServer):
    """``script(question, turn)`` says what to do with the ``turn``-th request, from 1, that holds this text."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Callable[[str, int], Act], models: Act | None = None, **pages: Act):
        self.script = script
        self.pages = {"/v1/models": models or listing(), **{f"/{name}": page for name, page in pages.items()}}
        self.turns: Counter[str] = Counter()
        self.seen: list[tuple[str, str, dict, dict]] = []
        self.connections = 0
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def questions(self):
        return [body for _, path, _, body in self.seen if path.endswith("/chat/completions")]

    def handle_error(self, request, client_address):
        pass  # clients that have had enough


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format, *args):  # noqa: A002
        pass

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def do_GET(self):
        with self.server.lock:
            self.server.seen.append(("GET", self.path, dict(self.headers), {}))
        self.act(self.server.pages.get(self.path, Act({"detail": "Not Found"}, 404)))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = " ".join(part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text")
        fake = self.server
        with fake.lock:
            fake.seen.append(("POST", self.path, dict(self.headers), body))
            fake.turns[text] += 1
            turn = fake.turns[text]
            fake.under_way += 1
            fake.most_under_way = max(fake.most_under_way, fake.under_way)
        act = fake.script(text, turn)
        fake.over.wait(act.delay)
        with fake.lock:
            fake.under_way -= 1
        self.act(act)

    def act(self, act):
        body = act.body if isinstance(act.body, bytes) else (
            json.dumps(act.body) if isinstance(act.body, dict) else act.body).encode()  # fmt: skip
        if act.how == "hang":
            self.server.over.wait(30)
            self.close_connection = True
            return
        if act.how == "reset":
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        self.send_response(act.status)
        for name, value in act.headers.items():
            self.send_header(name, value)
        if act.how == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        elif act.how == "close":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body) + (100 if act.how in {"cut", "drip"} else 0)))
        self.end_headers()
        self.wfile.write(b"ff\r\n" + body if act.how == "chunks" else body)
        if act.how == "drip":
            while not self.server.over.wait(0.05):
                self.wfile.write(b" ")
        self.close_connection = act.how != "send"


@contextmanager
def serving(script, models=None, **pages):
    fake = Fake(script, models, **pages)
    thread = threading.Thread(target=fake.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.over.set()
        fake.shutdown()
        fake.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(endpoint_module, "_PAUSE", 0.01)
    for name in ("GEOVL_ENDPOINT_KEY", "GEOVL_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def tile(number=0, side=8):
    return np.random.default_rng(number).integers(0, 256, (3, side, side), np.uint8)


def questions(count):
    return [Question((tile(number), f"tile {number}")) for number in range(count)]


def echo(text, turn):
    return said(f"answer to {text}")


def number_of(text):
    return int(text.split()[-1])


def expected(count):
    return [f"answer to tile {number}" for number in range(count)]


# Good answers


def test_answers_come_in_the_order_of_questions_and_no_more_are_under_way_than_allowed():
    three = threading.Barrier(3)

    def slow_first(text, turn):
        if number_of(text) < 3:
            three.wait(30)  # until they are under way together
        return replace(echo(text, turn), delay=0.1 if number_of(text) % 4 == 0 else 0.01)

    with serving(slow_first) as fake, Endpoint(fake.url, "m", concurrency=3) as model:
        answers = model.ask(questions(12))
        assert [answer.text for answer in answers] == expected(12)
        assert all(answer.fault is None and answer.finish == "stop" for answer in answers)
        assert fake.most_under_way == 3


def test_connections_are_kept_from_question_to_question_and_call_to_call():
    with serving(echo) as fake, Endpoint(fake.url, "m", concurrency=2) as model:
        for _ in range(3):
            model.ask(questions(10))
        assert fake.connections <= 2


def test_a_connection_that_the_server_closed_meanwhile_costs_no_try():
    with (
        serving(lambda text, turn: replace(echo(text, turn), how="quiet")) as fake,
        Endpoint(fake.url, "m", concurrency=1, retries=0) as model,
    ):
        for number in range(4):
            assert model.ask(questions(5))[number].text == f"answer to tile {number}"
            time.sleep(0.02)  # the end of the connection has arrived


def test_a_request_asks_greedily_and_shows_what_the_model_was_trained_to_see(monkeypatch):
    monkeypatch.setenv("GEOVL_ENDPOINT_KEY", KEY)
    asked = Question(("before", tile(1), "behind"), system="You segment.")
    with serving(echo) as fake, Endpoint(fake.url, "m", max_tokens=77, extra={"seed": 3}) as model:
        model.ask([asked])
        _, path, headers, body = fake.seen[-1]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["max_tokens"], body["temperature"], body["stream"]) == ("m", 77, 0, False)
    assert body["logprobs"] is True
    assert body["seed"] == 3
    system, user = body["messages"]
    assert system == {"role": "system", "content": "You segment."}
    assert user["role"] == "user"
    first, picture, last = user["content"]
    assert (first, last) == ({"type": "text", "text": "before"}, {"type": "text", "text": "behind"})
    kind, _, coded = picture["image_url"]["url"].partition(",")
    assert (picture["type"], kind) == ("image_url", "data:image/png;base64")
    np.testing.assert_array_equal(pixels_of(base64.b64decode(coded)), tile(1))


def pixels_of(content):
    with MemoryFile(content) as file, file.open(driver="PNG") as source:
        return source.read()


@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99), flat=st.booleans())
def test_pictures_travel_without_loss(height, width, seed, flat):
    pixels = np.random.default_rng(seed).integers(0, 2 if flat else 256, (3, height, width), np.uint8)
    np.testing.assert_array_equal(pixels_of(png(pixels)), pixels)
    np.testing.assert_array_equal(pixels_of(png(pixels[:, ::-1, ::2])), pixels[:, ::-1, ::2])


@pytest.mark.parametrize("pixels", [tile()[0], tile().astype(np.float32), tile().transpose(1, 2, 0)])
def test_a_picture_of_another_form_is_refused(pixels):
    with pytest.raises(ValueError, match=r"uint8 \(3, height, width\)"):
        Question((pixels, "what?"))


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/prefix", "/prefix/v1"])
def test_the_address_may_or_may_not_end_in_v1(tail):
    prefix = "/prefix" if "prefix" in tail else ""
    with serving(echo, **{"prefix/v1/models": listing()}) as fake, Endpoint(fake.url + tail, "m") as model:
        model.ask(questions(1))
        assert [path for _, path, _, _ in fake.seen] == [f"{prefix}/v1/models", f"{prefix}/v1/chat/completions"]


def test_no_question_asks_nothing():
    with serving(echo) as fake, Endpoint(fake.url, "m") as model:
        assert model.ask([]) == []
        assert not fake.seen


def test_log_probabilities_are_read_byte_by_byte():
    letters = "é".encode()
    content = [
        {"token": "ship", "logprob": -0.25, "bytes": list(b"ship")},
        {"token": "\ufffd", "logprob": -1, "bytes": [letters[0]]},
        {"token": "\ufffd", "logprob": -0.5, "bytes": [letters[1]]},
        {"token": "<end>", "logprob": 0.0},
    ]
    with serving(lambda *_: said("shipé", logprobs={"content": content})) as fake, Endpoint(fake.url, "m") as model:
        (answer,) = model.ask(questions(1))
    assert answer.tokens is not None
    assert [token.logprob for token in answer.tokens] == [-0.25, -1.0, -0.5, 0.0]
    assert b"".join(token.raw for token in answer.tokens[:-1]).decode() == answer.text
    assert answer.tokens[-1].raw == b"<end>"


@pytest.mark.parametrize(
    "told",
    [
        None, {}, [], {"content": None}, {"content": []}, {"content": [3]}, {"content": [{"token": "a"}]},
        {"content": [{"token": "a", "logprob": "-1"}]}, {"content": [{"logprob": -1.0}]},
        {"content": [{"token": "a", "logprob": float("nan")}]}, {"content": [{"token": "a", "logprob": True}]},
        {"content": [{"token": "a", "logprob": -1.0}, {"token": "b"}]},
    ],
)  # fmt: skip
def test_probabilities_that_are_not_all_there_are_none_and_no_fault(told):
    with serving(lambda *_: said("text", logprobs=told)) as fake, Endpoint(fake.url, "m") as model:
        (answer,) = model.ask(questions(1))
    assert (answer.text, answer.tokens, answer.fault) == ("text", None, None)


# Bad answers: one tile has a fault, the others go on


HTML = "<!DOCTYPE html><html><body>Please sign in</body></html>"
BOMB = b"[" * 100_000
BAD = {
    "html": (Act(HTML), "garbled", 1),
    "no-json": (Act('{"choices": [{"message": {"content": "cut i'), "broken", 3),
    "bomb": (Act(BOMB), "broken", 3),
    "not-utf8": (Act(b'{"choices": "\xff\xfe"}'), "broken", 3),
    "list": (Act("[]"), "garbled", 1),
    "no-choices": (Act({}), "garbled", 1),
    "empty-choices": (Act({"choices": []}), "garbled", 1),
    "choice-of-text": (Act({"choices": ["text"]}), "garbled", 1),
    "no-message": (Act({"choices": [{"finish_reason": "stop"}]}), "garbled", 1),
    "error-with-200": (Act({"error": {"message": "CUDA out of memory"}}), "garbled", 1),
    "no-content": (Act({"choices": [{"message": {}}]}), "empty", 1),
    "null": (said(None), "empty", 1),
    "content-of-parts": (said([{"text": "no"}]), "empty", 1),
    "blank": (said(" \n"), "empty", 1),
    "cut": (said("<seg>ship *1", finish_reason="length"), "cut", 1),
    "filtered": (said("", finish_reason="content_filter"), "refused", 1),
    "short-body": (replace(said("never seen"), how="cut"), "broken", 3),
    "short-chunk": (replace(said("never seen"), how="chunks"), "broken", 3),
    "short-close": (Act('{"choices": [{"message"', how="close"), "broken", 3),
    "reset": (Act(how="reset"), "unreachable", 3),
    "hang": (Act(how="hang"), "timeout", 2),
    "drip": (replace(said("never seen"), how="drip"), "timeout", 2),
    "500": (Act({"detail": "boom"}, 500), "server", 3),
    "503-html": (Act(HTML, 503), "server", 3),
    "429": (Act({"error": "slow down"}, 429), "busy", 3),
    "400": (Act({"error": {"message": "images are not supported"}}, 400), "refused", 1),
    "422": (Act({"detail": "Unexpected fields in the request: {'ebnf'}"}, 422), "refused", 1),
    "413": (Act(HTML, 413), "too-long", 1),
    "501": (Act({}, 501), "refused", 1),
    "204": (Act(b"", 204), "refused", 1),
}


def patience(bad):
    """Seconds that no good answer needs."""
    return 0.7 if bad in {"hang", "drip"} else 60


@pytest.mark.parametrize("bad", BAD)
def test_a_fault_stays_with_its_tile_and_is_tried_again_only_where_that_may_help(bad):
    act, kind, tries = BAD[bad]

    def script(text, turn):
        return act if text == "tile 1" else echo(text, turn)

    with serving(script) as fake, Endpoint(fake.url, "m", retries=2, timeout=patience(bad)) as model:
        answers = model.ask(questions(4))
        # where a connection that was used before breaks, the same try goes on over a new one
        assert tries <= fake.turns["tile 1"] <= tries * (2 if bad == "reset" else 1)
    assert [answer.text for answer in answers if answer.fault is None] == [
        f"answer to tile {number}" for number in (0, 2, 3)
    ]
    fault = answers[1].fault
    assert fault is not None
    assert fault.kind == kind
    assert fault.passing == (tries > 1)
    assert fault.message.endswith(".")
    assert "\n" not in fault.message


def test_what_was_cut_at_the_most_tokens_is_kept():
    with serving(lambda *_: BAD["cut"][0]) as fake, Endpoint(fake.url, "m", max_tokens=12) as model:
        (answer,) = model.ask(questions(1))
    assert answer.text == "<seg>ship *1"
    assert "12 tokens" in answer.fault.message


def test_the_servers_own_words_reach_the_user_as_one_short_line():
    words = "bad\x1b[31m\nthing\u202e " + "x" * 1000
    with (
        serving(
            lambda text, turn: Act({"error": {"message": words}}, 400) if "1" in text else echo(text, turn)
        ) as fake,
        Endpoint(fake.url, "m") as model,
    ):
        message = model.ask(questions(2))[1].fault.message
    assert "bad [31m thing" in message
    assert message.isprintable()
    assert len(message) < 500


def test_an_answer_without_end_is_not_taken(monkeypatch):
    monkeypatch.setattr(endpoint_http, "_MOST", 1 << 17)
    with (
        serving(lambda text, turn: said("x" * (1 << 18)) if "1" in text else echo(text, turn)) as fake,
        Endpoint(fake.url, "m") as model,
    ):
        answers = model.ask(questions(2))
    assert answers[0].fault is None
    assert answers[1].fault.kind == "garbled"


def test_half_a_character_in_an_answer_can_still_be_written_down(tmp_path):
    with (
        serving(lambda *_: Act(b'{"choices": [{"message": {"content": "a\\ud800b"}}]}')) as fake,
        Endpoint(fake.url, "m", store=AnswerFolder(tmp_path)) as model,
    ):
        (answer,) = model.ask(questions(1))
    assert answer.text == "a?b"


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 6000 tokens.",
        "The decoder prompt (length 6000) is longer than the maximum model length of 4096.",
        "Requested token count exceeds the model's maximum context length of 4096 tokens.",
        "the request exceeds the available context size, try increasing it",
        "max_tokens is too large: 9000",
    ],
)
def test_a_question_that_is_too_long_says_so(words):
    with (
        serving(
            lambda text, turn: Act({"error": {"message": words}}, 400) if "1" in text else echo(text, turn)
        ) as fake,
        Endpoint(fake.url, "m") as model,
    ):
        fault = model.ask(questions(2))[1].fault
    assert fault.kind == "too-long"
    assert words.rstrip(".") in fault.message
    assert "fewer tokens" in fault.hint


# Faults that pass


@pytest.mark.parametrize("bad", [name for name, (_, _, tries) in BAD.items() if tries > 1])
def test_a_fault_that_passes_leaves_nothing_behind(bad):
    def script(text, turn):
        return BAD[bad][0] if turn == 1 else echo(text, turn)

    with serving(script) as fake, Endpoint(fake.url, "m", timeout=patience(bad)) as model:
        answers = model.ask(questions(3))
        assert set(fake.turns.values()) == {2}
    assert [answer.text for answer in answers] == expected(3)


class Clock(threading.Event):
    """Notes how long it was waited for, and does not wait."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return False


def test_a_busy_server_is_left_alone_as_long_as_it_says():
    busy = Act({"error": "slow down"}, 429, {"Retry-After": "7"})
    with serving(lambda text, turn: busy if turn < 3 else echo(text, turn)) as fake, Endpoint(fake.url, "m") as model:
        model._link.stopped = clock = Clock()
        assert model.ask(questions(1))[0].fault is None
    assert clock.waits == [7.0, 7.0]


def test_pauses_grow_and_are_spread_and_end():
    with serving(lambda text, turn: Act({}, 503) if turn < 9 else echo(text, turn)) as fake:
        model = Endpoint(fake.url, "m", retries=8)
        model._link.stopped = clock = Clock()
        assert model.ask(questions(1))[0].fault is None
    most = [min(30.0, 0.01 * 2**turn) for turn in range(8)]
    assert all(longest / 2 <= pause <= longest for pause, longest in zip(clock.waits, most, strict=True))
    assert len({pause / longest for pause, longest in zip(clock.waits, most, strict=True)}) > 1


def test_a_server_that_wants_an_hour_gets_no_second_try():
    busy = Act({}, 429, {"Retry-After": "3600"})
    with (
        serving(lambda text, turn: busy if "1" in text else echo(text, turn)) as fake,
        Endpoint(fake.url, "m") as model,
    ):
        assert model.ask(questions(2))[1].fault.kind == "busy"
        assert fake.turns["tile 1"] == 1


@pytest.mark.parametrize(
    ("told", "least", "most"),
    [
        ("5", 5, 5), ("", 0, 0), ("soon", 0, 0), ("-3", 0, 0), ("1e9", 0, 0), (1000, 900, 1000),
        (formatdate(0, usegmt=True), 0, 0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(told, least, most):
    if isinstance(told, int):  # a date so many seconds from now, whenever that is
        told = formatdate(time.time() + told, usegmt=True)
    assert least <= retry_after(Reply(429, {"retry-after": told}, b"")) <= most


# What is wrong with every question ends the work


def everything(act):
    return lambda text, turn: act


@pytest.mark.parametrize(
    ("act", "message", "hint"),
    [
        (Act({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401), "does not let us in", "GEOVL_ENDPOINT_KEY"),
        (Act({"detail": "Forbidden"}, 403), "Forbidden", "GEOVL_ENDPOINT_KEY"),
        (Act({"error": {"message": "The model `m` does not exist."}}, 404), "serves no model 'm'; it serves 'a', 'b'", "one of these"),
        (Act({"detail": "Server is pinned to 'a'; requested 'm'."}, 400), "serves no model 'm'; it serves 'a', 'b'", "one of these"),
        (Act(HTML), "web page", "address"),
        (Act({"error": "images are not supported"}, 400), "images are not supported", "log"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_not_repeated_and_ends_in_a_sentence(monkeypatch, act, message, hint):
    monkeypatch.setenv("GEOVL_ENDPOINT_KEY", KEY)
    with serving(everything(act), listing("someone", "a", "b")) as fake, Endpoint(fake.url, "m") as model:
        with pytest.raises(ModelError, match=re.escape(message)) as raised:
            model.ask(questions(3))
        assert set(fake.turns.values()) == {1}
    assert hint in raised.value.hint
    assert KEY not in f"{raised.value.message}{raised.value.hint}"


def test_where_there_is_no_such_api_the_address_is_doubted():
    with (
        serving(everything(Act({}, 404)), Act({}, 404)) as fake,
        Endpoint(fake.url, "m") as model,
        pytest.raises(ModelError, match="is not there") as raised,
    ):
        model.ask(questions(1))
    assert "OpenAI-compatible" in raised.value.hint


def test_a_server_that_lists_no_models_may_still_answer():
    with serving(echo, Act({}, 404)) as fake, Endpoint(fake.url, "m") as model:
        assert model.ask(questions(1))[0].text == "answer to tile 0"
        assert model.server().models == ()


def test_no_server_at_all_is_told_before_any_picture_is_sent():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        model = Endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}", "m", retries=1)
        with pytest.raises(ModelError, match="cannot be reached") as raised:
            model.ask(questions(3))
    assert "vllm serve m" in raised.value.hint


@pytest.mark.parametrize("bad", ["500", "reset", "429", "short-body", "400", "html"])
def test_a_server_that_is_gone_for_good_ends_the_work_early_and_what_came_is_kept(tmp_path, bad):
    asked = []

    def script(text, turn):
        if text not in asked:
            asked.append(text)
        if asked.index(text) < 8:
            return echo(text, turn)
        while len(list(tmp_path.rglob("*.json"))) < 8 and not fake.over.wait(0.01):
            pass  # until the good answers have arrived
        return BAD[bad][0]

    def endpoint(fake):
        return Endpoint(fake.url, "m", concurrency=2, retries=1, give_up=5, store=AnswerFolder(tmp_path))

    with serving(script) as fake, endpoint(fake) as model:
        with pytest.raises(
            ModelError, match=r"^\d+ questions in a row had no answer; the last of them: .*[.]$"
        ) as raised:
            model.ask(questions(60))
        assert len(fake.turns) < 20
    assert "--resume" in raised.value.hint

    with serving(echo) as other, endpoint(other) as model:
        answers = model.ask(questions(60))
        assert [answer.text for answer in answers] == expected(60)
        assert len(other.questions) == 60 - 8


def test_faults_between_good_answers_do_not_end_the_work():
    def script(text, turn):
        return BAD["500"][0] if number_of(text) % 2 else echo(text, turn)

    with serving(script) as fake, Endpoint(fake.url, "m", concurrency=1, retries=0, give_up=2) as model:
        answers = model.ask(questions(20))
    assert [answer.fault is None for answer in answers] == [True, False] * 10


def test_the_end_of_the_work_does_not_wait_for_servers_that_hang():
    def script(text, turn):
        return Act({}, 401, delay=0.1) if text == "tile 3" else Act(how="hang")

    with serving(script) as fake, Endpoint(fake.url, "m", timeout=3600) as model:
        with pytest.raises(ModelError, match="401"):
            model.ask(questions(8))
        fake.over.set()
    assert not [thread for thread in threading.enumerate() if "geovl-endpoint" in thread.name]


INTERRUPTED = """
import sys
import numpy as np
from geovl.segmenters.text_as_mask.endpoint import Endpoint
from geovl.segmenters.text_as_mask.endpoint_answers import Question
Endpoint(sys.argv[1], "m", timeout=3600).ask([Question((np.zeros((3, 8, 8), np.uint8), "tile 1"))] * 20)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_an_interrupt_ends_the_work_at_once():
    asked = threading.Event()

    def script(text, turn):
        asked.set()
        return Act(how="hang")

    with (
        serving(script) as fake,
        subprocess.Popen([sys.executable, "-c", INTERRUPTED, fake.url], stderr=subprocess.PIPE) as process,
    ):
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert b"KeyboardInterrupt" in told


def test_an_endpoint_works_again_after_its_work_was_ended():
    refuse = threading.Event()
    refuse.set()
    with (
        serving(lambda text, turn: Act({}, 401) if refuse.is_set() else echo(text, turn)) as fake,
        Endpoint(fake.url, "m") as model,
    ):
        with pytest.raises(ModelError):
            model.ask(questions(4))
        refuse.clear()
        assert [answer.text for answer in model.ask(questions(4))] == expected(4)


# Where requests may go


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/", "file:///etc/passwd", "host:8000", "localhost", "", "http://", "http://ho st/", "http://host:port",
        "http://host:99999", "http://[::1", "http://a..b/", f"http://user:{KEY}@host/v1", f"https://{KEY}@host",
        f"http://host/v1?key={KEY}", f"http://host/v1#{KEY}", "http://host/a\nb", "https:///v1",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_showing_secrets(url):
    with pytest.raises(UsageError) as raised:
        Endpoint(url, "m")
    assert KEY not in f"{raised.value.message}{raised.value.hint}"


@given(st.text(max_size=40))
def test_no_text_as_an_address_is_a_traceback(text):
    for url in (text, f"http://{text}", f"https://host/{text}"):
        with suppress(GeovlError):
            assert re.match(r"https?://[^@?#\s/]+(/[^?#\s]*)?$", server_url(url))


def test_offline_only_this_machine_is_asked(monkeypatch):
    monkeypatch.setenv("GEOVL_OFFLINE", "1")
    for host in ("tiles.example", "10.0.0.1", "localhost.evil.example", "[2001:db8::1]"):
        with pytest.raises(ModelError, match="GEOVL_OFFLINE"):
            Endpoint(f"http://{host}:8000", "m")
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "[::1]"):
        Endpoint(f"http://{host}:8000", "m")
    with serving(echo) as fake, Endpoint(fake.url, "m") as model:
        assert model.ask(questions(1))[0].fault is None


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_told_and_not_followed(monkeypatch, status):
    monkeypatch.setenv("GEOVL_ENDPOINT_KEY", KEY)
    with serving(echo) as elsewhere:
        where = {"Location": f"{elsewhere.url}/v1/chat/completions?token=hidden"}
        with (
            serving(everything(Act(b"", status, where))) as fake,
            Endpoint(fake.url, "m") as model,
            pytest.raises(ModelError, match=re.escape(elsewhere.url)) as raised,
        ):
            model.ask(questions(2))
        assert not elsewhere.seen
    assert "hidden" not in raised.value.message


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(monkeypatch):
    pages = {"tiles.example/prefix/v1/models": listing()}
    with serving(echo) as proxy, serving(echo) as local:
        proxy.pages = {f"http://{name}": page for name, page in pages.items()}
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://user:pass%20word@"))
        monkeypatch.setenv("no_proxy", "")
        with Endpoint("http://tiles.example/prefix", "m") as model:
            assert model.ask(questions(1))[0].text == "answer to tile 0"
        _, path, headers, _ = proxy.seen[-1]
        assert path == "http://tiles.example/prefix/v1/chat/completions"
        assert headers["Host"] == "tiles.example"
        assert base64.b64decode(headers["Proxy-Authorization"].split()[1]) == b"user:pass word"
        count = len(proxy.seen)
        with Endpoint(local.url, "m") as model:
            model.ask(questions(1))
        assert len(proxy.seen) == count


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that this machine signed itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(["openssl", *made, *names], check=True, capture_output=True)  # noqa: S607
    return folder / "cert.pem", folder / "key.pem"


@contextmanager
def secured(script, certificate):
    with serving(script) as fake:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        fake.socket = context.wrap_socket(fake.socket, server_side=True)
        yield fake, f"https://localhost:{fake.server_address[1]}"


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(certificate):
    with (
        secured(echo, certificate) as (fake, url),
        Endpoint(url, "m") as model,
        pytest.raises(ModelError, match="no secure connection") as raised,
    ):
        model.ask(questions(1))
    assert not fake.seen
    assert "SSL_CERT_FILE" in raised.value.hint


def test_secure_servers_answer_hang_and_are_left_like_others(certificate, monkeypatch):
    def script(text, turn):
        return {"tile 1": Act(how="hang"), "tile 2": BAD["drip"][0]}.get(text, echo(text, turn))

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with secured(script, certificate) as (_, url):
        with Endpoint(url, "m", timeout=1.5, retries=0) as model:
            answers = model.ask(questions(4))
            assert [answer.fault and answer.fault.kind for answer in answers] == [None, "timeout", "timeout", None]
        with Endpoint(url, "m", timeout=3600, store=Broken()) as model, pytest.raises(ModelError, match="disk is full"):
            model.ask(questions(4))
    assert not [thread for thread in threading.enumerate() if "geovl-endpoint" in thread.name]


class Broken:
    def get(self, key):
        return None

    def put(self, key, answer):
        time.sleep(0.1)  # the others are under way
        raise ModelError("The disk is full.")


@pytest.mark.parametrize("key", ["two words", "line\nfeed", "ключ", "\x00"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(monkeypatch, key):
    monkeypatch.setattr(os, "environ", {**os.environ, "GEOVL_ENDPOINT_KEY": key})
    with pytest.raises(UsageError, match="GEOVL_ENDPOINT_KEY") as raised:
        Endpoint("http://localhost:1", "m")
    assert key not in raised.value.message


def test_the_key_is_nowhere_but_in_requests(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOVL_ENDPOINT_KEY", KEY)
    with serving(echo) as fake, Endpoint(fake.url, "m", store=AnswerFolder(tmp_path)) as model:
        model.ask(questions(1))
        kept = [path.read_bytes() for path in tmp_path.rglob("*.json")]
        shown = [repr(model), repr(model._server), json.dumps(model.settings), json.dumps(fake.questions), repr(kept)]
        assert len(kept) == 1
        assert all(headers["Authorization"] == f"Bearer {KEY}" for _, _, headers, _ in fake.seen)
    assert not any(KEY in text for text in shown)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": " "}, {"concurrency": 0}, {"retries": -1}, {"max_tokens": 0}, {"give_up": 0}, {"timeout": 0},
        {"timeout": float("nan")}, {"timeout": float("inf")}, {"timeout": 1e12}, {"constraint": "tgi"}, {"form": "json"},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError):
        Endpoint("http://localhost:1", **{"model": "m", **wrong})


# Stores


def test_what_is_kept_is_not_asked_again_not_even_without_a_server(tmp_path):
    store = AnswerFolder(tmp_path / "deep" / "folder")
    with serving(echo) as fake, Endpoint(fake.url, "m", store=store) as model:
        first = model.ask(questions(5))
    with Endpoint("http://127.0.0.1:9/", "m", store=store) as model:
        assert model.ask(questions(5)) == first


def test_faults_that_may_pass_and_refusals_are_not_kept(tmp_path):
    def script(text, turn):
        return {"tile 1": BAD["500"][0], "tile 2": BAD["400"][0], "tile 3": BAD["cut"][0]}.get(text, echo(text, turn))

    store = AnswerFolder(tmp_path)
    for asked in (4, 2):
        with serving(script) as fake, Endpoint(fake.url, "m", retries=0, store=store) as model:
            model._health.answered = True
            model.ask(questions(4))
            assert len(fake.questions) == asked


def test_a_question_is_known_by_all_that_decides_its_answer():
    grammar = answer_grammar(VOCABULARY, (2, 2))
    base = Question((tile(0), "where?"))
    others = [
        Question(("where?", tile(0))), Question((tile(1), "where?")), Question((tile(0), "where")),
        Question((tile(0), "where?"), system="s"), Question((tile(0), "where?"), answers=grammar),
        Question((tile(0).reshape(3, 4, 16), "where?")), Question((tile(0), tile(0), "where?")),
    ]  # fmt: skip
    settings = Endpoint("http://localhost:1", "m").settings
    variants = [
        Endpoint("http://localhost:1", "m2"), Endpoint("http://localhost:1", "m", max_tokens=5),
        Endpoint("http://localhost:1", "m", extra={"seed": 1}), Endpoint("http://localhost:1", "m", form="regex"),
        Endpoint("http://localhost:1", "m", constraint="none"), Endpoint("http://localhost:1", "m", logprobs=False),
    ]  # fmt: skip
    keys = [question_key(question, settings) for question in (base, *others)]
    keys += [question_key(base, variant.settings) for variant in variants]
    assert len(set(keys)) == len(keys)
    same = Endpoint("https://other.example/v1", "m", concurrency=99, timeout=1, retries=0, give_up=3).settings
    assert question_key(Question((np.asfortranarray(tile(0)), "where?")), same) == keys[0]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ANSWERS = st.builds(
    Answer,
    TEXTS,
    st.none() | TEXTS,
    st.none() | st.lists(st.builds(Token, st.binary(max_size=4), st.floats(-1e4, 0)), max_size=3).map(tuple),
    st.none() | st.builds(Fault, st.sampled_from(["cut", "empty"]), TEXTS, st.none() | TEXTS),
)


@given(ANSWERS, ANSWERS)
def test_answers_are_kept_as_they_are_and_the_last_one_counts(tmp_path_factory, first, second):
    store = AnswerFolder(tmp_path_factory.mktemp("answers"))
    assert store.get("ab12") is None
    store.put("ab12", first)
    assert store.get("ab12") == first
    store.put("ab12", second)
    assert AnswerFolder(store.folder).get("ab12") == second
    assert store.get("ab13") is None


def test_a_damaged_file_is_a_miss(tmp_path):
    store = AnswerFolder(tmp_path)
    store.put("abcd", Answer("text", "stop", (Token(b"t", -1.0),)))
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    whole = path.read_bytes()
    for damaged in (*(whole[:end] for end in range(len(whole))), whole.replace(b"text", b"tex7"), b"\xff" * 99):
        path.write_bytes(damaged)
        assert store.get("abcd") is None
    path.rename(path.with_name("ce.json"))  # under another question's name
    (tmp_path / "ab" / "ce.json").write_bytes(whole)
    assert store.get("abce") is None


def test_a_folder_that_cannot_be_written_to_ends_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        serving(echo) as fake,
        Endpoint(fake.url, "m", store=AnswerFolder(tmp_path / "file")) as model,
        pytest.raises(ModelError, match="cannot be kept"),
    ):
        model.ask(questions(3))


KILLED = """
import sys
from pathlib import Path
from geovl.segmenters.text_as_mask.endpoint_answers import Answer, AnswerFolder
store = AnswerFolder(Path(sys.argv[1]))
for number in range(1_000_000):
    store.put(f"{number % 50:04}", Answer(str(number % 50) * 5000))
    if number == 60:
        print("going", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_process_that_is_killed_leaves_whole_answers(tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    store = AnswerFolder(tmp_path)
    assert [store.get(f"{number:04}").text for number in range(50)] == [str(number) * 5000 for number in range(50)]


# What answers are held to


GRIDS = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(1, 5), st.integers(1, 12), st.booleans())
)


def grid_of(seed, height, width, smooth, labels):
    grid = np.random.default_rng(seed).integers(0, labels, (height, width))
    return np.sort(grid, 1) if smooth else grid


def spelled_answer(grid, dialect):
    vocabulary = VOCABULARY[:2] if dialect is GEOGROUND else VOCABULARY
    return f"<seg>{encode(grid % len(vocabulary), vocabulary, 'rrle', dialect)}</seg>", vocabulary


@given(GRIDS, st.sampled_from(list(DIALECTS.values())), st.sampled_from(["", "Here it is:\n", "\n"]))
def test_every_grid_that_can_be_written_is_an_answer(form, dialect, begin):
    seed, height, width, smooth = form
    text, vocabulary = spelled_answer(grid_of(seed, height, width, smooth, 3), dialect)
    plain = answer_grammar(vocabulary, (height, width), dialect)
    led = answer_grammar(vocabulary, (height, width), dialect, preamble=20)
    assert re.fullmatch(led.regex, begin + text)
    assert Gbnf(led.grammar).accepts(begin + text)
    assert bool(re.fullmatch(plain.regex, begin + text)) == Gbnf(plain.grammar).accepts(begin + text) == (not begin)


@given(GRIDS, st.sampled_from(list(DIALECTS.values())), st.data())
def test_what_is_not_a_grid_is_no_answer(form, dialect, data):
    seed, height, width, smooth = form
    text, vocabulary = spelled_answer(grid_of(seed, height, width, smooth, 3), dialect)
    answers = answer_grammar(vocabulary, (height, width), dialect)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = data.draw(
        st.sampled_from([text[:at] + text[at + 1 :], text[:at], text[:at] + "x" + text[at:], text + text])
    )
    # what remains an answer must be one that reads as a whole: a 2 of 12 may go, and leave a grid of other runs
    if re.fullmatch(answers.regex, changed):
        assert changed.count(dialect.row) == text.count(dialect.row)
    if Gbnf(answers.grammar).accepts(changed):
        assert decode(changed, (height, width), vocabulary, dialect=dialect).exact


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), min_size=1, max_size=6), min_size=1, max_size=4)
)
def test_rows_that_do_not_sum_to_the_width_pass_the_expression_and_not_the_grammar(rows):
    answers = answer_grammar(VOCABULARY, (len(rows), 6))
    runs = ["| ".join(f"{VOCABULARY[label]} *{count}" for label, count in row) for row in rows]
    text = "<seg>" + "\n ".join(runs) + "\n</seg>"
    assert re.fullmatch(answers.regex, text)
    assert Gbnf(answers.grammar).accepts(text) == all(sum(count for _, count in row) == 6 for row in rows)


@pytest.mark.parametrize("count", ["0", "01", "7", "16", "-1", "1 ", "", "x"])
def test_counts_outside_the_row_are_no_answer(count):
    answers = answer_grammar(VOCABULARY, (1, 6))
    text = f"<seg>ship *{count}\n</seg>"
    assert not re.fullmatch(answers.regex, text)
    assert not Gbnf(answers.grammar).accepts(text)


def test_labels_that_could_not_be_read_back_and_grids_without_cells_are_refused():
    with pytest.raises(PromptError):
        answer_grammar(("others", "a|b"), (2, 2))
    for shape in ((0, 4), (4, 0)):
        with pytest.raises(UsageError):
            answer_grammar(VOCABULARY, shape)
    with pytest.raises(UsageError):
        answer_grammar(VOCABULARY, (2, 2), GEOGROUND)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (32, 32)])
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_the_engine_of_vllm_and_sglang_reads_both_texts(shape, dialect):
    xgrammar = pytest.importorskip("xgrammar", reason="needs xgrammar")
    accepts = pytest.importorskip("xgrammar.testing")._is_grammar_accept_string
    text, vocabulary = spelled_answer(grid_of(1, *shape, smooth=False, labels=3), dialect)
    answers = answer_grammar(vocabulary, shape, dialect, preamble=40)
    for grammar in (xgrammar.Grammar.from_ebnf(answers.grammar), xgrammar.Grammar.from_regex(answers.regex)):
        assert accepts(grammar, text)
        assert accepts(grammar, f"Here it is:\n{text}")
        assert not accepts(grammar, text[:-1])
        assert not accepts(grammar, text.replace("*", "x", 1))


def test_the_grammar_stays_small_enough_to_send():
    assert len(answer_grammar([str(number) for number in range(171)], (32, 32)).grammar) < 20_000


@pytest.mark.parametrize(
    ("owner", "version", "form", "path", "value"),
    [
        ("vllm", "0.12.0", "grammar", ("structured_outputs", "grammar"), "grammar"),
        ("vllm", "0.11.0rc2.dev5+g1234", "regex", ("structured_outputs", "regex"), "regex"),
        ("vllm", None, "grammar", ("structured_outputs", "grammar"), "grammar"),
        ("vllm", "0.10.2", "grammar", ("guided_grammar",), "grammar"),
        ("vllm", "v0.6.6", "regex", ("guided_regex",), "regex"),
        ("sglang", None, "grammar", ("ebnf",), "grammar"),
        ("sglang", None, "regex", ("regex",), "regex"),
        ("llamacpp", None, "grammar", ("grammar",), "grammar"),
    ],
)
def test_each_engine_is_held_to_the_grammar_in_its_own_words(owner, version, form, path, value):
    answers = answer_grammar(VOCABULARY, (2, 2))
    pages = {} if version is None else {"version": Act({"version": version})}
    with serving(echo, listing(owner), **pages) as fake, Endpoint(fake.url, "m", form=form) as model:
        model.ask([Question((tile(), "t"), answers=answers), Question((tile(), "free"))])
        held, free = sorted(fake.questions, key=lambda body: len(json.dumps(body)), reverse=True)
        assert model.engine != "other"
    assert set(held) - set(free) == {path[0]}
    found = held
    for name in path:
        found = found[name]
    assert found == getattr(answers, value)


def test_an_unknown_engine_is_not_sent_what_it_does_not_know():
    answers = answer_grammar(VOCABULARY, (2, 2))
    question = Question((tile(), "t"), answers=answers)
    standard = {"model", "messages", "max_tokens", "temperature", "frequency_penalty", "stream", "logprobs"}
    with serving(echo) as fake:
        with Endpoint(fake.url, "m") as model:
            model.ask([question])
            assert model.engine == "other"
            assert set(fake.questions[-1]) == standard
        with Endpoint(fake.url, "m", constraint="sglang", logprobs=False) as model:
            model.ask([question])
            assert set(fake.questions[-1]) == standard - {"logprobs"} | {"ebnf"}
    with serving(echo, listing("vllm")) as fake, Endpoint(fake.url, "m", constraint="none") as model:
        model.ask([question])
        assert set(fake.questions[-1]) == standard | {"repetition_penalty"}


def test_llama_cpp_takes_no_expressions():
    with pytest.raises(UsageError, match=r"llama[.]cpp"):
        request_fields("llama.cpp", None, answer_grammar(VOCABULARY, (2, 2)), "regex")


# GBNF, as far as it is written here


class Gbnf:
    """Reads a grammar by its own means: texts, classes of characters, names, groups, ``|``, ``?`` and ``{m,n}``."""

    PIECE = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|(\[(?:[^\]\\]|\\.)*\])(?:\{(\d+),(\d+)\})?|([\w-]+)|([()|?]))')

    def __init__(self, text):
        self.rules = {}
        for line in text.splitlines():
            name, _, body = line.partition(" ::= ")
            self.tokens = [match.groups() for match in self.PIECE.finditer(body)]
            assert "".join(match[0] for match in self.PIECE.finditer(body)) == body, body
            assert name not in self.rules
            self.rules[name] = self.choice()
            assert not self.tokens

    def mark(self):
        """The sign that comes next, if one does."""
        return self.tokens[0][5] if self.tokens else None

    def choice(self):
        ways = [self.sequence()]
        while self.mark() == "|":
            self.tokens.pop(0)
            ways.append(self.sequence())
        return ("choice", ways)

    def sequence(self):
        parts = []
        while self.tokens and self.mark() not in {"|", ")"}:
            text, chars, least, most, name, mark = self.tokens.pop(0)
            if text is not None:
                parts.append(
                    ("text", re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r", "t": "\t"}.get(m[1], m[1]), text))
                )
            elif chars is not None:
                parts.append(("chars", re.compile(chars), int(least or 1), int(most or 1)))
            elif name is not None:
                parts.append(("rule", name))
            elif mark == "(":
                parts.append(self.choice())
                assert self.tokens.pop(0)[5] == ")"
            else:
                parts[-1] = ("choice", [("sequence", []), parts[-1]])
        return ("sequence", parts)

    def accepts(self, text):
        self.text, self.known = text, {}
        return len(text) in self.ends(("rule", "root"), 0)

    def ends(self, node, at):
        kind = node[0]
        if kind == "text":
            return {at + len(node[1])} if self.text.startswith(node[1], at) else set()
        if kind == "chars":
            stop = at
            while stop < len(self.text) and stop - at < node[3] and node[1].fullmatch(self.text[stop]):
                stop += 1
            return set(range(at + node[2], stop + 1))
        if kind == "rule":
            if (node[1], at) not in self.known:
                self.known[node[1], at] = self.ends(self.rules[node[1]], at)
            return self.known[node[1], at]
        if kind == "choice":
            return {end for way in node[1] for end in self.ends(way, at)}
        reached = {at}
        for part in node[1]:
            reached = {end for start in reached for end in self.ends(part, start)}
        return reached
