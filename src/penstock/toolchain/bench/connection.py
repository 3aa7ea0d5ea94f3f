"""A connection of the load generator: keeps alive, sends one request at a time, and reads just what it needs to time.

It does less for a reply than an HTTP client does: status, length, and whether the connection stays open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from penstock.errors import InvalidInput, quoted

_LARGEST_HEAD = 1 << 16


@dataclass(frozen=True)
class Target:
    """What is sent where: complete HTTP requests, sent one after another, to one address.

    `name` says what is asked, such as the model; `payload` where the bodies come from, in words.
    """

    host: str
    port: int
    tls: bool
    requests: tuple[bytes, ...]
    name: str = ""
    payload: str = "as given"

    @property
    def address(self) -> str:
        """`http://host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.tls}://{host}:{self.port}"


def make_target(
    url: str,
    bodies: tuple[bytes, ...] = (),
    *,
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
    name: str = "",
    payload: str = "as given",
) -> Target:
    """Requests with these bodies to a URL; without bodies, one request without any.

    Raises InvalidInput for what is no http or https URL, and for a header of more than one line.
    """
    host, port, tls, path = read_url(url)
    netloc = urlsplit(url).netloc.rpartition("@")[2]
    lines = [f"{method} {path} HTTP/1.1", f"Host: {netloc}", "Accept: */*"]
    for key, value in (headers or {}).items():
        if any(character in f"{key}{value}" for character in "\r\n\0"):
            raise InvalidInput(f"headers: {quoted(key)} has a line break in it", field="headers")
        lines.append(f"{key}: {value}")
    messages = [_message(lines, body) for body in bodies or (None,)]
    return Target(host, port, tls, tuple(messages), name, payload)


def _message(lines: list[str], body: bytes | None) -> bytes:
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *length, "", ""]).encode("latin-1") + (body or b"")


def read_url(url: str) -> tuple[str, int, bool, str]:
    """Host, port, whether it is https, and the path with its query. Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"url: {quoted(url)} is no URL ({error})", field="url") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"url: {quoted(url)} is no URL of a server, such as http://127.0.0.1:8002", field="url")
    if not url.isascii() or any(character.isspace() for character in url):
        raise InvalidInput(f"url: {quoted(url)} has characters that a URL cannot have", field="url")
    tls = parts.scheme == "https"
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    return parts.hostname, port or (443 if tls else 80), tls, path


class Listener(Protocol):
    """What is told of a connection's requests."""

    def answered(self, connection: Connection, status: int, at: float) -> None:
        """The reply to the request in flight is complete."""

    def lost(self, connection: Connection, at: float) -> None:
        """The connection was closed or broke; `busy` says whether a request was in flight."""


class Connection(asyncio.Protocol):
    """One connection, with at most one request in flight. Times are those of `time.perf_counter`."""

    __slots__ = (
        "_buffer",
        "_listener",
        "_need",
        "_open_ended",
        "_status",
        "busy",
        "replies",
        "scheduled",
        "sent",
        "transport",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._buffer = bytearray()
        self._need = 0
        self._status = 0
        self._open_ended = False
        self.busy = False
        self.replies = 0
        self.scheduled = 0.0
        self.sent = 0.0
        self.transport: asyncio.Transport | None = None

    @property
    def usable(self) -> bool:
        """True while another request can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def send(self, request: bytes, scheduled: float | None = None) -> None:
        """Send a request; `scheduled` is when it was due, by default now."""
        assert self.transport is not None
        self.busy = True
        self.sent = time.perf_counter()
        self.scheduled = self.sent if scheduled is None else scheduled
        self.transport.write(request)

    def abandon(self) -> None:
        """Close it without waiting for the reply."""
        self.busy = False
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  the name that asyncio calls
        """Finish a reply that ends with the connection, and tell the listener."""
        now = time.perf_counter()
        if self._open_ended and self.busy:
            self._finish(now)
        self._listener.lost(self, now)

    def data_received(self, data: bytes) -> None:
        """Read what has come; what nothing was asked for is ignored."""
        now = time.perf_counter()
        if not self.busy:
            return
        self._buffer += data
        while self._buffer and len(self._buffer) >= self._need:
            if not self._read(now):
                return

    def _read(self, now: float) -> bool:
        """Read one reply from the buffer; False when more data is needed, or nothing more is wanted."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return self._break() if len(buffer) > _LARGEST_HEAD else False
        head = bytes(buffer[: end + 2]).lower()
        try:
            status, length = int(head[9:12]), _length(head, buffer, end + 4)
        except ValueError:
            return self._break()
        if status < 200:
            del buffer[: end + 4]
            return True
        if status in (204, 304):
            length = 0
        self._status = status
        if length is None:
            self._open_ended, self._need = True, 1 << 62
            return False
        self._need = max(end + 4 + length, 0)
        if length < 0 or len(buffer) < self._need:
            self._need = max(self._need, len(buffer) + 1) if length < 0 else self._need
            return False
        del buffer[: self._need]
        self._need = 0
        if b"\r\nconnection: close" in head or (head.startswith(b"http/1.0") and b"keep-alive" not in head):
            assert self.transport is not None
            self.transport.close()
        self._finish(now)
        return self.busy

    def _finish(self, now: float) -> None:
        self.busy = False
        self.replies += 1
        self._listener.answered(self, self._status, now)

    def _break(self) -> bool:
        """Close a connection that does not speak HTTP; its request counts as lost."""
        if self.transport is not None:
            self.transport.abort()
        return False


def _length(head: bytes, buffer: bytearray, start: int) -> int | None:
    """The bytes of a body; -1 for a chunked one that is not complete, None for one that ends with the connection.

    Raises ValueError for what is not HTTP.
    """
    if not head.startswith(b"http/1."):
        raise ValueError
    found = head.find(b"\r\ncontent-length:")
    if found >= 0:
        return int(head[found + 17 : head.index(b"\r\n", found + 17)])
    if b"\r\ntransfer-encoding:" in head and b"chunked" in head:
        return _chunked_length(buffer, start)
    return None


def _chunked_length(buffer: bytearray, start: int) -> int:
    at = start
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return -1
        size = int(bytes(buffer[at:line]).split(b";")[0], 16)
        if size == 0:
            end = buffer.find(b"\r\n\r\n", line)
            return -1 if end < 0 else end + 4 - start
        at = line + 2 + size + 2
        if at > len(buffer):
            return -1
