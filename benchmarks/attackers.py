"""`python benchmarks/attackers.py KIND PORT COUNT SOURCE [OUTCOME]`: a hostile client, until stdin closes.

It writes a line when its connections stand, and one with what it counted when it ends. `SOURCE` is the loopback address
that it connects from: each has its own ports. With an outcome ("HTTP 408"), it goes on until it has counted one.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

HOST = b"Host: localhost\r\n"
BODY = b'{"input_data":[1,2,3,4]}'
PREDICT = b"POST /predict HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
GOOD = PREDICT + b"Content-Length: 24\r\n\r\n" + BODY
LARGE = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
"""Its reply is of more than 100 kB."""
RENEW_PER_S = 300
"""How many closed connections are opened again in a second."""
OPEN_AT_ONCE = 200
READY_S = 20.0
"""How long connections may take to be accepted, before the measurement begins without the rest."""
OUTCOME_S = 60.0
"""How long an attack goes on at most for the outcome that it is to count."""


@dataclass(frozen=True)
class Kind:
    """`first` is sent at once, then one byte of `drip` in every `every_s` to each connection.

    With `once`, the connection is then ended in this way, and another one opened, at `RENEW_PER_S`.
    """

    first: bytes = b""
    drip: bytes = b""
    every_s: float = 2.0
    small_buffer: bool = False
    half_closed: bool = False
    once: str = ""


KINDS = {
    "silent": Kind(),
    "half-heads": Kind(b"POST /predict HTTP/1.1\r\nHost: loc"),
    "dripped-heads": Kind(PREDICT + b"A: ", b"a"),
    "half-bodies": Kind(PREDICT + b"Content-Length: 60000\r\n\r\n" + b" " * 30_000),
    "dripped-bodies": Kind(PREDICT + b"Content-Length: 60000\r\n\r\n", b" "),
    "dripped-chunks": Kind(PREDICT + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "never-read": Kind(LARGE * 50, small_buffer=True),
    "half-closed": Kind(GOOD[:-1], half_closed=True),
    "kept-alive": Kind(GOOD),
    "resets": Kind(GOOD, once="reset"),
    "churn": Kind(GOOD, once="close"),
    "nonsense": Kind(b"nonsense\r\n\r\n" * 100, once="close"),
}


class Attacker:
    """Connections of one kind, opened again when the server closes them."""

    def __init__(self, kind: Kind, port: int, count: int, source: str) -> None:
        self._kind, self._address, self._source = kind, ("127.0.0.1", port), source
        self._poll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._waiting: set[int] = set()
        self._missing = count
        self._drips: deque[tuple[float, int, int]] = deque()
        self.counts: Counter[str] = Counter()

    def run(self, ended: Callable[[], bool]) -> None:
        """Attack until `ended()`."""
        ready, renewed = False, time.monotonic()
        late = renewed + READY_S
        while not ended():
            now = time.monotonic()
            allowed = OPEN_AT_ONCE if not ready and not self._kind.once else int((now - renewed) * RENEW_PER_S)
            for _ in range(min(allowed, self._missing, OPEN_AT_ONCE)):
                self._connect()
            if allowed:
                renewed = now
            for number, event in self._poll.poll(0.01, 1000):
                self._on_event(number, event)
            self._drip(time.monotonic())
            if not ready and (self._kind.once or now > late or not (self._missing or self._waiting)):
                ready = True
                print("ready", flush=True)
        self.counts["open at the end"] = len(self._open)

    def _connect(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        if self._kind.small_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: choose the port at connect
        connection.bind((self._source, 0))
        self._missing -= 1
        try:
            connection.connect_ex(self._address)
            self._poll.register(connection, select.EPOLLOUT | select.EPOLLIN)
        except OSError:
            self.counts["not opened"] += 1
            self._missing += 1
            connection.close()
            return
        self._open[connection.fileno()] = connection
        self._waiting.add(connection.fileno())
        self.counts["opened"] += 1

    def _on_event(self, number: int, event: int) -> None:
        if number in self._waiting and event & select.EPOLLOUT and not event & (select.EPOLLERR | select.EPOLLHUP):
            self._waiting.discard(number)
            self._begin(number)
        elif event & (select.EPOLLERR | select.EPOLLHUP):
            self._end(number, "lost")
        elif event & select.EPOLLIN:
            self._receive(number)

    def _begin(self, number: int) -> None:
        kind, connection = self._kind, self._open[number]
        self._poll.modify(number, select.EPOLLRDHUP if kind.small_buffer else select.EPOLLIN)
        try:
            if kind.first:
                connection.send(kind.first)
            if kind.half_closed:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(number, "lost")
            return
        if kind.once:
            if kind.once == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._end(number, kind.once)
        elif kind.drip:
            self._drips.append((time.monotonic() + kind.every_s, number, 0))

    def _receive(self, number: int) -> None:
        try:
            data = self._open[number].recv(65536)
        except OSError:
            data = b""
        if data:
            self.counts[f"HTTP {data[9:12].decode('latin-1')}"] += 1
        else:
            self._end(number, "closed by the server")

    def _drip(self, now: float) -> None:
        kind = self._kind
        while self._drips and self._drips[0][0] <= now:
            _, number, position = self._drips.popleft()
            connection = self._open.get(number)
            if connection is None:
                continue
            try:
                position += connection.send(kind.drip[position % len(kind.drip) :][:1])
            except OSError:
                continue
            self._drips.append((now + kind.every_s, number, position))

    def _end(self, number: int, why: str) -> None:
        self.counts[why] += 1
        self._waiting.discard(number)
        self._open.pop(number).close()
        self._missing += 1


def main() -> None:
    kind, port, count, source, *outcome = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attacker = Attacker(KINDS[kind], int(port), int(count), source)
    late = time.monotonic() + OUTCOME_S

    def ended() -> bool:
        waits = any(attacker.counts[each] == 0 for each in outcome) and time.monotonic() < late
        return not waits and bool(select.select([0], [], [], 0)[0])

    attacker.run(ended)
    print(json.dumps(attacker.counts), flush=True)


if __name__ == "__main__":
    main()
