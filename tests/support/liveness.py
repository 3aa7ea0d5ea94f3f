"""How long `/health/live` takes meanwhile, measured by another process: no work in the server can delay its clock."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

PAUSE_S = 0.005
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of every probe, in their order."""

    ms: list[float]

    def percentile(self, percent: float) -> float:
        """The nearest-rank percentile."""
        ordered = sorted(self.ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def __str__(self) -> str:
        figures = ", ".join(f"p{percent} {self.percentile(percent):.1f}" for percent in (50, 99))
        return f"{figures}, max {max(self.ms):.1f} ms of {len(self.ms)} probes"


class LivenessProbe:
    """Requests `/health/live` from a process of its own, one after the other on one connection, until it ends."""

    latencies: Latencies

    def __init__(self, url: str, path: str = "/health/live") -> None:
        self._command = [sys.executable, __file__, url, path]

    def __enter__(self) -> LivenessProbe:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # the first probe was answered
        return self

    def __exit__(self, *_: object) -> None:
        out, _ = self._process.communicate(timeout=2 * TIMEOUT_S)
        self.latencies = Latencies(json.loads(out))


def _probe(url: str, path: str) -> None:
    """Probe until standard input is closed, then print the milliseconds of each probe as a JSON list."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT_S)
    found: list[float] = []
    while not found or not _closed():
        began = time.perf_counter()
        connection.request("GET", path)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == 200, reply.status
        found.append((time.perf_counter() - began) * 1e3)
        if len(found) == 1:
            print(flush=True)
        time.sleep(PAUSE_S)
    print(json.dumps(found))


def _closed() -> bool:
    import select

    return bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    _probe(*sys.argv[1:])
