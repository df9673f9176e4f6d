"""Asking servers: what may be asked, GDAL's options for it, and faults that say what happened."""

import math
import os
import re
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from geovl.errors import SourceError

if TYPE_CHECKING:
    from http.client import HTTPResponse

REMOTE_DRIVERS = ("GTiff", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "HFA", "PNG", "JPEG", "WEBP")
"""GDAL drivers for files behind a URL that was not written by the user: none of them opens another file by name."""
NETWORK = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(_streaming)?([/?]|$)|https?://", re.IGNORECASE)
_PROBE = 1 << 16  # bytes asked of a URL to see what it answers
_UNRANGED = 1 << 14  # bytes; a smaller file is read by GDAL in one piece whatever the server knows of ranges
_QUERY = "/%:@!$&'()*+,;=~-._?[]{}\"|"
Reason = Literal[
    "offline", "unreachable", "not-found", "forbidden", "refused", "server", "timeout", "reset", "truncated",
    "no-ranges", "not-a-raster", "damaged",
]  # fmt: skip


class RemoteError(SourceError):
    """A remote source that cannot be read.

    Args:
        url: The source, without its query.
        reason: What kind of fault it is.
        message: What happened, with the URL.
        hint: What to do next.
    """

    def __init__(self, url: str, reason: Reason, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.url = url
        self.reason = reason


OPTIONS = {
    # Opening must not list the folder nor look for .aux.xml, .ovr and .msk beside the file: each is a request, and a
    # listing may be huge. Overviews and masks outside the file are therefore not seen.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # The ranges of one read are asked for in parallel, each in a request of its own: few servers answer several
    # ranges in one, but most keep several connections. What overlaps between windows is kept decoded by the block
    # cache (GDAL_CACHEMAX), which must hold a row of windows, or those ranges are fetched again.
    "GDAL_HTTP_MULTIRANGE": "YES",
    # Tiles that lie side by side in the file are one range.
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    # 429, 500, 502, 503, 504, resets and timeouts are tried again; the delay, seconds, grows each time.
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    # Seconds to connect; for a whole answer, which may be megabytes over a slow line; and without progress
    # (under 1000 bytes per second) after which a server counts as stuck.
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_LOW_SPEED_TIME": "20",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    # Left alone: CPL_VSIL_CURL_ALLOWED_EXTENSIONS, which saves nothing once the folder is not listed and refuses
    # names without an ending; CPL_VSIL_CURL_USE_HEAD=NO, which begins a download of the whole file to learn its size;
    # VSI_CACHE, which saved neither bytes nor requests where it was measured, and keeps up to 25 MB an open file.
}


def environment(remote: bool) -> dict[str, str]:
    """Return GDAL options for reading over the network, for ``rasterio.Env``.

    Options that the user has set as environment variables are left out, so that theirs count.

    Args:
        remote: Whether the source needs the network; False gives no options.
    """
    if not remote:
        return {}
    return {name: value for name, value in OPTIONS.items() if name not in os.environ}


def offline() -> bool:
    """Return whether GEOVL_OFFLINE forbids the network: any value but 0 does."""
    return os.environ.get("GEOVL_OFFLINE", "") not in ("", "0")


def refuse_offline(url: str) -> None:
    """Refuse what needs the network where GEOVL_OFFLINE is set.

    Raises:
        RemoteError: It is.
    """
    if offline():
        msg = f"{redacted(url)} needs the network, and GEOVL_OFFLINE forbids it."
        raise RemoteError(redacted(url), "offline", msg, "Unset GEOVL_OFFLINE, or give a local copy.")


def checked_url(url: str) -> str:
    """Return an http or https URL with what must be escaped escaped.

    Raises:
        SourceError: Another scheme, or no URL at all.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - the property raises
    except ValueError as error:
        msg = f"{url!r} is not a URL: {error}"
        raise SourceError(msg, "Give https://HOST/PATH") from error
    if parts.scheme.lower() not in ("http", "https"):
        msg = f"{redacted(url)!r} has the scheme {parts.scheme!r}; geovl reads http and https."
        if parts.scheme == "file":
            hint = f"Give the path: {unquote(parts.path)}"
        elif (
            vsi := {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "abfs": "/vsiadls/"}.get(parts.scheme)
        ) is None:
            hint = "Give an https URL, or a /vsi... path of GDAL."
        else:
            hint = f"Give the path as GDAL writes it: {vsi}{parts.netloc}{parts.path}"
        raise SourceError(msg, hint)
    if not parts.hostname:
        msg = f"{redacted(url)!r} names no host."
        raise SourceError(msg, "Give https://HOST/PATH")
    escaped = parts._replace(path=quote(parts.path, safe="/%:@!$&'()*+,;=~-._"), query=quote(parts.query, safe=_QUERY))
    return urlunsplit(escaped._replace(fragment=""))


def is_url(text: str) -> bool:
    """Whether a text is meant as an http or https URL."""
    return text.lower().startswith(("http://", "https://"))


def url_of(path: str) -> str | None:
    """Return the URL within ``/vsicurl/URL``, or None."""
    found = re.match(r"/vsicurl(?:_streaming)?/(https?://.+)", path, re.IGNORECASE)
    return found[1] if found else None


def redacted(text: str) -> str:
    """Return a URL or GDAL path without user, password and query."""
    found = re.search(r"https?://", text, re.IGNORECASE)
    if found is None:
        return text
    try:
        parts = urlsplit(text[found.start() :])
    except ValueError:
        return text
    host = parts.netloc.rpartition("@")[2]
    return text[: found.start()] + urlunsplit((parts.scheme, host, parts.path, "", ""))


def _number(option: str) -> float:
    """Return the number that a GDAL option has, the user's where it is one."""
    try:
        value = float(os.environ.get(option, ""))
    except ValueError:
        return float(OPTIONS[option])
    return value if math.isfinite(value) and value >= 0 else float(OPTIONS[option])


def _patience() -> float:
    """Return the seconds without an answer after which a server counts as stuck."""
    return min(_number("GDAL_HTTP_TIMEOUT"), _number("GDAL_HTTP_LOW_SPEED_TIME"))


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


_PASSING: frozenset[Reason] = frozenset({"server", "timeout", "reset", "truncated"})


def request(
    url: str,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    most: int = _PROBE,
    retries: int | None = None,
) -> _Answer:
    """Ask a server, again where the fault may pass.

    Args:
        url: http or https.
        method: GET, or POST where there is a body, unless given.
        headers: Further headers.
        body: What is sent.
        most: Bytes of an answer; a longer one is an error, unless the answer is only probed (``most`` = _PROBE).
        retries: GDAL_HTTP_MAX_RETRY where None.

    Raises:
        RemoteError: No good answer.
    """
    refuse_offline(url)
    retries = int(_number("GDAL_HTTP_MAX_RETRY")) if retries is None else retries
    delay = _number("GDAL_HTTP_RETRY_DELAY")
    for turn in range(retries + 1):
        try:
            return _ask(url, method, dict(headers or {}), body, most)
        except RemoteError as error:
            if error.reason not in _PASSING or turn == retries:
                raise
        time.sleep(delay * 2**turn)
    raise AssertionError  # the last turn returns or raises


def _ask(url: str, method: str | None, headers: dict[str, str], body: bytes | None, most: int) -> _Answer:
    import ssl  # noqa: PLC0415 - these take longer to import than local sources take to open
    from http.client import HTTPException, IncompleteRead  # noqa: PLC0415
    from urllib import error, request  # noqa: PLC0415

    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if user:
        headers["Authorization"] = "Basic " + b64encode(unquote(user).encode()).decode()
    headers["User-Agent"] = "geovl"
    plain = urlunsplit(parts._replace(netloc=host))
    # file: and ftp: are left out, so that no redirect leads there
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler, request.UnknownHandler, request.HTTPHandler, request.HTTPSHandler,
        request.HTTPDefaultErrorHandler, request.HTTPRedirectHandler, request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    try:
        asked = request.Request(plain, body, headers, method=method)  # noqa: S310 - http and https, see the opener
        with opener.open(asked, timeout=_patience()) as response:
            content = _content(url, response, most)
            return _Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, content)
    except error.HTTPError as fault:
        fault.close()
        raise _status_error(url, fault.code) from fault
    except IncompleteRead as fault:
        raise _truncated_error(url, len(fault.partial), len(fault.partial) + (fault.expected or 1)) from fault
    except (ssl.SSLError, error.URLError, HTTPException, OSError) as fault:
        raise _transport_error(url, fault) from fault


def _content(url: str, response: "HTTPResponse", most: int) -> bytes:
    """Read a body; at most ``most`` bytes, for at most GDAL_HTTP_TIMEOUT seconds."""
    until = time.monotonic() + _number("GDAL_HTTP_TIMEOUT")
    pieces: list[bytes] = []
    size = 0
    while size <= most and (piece := response.read1(1 << 16)):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > until:
            raise TimeoutError
    promised = response.headers.get("Content-Length")
    if size > most:
        if most == _PROBE:
            return b"".join(pieces)
        msg = f"The answer of {redacted(url)} is longer than {most >> 20} MiB."
        raise RemoteError(redacted(url), "refused", msg, "Narrow the search, or ask for smaller pages (limit=100).")
    if promised is not None and promised.isdecimal() and size < int(promised) and not _headless(response):
        raise _truncated_error(url, size, int(promised))
    return b"".join(pieces)


def _headless(response: "HTTPResponse") -> bool:
    """Whether the answer has no body by right: HEAD, 204, 304."""
    return getattr(response, "_method", None) == "HEAD" or response.status in (204, 304)


def _truncated_error(url: str, size: int, promised: int) -> RemoteError:
    msg = f"{redacted(url)} promised {promised} bytes and sent {size}: the answer was cut off."
    return RemoteError(redacted(url), "truncated", msg, "Try again later; if it stays, download the file and give it.")


def _status_error(url: str, status: int) -> RemoteError:
    shown = redacted(url)
    if status in (404, 410):
        msg = f"{shown} does not exist on the server (HTTP {status})."
        return RemoteError(shown, "not-found", msg, "Check the URL in a browser; a catalog may be out of date.")
    if status in (401, 403):
        msg = f"{shown} may not be read (HTTP {status})."
        hint = "Sign in or sign the URL (a signature may have run out), or set GDAL_HTTP_HEADERS or GDAL_HTTP_USERPWD."
        return RemoteError(shown, "forbidden", msg, hint)
    if status == 429 or status >= 500:
        msg = f"{shown}: the server failed or is overloaded (HTTP {status})."
        return RemoteError(shown, "server", msg, "Try again later; GDAL_HTTP_MAX_RETRY sets how often it is tried.")
    msg = f"{shown} was refused by the server (HTTP {status})."
    return RemoteError(shown, "refused", msg, "Check the URL and its parameters in a browser.")


def _transport_error(url: str, error: Exception) -> RemoteError:
    import socket  # noqa: PLC0415 - as in _ask
    import ssl  # noqa: PLC0415

    shown = redacted(url)
    cause = getattr(error, "reason", error)
    host = urlsplit(url).hostname
    if isinstance(cause, TimeoutError):
        msg = f"{shown} did not answer within {_patience():g} seconds."
        hint = "Try again, or allow more: GDAL_HTTP_TIMEOUT and GDAL_HTTP_LOW_SPEED_TIME, in seconds."
        return RemoteError(shown, "timeout", msg, hint)
    if isinstance(cause, ssl.SSLError):
        msg = f"{shown}: no secure connection to {host}: {cause}"
        return RemoteError(shown, "unreachable", msg, "Check the certificate; CURL_CA_BUNDLE names your own authority.")
    if isinstance(cause, socket.gaierror):
        msg = f"{shown}: the host {host!r} is not known."
        return RemoteError(shown, "unreachable", msg, "Check the spelling, the network and the proxy settings.")
    if isinstance(cause, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        msg = f"{shown}: the server closed the connection."
        return RemoteError(shown, "reset", msg, "Try again later; GDAL_HTTP_MAX_RETRY sets how often it is tried.")
    msg = f"{shown}: {host} cannot be reached: {getattr(cause, 'strerror', None) or cause}"
    return RemoteError(shown, "unreachable", msg, "Check the address, the network and the proxy settings.")


def is_json(url: str) -> bool:
    """Ask what an URL without a telling ending holds."""
    answer = request(url, headers={"Range": f"bytes=0-{_PROBE - 1}"})
    return "json" in answer.headers.get("content-type", "") or answer.body.lstrip()[:1] == b"{"


def check(url: str) -> None:
    """Ask for the first bytes of a URL, and see whether a raster could be read from there window by window.

    Raises:
        RemoteError: It could not, and why.
    """
    shown = redacted(url)
    answer = request(url, headers={"Range": f"bytes=0-{_PROBE - 1}"}, retries=0)
    start = answer.body[:512].lstrip().lower()
    if "html" in answer.headers.get("content-type", "") or start.startswith((b"<!doctype html", b"<html")):
        msg = f"{shown} is a web page, not a raster."
        hint = "Give the address of the file itself; a page to sign in may stand in its place."
        raise RemoteError(shown, "not-a-raster", msg, hint)
    if start.startswith((b"<vrtdataset", b"<?xml", b"{", b"[")):
        msg = f"{shown} is text, not a raster: {start[:40].decode('latin-1')!r}"
        raise RemoteError(
            shown, "not-a-raster", msg, "For STAC put stac+ before the URL; a VRT must be saved here first."
        )
    if answer.status == 200 and len(answer.body) > _UNRANGED:
        msg = f"{shown}: the server sends whole files only (no range requests), so windows cannot be read from it."
        raise RemoteError(shown, "no-ranges", msg, "Download the file and give the local copy.")
    if os.environ.get("CPL_VSIL_CURL_USE_HEAD", "").upper() in ("NO", "FALSE", "OFF", "0"):
        return
    try:
        request(url, method="HEAD", retries=0)
    except RemoteError as error:
        msg = f"{shown} can be read, but the server does not tell its size: {error.message}"
        raise RemoteError(
            shown, "forbidden", msg, "Try again with the environment variable CPL_VSIL_CURL_USE_HEAD=NO"
        ) from error
