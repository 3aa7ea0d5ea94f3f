"""Copies of requests for the shadow versions of a route: they reach no client, and are compared and counted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bursts import Held
from live_servers import Live, Process
from prometheus_client.parser import text_string_to_metric_families
from routed_models import FAILS, publish_failing, publish_version
from served_models import build_registry
from waiting import wait_until

from penstock.engine.routing import sampled
from penstock.monitor.prediction_log.reading import LogReader
from penstock.registry.registry import Registry
from penstock.settings import Settings

KEY = "a-key-of-enough-letters"
BODY = {"input_data": [0.5, -1.0, 2.0, 0.25]}
Database = Callable[[Path], str]
Serve = Callable[..., Process]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def shadowing(*shadows: tuple[str, float]) -> dict[str, Any]:
    """All requests to v1.0, with copies of a share for other versions."""
    return {
        "arms": [{"version": "v1.0", "weight": 100}],
        "shadow": [{"version": version, "sample": share} for version, share in shadows],
    }


@pytest.fixture
def settings(tmp_path: Path, base_settings: Settings, database: Database) -> Settings:
    path = build_registry(tmp_path, database(tmp_path / "registry"))
    with Registry(path, database(path)) as registry:
        publish_version(registry, tmp_path, "v3.0", seed=0)  # the weights of v1.0
        publish_failing(registry, tmp_path)
    update = {"registry": path, "database_url": database(path), "admin_key": KEY, "max_queue_size": 256}
    return base_settings.model_copy(update=update)


@pytest.fixture(params=["h1", "rsgi", "asgi"])
def each(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Live]:
    with Live(request.param, settings, ("vec",)) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server


@pytest.fixture
def server(settings: Settings) -> Iterator[Live]:
    with Live("h1", settings, ("vec",)) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server


def put(server: Live, document: dict[str, Any]) -> dict[str, Any]:
    """The route once copies are made."""
    reply = server.http.put("/admin/routes/vec", json=document)
    assert reply.status_code == 200, reply.text
    named = {one["version"] for one in document["shadow"] if one["sample"]}
    wait_until(lambda: {version for version, _ in watched(server)} == named)
    found: dict[str, Any] = reply.json()
    return found


def watched(server: Live) -> list[Any]:
    copies = server.service.rollouts._copies
    return [] if copies is None else copies._shadows.get("vec", [])


def predict(server: Live, count: int, first: int = 0, body: Any = None) -> None:
    for number in range(first, first + count):
        reply = server.http.post("/models/vec/predict", json=body or BODY, headers={"x-penstock-key": f"user-{number}"})
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-penstock-model"].startswith("vec:v1.0")


def copies(server: Live) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get("/admin/routes/vec").json()["copies"]
    return found


def seen(server: Live, version: str) -> int:
    """Copies whose fate is known."""
    shown = copies(server).get(version, {})
    return sum(shown.get(name, 0) for name in ("compared", "failures", "skipped"))


def test_a_shadow_is_compared_and_no_client_gets_its_answers(each: Live) -> None:
    put(each, shadowing(("v2.0", 1.0), ("v3.0", 1.0)))
    predict(each, 12)
    wait_until(lambda: seen(each, "v2.0") == seen(each, "v3.0") == 12)
    found = copies(each)
    assert (found["v3.0"]["compared"], found["v3.0"]["disagreed"], found["v3.0"]["max_abs"]) == (12, 0, 0.0)
    assert found["v3.0"]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert found["v2.0"]["compared"] == 12
    assert found["v2.0"]["max_abs"] > 0
    page = each.http.get("/metrics").text
    shown = {
        (sample.labels["version"], sample.labels["outcome"]): sample.value
        for family in text_string_to_metric_families(page)
        if family.name == "penstock_copies"
        for sample in family.samples
    }
    assert shown["v3.0", "agreed"] == 12
    assert shown["v2.0", "agreed"] + shown["v2.0", "disagreed"] == 12
    state = each.http.get("/admin/routes/vec").json()
    again = each.http.put("/admin/routes/vec", json=state)  # what GET shows may be put back
    assert again.status_code == 200, again.text


def test_the_sampled_keys_are_copied_and_no_others(server: Live) -> None:
    put(server, shadowing(("v2.0", 0.3)))
    with Registry(server.service.settings.registry, str(server.service.settings.database_url)) as registry:
        salt = registry.routes.get("vec").route.salt
    chosen = [number for number in range(60) if sampled(f"user-{number}", f"{salt}/v2.0", 0.3)]
    assert 5 < len(chosen) < 35
    predict(server, 60)
    wait_until(lambda: seen(server, "v2.0") == len(chosen))
    predict(server, 1, first=chosen[0])  # the others would have come before it
    wait_until(lambda: seen(server, "v2.0") == len(chosen) + 1)


def test_a_shadow_that_fails_or_is_slow_costs_clients_nothing(server: Live) -> None:
    put(server, shadowing(("v4.0", 1.0)))
    predict(server, 3, body=FAILS)
    wait_until(lambda: seen(server, "v4.0") == 3)
    assert copies(server)["v4.0"]["failures"] == 3
    model = server.call(lambda: server.service.engine.model("vec:v4.0"))
    with Held(model):
        predict(server, 100)  # one copy runs, 64 wait, the others are left out
        wait_until(lambda: copies(server)["v4.0"]["skipped"] == 35)
    wait_until(lambda: seen(server, "v4.0") == 103)


def test_the_figures_end_with_the_shadow(server: Live) -> None:
    put(server, shadowing(("v2.0", 1.0)))
    predict(server, 2)
    wait_until(lambda: seen(server, "v2.0") == 2)
    put(server, shadowing(("v3.0", 0.0)))
    assert copies(server) == {}
    assert server.service.rollouts._copies not in server.service.engine.observers
    assert "penstock_copies" not in server.http.get("/metrics").text


@pytest.fixture
def keeping(settings: Settings, tmp_path: Path) -> Iterator[Live]:
    """A server that may keep the inputs of disagreements, and logs nothing else."""
    log = {"prediction_log": tmp_path / "log", "prediction_log_inputs": "disagreements", "prediction_log_sample": 0.0}
    with Live("h1", settings.model_copy(update=log), ("vec",)) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server


def test_the_inputs_of_a_disagreement_are_logged_and_shown_with_consent(keeping: Live, tmp_path: Path) -> None:
    put(keeping, shadowing(("v2.0", 1.0), ("v3.0", 1.0)))
    bodies = [{"input_data": [float(number), -1.0, 2.0, 0.25]} for number in range(-6, 6)]
    for number, body in enumerate(bodies):
        predict(keeping, 1, first=number, body=body)
    wait_until(lambda: seen(keeping, "v2.0") == seen(keeping, "v3.0") == len(bodies))
    disagreed = copies(keeping)["v2.0"]["disagreed"]
    assert disagreed > 0
    wait_until(lambda: keeping.http.get("/stats").json()["prediction_log"]["written"] == disagreed)
    logged = list(LogReader(tmp_path / "log"))
    assert {(one.outcome, one.version, one.shadow, one.route) for one in logged} == {
        ("disagreement", "v1.0", "v2.0", "vec")
    }
    for one in logged:
        assert one.inputs is not None
        assert one.outputs is not None
        assert one.shadow_outputs is not None
        (first,), (second,) = one.outputs.values(), one.shadow_outputs.values()
        assert first.argmax() != second.argmax()
        assert one.key, "`log forget --key` finds it"
    worst = copies(keeping)["v2.0"]["worst"]
    by_id = {one.request_id: one for one in logged}
    assert worst
    for example in worst:
        expected = by_id[example["request_id"]].inputs
        assert expected is not None
        assert example["inputs"] == {name: array.tolist() for name, array in expected.items()}
    assert keeping.http.get("/stats").json()["feedback"]["versions"] == [], "labels belong to the sample"


def test_no_inputs_are_kept_without_consent(settings: Settings, tmp_path: Path) -> None:
    log = {"prediction_log": tmp_path / "log", "prediction_log_inputs": "none", "prediction_log_sample": 1.0}
    with Live("h1", settings.model_copy(update=log), ("vec",)) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        put(server, shadowing(("v2.0", 1.0)))
        predict(server, 12)
        wait_until(lambda: seen(server, "v2.0") == 12)
        assert all("inputs" not in example for example in copies(server)["v2.0"]["worst"])
        wait_until(lambda: server.http.get("/stats").json()["prediction_log"]["written"] == 12)
    assert {one.outcome for one in LogReader(tmp_path / "log")} == {"ok"}


def test_a_manifest_that_forbids_it_wins_over_the_settings(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Registry(settings.registry, str(settings.database_url)) as registry:
        source = shutil.copytree(registry.get("vec:v2.0").path, tmp_path / "again")
        registry.remove("vec:v2.0")
        registry.publish(source, log_inputs=False)
    log = {"prediction_log": tmp_path / "log", "prediction_log_inputs": "disagreements", "prediction_log_sample": 1.0}
    with Live("h1", settings.model_copy(update=log), ("vec", "vec:v2.0")) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        (sentence,) = [line for line in caplog.messages if "log_inputs" in line]
        assert "the inputs of vec:v2.0 are not logged, although prediction_log_inputs is disagreements" in sentence
        put(server, shadowing(("v2.0", 1.0)))
        for number in range(12):
            predict(server, 1, first=number, body={"input_data": [number - 6.0, -1.0, 2.0, 0.25]})
        wait_until(lambda: seen(server, "v2.0") == 12)
        found = copies(server)["v2.0"]
        assert found["disagreed"] > 0
        assert all("inputs" not in example for example in found["worst"])
        wait_until(lambda: server.http.get("/stats").json()["prediction_log"]["written"] == 12)
    assert all(one.inputs is None and one.outcome == "ok" for one in LogReader(tmp_path / "log"))


def test_an_explicit_version_is_not_copied(server: Live) -> None:
    put(server, shadowing(("v2.0", 1.0)))
    for _ in range(3):
        assert server.http.post("/models/vec:v1.0/predict", json=BODY).status_code in (200, 404)
        assert server.http.post("/models/vec/versions/v1.0/predict", json=BODY).status_code == 200
    predict(server, 1)
    wait_until(lambda: seen(server, "v2.0") == 1)


def test_the_copies_of_all_processes_are_shown_together(serve: Serve, tmp_path: Path) -> None:
    with Registry(build_registry(tmp_path)):
        process = serve("vec", "--workers", "2")
        process.wait_for()
        reply = httpx.put(
            f"{process.url}/admin/routes/vec",
            content=json.dumps(shadowing(("v2.0", 1.0))),
            headers=process.auth | {"content-type": "application/json"},
        )
        assert reply.status_code == 200, reply.text
        wait_until(lambda: _compared_after_one_more(process) >= 30)
        wait_until(lambda: len({_compared(process) for _ in range(12)}) == 1)  # whichever process answers


def _compared(process: Process) -> int:
    shown = httpx.get(f"{process.url}/admin/routes/vec", headers=process.auth).json()["copies"]
    return int(shown.get("v2.0", {}).get("compared", 0))


def _compared_after_one_more(process: Process) -> int:
    """Every request has a connection of its own, so that both processes answer."""
    assert httpx.post(f"{process.url}/models/vec/predict", json=BODY).status_code == 200
    return _compared(process)
