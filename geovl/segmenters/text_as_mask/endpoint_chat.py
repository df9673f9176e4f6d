"""The words of OpenAI's chat API: a request from a question, and an answer, or what is wrong, from a reply."""

import json
import math
import re
import struct
import time
import zlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np

from geovl.errors import ModelError
from geovl.segmenters.text_as_mask.endpoint_answers import Answer, Fault, Pixels, Question, Token
from geovl.segmenters.text_as_mask.endpoint_http import Link, Reply
from geovl.sources import redacted

_LONG = re.compile(
    r"context.{0,20}(length|size|window)|max\w*.model.len|longer than the max|too (long|large|many tokens)|exceed",
    re.IGNORECASE,
)
_BUSY = frozenset({429})
_FAILING = frozenset({408, 425, 500, 502, 503, 504})


def request_body(question: Question, model: str, max_tokens: int, fields: Mapping[str, Any]) -> bytes:
    """Write a request: greedy, in one piece.

    Args:
        question: What is asked.
        model: As the server calls it.
        max_tokens: After which the answer is cut.
        fields: Further ones, over those that are set here.
    """
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in question.parts
    ]
    system = [] if question.system is None else [{"role": "system", "content": question.system}]
    told = {
        "model": model,
        "messages": [*system, {"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0,
        # transformers makes a repetition penalty of 1 of this, over that of a checkpoint; runs of labels repeat
        "frequency_penalty": 0,
        "stream": False,
        **fields,
    }
    return json.dumps(told).encode()


def data_url(pixels: Pixels) -> str:
    """Return uint8 (3, height, width) as a URL that holds it, as PNG: a served model sees what one here would see."""
    return "data:image/png;base64," + b64encode(png(pixels)).decode()


def png(pixels: Pixels) -> bytes:
    """Write a picture as PNG, each byte as the difference to the pixel on its left.

    Args:
        pixels: uint8 (3, height, width): red, green, blue.
    """
    _, height, width = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1  # the filter "Sub"
    plain = pixels.transpose(1, 2, 0)
    differences = rows[:, 1:].reshape(height, width, 3)
    differences[:] = plain
    differences[:, 1:] -= plain[:, :-1]
    rows[:, 1:] = differences.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 1)  # half the time of level 3 and 0.3 % more bytes, on a photo
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def read_answer(reply: Reply, link: Link, max_tokens: int) -> Answer:
    """Read the answer, or the fault, of a reply.

    Args:
        reply: Of any status but those that :func:`refuse_hopeless` refuses.
        link: Whose reply it is.
        max_tokens: That were asked for.
    """
    if reply.status != 200:
        return Answer(fault=status_fault(reply, link))
    try:
        told = json.loads(reply.body)
    except (ValueError, RecursionError):
        return Answer(fault=_no_json(reply, link))
    choice = _first(told.get("choices")) if isinstance(told, dict) else None
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        said = error_text(reply, link)
        msg = f"{link.url} gave an answer without choices{': ' + said if said else ''}."
        return Answer(fault=Fault("garbled", msg, "Is it the address of an OpenAI-compatible server?"))
    return _checked(_answer(choice, message), link, max_tokens)


def _first(found: object) -> dict[str, Any] | None:
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else None


def _answer(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Answer:
    text, finish = message.get("content"), choice.get("finish_reason")
    return Answer(
        _sound(text) if isinstance(text, str) else "",
        _sound(finish) if isinstance(finish, str) else None,
        _tokens(choice.get("logprobs")),
    )


def _sound(text: str) -> str:
    """Return a text without halves of characters, which JSON can spell and no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _checked(answer: Answer, link: Link, max_tokens: int) -> Answer:
    if answer.finish == "length":
        msg = f"The answer was cut at {max_tokens} tokens."
        return replace(answer, fault=Fault("cut", msg, "Allow more tokens, or ask for a coarser grid."))
    if answer.finish == "content_filter":
        return replace(answer, fault=Fault("refused", f"A filter of {link.url} withheld the answer."))
    if not answer.text.strip():
        msg = f"{link.url} gave an answer without text."
        return replace(answer, fault=Fault("empty", msg, "If the model thinks first, turn that off in the server."))
    return answer


def _tokens(found: object) -> tuple[Token, ...] | None:
    """Return the tokens of an answer; None where they are not told, or not all of them."""
    content = found.get("content") if isinstance(found, dict) else None
    if not isinstance(content, list) or not content:
        return None
    tokens = tuple(token for entry in content if (token := _token(entry)) is not None)
    return tokens if len(tokens) == len(content) else None


def _token(entry: object) -> Token | None:
    if not isinstance(entry, dict):
        return None
    text, raw, logprob = entry.get("token"), entry.get("bytes"), entry.get("logprob")
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or not math.isfinite(logprob):
        return None
    if isinstance(raw, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in raw):
        return Token(bytes(raw), float(logprob))
    return Token(_sound(text).encode(), float(logprob)) if isinstance(text, str) else None


def _no_json(reply: Reply, link: Link) -> Fault:
    if reply.body.lstrip()[:1] == b"<":
        msg = f"{link.url} answers with a web page instead of JSON."
        return Fault("garbled", msg, "Check the address; a page to sign in may stand in its place.")
    return Fault("broken", f"{link.url} gave an answer that ends in the middle, or is no JSON.")


def refuse_hopeless(reply: Reply, link: Link) -> None:
    """Refuse what every question would be answered with.

    Raises:
        ModelError: The server wants a key, or sends elsewhere. The key is not sent there: it may be anybody's.
    """
    if reply.status in (401, 403):
        said = error_text(reply, link)
        msg = f"{link.url} does not let us in (HTTP {reply.status}{': ' + said if said else ''})."
        raise ModelError(msg, "Put the server's key into the environment: GEOVL_ENDPOINT_KEY=...")
    if 300 <= reply.status < 400:
        where = link.clean(redacted(reply.headers.get("location", "an unknown place")))
        msg = f"{link.url} sends us to {where} (HTTP {reply.status}), where neither pictures nor keys are sent unasked."
        raise ModelError(msg, "Give that address if you trust it.")


def retry_after(reply: Reply) -> float:
    """Return the seconds that a server wants to be left alone; 0 where it does not say."""
    told = reply.headers.get("retry-after", "").strip()
    if told.isdecimal():
        return float(told)
    try:
        until = parsedate_to_datetime(told)
    except ValueError:
        return 0.0
    return max(0.0, until.timestamp() - time.time())


def status_fault(reply: Reply, link: Link) -> Fault:
    """Return what a status other than 200 means for one question."""
    said = error_text(reply, link)
    told = f" (HTTP {reply.status}{': ' + said if said else ''})."
    if reply.status in _BUSY:
        return Fault("busy", f"{link.url} is busy{told}", "Ask fewer questions at once.")
    if reply.status in _FAILING:
        return Fault("server", f"{link.url} failed{told}", "See the server's own log.")
    if reply.status == 413 or (reply.status in (400, 422) and _LONG.search(said)):
        msg = f"The question, or question and answer together, are too long for {link.url}{told}"
        return Fault("too-long", msg, "Allow fewer tokens, use smaller windows, or serve the model with more context.")
    return Fault("refused", f"{link.url} refuses the question{told}", "See the server's own log.")


def error_text(reply: Reply, link: Link) -> str:
    """Return what a server says is wrong, fit to be shown; empty where it says nothing."""
    try:
        told = json.loads(reply.body)
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "detail", "message"):
        found = told.get(name) if isinstance(told, dict) else None
        if isinstance(found, dict):
            found = found.get("message")
        if found:
            return link.clean(found if isinstance(found, str) else json.dumps(found)).rstrip(".")
    return ""
