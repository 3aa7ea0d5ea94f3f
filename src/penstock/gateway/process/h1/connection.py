"""One HTTP/1.1 connection: what it reads becomes calls, and their replies go out in order.

A request is answered when the one before it was. Meanwhile a few that were sent ahead are kept, then reading pauses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httptools

from penstock.gateway.problems import Refusal
from penstock.gateway.process.h1 import flow, heads
from penstock.gateway.process.h1.call import BODY, H1Call, KnownCall
from penstock.gateway.process.h1.flow import MAX_REQUESTS, QUEUE, SLICE, Flow
from penstock.gateway.process.h1.front import Front
from penstock.gateway.process.h1.heads import KNOWN_HOSTS, UNUSUAL, name_of, refused, target_of
from penstock.gateway.process.h1.known_heads import END, KnownHead

log = logging.getLogger(__name__)

_METHODS = {name.encode("ascii"): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")}


class Connection(Flow):
    """A client's connection."""

    __slots__ = (
        "_held",
        "_last",
        "_parser",
        "_resumed",
        "_url",
        "current",
        "ended",
        "fed",
        "feed",
        "headers",
        "in_head",
        "lists",
        "queue",
        "receiving",
        "requests",
    )

    def __init__(self, front: Front, on_lost: Callable[[Flow], None]) -> None:
        """`on_lost` is called when it has closed."""
        super().__init__(front, on_lost)
        self.requests = 0
        self.current: H1Call | None = None
        """The call that is being answered."""
        self.receiving: H1Call | None = None
        """The call whose body is arriving."""
        self.queue: list[H1Call] = []
        """Calls that were sent ahead."""
        self.headers: dict[str, str] = {}
        self.lists: dict[str, list[str]] | None = None
        self.in_head = False
        self.fed = 0
        """Bytes of an unfinished head, or of a body's framing since its last progress."""
        self.ended = False
        """True when the client has ended its side."""
        self.feed: Any = None
        self._parser: Any = None
        self._held: bytes | None = None
        self._last: H1Call | None = None
        self._resumed = b""
        self._url = b""

    # The transport

    def connection_made(self, transport: Any) -> None:
        """Begin to read."""
        self.transport = transport
        self._renew()

    def _renew(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self.feed = self._parser.feed_data

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Let go of what is being answered."""
        self.close_down()
        self._parser = self.feed = self._held = None
        for call in (self.current, *self.queue):
            if call is not None and call.begun and not call.answered:
                self.front.gateway.abandon(call)
        self.queue.clear()
        self.current = self.receiving = self._last = None  # else a cycle, which only the collector frees

    def eof_received(self) -> bool:
        """The client sends nothing more. What it has sent whole is answered if that takes no time."""
        if self.current is None or self.receiving is not None or not self.transport.can_write_eof():
            return False
        self.deaf = self.ended = True
        self.front.loop.call_later(flow.HALF_CLOSED_S, self._leave)
        return True

    def _leave(self) -> None:
        if not self.lost and self.current is not None and not self.current.answered:
            self.transport.abort()

    def resume_writing(self) -> None:
        """The client has read."""
        self.unblock()
        if self.current is not None and self.current.answered:
            self.finished(self.current)

    @property
    def busy(self) -> bool:
        """True if more requests were sent already."""
        return bool(self.queue) or self._held is not None

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self.deaf:
            self.discard(data)
            return
        # Nothing is being parsed or answered: this is the beginning of a request, and mostly all of it
        fresh = self.current is None and self.receiving is None and not self.in_head
        if fresh:
            self._last = None
            size = data.find(END) + len(END)
            known = self.front.heads.find(data[:size])
            if known is not None and len(data) == size + known.length and self.requests < MAX_REQUESTS - 1:
                self._take_known(known, data[size:])
                return
        if len(data) > SLICE:
            self._take(memoryview(data))
            return
        rest: memoryview | None = None
        try:
            self.feed(data)
            if fresh and self.requests:
                self._remember(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = self._ignore_upgrade(data, upgrade.args[0])
        except httptools.HttpParserError as error:
            self._misread(error)
        if rest is not None:  # outside of `except`: an error in there would hide what a callback has raised
            self._take(rest)
        elif self.in_head or self.receiving is not None:
            self._check_progress(len(data))

    def _take_known(self, known: KnownHead, body: bytes) -> None:
        """Answer a whole request whose head was parsed before."""
        front = self.front
        self.requests += 1
        self.since = front.now
        call = self.current = KnownCall(self, known, body)
        if self.operator:
            call.operator = True
        front.gateway.take(call)

    def _remember(self, data: bytes) -> None:
        """Keep the head of a request that came alone and whole, for those with the same head."""
        call, self._last = self._last, None
        if call is not None and call.complete and call.keep and call.http_version == "1.1" and not self.queue:
            self.front.heads.add(data, call.method, (call.path, call.query, call.authority), self.headers, call.lists)

    def _take(self, data: memoryview) -> None:
        """Parse slice by slice; what follows too many requests is kept for later."""
        while data and not self.deaf and not self.lost:
            if len(self.queue) >= flow.MOST_QUEUED:
                self._held = bytes(data)
                self.pause(QUEUE)
                return
            piece = data[: SLICE if self.receiving is None else max(SLICE, self.receiving.at_once())]
            data = data[len(piece) :]
            try:
                self.feed(piece)
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(bytes(self._ignore_upgrade(piece, upgrade.args[0])) + bytes(data))
            except httptools.HttpParserError as error:
                self._misread(error)
                return
            if self.in_head or self.receiving is not None:
                self._check_progress(len(piece))

    def _ignore_upgrade(self, data: bytes | memoryview, read: int) -> memoryview:
        """What to parse next: after an upgrade, the parser takes all that follows for another protocol.

        It also leaves out the body of such a request: `_resumed` is a head that makes a new parser read it.
        """
        self._renew()
        return memoryview(self._resumed + bytes(data[read:]))

    def _check_progress(self, count: int) -> None:
        """After `count` bytes of an unfinished head or body."""
        call = self.receiving
        if call is None:
            self.fed += count
            if self.fed > heads.MAX_HEAD and not self.deaf:
                self.refuse(refused(431, f"the head of a request has at most {heads.MAX_HEAD} bytes"))
            return
        grown, call.seen = call.size - call.seen, call.size
        self.fed = self.fed + count if grown * flow.FRAMING < count else 0
        if self.fed > heads.MAX_HEAD and not self.deaf:
            self._break_body(call)
        elif call.answered and call.size > flow.MOST_DISCARDED:
            self.transport.abort()
        elif call.collect is not None and not call.answered and not call.reading:
            self.front.gateway.await_body(call)
        else:
            call.took()

    # What the parser found

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self._resumed:
            return
        self._url = b""
        self.headers = {}
        self.in_head = True
        self.fed = 0
        if self.current is None:
            self.since = self.front.now

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        if self._resumed:
            return
        self._url = self._url + url if self._url else url
        if len(self._url) > heads.MAX_TARGET:
            raise refused(414, f"the target of a request has at most {heads.MAX_TARGET} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; after a chunked body it is a trailer, which nobody asks for."""
        key = name_of(name)
        text = value.decode("latin-1").rstrip(" \t")
        if not self.in_head:
            return
        if key not in self.headers:
            self.headers[key] = text
        else:
            lists = self.lists = self.lists or {}
            lists.setdefault(key, [self.headers[key]]).append(text)

    def on_headers_complete(self) -> None:
        """The head is whole: its request is answered now, or after those before it."""
        if self._resumed:
            self._resumed = b""
            return
        if self.deaf:
            raise refused(400, "a request after the last one")  # is not answered
        parser, headers = self._parser, self.headers
        raw = parser.get_method()
        method = _METHODS.get(raw) or raw.decode("ascii")
        if method == "CONNECT":
            raise refused(501, "this server is no proxy")
        call = H1Call(self, method, target_of(self._url), headers)
        if self.operator:
            call.operator = True
        version = parser.get_http_version()
        if version != "1.1":
            call.http_version = version
        if (
            headers.get("host") not in KNOWN_HOSTS
            or version != "1.1"
            or len(headers) > 32
            or self.lists
            or not UNUSUAL.isdisjoint(headers)
        ):
            call.lists, self.lists = self.lists or {}, None
            call.expects = heads.check_head(version, headers, call.lists)
            if parser.should_upgrade():
                self._resumed = heads.head_of_body(headers)
        if self.fed:
            heads.check_size(self._url, headers)
        self.requests += 1
        if not parser.should_keep_alive() or self.requests >= MAX_REQUESTS:
            call.keep = False
        self.in_head = False
        self.fed = 0
        self.receiving = self._last = call
        if self.current is None:
            self.current = call
            self._start(call)
        else:
            self.queue.append(call)

    def on_body(self, chunk: bytes) -> None:
        """A piece of the body."""
        call = self.receiving
        call.parts.append(chunk)  # type: ignore[union-attr]  # a head came before it
        call.size += len(chunk)  # type: ignore[union-attr]

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._resumed:
            return  # its body follows
        call: H1Call = self.receiving  # type: ignore[assignment]  # a head came before it
        self.receiving = None
        call.complete = True
        if not call.keep:
            self.deaf = True  # what follows is no request any more
        if call.answered:
            call.parts.clear()
            if not call.keep:
                self._end()
            else:
                self.since = self.front.now
        elif call.begun and call.collect is not None:
            call.gathered()
            self.front.gateway.proceed(call)
        else:
            call.wake()

    # Answering

    def _start(self, call: H1Call) -> None:
        if call.refusal is not None:
            call.refuse(call.refusal)
            return
        gateway = self.front.gateway
        call.begun = True
        if not gateway.begin(call):
            return
        if call.collect is None:
            gateway.proceed(call)
        elif call.complete:
            call.gathered()
            gateway.proceed(call)
        elif call.fault is not None:
            call.fail(call.fault)

    def finished(self, call: H1Call) -> None:
        """The reply to the current call was handed to the transport."""
        call.let_go()
        if self.blocked or self.lost:
            return  # until the client has read it
        if not call.keep:
            self._end()
            return
        self.since = self.front.now
        if self._pauses:
            self.resume(BODY)
        if self.queue or self._held is not None:
            self.front.loop.call_soon(self._advance)
            return  # until then this call stays the current one
        self.current = None
        if self.ended:
            self.close()

    def _advance(self) -> None:
        """Answer the next request. With none behind it, parse what was kept, perhaps with the rest of its body."""
        self.current = None
        if self.lost:
            return
        if self.queue:
            call = self.current = self.queue.pop(0)
            self._start(call)
            if call.collect is not None and not (call.complete or call.answered):
                self.front.gateway.await_body(call)
        if self._held is not None and not self.queue and (self.current is None or not self.current.complete):
            data, self._held = self._held, None
            self._take(memoryview(data))
            if self._held is None:
                self.resume(QUEUE)

    def _end(self) -> None:
        """After the last reply: close, unless the client still sends, which would destroy the reply on its way."""
        self.current = self._held = None
        if self.receiving is None and not self.discarded:
            self.close()
        else:
            self.linger()

    # Errors

    def _misread(self, error: Exception) -> None:
        """What came is no HTTP/1.1, or a callback above has refused it."""
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if self.deaf or self.lost:
            return  # bytes after the last request
        if isinstance(cause, Refusal):
            self.refuse(cause)
        elif cause is not None:
            log.error("a connection failed: %s", cause, exc_info=cause)
            self.transport.abort()
        elif self.receiving is not None:
            self._break_body(self.receiving)
        elif self._parser.get_method() == b"PRI":
            self.refuse(refused(505, "HTTP/2 is not spoken here; use HTTP/1.1"))
        else:
            self.refuse(refused(400, f"the request is no valid HTTP/1.1: {str(error).lower()}"))

    def _break_body(self, call: H1Call) -> None:
        """The rest of a body cannot be understood."""
        self.deaf = True
        if call.answered:
            self.linger()
        else:
            call.fail(refused(400, "the chunked body is malformed"))

    def refuse(self, refusal: Refusal) -> None:
        """Answer a head that is refused, after the requests before it."""
        self.deaf = True
        self.in_head = False
        try:
            target = target_of(self._url)
        except Refusal:
            target = ("/", "", None)
        call = H1Call(self, "GET", target, self.headers)
        call.refusal = refusal
        call.keep = False
        self.receiving = call  # never whole
        if self.current is None:
            self.current = call
            self._start(call)
        else:
            self.queue.append(call)
