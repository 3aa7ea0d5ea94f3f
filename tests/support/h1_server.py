"""A server of the built-in HTTP/1.1 front with a few routes of its own, and raw connections to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from live_servers import Live
from waiting import LONG_S

from penstock.gateway.http import Call, Endpoint, Protocol, Reply, problem_reply
from penstock.gateway.native.routes import NATIVE
from penstock.settings import Settings


def text() -> list[tuple[str, str]]:
    return [("content-type", "text/plain")]


async def echo(call: Call) -> Reply:
    return Reply(200, text(), await call.body())


async def target(call: Call) -> Reply:
    return Reply(200, text(), f"{call.method} {call.path}?{call.query} {call.authority}".encode())


async def early(call: Call) -> Reply:
    return Reply(200, text(), b"early")


async def slow(call: Call) -> Reply:
    await asyncio.sleep(0.3)
    return Reply(200, text(), b"slow")


async def large(call: Call) -> Reply:
    return Reply(200, text(), bytes(8_000_000))


async def spelled(call: Call) -> Reply:
    return Reply(200, [("x-spelled", "a\r\nset-cookie: b")], b"never")


async def stream(call: Call) -> Reply:
    async def chunks() -> AsyncIterator[bytes]:
        for word in (b"one ", b"two ", b"three"):
            yield word

    return Reply(200, text(), chunks())


ROUTES = {"echo": echo, "early": early, "slow": slow, "large": large, "spelled": spelled, "stream": stream}
TABLE = tuple(
    Endpoint(method, f"/t/{name}", handler, "", name, changes=False)
    for name, handler in {**ROUTES, "target": target}.items()
    for method in ("GET", "POST")
)
PROTOCOL = Protocol("t", ("/t",), (*TABLE, Endpoint("GET", "/t/p/{name}", target, "", "p")), problem_reply)


def server_with(directory: Path, **settings: Any) -> Live:
    return Live("h1", Settings(registry=directory, threads=1, **settings), (), (NATIVE, PROTOCOL))


@contextmanager
def connection_to(live: Live) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", live.port), timeout=LONG_S) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(1 << 20):
        received += chunk
    return received


def statuses(received: bytes) -> list[int]:
    """The status of every reply."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
