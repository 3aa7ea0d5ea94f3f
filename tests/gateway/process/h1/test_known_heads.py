"""Heads that were parsed before: which are kept, and that a known one changes nothing."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from penstock.gateway.middleware import build_gateway
from penstock.gateway.process.h1 import known_heads
from penstock.gateway.process.h1.connection import Connection
from penstock.gateway.process.h1.front import Front
from penstock.gateway.service import Service
from penstock.settings import Settings


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.out = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.out += data

    def writelines(self, parts: Any) -> None:
        self.out += b"".join(parts)

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = write_eof = pause_reading

    def can_write_eof(self) -> bool:
        return True

    def get_extra_info(self, *_: Any) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
async def front(tmp_path: Path) -> Any:
    settings = Settings(registry=tmp_path / "registry")
    service = Service(settings)
    gateway = build_gateway(service, listener="127.0.0.1")
    service.started = True  # without models: routes, refusals and 404s are enough here
    yield Front(gateway, settings)
    await gateway.close()


async def sent(front: Front, data: bytes) -> bytes:
    """The reply on a new connection, with what differs each time masked."""
    connection, wire = Connection(front, lambda _: None), Wire()
    connection.connection_made(wire)
    connection.data_received(data)
    for _ in range(200):
        await asyncio.sleep(0.001)
        if wire.out and connection.current is None:
            break
    text = re.sub(rb"[0-9a-f]{8}-[0-9a-f]+", b"ID", wire.out)
    connection.connection_lost(None)
    return re.sub(rb"date: [^\r]*", b"date", text)


def kept(front: Front) -> int:
    return len(front.heads._heads)


GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("request_bytes", [GET, POST, GET.replace(b"/health/live", b"/no/such/path?x=%20")])
async def test_a_known_head_gets_the_reply_that_the_parser_led_to(front: Front, request_bytes: bytes) -> None:
    first = await sent(front, request_bytes)
    assert kept(front) == 1
    parsed = []
    front.heads.find = lambda head: parsed.append(head) or front.heads._heads.get(head)  # type: ignore[func-returns-value]
    assert await sent(front, request_bytes) == first
    assert parsed


async def test_the_body_after_a_known_head_is_its_own(front: Front) -> None:
    head = POST[:-2]
    assert b"input_data" not in await sent(front, head + b"{}")
    assert kept(front) == 1
    replies = {await sent(front, head + body) for body in (b"{}", b"[]", b"xx")}
    assert len(replies) >= 1
    assert kept(front) == 1
    assert b"400" not in await sent(front, head + b"{}")


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET.replace(b"Accept: */*", b"Connection: close"),
        GET.replace(b"Accept: */*", b"Expect: 100-continue"),
        GET.replace(b"Accept: */*", b"X-Request-Id: one"),
        GET.replace(b"Accept: */*", b"Upgrade: websocket"),
        GET.replace(b"Accept: */*", b"Accept: a\r\nAccept: b"),
        GET.replace(b"Accept: */*", b"X-Long: " + b"a" * known_heads.LONGEST_HEAD),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GET.replace(b"Host: localhost\r\n", b""),
        GET.replace(b"\r\n", b"\n"),
        GET + GET,
        GET + b"GET",
        GET[:-1],
        POST.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked").replace(b"{}", b"2\r\n{}\r\n0\r\n\r\n"),
        POST.replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 2"),
        POST + b"x",
        POST[:-1],
    ],
)
async def test_a_head_that_says_more_than_the_length_of_its_body_is_not_kept(
    front: Front, request_bytes: bytes
) -> None:
    await sent(front, request_bytes)
    assert kept(front) == 0


async def test_a_known_head_in_pieces_or_before_another_request_goes_through_the_parser(front: Front) -> None:
    whole = await sent(front, POST)
    for cut in (1, 20, len(POST) - 2, len(POST) - 1):
        connection, wire = Connection(front, lambda _: None), Wire()
        connection.connection_made(wire)
        connection.data_received(POST[:cut])
        connection.data_received(POST[cut:])
        for _ in range(200):
            await asyncio.sleep(0.001)
            if wire.out and connection.current is None:
                break
        assert wire.out.split(b"\r\n")[0] == whole.split(b"\r\n")[0]
        connection.connection_lost(None)
    both = await sent(front, POST + GET)
    assert both.count(b"HTTP/1.1 ") == 2


async def test_a_request_after_a_known_one_on_the_same_connection_is_parsed(front: Front) -> None:
    await sent(front, GET)
    connection, wire = Connection(front, lambda _: None), Wire()
    connection.connection_made(wire)
    for piece in (GET, GET[:10], GET[10:], GET):
        connection.data_received(piece)
        for _ in range(20):
            await asyncio.sleep(0.001)
    assert wire.out.count(b"HTTP/1.1 200 OK") == 3
    connection.data_received(b"nonsense\r\n\r\n")
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert wire.out.count(b"HTTP/1.1 400") == 1


async def test_the_memory_for_heads_is_bounded(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_heads, "MOST_HEADS", 5)
    for number in range(23):
        await sent(front, GET.replace(b"*/*", b"text/%d" % number))
        assert 1 <= kept(front) <= 5


@pytest.mark.parametrize("later", [b"GET", b"PUT", b"\r\n", b"\r\n\r\n", b"\r\n\r\nGET", GET[:30], POST[:-2]])
async def test_only_bytes_that_were_a_whole_request_are_known(front: Front, later: bytes) -> None:
    connection, wire = Connection(front, lambda _: None), Wire()
    connection.connection_made(wire)
    for piece in (GET[:20], GET[20:]):  # read by the parser
        connection.data_received(piece)
    for _ in range(200):
        await asyncio.sleep(0.001)
        if wire.out and connection.current is None:
            break
    connection.data_received(later)
    connection.connection_lost(None)
    assert later not in front.heads._heads
    assert kept(front) == 0
