"""Talking to one HTTP server over connections that are kept, from several threads.

This is the standard library's ``http.client``: ``urllib``, with which the rest of geovl fetches files, opens a
connection for every request, and follows redirects with all headers, so that a key could end on another host. Here a
redirect is only reported. A request that takes too long is ended whatever it waits for, also where a server sends a
byte now and then.
"""

import re
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from ipaddress import ip_address
from socket import SHUT_RDWR, gaierror, socket
from typing import Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from geovl.errors import GeovlError, ModelError, UsageError
from geovl.sources import offline, redacted

_CONNECT = 10.0  # seconds
_PIECE = 1 << 16  # bytes read at once
_MOST = 1 << 25  # bytes of an answer; 4096 tokens with their log-probabilities are about 1 MB
Disturbance = Literal["timeout", "unreachable", "broken", "garbled"]
_STALE = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class DisturbedError(Exception):
    """A request without a reply."""

    def __init__(self, kind: Disturbance, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class StoppedError(ModelError):
    """The link was cut on purpose."""

    def __init__(self) -> None:
        super().__init__("The connections to the served model were closed while answers were awaited.")


@dataclass(frozen=True, slots=True)
class Request:
    """What a server is asked."""

    method: Literal["GET", "POST"]
    path: str
    """Below the server's address."""
    timeout: float
    """Seconds for the whole reply, once the server is reached."""
    body: bytes | None = None
    """JSON."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server sent."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


def server_url(text: str) -> str:
    """Return the address under which a server has ``/v1/...``.

    Args:
        text: With or without ``/v1`` or ``/v1/chat/completions`` at its end.

    Raises:
        UsageError: Not http or https, no host, or with what has no place in it: a password, a query.
        ModelError: The network is forbidden, and it is not on this machine.
    """
    try:
        parts = urlsplit(text.strip())
        parts.port  # noqa: B018 - the property raises
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        msg = f"{redacted(text)!r} is not a URL: {error}"
        raise UsageError(msg, _EXAMPLE) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", text.strip()):
        msg = f"{redacted(text)!r} is not the address of a server."
        raise UsageError(msg, _EXAMPLE)
    if "@" in parts.netloc or parts.query or parts.fragment:
        msg = f"The address {redacted(text)} must hold no user, password or query."
        raise UsageError(msg, "Put the server's key into the environment: GEOVL_ENDPOINT_KEY=...")
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
    path = path.removesuffix("/chat/completions").removesuffix("/v1").rstrip("/")
    url = urlunsplit(parts._replace(path=path))
    if offline() and not loopback(parts.hostname):
        msg = f"{url} needs the network, and GEOVL_OFFLINE forbids it."
        raise ModelError(msg, "Unset GEOVL_OFFLINE, or serve the model on this machine: http://localhost:8000")
    return url


_EXAMPLE = "Give http://HOST:PORT or https://HOST, with or without /v1 behind it."


def loopback(host: str) -> bool:
    """Tell whether a host is this machine."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host.rstrip(".") == "localhost"


class Link:
    """Connections to a server.

    Args:
        url: As :func:`server_url` returns it.
        key: Sent with every request to this server and to no other; empty for none.

    Raises:
        UsageError: A key that cannot be sent.
    """

    def __init__(self, url: str, key: str = "") -> None:
        if not (key.isascii() and key.isprintable()) or " " in key:
            msg = "GEOVL_ENDPOINT_KEY holds what no key can: a blank, a line feed or another special character."
            raise UsageError(msg, "Set it again, without quotes or blanks.")
        self.url = url
        self.stopped = threading.Event()
        self.why: GeovlError | None = None
        self._key = key
        self._parts = urlsplit(url)
        self._proxy = _proxy(self._parts)
        self._idle: list[HTTPConnection] = []
        self._busy: set[HTTPConnection] = set()
        self._lock = threading.Lock()

    def request(self, asked: Request, *, anew: bool = False) -> Reply:
        """Ask, and wait for the whole reply, whatever its status.

        Args:
            asked: What.
            anew: Over a new connection.

        Raises:
            DisturbedError: There is no whole reply.
            StoppedError: The link was cut.
            ModelError: The server's certificate is not valid.
        """
        connection, kept = self._take(anew=anew)
        try:
            return self._exchange(connection, asked)
        except _STALE as error:
            if not kept:
                raise self._disturbed(error, asked.timeout) from error
        except (HTTPException, OSError) as error:
            raise self._disturbed(error, asked.timeout) from error
        # the server had closed it while nobody looked; the others that were kept are as old
        self._drop_idle()
        return self.request(asked, anew=True)

    def clean(self, text: str) -> str:
        """Return what a server says as one line that can be shown: short, and without the key."""
        hidden = text.replace(self._key, "***") if self._key else text
        line = " ".join("".join(char if char.isprintable() else " " for char in hidden).split())
        return line if len(line) <= 300 else f"{line[:297]}..."

    def stop(self, why: GeovlError | None = None) -> None:
        """Cut the link for good: requests under way end at once. What it was first cut for is kept as ``why``."""
        with self._lock:
            if not self.stopped.is_set():
                self.why = why
            self.stopped.set()
            for connection in self._busy:
                _cut(connection)
        self._drop_idle()

    def _take(self, *, anew: bool) -> tuple[HTTPConnection, bool]:
        """Return a connection, and whether it was used before."""
        with self._lock:
            if self.stopped.is_set():
                raise StoppedError
            kept = bool(self._idle) and not anew
            connection = self._idle.pop() if kept else self._new()
            self._busy.add(connection)
        return connection, kept

    def _new(self) -> HTTPConnection:
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        host = self._parts.hostname or ""
        if self._proxy is None:
            return kind(host, self._parts.port, timeout=_CONNECT)
        connection = kind(self._proxy.hostname or "", self._proxy.port, timeout=_CONNECT)
        if self._parts.scheme == "https":
            connection.set_tunnel(host, self._parts.port, _proxy_headers(self._proxy))
        return connection

    def _exchange(self, connection: HTTPConnection, asked: Request) -> Reply:
        keep = False
        try:
            if connection.sock is None:
                connection.timeout = min(_CONNECT, asked.timeout)
                connection.connect()
            connection.sock.settimeout(asked.timeout)
            with _watched(connection, asked.timeout):
                if self.stopped.is_set():  # while it was connected
                    raise StoppedError
                connection.request(asked.method, self._target(asked.path), asked.body, self._headers(asked.body))
                response = connection.getresponse()
                content = _content(response)
            keep = not response.will_close
            return Reply(response.status, {k.lower(): v for k, v in response.headers.items()}, content)
        finally:
            self._put_back(connection, keep=keep)

    def _put_back(self, connection: HTTPConnection, *, keep: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            keep = keep and not self.stopped.is_set()
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            dropped, self._idle = self._idle, []
        for connection in dropped:
            connection.close()

    def _target(self, path: str) -> str:
        """Return what is asked for: a proxy of plain HTTP is told the whole address."""
        whole = self._proxy is not None and self._parts.scheme == "http"
        return f"{self.url if whole else self._parts.path}{path}"

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "geovl"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if self._proxy is not None and self._parts.scheme == "http":
            headers |= _proxy_headers(self._proxy)
        return headers

    def _disturbed(self, error: Exception, timeout: float) -> Exception:
        """Return what to raise for a request that failed."""
        if self.stopped.is_set():
            return StoppedError()
        told = self.clean(str(getattr(error, "strerror", None) or error) or type(error).__name__)
        if isinstance(error, ssl.SSLCertVerificationError):
            msg = f"{self.url}: no secure connection: {told}"
            return ModelError(msg, "Check the certificate; SSL_CERT_FILE names a file with your own authority.")
        kind, sentence = next((kind, sentence) for types, kind, sentence in _FAULTS if isinstance(error, types))
        what = sentence.format(timeout=timeout, connect=min(_CONNECT, timeout), told=told)
        return DisturbedError(kind, f"{self.url} {what}.")


class _LateError(TimeoutError):
    """A request that had its time."""


_FAULTS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], Disturbance, str], ...] = (
    (_LateError, "timeout", "gave no whole answer within {timeout:g} seconds"),
    (TimeoutError, "unreachable", "cannot be reached within {connect:g} seconds"),
    (gaierror, "unreachable", "names a host that is not known"),
    (IncompleteRead, "broken", "broke off in the middle of an answer"),
    (_STALE, "unreachable", "closed the connection without an answer"),
    (HTTPException, "garbled", "does not answer in HTTP: {told}"),
    (OSError, "unreachable", "cannot be reached: {told}"),
)
"""Errors, the first that fits counts; their kind, and what follows the address."""


@contextmanager
def _watched(connection: HTTPConnection, timeout: float) -> Iterator[None]:
    """End whatever is done with a connection after some seconds.

    Raises:
        _LateError: It was ended.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        _cut(connection)

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
        if late.is_set():  # what has no length looks whole where it was cut
            raise _LateError
    except (HTTPException, OSError) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise _LateError from error
        raise
    finally:
        timer.cancel()


def _cut(connection: HTTPConnection) -> None:
    """End what another thread does with a connection, which that thread closes then."""
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            socket.shutdown(sock, SHUT_RDWR)  # of an SSL socket too, whose own method must not be called by two threads


def _content(response: HTTPResponse) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := response.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST:
            msg = f"an answer of more than {_MOST >> 20} MiB"
            raise HTTPException(msg)
    if response.length:  # what is missing of the length that was promised
        raise IncompleteRead(b"", response.length)
    return b"".join(pieces)


def _proxy(parts: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment names for a server; none for this machine."""
    host = parts.hostname or ""
    found = getproxies().get(parts.scheme)
    if not found or loopback(host) or proxy_bypass(host):
        return None
    return urlsplit(found if "://" in found else f"http://{found}")


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}
