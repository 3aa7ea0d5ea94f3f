"""A server that starts while the database of its registry is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from live_servers import Process
from served_models import build_registry
from waiting import wait_until

from penstock.registry.database.reads import FILE
from penstock.registry.registry import Registry

BODY = {"input_data": [0.5, -1.0, 2.0, 0.25]}
FIRST = {"arms": [{"version": "v1.0", "weight": 100}]}
SECOND = {"arms": [{"version": "v2.0", "weight": 100}]}

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def _version(process: Process) -> str:
    reply = httpx.post(f"{process.url}/models/vec/predict", json=BODY)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-penstock-model"].partition(":")[2].partition("/")[0]


def _ready(process: Process) -> httpx.Response:
    return httpx.get(f"{process.url}/health/ready")


def test_a_server_starts_with_the_routes_last_known_and_follows_the_database_once_it_is_back(
    serve: Callable[..., Process], tmp_path: Path
) -> None:
    path = build_registry(tmp_path)
    with Registry(path) as registry:
        registry.routes.set("vec", FIRST, force=True)
        before = serve("vec")
        before.wait_for()
        wait_until(lambda: (path / FILE).exists())
        before.end()
        registry.routes.set("vec", SECOND, force=True)
    database, away = path / "registry.db", path / "away"
    database.rename(away)
    process = serve("vec", "raw", "--workers", "2", PENSTOCK_PREDICTION_LOG=str(tmp_path / "log"))
    process.wait_for()
    wait_until(lambda: "registry.db is gone" in str(_ready(process).json()["reasons"]))
    assert _ready(process).status_code == 200
    assert {_version(process) for _ in range(8)} == {"v1.0"}  # without a route, the name means v2.0
    assert httpx.post(f"{process.url}/models/raw/predict", json={}).status_code == 422
    wait_until(lambda: "penstock_routes_stale 2.0" in httpx.get(f"{process.url}/metrics").text)
    assert not database.exists()
    away.rename(database)
    wait_until(lambda: {_version(process) for _ in range(8)} == {"v2.0"})
    wait_until(lambda: _ready(process).json()["reasons"] == [])


def test_without_anything_known_a_server_starts_as_one_without_a_database(
    serve: Callable[..., Process], tmp_path: Path
) -> None:
    path = build_registry(tmp_path)
    (path / "registry.db").unlink()
    process = serve("vec")
    assert process.wait_for().json()["reasons"] == []
    assert _version(process) == "v2.0"


def test_without_the_database_a_model_that_is_not_loaded_is_503_and_the_others_answer(
    serve: Callable[..., Process], tmp_path: Path
) -> None:
    path = build_registry(tmp_path)
    process = serve("vec")
    process.wait_for()
    (path / "registry.db").rename(path / "away")
    asked = f"{process.url}/models/vec/versions/v1.0/predict"
    refused = httpx.post(asked, json=BODY)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["type"] == "urn:penstock:database-unavailable"
    assert str(path) not in refused.text
    assert _version(process) == "v2.0"
    (path / "away").rename(path / "registry.db")
    assert httpx.post(asked, json=BODY).status_code == 200
    process.send()
    assert "Traceback" not in process.finish()[2]
