"""What the built-in server answers over a raw connection, request by request."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import pytest
from h1_server import connection_to, everything, statuses
from live_servers import Live
from waiting import wait_until

from penstock.gateway.process.h1.call import H1Call
from penstock.gateway.process.h1.connection import Connection

Exchange = Callable[..., bytes]
HOST = b"Host: localhost\r\n"
CLOSE = HOST + b"Connection: close\r\n"


def get(path: bytes, headers: bytes = HOST, version: bytes = b"1.1") -> bytes:
    return b"GET %b HTTP/%b\r\n%b\r\n" % (path, version, headers)


def chunked(path: bytes, *chunks: bytes, headers: bytes = CLOSE) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (path, headers, body)


def test_requests_that_were_sent_ahead_are_answered_in_order(exchange: Exchange) -> None:
    received = exchange(
        get(b"/t/slow") + get(b"/t/target?a") + chunked(b"/t/echo", b"abc", headers=HOST) + get(b"/t/target?b", CLOSE)
    )
    assert statuses(received) == [200] * 4
    places = [received.index(body) for body in (b"slow", b"GET /t/target?a", b"abc", b"GET /t/target?b")]
    assert places == sorted(places)


@pytest.mark.parametrize("size", [0, 5, 24, 333, 20_000])
def test_hundreds_of_requests_with_bodies_sent_ahead_are_all_answered(exchange: Exchange, size: int) -> None:
    """However they are cut: what is kept for later may begin within the body of the last request that was parsed."""
    count = 1_000_000 // (size + 500)
    request = b"POST /t/echo HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (HOST, size) + b"x" * size
    received = exchange(request * count + get(b"/t/slow", CLOSE))
    assert received.count(b"HTTP/1.1 200") == count + 1
    assert received.count(b"x" * (size or 1)) >= count * bool(size)
    assert received.endswith(b"slow")


def test_no_body_outlives_its_reply(front: Live) -> None:
    """Neither with a client that stays, nor until the garbage collector runs after one that has left."""
    head = b"POST /t/echo HTTP/1.1\r\n%bX-Request-ID: outlives\r\nContent-Length: 300000\r\n\r\n" % HOST
    sent = head + b"x" * 300_000

    def calls() -> list[H1Call]:  # not those of other tests, which may be in cycles
        return [each for each in gc.get_objects() if type(each) is H1Call and each.header("x-request-id") == "outlives"]

    def bodies() -> int:
        return sum(len(call.content or b"") + sum(map(len, call.parts)) for call in calls())

    gc.collect()
    gc.disable()
    try:
        with connection_to(front) as staying:
            for path in (b"/t/echo", b"/t/nowhere"):
                staying.sendall(sent.replace(b"/t/echo", path))
                reply = http.client.HTTPResponse(staying)
                reply.begin()
                assert reply.status == (200 if path == b"/t/echo" else 404)
                reply.read()
                wait_until(lambda: bodies() == 0)
        wait_until(lambda: not calls())
    finally:
        gc.enable()


def test_hundreds_of_requests_sent_ahead_are_all_answered(exchange: Exchange) -> None:
    received = exchange(get(b"/t/early") * 500 + get(b"/t/slow", CLOSE))
    assert received.count(b"\r\n\r\nearly") == 500
    assert received.endswith(b"slow")


def test_a_request_may_come_byte_by_byte(front: Live) -> None:
    with connection_to(front) as connection:
        for byte in chunked(b"/t/echo", b"hello ", b"world"):
            connection.sendall(bytes([byte]))
        assert everything(connection).endswith(b"\r\n\r\nhello world")


def test_what_follows_the_last_request_is_not_answered(exchange: Exchange) -> None:
    assert statuses(exchange(get(b"/t/early", CLOSE) + get(b"/t/early"))) == [200]


@pytest.mark.parametrize(
    ("headers", "closes"),
    [(b"", True), (b"Connection: keep-alive\r\n", False), (b"Host: localhost\r\nConnection: Keep-Alive\r\n", False)],
)
def test_http_1_0_closes_unless_asked_to_stay(exchange: Exchange, headers: bytes, closes: bool) -> None:
    first = get(b"/t/early", headers, b"1.0")
    received = exchange(first if closes else first + get(b"/t/early", b"", b"1.0"))
    assert statuses(received) == [200] * (1 if closes else 2)
    assert (b"connection: keep-alive\r\n" in received) is not closes


def test_a_stream_to_http_1_0_ends_with_the_connection(exchange: Exchange) -> None:
    received = exchange(get(b"/t/stream", b"", b"1.0"))
    assert b"transfer-encoding" not in received
    assert received.endswith(b"\r\n\r\none two three")


def test_head_has_the_headers_of_get(exchange: Exchange) -> None:
    received = exchange(b"HEAD /t/early HTTP/1.1\r\n" + HOST + b"\r\n" + get(b"/t/target", CLOSE))
    assert statuses(received) == [200, 200]
    assert received.count(b"early") == 0
    assert b"content-length: 5\r\n" in received


def test_a_whole_url_as_target_names_the_host(exchange: Exchange) -> None:
    assert b"GET /t/target?x=%20 localhost:80" in exchange(get(b"http://localhost:80/t/target?x=%20", CLOSE))
    assert b"GET /t/p/a b? None" in exchange(get(b"/t/p/a%20b", CLOSE))


def test_the_client_is_told_to_continue_only_if_a_handler_wants_the_body(front: Live) -> None:
    head = b"POST %b HTTP/1.1\r\n" + HOST + b"Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    with connection_to(front) as connection:
        connection.sendall(head % b"/t/echo")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello" + get(b"/t/early", CLOSE))
        assert statuses(everything(connection)) == [200, 200]
    with connection_to(front) as connection:
        connection.sendall(head % b"/t/early")
        received = everything(connection)
    assert statuses(received) == [200]
    assert b"connection: close" in received


def test_another_expectation_is_417(exchange: Exchange) -> None:
    assert statuses(exchange(get(b"/t/early", HOST + b"Expect: a-miracle\r\n"))) == [417]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get(b"/t/early", b""), 400),
        (get(b"/t/early", HOST * 2), 400),
        (get(b"/t/early", b"Host: a b\r\n"), 400),
        (get(b"/t/early", b"Host: localhost\nX: y\r\n"), 400),
        (get(b"/t/early", HOST + b"X: a\r\n b\r\n"), 400),
        (get(b"/t/early#part", HOST), 400),
        (get(b"ftp://localhost/", HOST), 400),
        (get(b"/" + b"x" * 20_000, HOST), 414),
        (get(b"/t/early", HOST + b"X: " + b"y" * 70_000 + b"\r\n"), 431),
        (get(b"/t/early", HOST + b"X: y\r\n" * 200), 431),
        (get(b"/t/early", HOST, b"2.0"), 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (
            b"POST /t/echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST /t/echo HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
        (b"POST /t/echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /t/echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /t/echo HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /t/echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", None),
        (b"POST /t/echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nx\r\nabc\r\n0\r\n\r\n", 400),
    ],
)
def test_a_request_that_cannot_be_understood_is_refused_once_and_closes(
    front: Live, sent: bytes, status: int | None
) -> None:
    with connection_to(front) as connection:
        connection.sendall(get(b"/t/early") + sent)
        if status is None:
            connection.shutdown(1)
        received = everything(connection)
    assert statuses(received) == [200] + ([] if status is None else [status])
    if status is None:
        return
    head, _, body = received.split(b"early", 1)[1].partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert problem["status"] == status
    assert f"x-request-id: {problem['request_id']}".encode() in head
    assert b"\r\nconnection: close" in head


def test_an_upgrade_is_ignored_and_what_follows_it_is_answered(exchange: Exchange) -> None:
    upgrade = HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    received = exchange(get(b"/t/early", upgrade) + get(b"/t/slow", CLOSE))
    assert statuses(received) == [200, 200]


def test_a_client_that_sends_a_refused_body_reads_the_reply(front: Live) -> None:
    with connection_to(front) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\n" + CLOSE + b"Content-Length: 30000000\r\n\r\n")
        for _ in range(30):
            connection.sendall(bytes(1_000_000))
        assert statuses(everything(connection)) == [404]


def test_a_client_that_has_ended_its_side_gets_its_answer(front: Live) -> None:
    with connection_to(front) as connection:
        connection.sendall(get(b"/t/early") * 2)
        connection.shutdown(1)
        assert statuses(everything(connection)) == [200, 200]


def test_a_header_with_a_line_break_becomes_an_internal_error(exchange: Exchange) -> None:
    received = exchange(get(b"/t/spelled"))
    assert statuses(received) == [500]
    assert b"set-cookie" not in received


def test_a_reader_that_reads_nothing_holds_only_its_own_replies(front: Live) -> None:
    with connection_to(front) as connection:
        connection.sendall(get(b"/t/large") * 20)
        time.sleep(0.2)
        started = len(front.gateway.inflight)
        assert started <= 2  # the next one may have begun while the last one ends
        assert front.http.get("/t/early").status_code == 200
    wait_until(lambda: not len(front.gateway.inflight))


class Closing(asyncio.Transport):
    """A transport whose client reads nothing."""

    def write(self, data: object) -> None:
        """Nothing is sent."""

    def close(self) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("requests", [1, 3])
def test_a_client_that_leaves_before_the_task_of_its_request_begins_is_forgotten(front: Live, requests: int) -> None:
    async def send_and_leave() -> None:
        connection = Connection(front.listener.front, lambda _: None)
        connection.connection_made(Closing())
        connection.data_received(get(b"/t/slow") * requests)
        assert len(front.gateway.inflight) == 1
        connection.connection_lost(None)

    front.call(send_and_leave)
    wait_until(lambda: not len(front.gateway.inflight))


def test_a_drain_ends_a_request_whose_task_has_not_begun(front: Live) -> None:
    async def send_and_drain() -> bool:
        connection = Connection(front.listener.front, lambda _: None)
        connection.connection_made(Closing())
        connection.data_received(get(b"/t/slow"))
        return await front.gateway.inflight.drain(0.0)

    assert front.call(send_and_drain) is False
    wait_until(lambda: not len(front.gateway.inflight))


def test_bodies_pass_through_real_clients(front: Live) -> None:
    body = bytes(range(256)) * 2000
    for content in (body, (body[start : start + 7000] for start in range(0, len(body), 7000))):
        assert front.http.post("/t/echo", content=content).content == body
    client = http.client.HTTPConnection("127.0.0.1", front.port)
    for _ in range(3):
        client.request(
            "POST",
            "/t/echo",
            body=iter([body[:5], body[5:]]),
            encode_chunked=True,
            headers={"Transfer-Encoding": "chunked"},
        )
        assert client.getresponse().read() == body
    client.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("more", [["--http1.1"], ["--http2"], ["-H", "Expect: 100-continue"], ["-0"]])
def test_curl_is_answered(front: Live, more: list[str]) -> None:
    command = ["curl", "-sS", "--data-binary", "@-", *more, f"{front.url}/t/echo"]
    assert subprocess.run(command, input=b"x" * 100_000, capture_output=True, check=True).stdout == b"x" * 100_000


def test_many_connections_at_once_are_answered(front: Live) -> None:
    with ExitStack() as many:
        connections = [many.enter_context(connection_to(front)) for _ in range(200)]
        for connection in connections:
            connection.sendall(get(b"/t/target", CLOSE))
        assert all(statuses(everything(connection)) == [200] for connection in connections)


def test_the_date_and_one_content_length_are_in_every_reply(front: Live) -> None:
    reply = front.http.get("/t/early")
    assert reply.headers["date"].endswith("GMT")
    assert reply.headers.get_list("content-length") == ["5"]
    assert isinstance(reply, httpx.Response)
