"""What clients send and receive is the same on every kind of server."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import httpx
import pytest
from live_servers import Live
from waiting import LONG_S

from penstock.settings import Settings

Exchange = Callable[..., bytes]


def kind_of(wanted: str, settings: Settings) -> str:
    """The built-in server and Granian on SQLite, Uvicorn on PostgreSQL: each kind of both, without every pair."""
    if not str(settings.database_url).startswith("postgresql"):
        return wanted
    if wanted == "h1":
        return "plain-asgi"
    pytest.skip("Granian is tested on SQLite")


@pytest.fixture(scope="session", params=["h1", "rsgi"])
def server(request: pytest.FixtureRequest, base_settings: Settings) -> Iterator[Live]:
    with Live(kind_of(request.param, base_settings), base_settings, ("vec", "pic", "raw")) as live:
        yield live


@pytest.fixture
def client(server: Live) -> httpx.Client:
    return server.http


@pytest.fixture
def exchange(server: Live) -> Exchange:
    """Send bytes that no client library sends; all that the server answers until it closes or says nothing more."""

    def send(data: bytes, *, end: bool = True) -> bytes:
        """`end`: the client sends no more."""
        with socket.create_connection(("127.0.0.1", server.port), timeout=LONG_S) as connection:
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while more := connection.recv(1 << 16):
                answer += more
            return answer

    return send
