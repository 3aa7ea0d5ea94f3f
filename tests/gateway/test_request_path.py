"""The number and order of source files that one warm prediction crosses in the running server."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from live_servers import Live

import penstock
from penstock.gateway.process.h1.connection import Connection
from penstock.registry.registry import Registry
from penstock.settings import Settings

SOURCE = str(Path(penstock.__file__).parent)
MOST_CALLS = 40
"""Of a request that shares its turn of the event loop with others."""
REQUESTS = 9


@contextmanager
def calls_recorded() -> Iterator[list[tuple[str, str]]]:
    """The file and function of every call into the source, in every thread that starts from now on."""
    calls: list[tuple[str, str]] = []

    def hook(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            calls.append((frame.f_code.co_filename.removeprefix(SOURCE).lstrip("/"), frame.f_code.co_name))

    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def shown(calls: list[tuple[str, str]]) -> str:
    return "\n".join(
        f"{file}: {' '.join(name for _, name in group)}" for file, group in groupby(calls, lambda call: call[0])
    )


def shortest(live: Live, calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The calls of one warm prediction, the fewest of several."""
    request = {"input_data": [0.0] * 784}
    for _ in range(20):
        assert live.http.post("/inference/predict", json=request).status_code == 200
    ways = []
    for _ in range(REQUESTS):
        calls.clear()
        assert live.http.post("/inference/predict", json=request).status_code == 200
        ways.append([call for call in list(calls) if call[0]])
    return min(ways, key=len)


@pytest.mark.parametrize(("kind", "most_files", "most_changes"), [("rsgi", 24, 60), ("h1", 32, 96)])
def test_a_warm_prediction_crosses_few_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    most_files: int,
    most_changes: int,
) -> None:
    """Of the way over h1, four files are the HTTP server, and most others serve all requests of a turn at once."""
    monkeypatch.chdir(tmp_path)
    with calls_recorded() as calls, Live(kind, Settings(), ("digits",)) as live:
        way = shortest(live, calls)
    files = {file for file, _ in way}
    changes = sum(1 for _ in groupby(way, lambda call: call[0])) - 1
    with capsys.disabled():
        print(f"\n{kind}: {len(files)} files, {changes} changes of file:\n{shown(way)}")
    assert len(files) <= most_files
    assert changes <= most_changes


class Wire(asyncio.Transport):
    """Takes the place of a client's socket."""

    def __init__(self) -> None:
        super().__init__()
        self.replies = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.replies += bytes(data).startswith(b"HTTP/1.1 200 OK")


def prediction(key: str = "") -> bytes:
    body = json.dumps({"input_data": [0.0] * 784}).encode("ascii")
    head = b"POST /inference/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"x-api-key: {key}\r\n".encode("ascii") if key else b""
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


async def turn(live: Live, clients: int, begin: Callable[[], object] = lambda: None, key: str = "") -> None:
    """One prediction of each client, in one turn of the event loop; `begin` is called when all are connected."""
    wires = [Wire() for _ in range(clients)]
    connections = [Connection(live.listener.front, lambda _: None) for _ in wires]
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_made(wire)
    begin()
    for connection in connections:
        connection.data_received(prediction(key))
    while not all(wire.replies for wire in wires):  # noqa: ASYNC110  the wire is no event
        await asyncio.sleep(0.001)
    for connection in connections:
        connection.connection_lost(None)


def test_a_further_request_of_a_turn_costs_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with calls_recorded() as calls, Live("h1", Settings(), ("digits",)) as live:

        async def count(clients: int) -> int:
            await turn(live, clients, calls.clear)
            return len([call for call in calls if call[0]])

        costs = {1: [0], 17: [0]}
        for clients, found in costs.items():
            found[:] = [live.call(functools.partial(count, clients)) for _ in range(REQUESTS)]
    assert (min(costs[17]) - min(costs[1])) / 16 <= MOST_CALLS


def test_a_key_with_a_rate_costs_a_further_request_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Registry("registry") as registry:
        key = registry.keys.create("a", rate="900000000/s").key
    with calls_recorded() as calls, Live("h1", Settings(), ("digits",)) as live:

        async def count(clients: int) -> int:
            connection = Connection(live.listener.front, lambda _: None)
            connection.connection_made(Wire())
            for _ in range(2):  # a head is kept from the second request of a connection on
                connection.data_received(prediction(key))
                while connection.current is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            connection.connection_lost(None)
            await turn(live, clients, calls.clear, key)
            return len([call for call in calls if call[0]])

        live.call(functools.partial(count, 1))
        costs = {
            clients: min(live.call(functools.partial(count, clients)) for _ in range(REQUESTS)) for clients in (1, 17)
        }
        names = {name for _, name in calls}
    assert "recall" in names
    assert "identify" not in names  # the head is known, and its caller with it
    assert (costs[17] - costs[1]) / 16 <= MOST_CALLS


def test_answers_leave_nothing_to_the_garbage_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Live("h1", Settings(), ("digits",)) as live:

        async def left() -> list[object]:
            await turn(live, 40)
            gc.collect()
            gc.disable()
            try:
                await turn(live, 40)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                return [one for one in gc.garbage if type(one).__module__.startswith("penstock")]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()

        assert live.call(left) == []
