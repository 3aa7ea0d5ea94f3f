"""Request ids, cross-origin headers, HEAD, trailing slashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from live_servers import Live

from penstock.engine.observation import Observation
from penstock.gateway.cors import Cors
from penstock.gateway.native.routes import TABLE
from penstock.gateway.routing.table import Routes

GOOD = {"input_data": [1, 2, 3, 4]}
ORIGIN = "https://app.example"


@pytest.mark.parametrize("given", ["abc", "x" * 128, "!~-_.:/{}"])
def test_a_request_id_comes_back(http: httpx.Client, given: str) -> None:
    for path in ("/health", "/nope"):
        assert http.get(path, headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "é".encode(), b"\xff"])
def test_an_unsafe_request_id_is_replaced(http: httpx.Client, given: str | bytes) -> None:
    returned = http.get("/health", headers={"x-request-id": given}).headers["x-request-id"]
    assert returned not in ("", given)
    assert returned.isascii()


def test_every_request_has_an_id_of_its_own(http: httpx.Client) -> None:
    ids = {http.get("/health/live").headers["x-request-id"] for _ in range(50)}
    assert len(ids) == 50


def test_a_page_of_an_allowed_origin_may_read_the_reply(http: httpx.Client) -> None:
    for reply in (
        http.post("/predict", json=GOOD, headers={"origin": ORIGIN}),
        http.post("/predict", json={}, headers={"origin": ORIGIN}),
    ):
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        exposed = reply.headers["access-control-expose-headers"].split(", ")
        assert {"X-Request-ID", "X-Penstock-Model", "X-Penstock-Flags"} <= set(exposed)
        assert reply.headers["vary"] == "Origin"


def test_a_page_of_another_origin_may_not_read_the_reply(http: httpx.Client) -> None:
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {}):
        reply = http.post("/predict", json=GOOD, headers=headers)
        assert reply.status_code == 200
        assert "access-control-allow-origin" not in reply.headers
        assert reply.headers["vary"] == "Origin"


def test_a_preflight_is_answered(http: httpx.Client) -> None:
    headers = {"origin": ORIGIN, "access-control-request-method": "POST"}
    reply = http.options("/models/vec/predict", headers=headers)
    assert reply.status_code == 204
    assert not reply.content
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["access-control-allow-methods"] == "POST"
    assert "Content-Type" in reply.headers["access-control-allow-headers"]


def test_a_preflight_of_another_origin_allows_nothing(http: httpx.Client) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in http.options("/predict", headers=headers).headers


def test_a_preflight_for_an_unknown_path_is_404(http: httpx.Client) -> None:
    headers = {"origin": ORIGIN, "access-control-request-method": "POST"}
    assert http.options("/nope", headers=headers).status_code == 404


def test_head_is_get_without_the_body(http: httpx.Client) -> None:
    head, get = http.head("/models"), http.get("/models")
    assert head.status_code == 200
    assert not head.content
    assert head.headers["content-length"] == get.headers["content-length"]


def test_a_trailing_slash_redirects(http: httpx.Client) -> None:
    for path in ("/health/", "/models/vec/", "/docs/"):
        reply = http.get(path)
        assert reply.status_code == 307
        assert http.get(path, follow_redirects=True).status_code == 200
    assert http.post("/predict/", json=GOOD, follow_redirects=True).status_code == 200


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: a\r\nX-Request-ID: b\r\n\r\n", b"200"),
        (b"GET /health HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /models/%C3%A9%00%0d%0aX HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /health?x=%ff&y HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200"),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
    ],
)
def test_unusual_requests_get_a_reply(raw_connection: Callable[[], Any], request_head: bytes, status: bytes) -> None:
    with raw_connection() as connection:
        connection.sendall(request_head)
        assert connection.recv(4096).split(b" ")[1] == status


def test_a_routing_key_is_observed(live: Live) -> None:
    seen: list[Observation] = []
    live.service.engine.observers.append(seen.append)
    assert live.http.post("/predict", json=GOOD, headers={"x-penstock-key": "customer-7"}).status_code == 200
    live.service.engine.observers.remove(seen.append)
    assert [(each.key, each.protocol, each.outcome) for each in seen] == [("customer-7", "rest", "ok")]


def test_every_origin_may_call_if_configured() -> None:
    class Asked:
        method, path = "OPTIONS", "/predict"

        def __init__(self, **headers: str) -> None:
            self.header = headers.get

    cors = Cors(("*",), Routes(TABLE))
    headers: list[tuple[str, str]] = []
    cors.add_headers(Asked(origin="https://anyone.example"), headers)  # type: ignore[arg-type]
    assert ("access-control-allow-origin", "*") in headers
    assert not any(name in ("vary", "access-control-allow-credentials") for name, _ in headers)
    assert cors.answer(Asked(origin="https://anyone.example")) is None  # type: ignore[arg-type]
