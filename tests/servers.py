"""A small HTTP server for tests: it serves byte ranges, counts what it sends, and misbehaves as told."""

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Page:
    """What stands under one path, and how the server misbehaves there."""

    body: bytes
    kind: str = "image/tiff"
    """Content-Type."""
    status: int = 200
    """Anything else is sent with a short text instead of the body."""
    ranges: bool = True
    """False: every request is answered with the whole body and status 200."""
    head: bool = True
    """False: HEAD is answered 403, as by URLs that are signed for GET only."""
    latency: float = 0.0
    """Seconds before each answer."""
    fail_first: int = 0
    """So many requests are answered 500 before the first good answer."""
    reset_first: int = 0
    """The connection is reset on so many requests."""
    keep: float = 1.0
    """Share of the promised body that is really sent before the connection is closed."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers."""


@dataclass(frozen=True)
class Seen:
    """One request, as answered."""

    method: str
    path: str
    range: str | None
    status: int
    """0 where the connection was reset."""
    sent: int
    """Bytes of body."""
    body: bytes
    """What came with the request."""


class Server:
    """Pages at ``http://127.0.0.1:PORT/``; use as a context manager."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[Seen] = []
        self.counts: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def root(self) -> str:
        """The address without a slash at the end."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def sent(self) -> int:
        """Bytes of all bodies sent so far."""
        return sum(request.sent for request in self.seen)

    def put(self, path: str, body: bytes | str | Path, **how: Any) -> str:
        """Serve a body under a path, which may have a query, and return the URL."""
        if isinstance(body, Path):
            body = body.read_bytes()
        self.pages[path] = Page(body.encode() if isinstance(body, str) else body, **how)
        return self.root + path

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than the server lives."""
        self._stopped.wait(seconds)

    @contextmanager
    def counting(self) -> Iterator[list[Seen]]:
        """Collect the requests of a block; filled when the block ends."""
        before, during = len(self.seen), []
        yield during
        time.sleep(0.02)  # the last answer is noted after it was sent
        during.extend(self.seen[before:])


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of ``bytes=a-b``, or None for the whole body."""
    if header is None or "," in header:
        return None
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - the class within counts
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_POST(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            page = server.pages.get(self.path) or server.pages.get(self.path.partition("?")[0])
            server.counts[self.path] += 1
            turn = server.counts[self.path]
            if page is None:
                self._send(404, b"nothing here", {}, body=body, posted=posted)
                return
            server.wait(page.latency)
            if turn <= page.reset_first:
                self._reset(posted)
            elif turn <= page.fail_first:
                self._send(500, b"not yet", {}, body=body, posted=posted)
            elif page.status != 200 or (not body and not page.head):
                status = page.status if page.status != 200 else 403
                self._send(status, b"no", page.headers, body=body, posted=posted)
            else:
                self._send_page(page, body=body, posted=posted)

        def _send_page(self, page: Page, *, body: bool, posted: bytes) -> None:
            headers = {"Content-Type": page.kind, **page.headers}
            wanted = _span(self.headers.get("Range"), len(page.body)) if page.ranges else None
            if page.ranges:
                headers["Accept-Ranges"] = "bytes"
            if wanted is None:
                self._send(200, page.body, headers, body=body, posted=posted, keep=page.keep)
                return
            first, end = wanted
            if first >= len(page.body):
                self._send(416, b"", {"Content-Range": f"bytes */{len(page.body)}"}, body=body, posted=posted)
                return
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(page.body)}"
            self._send(206, page.body[first:end], headers, body=body, posted=posted, keep=page.keep)

        def _send(
            self,
            status: int,
            content: bytes,
            headers: dict[str, str],
            *,
            body: bool,
            posted: bytes,
            keep: float = 1.0,
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            part = content[: int(len(content) * keep)] if body else b""
            server.seen.append(Seen(self.command, self.path, self.headers.get("Range"), status, len(part), posted))
            try:
                self.wfile.write(part)
            except OSError:  # the client has had enough
                self.close_connection = True
            if keep < 1:
                self.close_connection = True

        def _reset(self, posted: bytes) -> None:
            server.seen.append(Seen(self.command, self.path, self.headers.get("Range"), 0, 0, posted))
            self.close_connection = True
            # closing with a linger time of 0 sends RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    return Handler
