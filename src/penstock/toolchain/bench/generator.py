"""Load on a server, from one event loop: a fixed number of requests in flight, or requests at fixed times."""

from __future__ import annotations

import asyncio
import ssl
import time
from array import array
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from itertools import cycle
from typing import Any

from penstock.toolchain.bench.connection import Connection, Target
from penstock.toolchain.bench.timer import Timer

GONE_S = 2.0
"""A server that refuses every connection for so long is gone, and the load stops."""
_RETRY_S = 0.05
_CHECK_S = 0.1
_AT_ONCE = 128
"""Requests that are due are sent in groups of so many, so that replies are read in between."""


class Record:
    """What happened to the requests of one run. Times are those of `time.perf_counter`.

    `latencies` are those of successful requests and, with the time that they waited, of those that got no reply.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.latencies = array("d")
        self.from_send = array("d")
        self.lateness = array("d")
        self.in_time = 0
        """Successful replies that came before the end of the run."""
        self.duration = 0.0
        self.stopped: str | None = None

    def reply(self, status: int, scheduled: float, sent: float, at: float, *, in_time: bool) -> None:
        """Count a reply."""
        self.statuses[status] += 1
        if 200 <= status < 300:
            self.latencies.append(at - scheduled)
            self.from_send.append(at - sent)
            self.in_time += in_time

    def no_reply(self, kind: str, scheduled: float, at: float) -> None:
        """Count a request that waited in vain."""
        self.errors[kind] += 1
        self.latencies.append(at - scheduled)


class Generator:
    """Connections to one target, and what happens to their requests; subclasses decide when to send."""

    def __init__(self, target: Target, seconds: float, timeout_s: float) -> None:
        self._target = target
        self._seconds = seconds
        self._timeout_s = timeout_s
        self._requests = cycle(target.requests)
        self._tls = ssl.create_default_context() if target.tls else None
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._alive_at = time.perf_counter()
        self.record = Record()
        self.starts = self.ends = 0.0

    async def run(self) -> Record:
        """Send until the time is up, wait for the replies in flight, and close the connections.

        Raises OSError when the first connection cannot be opened.
        """
        try:
            await self._connect()
            await self._until_done()
        finally:
            self._close()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # for the connections to close before the loop does
        return self.record

    async def _until_done(self) -> None:
        self.starts = self._alive_at = time.perf_counter()
        self.ends = self.starts + self._seconds
        self._begin()
        while not self._done.is_set():
            self._check(time.perf_counter())
            try:
                await asyncio.wait_for(self._done.wait(), _CHECK_S)
            except TimeoutError:
                continue
        self.record.duration = min(self._seconds, time.perf_counter() - self.starts)

    def answered(self, connection: Connection, status: int, at: float) -> None:
        """Count a reply and go on."""
        self._alive_at = at
        in_time = at <= self.ends
        self.record.reply(status, connection.scheduled, connection.sent, at, in_time=in_time)
        self._free(connection)

    def lost(self, connection: Connection, at: float) -> None:
        """Count a request that was in flight, and go on without the connection."""
        self._connections.discard(connection)
        if connection.busy:
            connection.busy = False
            self.record.errors["connection"] += 1
        self._gone(at, 0.0 if connection.replies else _RETRY_S)

    def _begin(self) -> None:
        """Start to send."""
        raise NotImplementedError

    def _free(self, connection: Connection) -> None:
        """A connection has no request in flight any more."""
        raise NotImplementedError

    def _gone(self, at: float, pause_s: float) -> None:
        """A connection was lost; open no other one before this pause."""
        raise NotImplementedError

    def _pending(self) -> bool:
        """True while a request waits to be sent or for its reply."""
        return any(connection.busy for connection in self._connections)

    def _unsent(self, at: float) -> None:
        """Count what was never sent when the run ends early or nothing more is waited for."""

    def _send(self, connection: Connection, scheduled: float | None = None) -> None:
        self.record.requests += 1
        connection.send(next(self._requests), scheduled)

    async def _connect(self) -> Connection:
        host, port = self._target.host, self._target.port
        opening = self._loop.create_connection(lambda: Connection(self), host, port, ssl=self._tls)
        _, connection = await asyncio.wait_for(opening, self._timeout_s)
        self._connections.add(connection)
        return connection

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check(self, now: float) -> None:
        """Give up requests that wait too long; end when all is done, or the server is gone."""
        for connection in [one for one in self._connections if one.busy and now - one.sent > self._timeout_s]:
            self.record.no_reply("timeout", connection.scheduled, now)
            connection.abandon()
        if now - self._alive_at > GONE_S and not any(connection.usable for connection in self._connections):
            self.record.stopped = f"the server was gone {max(0.0, self._alive_at - self.starts):.1f} s after the start"
        over = now >= self.ends and not self._pending()
        if over or self.record.stopped is not None or now > self.ends + self._timeout_s:
            self._finish(now)

    def _finish(self, now: float) -> None:
        for connection in self._connections:
            if connection.busy:
                self.record.no_reply("unanswered", connection.scheduled, now)
                connection.busy = False
        self._unsent(now)
        self._done.set()

    def _close(self) -> None:
        for connection in self._connections:
            connection.abandon()
        for task in self._tasks:
            task.cancel()


class ClosedLoop(Generator):
    """A fixed number of connections, each of which sends its next request when it has the reply to the last one."""

    def __init__(self, target: Target, concurrency: int, seconds: float, timeout_s: float) -> None:
        super().__init__(target, seconds, timeout_s)
        self._concurrency = concurrency

    def _begin(self) -> None:
        (first,) = self._connections
        self._send(first)
        for _ in range(self._concurrency - 1):
            self._spawn(self._join())

    def _free(self, connection: Connection) -> None:
        if time.perf_counter() >= self.ends:
            if not self._pending():
                self._done.set()
        elif connection.usable:
            self._send(connection)

    def _gone(self, at: float, pause_s: float) -> None:
        if at < self.ends and not self._done.is_set():
            self._spawn(self._join(pause_s))

    async def _join(self, pause_s: float = 0.0) -> None:
        """Open one more connection, however often that takes, and send on it."""
        await asyncio.sleep(pause_s)
        while (now := time.perf_counter()) < self.ends and not self._done.is_set():
            try:
                connection = await self._connect()
            except (OSError, TimeoutError):
                self.record.errors["connection"] += 1
                await asyncio.sleep(min(_RETRY_S, max(0.0, self.ends - now)))
                continue
            self._alive_at = time.perf_counter()
            if self._alive_at < self.ends:
                self._send(connection)
            return


class OpenLoop(Generator):
    """Requests at times that were fixed before, whatever the server does: their latency counts from those times."""

    def __init__(
        self, target: Target, due: Sequence[float], seconds: float, timeout_s: float, max_connections: int
    ) -> None:
        """`due` are the times of the requests from the start, in seconds, in order."""
        super().__init__(target, seconds, timeout_s)
        self._due = due
        self._next = 0
        self._waiting: deque[float] = deque()
        self._idle: list[Connection] = []
        self._opening = 0
        self._max_connections = max_connections
        self._timer = Timer(self._loop, self._pump)

    def _begin(self) -> None:
        self._idle.extend(self._connections)
        self._pump()

    def _pump(self) -> None:
        """Send what is due, and come back when the next one is."""
        if self._done.is_set():
            return
        now, sent = time.perf_counter(), 0
        while self._next < len(self._due) and self.starts + self._due[self._next] <= now and sent < _AT_ONCE:
            self._dispatch(self.starts + self._due[self._next])
            self._next, sent = self._next + 1, sent + 1
        if self._next < len(self._due):
            self._timer.wake_at(self.starts + self._due[self._next])

    def _dispatch(self, scheduled: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._start(connection, scheduled)
                return
        self._waiting.append(scheduled)
        self._open_more()

    def _start(self, connection: Connection, scheduled: float) -> None:
        self._send(connection, scheduled)
        self.record.lateness.append(connection.sent - scheduled)

    def _open_more(self) -> None:
        if self._opening < len(self._waiting) and self._opening + len(self._connections) < self._max_connections:
            self._opening += 1
            self._spawn(self._join())

    async def _join(self) -> None:
        try:
            connection = await self._connect()
        except (OSError, TimeoutError):
            if self._waiting:
                self._waiting.popleft()
                self.record.requests += 1
                self.record.errors["connection"] += 1
            return
        finally:
            self._opening -= 1
        self._alive_at = time.perf_counter()
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        if not connection.usable:
            return
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _gone(self, at: float, pause_s: float) -> None:  # noqa: ARG002  an open loop goes on by its schedule
        if self._waiting and not self._done.is_set():
            self._open_more()

    def _pending(self) -> bool:
        return bool(self._waiting) or self._next < len(self._due) or super()._pending()

    def _unsent(self, at: float) -> None:
        """Requests that were due and never sent got no reply, and waited all the same."""
        while self._next < len(self._due) and self.starts + self._due[self._next] <= at:
            self._waiting.append(self.starts + self._due[self._next])
            self._next += 1
        for scheduled in self._waiting:
            self.record.requests += 1
            self.record.no_reply("unanswered", scheduled, at)
        self._waiting.clear()

    def _close(self) -> None:
        self._timer.close()
        super()._close()
