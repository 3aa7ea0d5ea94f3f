"""Errors in the format of the protocol that a path belongs to."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live_servers import Live
from waiting import LONG_S

from penstock.gateway.http import Call, Endpoint, Protocol, Reply
from penstock.gateway.native.routes import NATIVE
from penstock.settings import Settings


async def crash(call: Call) -> Reply:
    raise RuntimeError("a secret of the server")


async def read(call: Call) -> Reply:
    await call.body()
    return Reply(200, [], b"read")


def in_other_words(error: Exception, call: Call) -> Reply:
    body = {"other_error": type(error).__name__, "path": call.path}
    return Reply(getattr(error, "status", 599), [("content-type", "application/x-other")], json.dumps(body).encode())


OTHER = Protocol(
    "other",
    ("/v9", "/other"),
    (Endpoint("POST", "/v9/read", read, "", "Reads"), Endpoint("GET", "/v9/crash", crash, "", "Crashes")),
    in_other_words,
)


@pytest.fixture(scope="module", params=["h1", "rsgi", "plain-asgi"])
def two_protocols(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    small = Settings(registry=tmp_path_factory.mktemp("registry"), max_body_bytes=1000)
    with Live(request.param, small, (), (NATIVE, OTHER)) as live:
        yield live


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/v9/unknown", 404, "Refusal"),
        ("GET", "/v9", 404, "Refusal"),
        ("GET", "/other/unknown", 404, "Refusal"),
        ("GET", "/v9/read", 405, "Refusal"),
        ("GET", "/v9/crash/", 307, "Refusal"),
        ("POST", "/v9/read", 413, "Refusal"),
        ("GET", "/v9/crash", 599, "RuntimeError"),
    ],
)
def test_a_protocol_writes_every_error_below_its_prefixes(
    two_protocols: Live, method: str, path: str, status: int, error: str
) -> None:
    reply = two_protocols.http.request(method, path, content=b"x" * 2000 if method == "POST" else None)
    assert reply.status_code == status
    assert reply.json() == {"other_error": error, "path": path}
    assert reply.headers["content-type"] == "application/x-other"
    assert "x-request-id" in reply.headers
    expected = {405: ("allow", "POST"), 307: ("location", "../crash"), 413: ("connection", "close")}.get(status)
    assert expected is None or reply.headers[expected[0]] == expected[1]


@pytest.mark.parametrize("path", ["/v90", "/unknown", "/others"])
def test_other_paths_keep_the_native_format(two_protocols: Live, path: str) -> None:
    reply = two_protocols.http.get(path)
    assert reply.status_code == 404
    assert reply.json()["type"] == "urn:penstock:not-found"


def test_a_body_that_never_arrives_is_refused_in_the_format_of_its_protocol(
    two_protocols: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_protocols.gateway.limits, "timeout_s", 0.2)
    with socket.create_connection(("127.0.0.1", two_protocols.port), timeout=LONG_S) as connection:
        connection.sendall(b"POST /v9/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        received = connection.recv(4096)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"other_error": "Refusal"' in received


def until(done: Callable[[], object], within_s: float = LONG_S) -> None:
    started = time.monotonic()
    while not done():
        assert time.monotonic() - started < within_s
        time.sleep(0.005)


@pytest.mark.parametrize("kind", ["h1", "rsgi", "plain-asgi"])
def test_a_draining_server_refuses_in_the_format_of_the_protocol(kind: str, tmp_path: Path) -> None:
    with (
        Live(kind, Settings(registry=tmp_path), (), (NATIVE, OTHER)) as live,
        socket.create_connection(("127.0.0.1", live.port), timeout=LONG_S) as connection,
    ):
        connection.sendall(b"POST /v9/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        until(lambda: any(call.reading for call in live.gateway.inflight.calls))
        live.call(lambda: live.gateway.drain(0))
        received = connection.recv(4096)
    assert b'"other_error": "ModelNotReady"' in received
    assert b"retry-after: 1\r\n" in received.lower()
    assert b"connection: close\r\n" in received.lower()
