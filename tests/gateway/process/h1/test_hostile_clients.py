"""A real server beside hostile clients: honest ones are answered meanwhile, and what the hostile ones get.

`benchmarks/hostile.py` measures the same with thousands of connections.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from live_servers import Process, children
from served_models import build_registry
from waiting import LONG_S

from penstock.gateway.process.sockets import free_address

ATTACKERS = Path(__file__).resolve().parents[4] / "benchmarks" / "attackers.py"
BODY = {"input_data": [1, 2, 3, 4]}
MEANWHILE_S = 2.5
"""How long the honest clients work at least; the time-outs of the server are shorter."""
HASTY = {"PENSTOCK_HEADER_TIMEOUT_S": "1", "PENSTOCK_BODY_TIMEOUT_S": "1"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_registry(tmp_path_factory.mktemp("hostile"))


@contextlib.contextmanager
def serving(registry: Path, *options: str, files: int = 0, **environ: str) -> Iterator[Process]:
    port, arguments = free_address("127.0.0.1", 0)[1], ("vec", "--registry", str(registry), *options)
    process = Process(registry.parent, port, *arguments, files=files, **environ)
    try:
        process.wait_for()
        yield process
    finally:
        process.end()


@contextlib.contextmanager
def attack(kind: str, process: Process, count: int, source: int = 2, *outcome: str) -> Iterator[Counter[str]]:
    """So many hostile connections from a process of their own; what they counted is there at the end.

    With an outcome, the attack does not end before it was counted.
    """
    target = [process.url.rpartition(":")[2], str(count), f"127.0.0.{source}", *outcome]
    command = [sys.executable, str(ATTACKERS), kind, *target]
    attacker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    counts: Counter[str] = Counter()
    try:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "ready\n"
        yield counts
        out, _ = attacker.communicate("\n", timeout=LONG_S)
        counts.update(json.loads(out.splitlines()[-1]))
    finally:
        attacker.kill()
        attacker.communicate()


def honest(process: Process) -> int:
    """Predict over kept and over new connections for a while; the number of answers, all of which must be right."""
    until, answers = time.monotonic() + MEANWHILE_S, 0
    with httpx.Client(timeout=LONG_S) as kept:
        while time.monotonic() < until or answers < 20:
            for headers in ({}, {"Connection": "close"}):
                reply = kept.post(f"{process.url}/predict", json=BODY, headers=headers)
                assert reply.status_code == 200, reply.text
                answers += 1
    return answers


GETS = {
    "silent": "closed by the server",
    "half-heads": "HTTP 408",
    "dripped-heads": "HTTP 408",
    "half-bodies": "HTTP 408",
    "dripped-bodies": "HTTP 408",
    "dripped-chunks": "HTTP 408",
    "kept-alive": "HTTP 200",
    "half-closed": "lost",
    "never-read": "opened",
    "nonsense": "close",
    "resets": "reset",
}
"""What some connections of each kind get; the last three end them themselves, or read nothing."""


def test_honest_clients_are_answered_beside_hostile_ones_of_every_kind(registry: Path) -> None:
    with serving(registry, **HASTY) as process, contextlib.ExitStack() as stack:
        attacks = [attack(kind, process, 40, source, GETS[kind]) for source, kind in enumerate(GETS, start=2)]
        with ThreadPoolExecutor(len(attacks)) as starters:
            counts = list(starters.map(stack.enter_context, attacks))
        assert honest(process) >= 20
        stack.close()
        for kind, counted in zip(GETS, counts, strict=True):
            assert counted[GETS[kind]] > 0, (kind, counted)
        assert httpx.get(f"{process.url}/health/ready").status_code == 200


def test_silent_sockets_under_a_small_limit_of_files_keep_nobody_out(registry: Path) -> None:
    with serving(registry, files=700) as process:
        for count in (500, 900):  # less and more than there is room for
            with attack("silent", process, count) as counts, ThreadPoolExecutor(2) as clients:
                assert sum(clients.map(honest, [process] * 2)) >= 40
                assert httpx.get(f"{process.url}/health/live").status_code == 200
            assert counts["opened"] >= count


def test_an_attack_on_workers_takes_neither(registry: Path) -> None:
    """Each has its own loop and its own limits; the kernel spreads the connections over both."""
    wrong = b'{"input_data":[' + b",".join([b'"x"'] * 400_000) + b"]}"
    with serving(registry, "--workers", "2", files=400) as process, ThreadPoolExecutor(3) as clients:
        workers = children(process.pid)
        assert len(workers) == 2
        with attack("silent", process, 700), attack("half-bodies", process, 100, source=3):
            refused = clients.submit(
                lambda: [httpx.post(f"{process.url}/predict", content=wrong, timeout=LONG_S) for _ in range(5)]
            )
            assert sum(clients.map(honest, [process] * 2)) >= 40
            assert {reply.status_code for reply in refused.result()} == {422}
        assert children(process.pid) == workers
