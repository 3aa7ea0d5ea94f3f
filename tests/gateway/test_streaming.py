"""Replies that are asynchronous iterators, over real sockets on both servers."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_servers import Live
from waiting import LONG_S

from penstock.gateway.http import Call, Endpoint, Protocol, Reply, problem_reply
from penstock.gateway.native.routes import NATIVE
from penstock.settings import Settings

CHUNK = b"x" * 65536
ENDLESS = 4096
"""Chunks of `/streams/endless`: 256 MiB, far more than sockets and servers may hold."""
LARGE = 32 * 1024 * 1024


class Producer:
    """A record of what the handlers did."""

    def __init__(self) -> None:
        self.chunks = 0
        self.closed = 0


producer = Producer()


async def chunks(count: int, chunk: bytes = CHUNK, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    try:
        for _ in range(count):
            producer.chunks += 1
            yield chunk
            if pause_s:
                await asyncio.sleep(pause_s)
    finally:
        producer.closed += 1


async def failing(before: int) -> AsyncIterator[bytes]:
    for _ in range(before):
        yield b"some bytes"
    raise RuntimeError("the producer failed")


class WithoutClose:
    """An iterator that is not a generator."""

    def __init__(self) -> None:
        self._left = [b"", b"one ", b"", b"two"]

    def __aiter__(self) -> WithoutClose:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop(0)


def streams(make: Callable[[], AsyncIterator[bytes]]) -> Callable[[Call], Any]:
    async def handler(call: Call) -> Reply:
        return Reply(200, [("content-type", "text/plain"), ("x-of-handler", "yes")], make())

    return handler


BODIES: dict[str, Callable[[], AsyncIterator[bytes]]] = {
    "many": lambda: chunks(200, b"line\n" * 1000),
    "endless": lambda: chunks(ENDLESS),
    "ticks": lambda: chunks(1000, b"tick\n", pause_s=0.02),
    "empty": lambda: chunks(0),
    "large": lambda: chunks(1, b"l" * LARGE),
    "failing": lambda: failing(1),
    "failing-at-once": lambda: failing(0),
    "plain-iterator": WithoutClose,
}
TABLE = tuple(Endpoint("GET", f"/streams/{name}", streams(make), "", name) for name, make in BODIES.items())
STREAMS = Protocol("streams", ("/streams",), TABLE, problem_reply)


def settings(directory: Path, **more: Any) -> Settings:
    return Settings(registry=directory, threads=1, drain_timeout_s=1.0, **more)


@pytest.fixture(scope="module", params=["h1", "rsgi", "plain-asgi"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Live(request.param, settings(tmp_path_factory.mktemp("registry")), (), (NATIVE, STREAMS)) as live:
        yield live


@pytest.fixture(autouse=True)
def fresh_producer() -> None:
    producer.chunks = producer.closed = 0


def connect(live: Live, path: str, method: str = "GET") -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.settimeout(LONG_S)
    connection.connect(("127.0.0.1", live.port))
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: by-hand\r\n\r\n".encode())
    return connection


def until(done: Callable[[], object], within_s: float = LONG_S) -> float:
    """The seconds until it is so."""
    started = time.monotonic()
    while not done():
        assert time.monotonic() - started < within_s
        time.sleep(0.005)
    return time.monotonic() - started


def everything(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(1 << 20):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def test_many_chunks_arrive_in_order_with_the_headers_of_any_reply(server: Live) -> None:
    with server.http.stream("GET", "/streams/many", headers={"x-request-id": "abc"}) as reply:
        body = b"".join(reply.iter_bytes())
    assert body == b"line\n" * 200_000
    assert reply.headers["x-request-id"] == "abc"
    assert reply.headers["x-of-handler"] == "yes"
    assert "content-length" not in reply.headers
    assert producer.closed == 1


def test_chunks_arrive_when_they_are_produced(server: Live) -> None:
    with connect(server, "/streams/ticks") as connection:
        until(lambda: b"tick" in connection.recv(65536))
        assert producer.chunks < 500
    until(lambda: producer.closed)


def test_a_slow_reader_slows_down_the_producer(server: Live) -> None:
    with connect(server, "/streams/endless") as connection:
        until(lambda: producer.chunks)
        before = -1
        while producer.chunks != before:  # until sockets and buffers are full
            before = producer.chunks
            time.sleep(0.3)
        assert producer.chunks * len(CHUNK) < 32 * 1024 * 1024
        for _ in range(200):
            connection.recv(1 << 20)
        until(lambda: producer.chunks > before)
    until(lambda: producer.closed)
    assert producer.chunks < ENDLESS


@pytest.mark.parametrize("path", ["ticks", "endless"])
def test_the_iterator_is_closed_within_a_second_when_the_client_leaves(server: Live, path: str) -> None:
    with connect(server, f"/streams/{path}") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert not producer.closed
    assert until(lambda: producer.closed) < 1.0
    until(lambda: not len(server.gateway.inflight))


def test_an_error_in_the_middle_closes_the_connection_and_is_logged(
    server: Live, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(server, "/streams/failing") as connection:
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"some bytes" in received
    assert not received.endswith(b"0\r\n\r\n")
    (record,) = (record for record in caplog.records if record.name == "penstock.gateway.streaming")
    assert "request by-hand failed after 10 bytes of its reply" in record.getMessage()
    assert record.exc_info is not None
    with pytest.raises(httpx.RemoteProtocolError), server.http.stream("GET", "/streams/failing") as reply:
        reply.read()


def test_an_error_before_the_first_byte_is_an_error_reply(server: Live) -> None:
    reply = server.http.get("/streams/failing-at-once")
    assert reply.status_code == 500
    assert reply.json()["type"] == "urn:penstock:internal-error"
    assert reply.headers["x-request-id"] == reply.json()["request_id"]


def test_head_gets_the_headers_and_no_chunk_is_produced(server: Live) -> None:
    with connect(server, "/streams/many", "HEAD") as connection:
        head = connection.recv(65536)
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")  # the connection still works
        following = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 200")
    assert b"x-of-handler: yes" in head.lower()
    assert head.endswith(b"\r\n\r\n")
    assert following.startswith(b"HTTP/1.1 200")
    assert producer.chunks == 0


def test_an_empty_stream_is_an_empty_body(server: Live) -> None:
    reply = server.http.get("/streams/empty")
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "0")
    assert producer.closed == 1


def test_a_very_large_chunk_arrives_whole(server: Live) -> None:
    reply = server.http.get("/streams/large")
    assert len(reply.content) == LARGE
    assert reply.content.count(b"l") == LARGE


def test_any_asynchronous_iterator_works_and_empty_chunks_are_skipped(server: Live) -> None:
    assert server.http.get("/streams/plain-iterator").content == b"one two"


def test_two_streams_run_concurrently_with_other_requests(server: Live) -> None:
    with connect(server, "/streams/ticks") as one, connect(server, "/streams/endless") as two:
        assert one.recv(100).startswith(b"HTTP/1.1 200")
        assert two.recv(100).startswith(b"HTTP/1.1 200")
        assert server.http.get("/health/live").status_code == 200
        assert len(server.gateway.inflight) == 2
    until(lambda: producer.closed == 2)


@pytest.mark.parametrize("kind", ["h1", "rsgi", "plain-asgi"])
def test_a_drain_waits_for_a_stream_and_then_cancels_it(kind: str, tmp_path: Path) -> None:
    with Live(kind, settings(tmp_path), (), (NATIVE, STREAMS)) as live, connect(live, "/streams/ticks") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        assert live.call(lambda: live.gateway.drain(0.5)) is False
        assert time.monotonic() - started >= 0.5
        until(lambda: producer.closed)
        assert not everything(connection).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("kind", ["h1", "rsgi", "plain-asgi"])
def test_a_stream_that_ends_in_time_completes_during_a_drain(kind: str, tmp_path: Path) -> None:
    few = Endpoint("GET", "/few", streams(lambda: chunks(20, b"tick\n", pause_s=0.02)), "", "few")
    protocol = Protocol("few", ("/few",), (few,), problem_reply)
    with Live(kind, settings(tmp_path), (), (NATIVE, protocol)) as live, connect(live, "/few") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert live.call(lambda: live.gateway.drain(10)) is True
        assert producer.chunks == 20


@pytest.mark.parametrize("kind", ["h1", "rsgi", "plain-asgi"])
def test_the_access_record_is_written_when_the_stream_ends(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "penstock.access")

    def written() -> list[dict[str, Any]]:
        found = (vars(record) for record in caplog.records if record.name == "penstock.access")
        return [record for record in found if record["path"] == "/streams/ticks"]

    with Live(kind, settings(tmp_path, access_log=True), (), (NATIVE, STREAMS)) as live:
        with connect(live, "/streams/ticks") as connection:
            until(lambda: producer.chunks >= 10)
            assert not written()
            connection.recv(100)
        until(written)
    (record,) = written()
    assert record["status"] == 200
    assert record["ms"] >= 9 * 20
    assert record["bytes"] >= 10 * len(b"tick\n")
