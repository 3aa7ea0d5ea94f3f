"""Two `penstock serve` processes on one PostgreSQL, like two hosts: they follow its changes and survive its outages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from live_servers import Process
from postgres import PASSWORD, Server
from served_models import build_registry
from waiting import wait_until

from penstock.errors import ConfigError
from penstock.gateway.process.sockets import free_address
from penstock.gateway.service import RECONCILE_EVERY_S
from penstock.registry.registry import Registry

GOOD = {"input_data": [1, 2, 3, 4]}
REFS = ("vec@stable", "raw")
Pair = tuple[Process, Process]


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A PostgreSQL server that this test may stop."""
    with Server() as server:
        yield server


@pytest.fixture
def registry(tmp_path: Path, own_server: Server) -> Iterator[Registry]:
    url = own_server.new_database().replace("postgresql:", "postgres:")
    with Registry(build_registry(tmp_path, url), url) as registry:
        yield registry


@pytest.fixture
def start(tmp_path: Path, registry: Registry) -> Iterator[Callable[[], Process]]:
    started: list[Process] = []

    def start() -> Process:
        port = free_address("127.0.0.1", 0)[1]
        started.append(Process(tmp_path, port, *REFS, DATABASE_URL=registry.database_url))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def pair(start: Callable[[], Process]) -> Pair:
    both = start(), start()
    for process in both:
        process.wait_for()
    return both


def _answering(process: Process) -> str:
    reply = httpx.post(f"{process.url}/models/vec@stable/predict", json=GOOD)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["model_version"])


def _wait_for_version(pair: Pair, version: str) -> None:
    """Return when both servers answer with a version; until then every reply has the old or the new one."""
    wait_until(lambda: {_answering(process) for process in pair} == {version})


def _events(process: Process, part: str) -> list[str]:
    process.send()
    _, _, err = process.finish()
    assert PASSWORD not in err
    assert "Traceback" not in err
    return [event for line in err.splitlines() if part in (event := json.loads(line)["event"])]


def test_a_change_on_one_host_is_followed_on_all(pair: Pair, registry: Registry) -> None:
    """Within a second on a machine that is not overloaded: a server looks twice a second, and one look is enough
    (`test_moving_an_alias_swaps_the_model_without_refusing_anyone`). How long a look takes depends on the machine.
    """
    assert RECONCILE_EVERY_S <= 0.5
    for version in ("v2.0", "v1.0", "v2.0"):
        registry.set_alias("vec", "stable", version)
        _wait_for_version(pair, version)


@pytest.mark.parametrize("end", ["crash", "freeze"])
def test_while_the_database_is_down_serving_continues_unchanged(
    pair: Pair, registry: Registry, own_server: Server, end: str
) -> None:
    """Killed, or unreachable: connections stay open without any reply."""
    getattr(own_server, end)()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert [_answering(process) for process in pair] == ["v1.0", "v1.0"]
        assert httpx.get(f"{pair[0].url}/health/ready").status_code == 200
        time.sleep(0.1)
    {"crash": own_server.start, "freeze": own_server.thaw}[end]()
    registry.set_alias("vec", "stable", "v2.0")
    _wait_for_version(pair, "v2.0")
    if end == "crash":
        lost, back = "the registry cannot be followed", "the registry is followed again"
        logged = [event for event in _events(pair[0], "the registry ") if event.startswith("the registry ")]
        assert logged[0].startswith(lost)
        assert logged[-1] == back
        assert len(logged) < 6, logged  # not one line per poll


def test_a_server_that_starts_without_its_database_reports_it(
    start: Callable[[], Process], registry: Registry, own_server: Server
) -> None:
    own_server.crash()
    code, out, err = start().finish()
    assert (code, out) == (1, "")
    assert PASSWORD not in err
    assert "Connection refused" in err
    assert "start it, or check host and port" in err
    assert len([line for line in err.splitlines() if "database" in line]) == 1
    with pytest.raises(ConfigError, match="Connection refused"):
        registry.set_alias("vec", "stable", "v2.0")
