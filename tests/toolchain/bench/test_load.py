"""Load on a server: what is counted, that a slow server cannot hide its waits, and that every run ends."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from scripted_server import OK, ScriptedServer, status

from penstock.errors import InvalidInput, ModelNotReady
from penstock.toolchain.bench.connection import make_target
from penstock.toolchain.bench.load import closed_loop, due_times, open_loop

STALL_S = 0.5


async def stall_once(_server: ScriptedServer, number: int) -> bytes:
    """The whole server stands still once, for half a second."""
    if number == 20:
        time.sleep(STALL_S)  # noqa: ASYNC251  that the whole server stands still is the point
    return OK


async def hang(_server: ScriptedServer, _number: int) -> bytes:
    await asyncio.sleep(600)
    return OK


def test_a_closed_loop_keeps_its_connections_and_counts_successes() -> None:
    with ScriptedServer() as server:
        result = closed_loop(make_target(server.url, (b"[1]", b"[2]")), concurrency=3, seconds=0.3)
        assert server.connections == 3
    assert result.requests == result.succeeded == len(server.requests) > 3
    assert {request[-3:] for request in server.requests} == {b"[1]", b"[2]"}
    assert (result.refused, result.errors, result.failed, result.stopped) == (0, {}, 0, None)
    assert result.latency is not None
    assert result.latency.count == result.succeeded
    assert 0 < result.latency.min_ms <= result.latency.p50_ms <= result.latency.p99_ms <= result.latency.max_ms
    assert result.throughput_per_second == pytest.approx(result.succeeded / 0.3, abs=3 / 0.3)
    assert sum(count for _, _, count in result.histogram) == result.succeeded


def test_an_open_loop_sends_what_is_due_and_no_more() -> None:
    with ScriptedServer() as server:
        result = open_loop(server.url, 200, seconds=0.5, arrivals="constant")
    assert result.requests == result.succeeded == len(server.requests) == 100


def test_the_wait_of_every_request_that_a_stall_delays_is_counted() -> None:
    with ScriptedServer(stall_once) as server:
        result = open_loop(server.url, 200, seconds=1.0, arrivals="constant")
    # 100 of the 200 requests were due during the stall; half of them waited more than a quarter of a second
    assert result.latency is not None
    assert result.from_send is not None
    assert result.latency.max_ms >= STALL_S * 900
    assert np.interp(STALL_S * 500, [ms for _, ms in result.curve], [percent for percent, _ in result.curve]) < 85


def test_a_closed_loop_sees_the_same_stall_once_only() -> None:
    with ScriptedServer(stall_once) as server:
        result = closed_loop(server.url, concurrency=1, seconds=1.0)
    slow = sum(count for low, _, count in result.histogram if low > STALL_S * 500)
    assert slow == 1


def test_a_server_with_one_connection_is_waited_for_from_the_due_time() -> None:
    async def slow(_server: ScriptedServer, _number: int) -> bytes:
        await asyncio.sleep(0.02)
        return OK

    with ScriptedServer(slow) as server:
        result = open_loop(server.url, 100, seconds=0.5, arrivals="constant", max_connections=1)
        assert server.connections == 1
    assert result.latency is not None
    assert result.from_send is not None
    assert result.succeeded == 50
    assert result.latency.max_ms > 400  # 50 requests of 20 ms each, due within 500 ms
    assert result.latency.p50_ms > 2 * result.from_send.p50_ms


def test_errors_are_counted_by_status_and_refusals_apart() -> None:
    async def mixed(_server: ScriptedServer, number: int) -> bytes | None:
        replies = (OK, status(429, "Retry-After: 1"), status(500), status(503), status(404), status(201), None)
        return replies[number % 7]

    with ScriptedServer(mixed) as server:
        result = open_loop(server.url, 70, seconds=1.0, arrivals="constant", max_connections=1)
    assert result.requests == 70
    assert result.succeeded == 20
    assert result.refused == 10
    assert result.errors == {"404": 10, "500": 10, "503": 10, "connection": 10}
    assert result.failed == 40
    assert result.latency is not None
    assert result.latency.count == 20


@pytest.mark.parametrize(
    "reply",
    [
        status(200, "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\n{}\r\na;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
        status(200, body=b"x" * 300_000),
    ],
    ids=["close", "HTTP/1.0", "no space", "continue", "no content", "chunked", "large"],
)
def test_every_form_of_reply_is_read(reply: bytes) -> None:
    async def answer(_server: ScriptedServer, _number: int) -> bytes:
        return reply

    with ScriptedServer(answer) as server:
        result = closed_loop(server.url, concurrency=2, seconds=0.2)
    assert result.errors == {}
    assert result.succeeded == result.requests > 2


def test_a_reply_that_ends_with_the_connection_is_complete_then() -> None:
    async def answer(server: ScriptedServer, number: int) -> bytes | None:
        if number % 2 == 0:
            next(iter(server._writers)).write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        return None

    with ScriptedServer(answer) as server:
        result = open_loop(server.url, 10, seconds=0.4, arrivals="constant", max_connections=1)
    assert (result.succeeded, result.errors) == (2, {"connection": 2})


def test_what_is_no_http_is_a_lost_connection() -> None:
    async def answer(_server: ScriptedServer, _number: int) -> bytes:
        return b"SSH-2.0-OpenSSH_9.6\r\n\r\n\r\n"

    with ScriptedServer(answer) as server:
        result = open_loop(server.url, 20, seconds=0.2, arrivals="constant")
    assert result.succeeded == 0
    assert result.errors == {"connection": 4}
    assert result.latency is None
    assert "mean_ms" not in result.to_json()


def test_requests_without_a_reply_count_with_the_time_that_they_waited() -> None:
    with ScriptedServer(hang) as server:
        started = time.monotonic()
        result = open_loop(server.url, 20, seconds=0.3, arrivals="constant", timeout_s=0.4)
    assert time.monotonic() - started < 30
    assert result.succeeded == 0
    assert set(result.errors) <= {"timeout", "unanswered"}
    assert result.failed == result.requests == 6
    assert result.latency is not None
    assert result.latency.min_ms >= 400


def test_a_closed_loop_on_a_server_that_hangs_ends() -> None:
    with ScriptedServer(hang) as server:
        result = closed_loop(server.url, concurrency=2, seconds=0.3, timeout_s=0.2)
    assert result.succeeded == 0
    assert set(result.errors) <= {"timeout", "unanswered"}


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_a_server_that_goes_away_ends_the_run(loop: str) -> None:
    async def leave(server: ScriptedServer, number: int) -> bytes | None:
        if number == 30:
            server.stop_now()
        return OK

    with ScriptedServer(leave) as server:
        started = time.monotonic()
        if loop == "closed":
            result = closed_loop(server.url, concurrency=2, seconds=300)
        else:
            result = open_loop(server.url, 100, seconds=300)
    assert time.monotonic() - started < 60
    assert result.stopped is not None
    assert result.stopped.startswith("the server was gone 0.")
    assert result.succeeded >= 29
    assert result.errors["connection"] > 0
    assert result.seconds < 60


def test_no_server_at_all_is_an_error() -> None:
    with ScriptedServer() as server:
        pass
    with pytest.raises(ModelNotReady, match=r"^http://127\.0\.0\.1:\d+: no server answers there \("):
        closed_loop(server.url, concurrency=1, seconds=1)


def test_https_on_a_server_without_it_is_an_error() -> None:
    with ScriptedServer() as server, pytest.raises(ModelNotReady, match="secure connection"):
        closed_loop(server.url.replace("http:", "https:"), concurrency=1, seconds=1, timeout_s=0.5)


def test_constant_and_poisson_arrivals_have_the_rate() -> None:
    constant = due_times(50, 2.0, "constant")
    assert constant == pytest.approx([n / 50 for n in range(100)])
    poisson = np.array(due_times(1000, 20.0, "poisson"))
    gaps = np.diff(poisson)
    assert len(poisson) == 20_000
    assert (gaps >= 0).all()
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential
    assert poisson.max() < 20.0
    assert due_times(1000, 1.0, "poisson", seed=1) != due_times(1000, 1.0, "poisson", seed=2)
    assert len(due_times(0.1, 1.0, "poisson")) == 1


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("seconds", {"seconds": 0, "rate": 1}),
        ("seconds", {"seconds": float("nan"), "rate": 1}),
        ("rate", {"seconds": 1, "rate": 0}),
        ("rate", {"seconds": 1, "rate": -5}),
        ("rate", {"seconds": 1, "rate": float("inf")}),
        ("arrivals", {"seconds": 1, "rate": 5, "arrivals": "never"}),
        ("timeout_s", {"seconds": 1, "rate": 5, "timeout_s": 0}),
        ("max_connections", {"seconds": 1, "rate": 5, "max_connections": 0}),
        ("url", {"seconds": 1, "rate": 5, "target": "ftp://127.0.0.1"}),
        ("url", {"seconds": 1, "rate": 5, "target": "http://127.0.0.1:1/a\nb"}),
    ],
)
def test_figures_that_make_no_sense_are_refused(field: str, arguments: dict[str, object]) -> None:
    arguments.setdefault("target", "http://127.0.0.1:9/")
    with pytest.raises(InvalidInput, match=rf"^{field}: "):
        open_loop(**arguments)  # type: ignore[arg-type]


def test_more_connections_than_the_limit_of_files_are_not_tried() -> None:
    with pytest.raises(InvalidInput, match=r"^concurrency: "):
        closed_loop("http://127.0.0.1:9/", concurrency=100_000, seconds=1)


def test_a_header_with_a_line_break_is_refused() -> None:
    with pytest.raises(InvalidInput, match="line break"):
        make_target("http://a/", headers={"X": "1\r\nY: 2"})
