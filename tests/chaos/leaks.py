"""`python tests/chaos/leaks.py [--requests M]`: what a server holds after a million requests of every kind.

Exit code 1 if its memory, threads or open files grow by more than 2 % after the first fifth of the requests.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from known_answers import Known, known_requests  # noqa: E402
from live_servers import Process, children  # noqa: E402
from served_models import build_registry  # noqa: E402

from penstock.gateway.process.sockets import free_address  # noqa: E402
from penstock.registry.registry import Registry  # noqa: E402

VERSIONS = ("v1.0", "v2.0")
GROWTH = 0.02
LOOKS = 40
TOGETHER = 16
"""Requests that are sent before the first reply is read."""
_JSON = "Host: a\r\nContent-Type: application/json\r\nContent-Length: "
ODD = (
    f"POST /models/vec/predict HTTP/1.1\r\n{_JSON}2\r\n\r\n{{}}".encode(),
    f"POST /models/vec/predict HTTP/1.1\r\n{_JSON}1\r\n\r\n{{".encode(),
    f"POST /models/nowhere/predict HTTP/1.1\r\n{_JSON}2\r\n\r\n{{}}".encode(),
    b"GET /models/vec HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /stats HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n",
    b"DELETE /predict HTTP/1.1\r\nHost: a\r\n\r\n",
)
"""Requests without a prediction."""


class Held(NamedTuple):
    """What the processes of a server hold."""

    bytes: int
    threads: int
    files: int


def held(pid: int) -> Held:
    """By a process and its children."""
    found = Held(0, 0, 0)
    for each in (pid, *children(pid)):
        status = Path(f"/proc/{each}/status").read_text(encoding="utf-8")
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        files = len(list(Path(f"/proc/{each}/fd").iterdir()))
        size = int(fields["VmRSS"].split()[0]) * 1024
        found = Held(found.bytes + size, found.threads + int(fields["Threads"]), found.files + files)
    return found


def wire(known: Known) -> bytes:
    """A request as it is sent."""
    head = [f"POST {known.path} HTTP/1.1", "host: a", *(f"{name}: {value}" for name, value in known.headers.items())]
    return "\r\n".join([*head, f"content-length: {len(known.body)}", "", ""]).encode() + known.body


class Load:
    """Sends requests on connections that end after a while, some of them in the middle of a request."""

    def __init__(self, port: int, requests: list[bytes], seed: int) -> None:
        self._port = port
        self._requests = requests
        self._chance = random.Random(seed)
        self.sent = 0

    def run(self, until: int) -> None:
        """Until so many requests were sent in all."""
        while self.sent < until:
            with socket.create_connection(("127.0.0.1", self._port), timeout=30) as connection:
                for _ in range(self._chance.choice((1, 20, 60))):
                    some = self._chance.choices(self._requests, k=TOGETHER)
                    connection.sendall(b"".join(some))
                    self._read(connection, TOGETHER)
                    self.sent += TOGETHER
                if self._chance.random() < 0.5:
                    whole = self._chance.choice(self._requests)
                    connection.sendall(whole[: self._chance.randrange(1, len(whole))])

    def _read(self, connection: socket.socket, count: int) -> None:
        """So many replies; each has a length."""
        data = b""
        while count:
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                head = data[:end].lower()
                size = int(head.rpartition(b"content-length:")[2].split(b"\r\n")[0])
                if len(data) >= end + 4 + size:
                    data, count = data[end + 4 + size :], count - 1
                    continue
            more = connection.recv(1 << 18)
            if not more:
                raise ConnectionError(f"the server closed the connection with {count} replies to come: {data[-300:]!r}")
            data += more


@contextmanager
def serving(root: Path) -> Iterator[tuple[Process, list[bytes]]]:
    """A server of one process, and requests for it."""
    registry = build_registry(root)
    with Registry(registry) as opened:
        opened.set_alias("vec", "champion", "v2.0")
    pool = known_requests(registry, VERSIONS, 1, 8)
    kinds = [each for name, group in pool.items() if name not in ("slow", "large_sums") for each in group]
    port = free_address("127.0.0.1", 0)[1]
    server = Process(root, port, "--registry", str(registry), PENSTOCK_LOG_LEVEL="error")
    try:
        server.wait_for()
        yield server, [*(wire(known) for known in kinds), *ODD]
    finally:
        server.end()


def looked_at(load: Load, pid: int, requests: int, show: Callable[[Held], None]) -> list[Held]:
    """What is held after each of `LOOKS` parts of the requests."""
    looks: list[Held] = []
    for look in range(1, LOOKS + 1):
        load.run(requests * look // LOOKS)
        looks.append(held(pid))
        show(looks[-1])
    return looks


def growth(looks: list[Held], of: Callable[[Held], int]) -> float:
    """Of a figure between the second fifth and the last one, as a share."""
    fifth = len(looks) // 5
    before, after = (median(map(of, part)) for part in (looks[fifth : 2 * fifth], looks[-fifth:]))
    return after / before - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-leaks-") as root, serving(Path(root)) as (server, requests):
        load = Load(int(server.url.rpartition(":")[2]), requests, arguments.seed)

        def show(now: Held) -> None:
            print(f"| {load.sent} | {now.bytes / 1e6:.1f} | {now.threads} | {now.files} |", flush=True)

        print("| requests | memory MB | threads | files |\n|---|---|---|---|")
        looks = looked_at(load, server.pid, arguments.requests, show)
    grown = {name: growth(looks, lambda each, name=name: getattr(each, name)) for name in Held._fields}  # type: ignore[misc]
    print(f"\n{load.sent} requests in {time.monotonic() - began:.0f} s; growth after the first fifth:")
    print(", ".join(f"{name} {share:+.2%}" for name, share in grown.items()))
    sys.exit(int(any(share > GROWTH for share in grown.values())))


if __name__ == "__main__":
    main()
