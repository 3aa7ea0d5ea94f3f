"""Bursts: requests on many connections that a server reads in one turn of its event loop."""

from __future__ import annotations

import gzip
import re
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from equality_cases import masked
from framing_probe import Replies
from live_servers import Live
from waiting import LONG_S, wait_until

from penstock.engine.bundling.bundle import Bundle, Member
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.libraries import zstd
from penstock.tensors import Arrays

Answer = tuple[bytes, list[bytes], bytes]
"""Status line, headers and body of a reply, without what differs each time."""

_ALIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
_UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.decompress,
    b"deflate": zlib.decompress,
    b"zstd": lambda body: zstd().decompress(body),
}


@contextmanager
def loop_held(live: Live) -> Iterator[None]:
    """The event loop of a server stands still meanwhile: what is sent to it, it reads in one turn."""
    held, gate = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        gate.wait(LONG_S)

    live.loop.call_soon_threadsafe(hold)
    assert held.wait(LONG_S)
    try:
        yield
    finally:
        gate.set()


@contextmanager
def connected(live: Live, count: int) -> Iterator[list[socket.socket]]:
    """Connections that the server has accepted."""
    with ExitStack() as opened:
        found = [
            opened.enter_context(socket.create_connection(("127.0.0.1", live.port), timeout=LONG_S))
            for _ in range(count)
        ]
        for connection in found:
            connection.sendall(_ALIVE)
        for connection in found:
            assert received(connection).statuses == [200]
        yield found


def received(connection: socket.socket, count: int = 1) -> Replies:
    """The next replies of a connection."""
    replies = Replies()
    while len(replies.statuses) < count:
        data = connection.recv(1 << 16)
        assert data, f"the connection was closed after {replies.statuses} and {replies.rest!r}"
        replies.feed(data)
    return replies


def answer(replies: Replies, index: int = 0) -> Answer:
    """A reply without times, generated ids, lengths and encodings."""
    head, body = replies.heads[index], replies.bodies[index]
    encoding = re.search(rb"content-encoding: (\w+)", head)
    if b"transfer-encoding: chunked" in head.lower():
        body = _joined(body)
        head = re.sub(rb"(?i)transfer-encoding: chunked\r\n", b"", head + b"\r\n").rstrip()
    return masked(head, _UNPACK[encoding.group(1)](body) if encoding else body)


def _joined(body: bytes) -> bytes:
    """The chunks of a body."""
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        found, body = found + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return found


def alone(live: Live, requests: Sequence[bytes]) -> list[Answer]:
    """The answers to requests one after another."""
    with connected(live, 1) as (connection,):
        found = []
        for request in requests:
            connection.sendall(request)
            found.append(answer(received(connection)))
        return found


def together(live: Live, requests: Sequence[bytes], connections: int) -> list[Answer]:
    """The answers to requests that the server reads in one turn, each connection with some in a row."""
    with connected(live, connections) as opened:
        shares = [requests[index::connections] for index in range(connections)]
        with loop_held(live):
            for connection, share in zip(opened, shares, strict=True):
                connection.sendall(b"".join(share))
        found: list[Answer] = [(b"", [], b"")] * len(requests)
        for index, (connection, share) in enumerate(zip(opened, shares, strict=True)):
            if share:
                replies = received(connection, len(share))
                found[index::connections] = [answer(replies, place) for place in range(len(share))]
        return found


@contextmanager
def bundled(live: Live) -> Iterator[Counter[str]]:
    """How many requests are answered in bundles meanwhile, by the name of their model."""
    bundler, found = live.service.engine.bundler, Counter[str]()
    submit = bundler.submit

    def counting(bundle: Bundle, members: Sequence[Member]) -> bool:
        taken = submit(bundle, members)
        found[bundle.model.name] += taken * len(members)
        return taken

    bundler.submit = counting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        bundler.submit = submit  # type: ignore[method-assign]


def settled(live: Live) -> None:
    """Return when all requests have ended; nothing may be left of any."""
    engine = live.service.engine
    wait_until(lambda: not len(live.gateway.inflight) and not engine.inflight)
    assert engine.queue_rows == 0
    assert live.gateway.limits.held_bytes == 0
    for model in engine.loaded():
        assert model.leases == 0
        wait_until(lambda model=model: not model.batcher.running_rows)
        assert not model.batcher._deadlines.pending


def outcomes(live: Live, ref: str) -> Counter[str]:
    """How many requests to a model have ended in which way."""
    return Counter(live.service.engine.get_stats()["models"].get(ref, {"outcomes": {}})["outcomes"])


class Held:
    """The runs of a model stand still until they are let go; they are in a thread, one at a time."""

    def __init__(self, model: LoadedModel) -> None:
        self.batcher = model.batcher
        self._run = model.batcher.runner.run
        self._gate = threading.Event()

    def __enter__(self) -> Held:
        self.batcher.runner.run, self.batcher._inline, self.batcher._concurrency = self._wait, False, 1
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self.batcher.runner.run = self._run

    def let_go(self) -> None:
        """From now on, runs end."""
        self._gate.set()

    def _wait(self, arrays: Arrays) -> Arrays:
        assert self._gate.wait(LONG_S)
        return self._run(arrays)
