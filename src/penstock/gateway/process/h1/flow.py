"""The transport of a connection: pausing in both directions, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from penstock.gateway.process.h1.front import Front

MAX_REQUESTS = 100_000
"""Requests of one connection; the reply to the last one closes it."""
MOST_QUEUED = 16
SLICE = 16 * 1024
"""Bytes that are parsed at once where they may hold many requests."""
QUEUE = 2
"""Why reading pauses: too many requests wait. BODY is the other reason."""
HALF_CLOSED_S = 0.25
"""How long an answer may still take after the client has ended its side: most that do have left."""
FRAMING = 16
"""Bytes that each byte of a chunked body may take on the wire; sizes, extensions and trailers beyond are a head's."""
MOST_DISCARDED = 1 << 30
"""Bytes of a refused body that are read, so that its client can read the reply."""


class Flow(asyncio.Protocol):
    """What of a connection concerns its transport and not HTTP."""

    __slots__ = (
        "_gone",
        "_on_lost",
        "_pauses",
        "_waiters",
        "address",
        "attaching",
        "blocked",
        "client",
        "deaf",
        "discarded",
        "front",
        "lingering",
        "lost",
        "mark",
        "mark_at",
        "mark_of",
        "operator",
        "since",
        "transport",
    )

    def __init__(self, front: Front, on_lost: Callable[[Flow], None]) -> None:
        """`on_lost` is called when it has closed."""
        self.front = front
        self.address: str | None = None
        """Where the client is, for the limit of connections per address; None without one."""
        self.client: str | None = None
        """The address of the client; None over a Unix socket."""
        self.operator = False
        """True if the client may administer this server without a key."""
        self.attaching: asyncio.Task[None] | None = None
        """The task that makes the transport."""
        self.transport: Any = None
        self.since = front.now
        """When the present state began: connected, in a head, idle, lingering."""
        self.mark = 0
        self.mark_at = front.now
        self.mark_of: object = None
        """How far a body or a reply was, and when; see `deadlines`."""
        self.blocked = False
        """True while the client does not read what was written."""
        self.deaf = False
        """True when what comes is discarded."""
        self.lingering = False
        """True when the last reply was handed over."""
        self.lost = False
        """True when it has closed."""
        self.discarded = 0
        self._on_lost = on_lost
        self._pauses = 0
        self._gone: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None

    def close_down(self) -> None:
        """The connection has closed: wake who waits for it."""
        self.lost = True
        self._on_lost(self)
        self._release_waiters()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def gone(self) -> asyncio.Future[None]:
        """Is done when the connection has closed."""
        if self._gone is None:
            self._gone = self.front.loop.create_future()
            if self.lost:
                self._gone.set_result(None)
        return self._gone

    # Writing

    def pause_writing(self) -> None:
        """The client does not read."""
        self.blocked = True
        self.mark_of = None

    def unblock(self) -> None:
        """The client has read."""
        self.blocked = False
        self._release_waiters()

    def _release_waiters(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def drained(self) -> None:
        """Return when the client has read enough, or is gone."""
        if self.blocked and not self.lost:
            waiter = self.front.loop.create_future()
            self._waiters = [*(self._waiters or ()), waiter]
            await waiter

    # Reading

    def pause(self, reason: int) -> None:
        """Read nothing for now."""
        if not self._pauses and not self.lost:
            self.transport.pause_reading()
        self._pauses |= reason

    def resume(self, reason: int) -> None:
        """Read on."""
        if self._pauses & reason:
            self._pauses &= ~reason
            if not self._pauses and not self.lost:
                self.transport.resume_reading()

    @property
    def paused(self) -> bool:
        """True while this side does not read."""
        return bool(self._pauses)

    def discard(self, data: bytes) -> None:
        """Bytes that no request needs."""
        self.discarded += len(data)
        self.mark_at = self.front.now
        if self.discarded > MOST_DISCARDED:
            self.transport.abort()

    # The end

    def abort(self) -> None:
        """Close now, whatever was not sent."""
        if self.transport is not None:
            self.transport.abort()
        elif self.attaching is not None:
            self.attaching.cancel()

    def close(self) -> None:
        """Close when everything was sent."""
        self.deaf = self.lingering = True
        self.since = self.mark_at = self.front.now
        self.mark_of = None
        self.transport.close()

    def linger(self) -> None:
        """End this side, and read and discard until the client ends its own."""
        self.deaf = self.lingering = True
        self.since = self.mark_at = self.front.now
        if self._pauses:
            self.resume(self._pauses)
        if self.transport.can_write_eof():
            self.transport.write_eof()
