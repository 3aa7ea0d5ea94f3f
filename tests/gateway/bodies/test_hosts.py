"""A request of HTTP/1.1 names one host that is one, also where every host is answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from live_servers import Live
from waiting import LONG_S

from penstock.settings import Settings

PAIRS = [(kind, hosts) for kind in ("h1", "rsgi") for hosts in ("*", "")]


@pytest.fixture(scope="module", params=PAIRS, ids=str)
def open_server(request: pytest.FixtureRequest, base_settings: Settings) -> Iterator[Live]:
    """Servers that answer every host, and servers that answer those of this machine."""
    kind, hosts = request.param
    if str(base_settings.database_url).startswith("postgresql"):
        kind = "plain-asgi" if kind == "h1" else pytest.skip("Granian is tested on SQLite")
    settings = base_settings.model_copy(update={"allowed_hosts": tuple(filter(None, [hosts]))})
    with Live(kind, settings, ("vec",)) as live:
        yield live


def status(server: Live, head: str) -> int:
    with socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection:
        connection.sendall(f"{head}\nConnection: close\n\n".replace("\n", "\r\n").encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split()[1])


@pytest.mark.parametrize("path", ["/health/live", "/nothing", "http://localhost/health/live"])
def test_no_host_and_two_hosts_are_400(open_server: Live, path: str) -> None:
    assert status(open_server, f"GET {path} HTTP/1.1") == 400
    for first, second in (("localhost", "localhost"), ("localhost", "evil.example"), ("", "localhost")):
        assert status(open_server, f"GET {path} HTTP/1.1\nHost: {first}\nHost: {second}") == 400


NO_HOSTS = [
    *("", "user@localhost", "user:password@localhost", "localhost, localhost", "localhost/path", "localhost#x", "[::1"),
    *("::1", "localhost:80:80", "localhost:port", "http://localhost", "local host", "localhost?", "localhost:123456"),
]


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_no_host_is_refused(open_server: Live, host: str) -> None:
    wanted = 400 if "*" in open_server.settings.allowed_hosts else 421
    assert status(open_server, f"GET /health/live HTTP/1.1\nHost: {host}") in (400, wanted)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8002", "127.0.0.1", "[::1]:80", "localhost:", "localhost."])
def test_a_host_is_answered(open_server: Live, host: str) -> None:
    assert status(open_server, f"GET /health/live HTTP/1.1\nHost: {host}") == 200
    if not host.endswith(":"):  # which httptools does not take in a URL
        assert status(open_server, f"GET http://{host}/health/live HTTP/1.1\nHost: {host}") == 200


def test_the_host_of_a_whole_url_counts(open_server: Live) -> None:
    foreign = 200 if "*" in open_server.settings.allowed_hosts else 421
    if open_server.kind == "plain-asgi":
        pytest.skip("Uvicorn passes on only the path of a whole URL")
    assert status(open_server, "GET http://evil.example/health/live HTTP/1.1\nHost: localhost") == foreign
    assert status(open_server, "GET http://localhost/health/live HTTP/1.1\nHost: evil.example") == foreign
    assert status(open_server, "GET http://a@localhost/health/live HTTP/1.1\nHost: localhost") in (400, 404, 421)


def test_http_1_0_needs_no_host(open_server: Live) -> None:
    assert status(open_server, "GET /health/live HTTP/1.0") == 200
    assert status(open_server, "GET /health/live HTTP/1.0\nHost: localhost\nHost: localhost") == 400
