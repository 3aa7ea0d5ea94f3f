"""One request of an HTTP/1.1 connection: its body, and the bytes of its reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from penstock.gateway.gateway import request_id_of
from penstock.gateway.http import Call, Disconnected, Reply, ReplyStream, problem_reply
from penstock.gateway.process.h1.front import Front
from penstock.gateway.process.h1.heads import Target
from penstock.gateway.process.h1.known_heads import KnownHead

log = logging.getLogger(__name__)

HIGH_BODY = 256 * 1024
"""Bytes of a body that wait for a handler before reading pauses."""
JOINED = 64 * 1024
"""Bodies of replies up to this size are sent in one piece with their head."""
BODY_SLICE = 256 * 1024
"""Bytes of a body that are parsed at once."""
CRUMBS = 16
"""More pieces than this from one read are joined: each costs memory beyond its bytes."""

BODY = 1
"""Why reading pauses: the body of a request waits for its handler."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_OWN = frozenset(("connection", "content-length", "date", "keep-alive", "transfer-encoding"))
"""Headers that this server writes itself."""
_BODILESS = (204, 304)
_NO_LISTS: dict[str, list[str]] = {}


class Line(Protocol):
    """What a call needs of its connection."""

    front: Front
    transport: Any
    client: str | None
    lost: bool
    blocked: bool
    """True while the client does not read what was written."""

    def pause(self, reason: int) -> None:
        """Read nothing for now."""

    def resume(self, reason: int) -> None:
        """Read on."""

    def finished(self, call: H1Call) -> None:
        """The reply was handed over."""

    async def drained(self) -> None:
        """Return when the client has read enough, or is gone."""

    def gone(self) -> asyncio.Future[None]:
        """Is done when the connection has closed."""

    @property
    def busy(self) -> bool:
        """True if more requests were sent already."""


class H1Call(Call):
    """A request of an HTTP/1.1 connection."""

    watched = False
    begun = False
    """True once the gateway has this call."""
    complete = False
    """True when the whole body is here."""
    expects = False
    """True while the client waits for `100 Continue`."""
    keep = True
    """False if the connection closes after the reply."""
    answered = False
    """True when the whole reply was handed over."""
    refusal: Exception | None = None
    """Set if the head itself is refused."""
    fault: Exception | None = None
    """Why the rest of the body will not come."""
    taken = 0
    """Bytes of the body that the handler has taken piece by piece."""
    seen = 0
    """Bytes of the body after the read before this one."""
    _greedy = False
    _waiter: asyncio.Future[None] | None = None
    _kept = 0

    def __init__(self, line: Line, method: str, target: Target, headers: dict[str, str]) -> None:
        front = line.front
        self.service = front.service
        self.limits = front.limits
        self.method = method
        self.path, self.query, self.authority = target
        self.header = headers.get
        self.line = line
        self.lists: dict[str, list[str]] = {}
        self.parts: list[bytes] = []
        self.size = 0

    @property
    def client(self) -> str | None:  # type: ignore[override]  # read only where it is needed
        """The address of the client; None over a Unix socket."""
        return self.line.client

    def header_values(self, name: str) -> Sequence[str]:
        """The values of a header that may be sent several times."""
        value = self.header(name)
        if value is None:
            return ()
        return self.lists.get(name) or (value,)

    def refuse(self, refusal: Exception) -> None:
        """Answer a head that is refused."""
        gateway = self.line.front.gateway
        self.request_id = request_id_of(self.header("x-request-id"))
        reply = gateway.refuse(refusal, self)
        reply.headers.append(("x-request-id", self.request_id))
        self.respond(reply)

    # The body

    def took(self) -> None:
        """Pieces of the body were added: wake the handler, or pause if it does not take them."""
        parts = self.parts
        if self.answered:
            parts.clear()
            return
        if len(parts) - self._kept > CRUMBS:
            parts[self._kept :] = [b"".join(parts[self._kept :])]
        self._kept = len(parts)
        if self._waiter is not None:
            self.wake()
        elif self.size - self.taken > HIGH_BODY and not self._greedy:
            self.line.pause(BODY)

    def wake(self) -> None:
        """Let the handler look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, fault: Exception) -> None:
        """The rest of the body will not come."""
        self.fault = fault
        self.keep = False
        if self.collect is not None:
            self.reading = True
            self.line.front.gateway.inflight.abort(self, fault)
        else:
            self.wake()

    def at_once(self) -> int:
        """How many bytes of what comes next are surely of this body, up to BODY_SLICE; 0 if its length is not known."""
        length = self.header("content-length")
        return 0 if length is None else min(BODY_SLICE, int(length) - self.size)

    def let_go(self) -> None:
        """After the reply: the body would stay in memory as long as its client, or until the collector finds it."""
        self.content = None
        if self.parts:
            self.parts.clear()

    async def _whole(self) -> bytes:
        if not self.complete:
            self._greedy = True
            self.line.resume(BODY)
            while not self.complete:
                await self._more()
        return self.gathered()

    def gathered(self) -> bytes:
        """The whole body, once it is complete."""
        if self.content is None:
            parts = self.parts
            self.content = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
        return self.content

    async def _chunks(self) -> AsyncIterator[bytes]:
        if self.content is not None:
            yield self.content
            return
        while True:
            parts, self.parts, self._kept = self.parts, [], 0
            for part in parts:
                self.taken += len(part)
                yield part
            self.line.resume(BODY)
            if not self.parts:
                if self.complete:
                    return
                await self._more()

    async def _more(self) -> None:
        """Return when there is more of the body. Raises the Refusal of a bad one, Disconnected without a client."""
        if self.fault is not None:
            raise self.fault
        if self.line.lost:
            raise Disconnected
        if self.expects:
            self.expects = False
            if not self.size:
                self.line.transport.write(_CONTINUE)
        self._waiter = self.line.front.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self.fault is not None:
            raise self.fault

    async def finish_refusal(self) -> None:
        """Nothing: the connection reads the rest of the body itself."""

    async def disconnected(self) -> None:
        """Return when the client has disconnected."""
        await asyncio.shield(self.line.gone())

    # The reply

    async def send(self, reply: Reply, body: bytes | None) -> None:
        """Send the whole reply; returns when the client has read nearly all of it."""
        self._write(reply, body)
        if self.line.blocked:
            await self.line.drained()

    def respond(self, reply: Reply) -> None:
        """Send a reply whose body is bytes."""
        body = reply.body
        self._write(reply, body if isinstance(body, bytes) else None)

    def respond_raw(self, head: bytes, body: bytes) -> None:
        """Send a reply with a body to GET or POST.

        `head` is the status line and every header line but `date`, `content-length` and `connection`.
        """
        line = self.line
        if line.lost:
            return
        front = line.front
        plain = self.keep and not (front.closing or self.expects) and self.http_version == "1.1"
        end = b"" if plain else self._end().encode("ascii")
        line.transport.write(b"%b%bcontent-length: %d\r\n%b\r\n%b" % (head, front.date_bytes, len(body), end, body))
        self.answered = True
        line.finished(self)

    async def start_stream(self, reply: Reply) -> ReplyStream:
        """Send the headers of a reply that comes in chunks."""
        length = next((value for name, value in reply.headers if name.lower() == "content-length"), None)
        if length is not None and not length.isdecimal():
            length = None
        if length is not None:
            framing = f"content-length: {length}\r\n"
        elif self.http_version == "1.1":
            framing = "transfer-encoding: chunked\r\n"
        else:
            framing, self.keep = "", False
        self.line.transport.write(self._head(reply, framing))
        return ChunkStream(self, None if length is None else int(length), chunked=framing.startswith("t"))

    def _write(self, reply: Reply, body: bytes | None) -> None:
        line = self.line
        if line.lost:
            return
        if reply.status in _BODILESS:
            body = None
        try:
            head = self._head(reply, "" if body is None else f"content-length: {len(body)}\r\n")
        except ValueError as error:
            self._write_instead(error)
            return
        if not body or self.method == "HEAD":
            line.transport.write(head)
        elif len(body) <= JOINED:
            line.transport.write(head + body)
        else:
            line.transport.writelines((head, body))
        self.answered = True
        line.finished(self)

    def _write_instead(self, error: Exception) -> None:
        """A reply whose headers cannot be sent becomes an internal error."""
        log.error("request %s failed: %s", self.request_id, error)
        self.keep = False
        reply = problem_reply(error, self)
        self.status = reply.status
        self._write(reply, reply.body if isinstance(reply.body, bytes) else b"")

    def _head(self, reply: Reply, framing: str) -> bytes:
        """The status line and the headers. Raises ValueError for a header that would break the reply."""
        lines = [_STATUS.get(reply.status) or f"HTTP/1.1 {reply.status} \r\n", self.line.front.date]
        for name, value in reply.headers:
            if name.lower() not in _OWN:
                lines.append(f"{name}: {value}\r\n")
            elif name.lower() == "connection" and value.lower() == "close" and not self.line.busy:
                self.keep = False  # else with the reply to the last request that was sent
        if framing:
            lines.append(framing)
        text = "".join(lines)
        if not len(lines) == text.count("\n") == text.count("\r") or "\0" in text:
            raise ValueError("a header of the reply holds a line break")
        return f"{text}{self._end()}\r\n".encode("latin-1")

    def _end(self) -> str:
        """The header `connection`, where it is needed."""
        if self.expects and not self.complete:  # the client may send the body or not: nobody knows what follows
            self.keep = False
        if not self.keep or (self.line.front.closing and not self.line.busy):
            self.keep = False
            return "connection: close\r\n"
        return "" if self.http_version == "1.1" else "connection: keep-alive\r\n"


class KnownCall(H1Call):
    """A whole request whose head was parsed before."""

    begun = complete = True

    def __init__(self, line: Line, known: KnownHead, body: bytes) -> None:
        front = line.front
        self.line = line
        self.service = front.service
        self.limits = front.limits
        self.method = known.method
        self.path, self.query, self.authority = known.target
        self.header = known.header
        self.routing = known.routing
        self.lists = _NO_LISTS
        self.parts = []
        self.content = body
        self.size = len(body)


class ChunkStream(ReplyStream):
    """A reply in chunks, or of a length that its headers tell; otherwise the end of the connection ends it."""

    def __init__(self, call: H1Call, length: int | None, *, chunked: bool) -> None:
        self._call = call
        self._left = length
        self._chunked = chunked

    async def write(self, chunk: bytes) -> None:
        """Return when the client has read nearly all of what was written."""
        line = self._call.line
        if line.lost:
            raise Disconnected
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                raise ValueError("the reply is longer than its content-length")
        if not self._chunked:
            line.transport.write(chunk)
        elif len(chunk) <= JOINED:
            line.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        else:
            line.transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
        if line.blocked:
            await line.drained()
            if line.lost:
                raise Disconnected

    async def finish(self) -> None:
        """End the reply."""
        if self._left:
            raise ValueError("the reply is shorter than its content-length")
        line = self._call.line
        if line.lost:
            return
        if self._chunked:
            line.transport.write(b"0\r\n\r\n")
        self._call.answered = True
        line.finished(self._call)

    def abort(self, *, connected: bool) -> None:  # noqa: ARG002
        """Cut the connection: its client sees an incomplete reply."""
        if not self._call.line.lost:
            self._call.line.transport.abort()
