"""Routes in several processes of a server: all follow, also one that takes the place of a killed one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_servers import Process, children
from served_models import build_registry
from waiting import wait_until

from penstock.engine.routing import choose
from penstock.registry.registry import Registry

BODY = {"input_data": [0.5, -1.0, 2.0, 0.25]}
Serve = Callable[..., Process]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def _arms(**weights: int) -> dict[str, Any]:
    return {"arms": [{"version": f"{name}.0", "weight": weight} for name, weight in weights.items()]}


def _versions(process: Process, count: int = 24) -> dict[str, str]:
    """The version that answers each key; every request has a connection of its own, so that all processes answer."""
    found = {}
    for number in range(count):
        key = f"user-{number}"
        reply = httpx.post(f"{process.url}/models/vec/predict", json=BODY, headers={"x-penstock-key": key})
        assert reply.status_code == 200, reply.text
        found[key] = reply.headers["x-penstock-model"].partition(":")[2].partition("/")[0]
    return found


def test_every_process_chooses_alike_and_follows_also_after_one_was_killed(serve: Serve, tmp_path: Path) -> None:
    with Registry(build_registry(tmp_path)) as registry:
        process = serve("vec", "--workers", "2")
        process.wait_for()
        reply = httpx.put(f"{process.url}/admin/routes/vec", json=_arms(v1=50, v2=50), headers=process.auth)
        assert (reply.status_code, reply.json()["behind"]) == (200, 0), reply.text
        route = registry.routes.get("vec").route

        first = _versions(process)
        chosen = {key: choose(route, key, None, "") for key in first}
        wanted = {key: choice.version for key, choice in chosen.items() if choice is not None}
        assert first == _versions(process) == wanted
        assert set(wanted.values()) == {"v1.0", "v2.0"}
        os.kill(children(process.pid)[0], signal.SIGKILL)
        registry.set_route("vec", _arms(v1=0, v2=100))
        wait_until(lambda: set(_versions(process).values()) == {"v2.0"})
        wait_until(lambda: len(children(process.pid)) == 2)
        process.wait_for()
        assert set(_versions(process).values()) == {"v2.0"}


def test_a_server_that_is_killed_while_routes_change_comes_back_with_the_last_one(serve: Serve, tmp_path: Path) -> None:
    with Registry(build_registry(tmp_path)) as registry:
        process = serve("vec")
        process.wait_for()
        for number in range(6):
            registry.routes.set("vec", _arms(v1=100 - number, v2=number), force=True)
        process.send(signal.SIGKILL)
        registry.routes.set("vec", _arms(v1=0, v2=100), force=True)
        again = serve("vec")
        again.wait_for()
        assert set(_versions(again, 6).values()) == {"v2.0"}
        assert len(registry.routes.history("vec")) == 7
