"""A drain under load: what was accepted is answered whole, whatever the clients are doing at that moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from bursts import loop_held, received
from equality_cases import request, vector
from framing_probe import Replies
from live_servers import Live, Process
from waiting import LONG_S, wait_until

from penstock.settings import Settings

SENT = request(vector(1, 2, 3, 4), "/models/vec/predict")
DEPTH = 8
"""Requests that a pipelining client sends at once."""


class Client(threading.Thread):
    """Sends predictions without a pause, on one connection after another, until it finds no server."""

    def __init__(self, port: int, depth: int) -> None:
        super().__init__(daemon=True)
        self._port, self._depth = port, depth
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []
        self.refused = False
        self.start()

    def run(self) -> None:
        while not self.refused:
            try:
                connection = socket.create_connection(("127.0.0.1", self._port), timeout=LONG_S)
            except OSError:
                self.refused = True
                return
            with connection:
                self._use(connection)

    def _use(self, connection: socket.socket) -> None:
        while self._exchange(connection):
            pass

    def _exchange(self, connection: socket.socket) -> bool:
        """True if the connection can be used again."""
        replies = Replies()
        with contextlib.suppress(OSError):  # what was answered is read all the same
            connection.sendall(SENT * self._depth)
        while len(replies.statuses) < self._depth:
            try:
                data = connection.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            replies.feed(data)
        self._take(replies)
        return len(replies.statuses) == self._depth and b"\r\nconnection: close" not in replies.heads[-1].lower()

    def _take(self, replies: Replies) -> None:
        self.statuses.update(replies.statuses)
        if replies.rest:
            self.faults.append(f"a reply was cut: {replies.rest!r}")
        for status, body in zip(replies.statuses, replies.bodies, strict=True):
            answer = json.loads(body)
            if not ("predictions" in answer if status == 200 else answer.get("status") == status):
                self.faults.append(f"{status} {body!r}")
        # without any reply, an idle connection was closed just when this was sent
        if 0 < len(replies.statuses) < self._depth and b"\r\nconnection: close" not in replies.heads[-1].lower():
            self.faults.append(f"{len(replies.statuses)} replies, and no word that the connection closes")


@pytest.fixture
def server_of(tmp_path: Path, free_port: int, burst_settings: Settings) -> Iterator[Callable[..., Process]]:
    """Start `penstock serve` with these settings. One kind of database is enough here."""
    with ExitStack() as ending:

        def start(**more: str) -> Process:
            server = Process(tmp_path, free_port, "vec", "--registry", str(burst_settings.registry), **more)
            ending.callback(server.end)
            server.wait_for()
            return server

        yield start


@pytest.mark.parametrize(("workers", "grace_s"), [(1, 0), (2, 0.5)])
def test_a_drain_under_load_answers_what_was_accepted(
    server_of: Callable[..., Process], free_port: int, workers: int, grace_s: float
) -> None:
    server = server_of(PENSTOCK_DRAIN_GRACE_S=str(grace_s), PENSTOCK_WORKERS=str(workers))
    clients = [Client(free_port, 1) for _ in range(3)] + [Client(free_port, DEPTH)]
    half = _half_sent(free_port)
    wait_until(lambda: all(client.statuses[200] >= 40 for client in clients))
    server.send()
    if grace_s:
        refused = server.wait_for("/health/ready", 503)
        assert refused.headers["connection"] == "close"
        wait_until(lambda: all(client.statuses[503] for client in clients))
    code, _, err = server.finish()
    for client in clients:
        client.join(LONG_S)
        assert not client.is_alive()
        assert client.faults == []
        assert set(client.statuses) <= {200, 503}
    assert _statuses(half) == [503]
    assert code == 0
    assert "Traceback" not in err
    assert all(json.loads(line)["level"] == "info" for line in err.splitlines())
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


def _half_sent(port: int) -> socket.socket:
    """A connection with a whole request and half of another."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=LONG_S)
    connection.sendall(SENT)
    replies = Replies()
    while not replies.statuses:
        replies.feed(connection.recv(1 << 16))
    connection.sendall(SENT[:-9])
    return connection


def _statuses(connection: socket.socket) -> list[int]:
    """Those of all replies until the server closes the connection."""
    replies = Replies()
    with connection:
        while data := connection.recv(1 << 16):
            replies.feed(data)
    return replies.statuses


def test_connections_that_wait_to_be_accepted_when_the_listener_closes_are_answered(burst_settings: Settings) -> None:
    with Live("h1", burst_settings, ("vec",)) as live, ExitStack() as opened:
        with loop_held(live):
            closing = asyncio.run_coroutine_threadsafe(live.listener.close(LONG_S), live.loop)
            connections = [
                opened.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=LONG_S))
                for _ in range(100)
            ]
            for connection in connections:
                connection.sendall(SENT)
        assert [received(connection).statuses for connection in connections] == [[200]] * len(connections)
        closing.result(LONG_S)
