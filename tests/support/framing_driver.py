"""Connections of the built-in server in this process, with a transport that keeps what is written.

Handlers repeat what they were asked, so it shows how a stream was read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framing_probe import Replies

from penstock.gateway.gateway import Gateway, RequestId, Tracking
from penstock.gateway.http import Call, Endpoint, Headers, Protocol, Reply, Step, problem_reply
from penstock.gateway.process.h1.connection import Connection
from penstock.gateway.process.h1.flow import Flow
from penstock.gateway.process.h1.front import Front
from penstock.gateway.routing.table import Routes
from penstock.gateway.service import Service
from penstock.settings import Settings

MOST_TURNS = 2000
"""Turns of the event loop after which a request that is whole must have been answered."""


class Finding(AssertionError):
    """Something that must not happen."""


def _repeat(call: Call, body: bytes) -> Reply:
    return Reply(200, [], f"{call.method} {call.path}?{call.query} {call.header('host')} ".encode() + body)


async def _handler(call: Call) -> Reply:
    return _repeat(call, await call.body())


class _AllRoutes(Routes):
    """Every method and path has the same handler."""

    def find(self, method: str, path: str) -> Any:
        return self._plain["/"]["GET"], {}


class _Method(Step):
    """Says in every reply what was asked."""

    def add_headers(self, call: Call, headers: Headers) -> None:
        headers.append(("x-method", call.method))


class _AtOnce:
    """Answers requests with a length without a task, as bundles do; without a model."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def group_of(self, call: Call) -> str | None:
        length = call.header("content-length") or ""
        return "" if call.method == "POST" and length.isdigit() and int(length) < 10_000 else None

    def check(self, call: Call) -> None:
        pass

    def add(self, call: Call) -> None:
        if b"later" in call.content:  # type: ignore[operator]
            self._gateway.start(call)
        else:
            self._gateway.respond(call, _repeat(call, call.content or b""))

    def cancel(self, call: Call) -> None:
        if not call.reading:
            raise Finding("a request that was answered at once was cancelled")
        self._gateway.leave(call)

    def abort(self, call: Call, reason: Exception) -> None:
        raise Finding(f"{call.path} was answered at once and then ended by {reason!r}")


def echo_gateway(folder: Path) -> Gateway:
    """A gateway whose handlers repeat what they were asked."""
    row = Endpoint("GET", "/", _handler, "", "Repeats", changes=False)
    settings = Settings(registry=folder, max_body_bytes=100_000)
    gateway = Gateway(Service(settings), (Protocol("echo", ("/",), (row,), problem_reply),))
    gateway.routes = _AllRoutes(gateway.table)
    gateway.bundles = _AtOnce(gateway)  # type: ignore[assignment]
    gateway.set_steps(RequestId(), Tracking(gateway.inflight), _Method())
    return gateway


class Transport:
    """Keeps what is written."""

    def __init__(self, connection: Connection) -> None:
        self.written = bytearray()
        self.closed = self.ended = self.paused = False
        self._connection = connection

    def write(self, data: bytes) -> None:
        if self.ended:
            raise Finding("a reply after the end")
        if not self.closed:
            self.written += data

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    abort = close

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


@dataclass(frozen=True)
class Outcome:
    """The replies to a stream, with the bodies of those that repeat it, and whether the server closed."""

    replies: tuple[tuple[int, bytes], ...]
    closed: bool


class Driver:
    """Gives streams to connections of one gateway. Needs a running event loop."""

    def __init__(self, folder: Path) -> None:
        self.gateway = echo_gateway(folder)
        self.front = Front(self.gateway, self.gateway.service.settings)
        self.lost: set[Flow] = set()

    async def run(self, pieces: list[bytes]) -> Outcome:
        """What comes back. Raises Finding."""
        connection = Connection(self.front, self.lost.add)
        transport = Transport(connection)
        connection.connection_made(transport)
        for piece in pieces:
            if _works(connection):
                await self._settle(connection, transport)
            if transport.closed:
                break
            if transport.paused:
                raise Finding("reading was paused and nothing is in progress")
            connection.data_received(piece)
        if _works(connection):
            await self._settle(connection, transport)
        outcome = self._outcome(transport)
        if not transport.closed and connection.eof_received():
            await self._settle(connection, transport)
        transport.close()
        calls = self.gateway.inflight.calls
        await self._until(lambda: connection.lost and not calls, "a request is in flight for ever")
        if connection not in self.lost:
            raise Finding("a connection was not removed")
        self.lost.clear()
        return outcome

    async def _settle(self, connection: Connection, transport: Transport) -> None:
        await self._until(lambda: not _works(connection) or transport.closed, "a whole request is never answered")

    async def _until(self, condition: Any, otherwise: str) -> None:
        for _ in range(MOST_TURNS):
            if condition():
                return
            await asyncio.sleep(0)
        raise Finding(otherwise)

    def _outcome(self, transport: Transport) -> Outcome:
        replies = Replies()
        replies.feed(bytes(transport.written))
        if replies.rest:
            raise Finding(f"bytes that are no reply: {replies.rest[:200]!r}")
        refused = [status for status in replies.statuses if status != 200]
        closing = [b"\r\nconnection: close" in head.lower() for head in replies.heads]
        if any(closing[:-1]):
            raise Finding("a reply after the last one")
        if len([status for status in refused if status != 413]) > 1:
            raise Finding(f"several refusals: {refused}")
        pairs = zip(replies.statuses, replies.bodies, strict=True)
        bodies = tuple((status, body if status == 200 else b"") for status, body in pairs)
        return Outcome(bodies, transport.closed or transport.ended)


def _works(connection: Connection) -> bool:
    """True if there is something to answer that waits for no more bytes."""
    call = connection.current
    if connection.queue or connection.busy:
        return call is None or call.answered or call.complete or call.fault is not None
    return call is not None and not call.answered and (call.complete or call.refusal is not None or
                                                       call.fault is not None)  # fmt: skip
