"""What versions that share the requests of a name have shown: over HTTP, with several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from linear_models import weights
from live_servers import Process
from served_models import build_registry
from waiting import wait_until

from penstock.registry.registry import Registry
from penstock.registry.rollouts.splits import split_id
from penstock.rollouts.results.reading import results

X = np.random.default_rng(3).standard_normal((40, 4)).round(2)
CLASSES = (X.astype(np.float32) @ weights(1)).argmax(axis=1).tolist()
"""What `vec:v2.0` answers."""
HALVES = {"arms": [{"version": "v1.0", "weight": 50}, {"version": "v2.0", "weight": 50}]}
COUNT = 160

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def _send(process: Process) -> dict[str, str]:
    """The version that answered each request; a connection for each tenth of them, so that all processes answer."""
    found = {}
    for start in range(0, COUNT, 10):
        with httpx.Client(base_url=process.url) as client:
            for number in range(start, start + 10):
                headers = {"x-penstock-key": f"user-{number}", "x-request-id": f"r{number}"}
                reply = client.post(
                    "/models/vec/predict", json={"input_data": X[number % len(X)].tolist()}, headers=headers
                )
                assert reply.status_code == 200, reply.text
                found[f"r{number}"] = reply.headers["x-penstock-model"].partition(":")[2].partition("/")[0]
    return found


def _label(process: Process, ids: list[str]) -> None:
    items = [{"request_id": each, "label": CLASSES[int(each[1:]) % len(X)]} for each in ids]
    wait_until(lambda: httpx.post(f"{process.url}/feedback", json={"items": items}).json().get("unknown") == [], 0.2)


def _requests(found: dict[str, Any]) -> int:
    return sum(int(arm["requests"]) for arm in found["arms"].values())


def test_the_better_of_two_versions_is_found_by_labels(serve: Callable[..., Process], tmp_path: Path) -> None:
    with Registry(build_registry(tmp_path)) as registry:
        log = {"PENSTOCK_PREDICTION_LOG": str(tmp_path / "log"), "PENSTOCK_PREDICTION_LOG_SAMPLE": "1"}
        process = serve("vec", "--workers", "2", **log)
        process.wait_for()
        api = httpx.Client(base_url=process.url, headers=process.auth, timeout=30)
        assert api.get("/admin/routes/vec/results").status_code == 404
        assert api.put("/admin/routes/vec", json=HALVES).json()["behind"] == 0
        wait_until(lambda: _all_count(process, registry), 0.2)
        before = _requests(results(registry, "vec"))
        versions = _send(process)
        wait_until(lambda: _requests(api.get("/admin/routes/vec/results").json()) >= before + COUNT, 0.2)

        _label(process, list(versions))
        found = api.get("/admin/routes/vec/results").json()
        assert found["compared_with"] == "v1.0"
        assert found["arms"]["v2.0"]["accuracy"] == 1.0 > found["arms"]["v1.0"]["accuracy"]
        assert found["arms"]["v2.0"]["p99_ms"] > 0
        (wrong,) = [each for each in found["comparisons"] if each["measure"] == "wrong"]
        assert wrong["verdict"] == "better", wrong
        assert f"wrong of those with a label: v2.0 0 of {found['arms']['v2.0']['judged']}" in wrong["sentence"]
        assert results(registry, "vec")["arms"]["v2.0"]["accuracy"] == 1.0

        changed = {"arms": [{"version": "v1.0", "weight": 60}, {"version": "v2.0", "weight": 40}]}
        assert api.put("/admin/routes/vec", json=changed).status_code == 200
        found = api.get("/admin/routes/vec/results").json()
        assert (_requests(found), found["arms"]["v2.0"]["recorded"]) == (0, 0)
        one = {"arms": [{"version": "v1.0", "weight": 100}]}
        assert api.put("/admin/routes/vec", json=one).status_code == 200
        gone = api.get("/admin/routes/vec/results")
        assert gone.status_code == 404
        assert "vec sends all requests to v1.0, so there is nothing to compare" in gone.json()["detail"]
        api.close()


def _all_count(process: Process, registry: Registry) -> bool:
    """True once both processes have stored what they counted."""
    for _ in range(8):
        httpx.post(f"{process.url}/models/vec/predict", json={"input_data": X[0].tolist()})
    rows = registry.routes.canaries.evidence(split_id(registry.routes.get("vec").route))
    return len({row.process for row in rows}) == 2
