"""Loads and unloads by an operator: effects on other servers, after a restart, and with a read-only database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from live_servers import Process
from postgres import Server
from served_models import build_registry
from waiting import LONG_S, wait_until

from penstock.gateway.process.sockets import free_address
from penstock.registry.registry import Registry

ROW = {"input_data": [0.5, -1.0, 2.0, 0.25]}
Serve = Callable[..., Process]
Database = Callable[[Path], str]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def own_registry(tmp_path: Path, database: Database) -> Path:
    return build_registry(tmp_path, database(tmp_path / "registry"))


def predict(process: Process, name: str = "vec") -> httpx.Response:
    return httpx.post(f"{process.url}/models/{name}/predict", json=ROW)


def command(process: Process, verb: str, model: str) -> dict[str, object]:
    reply = httpx.post(f"{process.url}/admin/{verb}", json={"model": model}, headers=process.auth, timeout=LONG_S)
    assert reply.status_code == 200, reply.text
    answer: dict[str, object] = reply.json()
    return answer


def events(err: str) -> list[str]:
    return [json.loads(line)["event"] for line in err.splitlines() if line.startswith("{")]


def test_an_unload_survives_a_restart_and_is_followed_by_every_server_of_the_registry(
    serve: Serve, own_registry: Path
) -> None:
    arguments = ("vec", "raw", "--registry", str(own_registry))
    first = serve(*arguments)
    first.wait_for()
    other = serve("--registry", str(own_registry), port=free_address("127.0.0.1", 0)[1])
    other.wait_for()
    assert command(first, "unload", "vec")["persisted"] is True
    wait_until(lambda: predict(other).status_code == 404)
    first.send()
    assert "it is not served until it is loaded again" in " ".join(events(first.finish()[2]))

    again = serve(*arguments)
    again.wait_for()
    assert "unloaded by an operator; it is not served until it is loaded again" in predict(again).json()["detail"]
    assert httpx.get(f"{again.url}/admin", headers=again.auth).json()["unloaded"] == ["vec"]
    assert command(again, "load", "vec")["persisted"] is True
    assert predict(again).status_code == 200
    again.send()
    logged = events(again.finish()[2])
    assert "unloaded by an operator and not served: vec; POST /admin/load serves a model again" in logged


@SQLITE
def test_with_a_read_only_database_every_process_of_a_server_follows_and_the_reply_says_that_it_is_not_stored(
    serve: Serve, tmp_path: Path, postgres: Server
) -> None:
    """A standby, which servers may use if nothing is published."""
    url = postgres.new_database()
    registry = build_registry(tmp_path, url)
    postgres.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    server = serve("vec", "raw", "--registry", str(registry), "--workers", "2", DATABASE_URL=url)
    server.wait_for()
    unloaded = command(server, "unload", "vec")
    assert (unloaded["unloaded"], unloaded["behind"], unloaded["persisted"]) == (["vec:v2.0"], 0, False)
    assert "on this server only, until it is loaded again or the server ends" in str(unloaded["note"])
    assert "name the primary" in str(unloaded["note"])
    assert {predict(server).status_code for _ in range(24)} == {404}
    assert command(server, "load", "vec")["behind"] == 0
    assert {predict(server).status_code for _ in range(24)} == {200}
    with Registry(registry, url) as found:
        assert found.deployment().loads == found.deployment().unloads == ()
