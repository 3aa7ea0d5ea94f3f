"""Canaries of digits over HTTP: a server, clients that send the held-out images, and what becomes of a version."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from digit_versions import NAME
from live_servers import Process

from penstock.gateway.process.sockets import free_address

PLAN: dict[str, Any] = {
    "steps": [20, 50, 100],
    "hold_s": 3,
    "max_hold_s": 60,
    "bake_s": 2,
    "min_requests": 60,
    "max_error_rate": 0.01,
    "max_p99_ratio": 1.5,
    "max_disagreement": 0.08,
    "shadow": 0.3,
    "why": "a test",
}
CLIENTS = 3
RECONNECT = 20


class Traffic:
    """Clients that send the held-out images again and again, each request under a key of its own."""

    def __init__(self, port: int, images: np.ndarray) -> None:
        self.statuses: Counter[tuple[int, str]] = Counter()
        self._port = port
        self._bodies = [json.dumps({"input_data": image.tolist()}) for image in images.round(3)]
        self._number = itertools.count()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(index,)) for index in range(CLIENTS)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self, index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._over.is_set():
            number = next(self._number)
            headers = {"content-type": "application/json", "x-penstock-key": f"user-{number}"}
            body = self._bodies[(number * 7 + index) % len(self._bodies)]
            try:
                connection.request("POST", f"/models/{NAME}/predict", body, headers)
                reply = connection.getresponse()
                reply.read()
            except (http.client.HTTPException, OSError):
                connection.close()
                self.statuses[0, "no reply"] += 1
                continue
            version = reply.headers.get("x-penstock-model", "").partition(":")[2].partition("/")[0]
            self.statuses[reply.status, version] += 1
            if number % RECONNECT == 0:
                connection.close()  # so that every process gets some of the requests
        connection.close()


@contextlib.contextmanager
def serving(path: Path, workers: int) -> Iterator[tuple[Process, int]]:
    _, port = free_address("127.0.0.1", 0)
    server = Process(
        path.parent, port, NAME, "--registry", path.name, "--workers", str(workers), PENSTOCK_ON_NAN_OUTPUT="refuse"
    )
    try:
        server.wait_for()
        yield server, port
    finally:
        server.end()


def champion(api: httpx.Client, version: str | None = None) -> str:
    """The version of the alias, after it was moved if one is given."""
    if version is not None:
        moved = api.put(f"/admin/models/{NAME}/aliases/champion", json={"version": version, "force": True})
        assert moved.status_code == 200, moved.text
    return str(api.get(f"/models/{NAME}").json()["aliases"]["champion"])


def outcome(api: httpx.Client, version: str) -> str:
    """Start a canary and wait until it has ended."""
    started = api.post(f"/admin/routes/{NAME}/canary", json={**PLAN, "to": version, "again": True})
    assert started.status_code == 200, started.text
    until = time.monotonic() + 90
    while time.monotonic() < until:
        state = api.get(f"/admin/routes/{NAME}/canary").json()["state"]
        if state not in ("preparing", "running", "baking"):
            return str(state)
        time.sleep(0.1)
    return "nothing"
