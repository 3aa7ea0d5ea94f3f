"""Routes over HTTP: which version answers, what is refused, and what follows when they change."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_servers import Live
from routed_models import FAILS, GOLDEN, publish_failing, publish_version
from served_models import build_registry
from waiting import wait_until

from penstock.engine.deployment.traffic import Traffic
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.routing import choose
from penstock.registry.registry import Registry
from penstock.settings import Settings

KEY = "a-key-of-enough-letters"
ROW = [0.5, -1.0, 2.0, 0.25]
BODY = {"input_data": ROW}
HALVES = {"arms": [{"version": "v1.0", "weight": 50}, {"version": "v2.0", "weight": 50}]}
ONE = {"arms": [{"version": "v1.0", "weight": 100}, {"version": "v2.0", "weight": 0}]}
OTHER = {"arms": [{"version": "v1.0", "weight": 0}, {"version": "v2.0", "weight": 100}]}
Database = Callable[[Path], str]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def settings(tmp_path: Path, base_settings: Settings, database: Database) -> Settings:
    path = build_registry(tmp_path, database(tmp_path / "registry"))
    update = {"registry": path, "database_url": database(path), "admin_key": KEY, "max_queue_size": 256}
    return base_settings.model_copy(update=update)


@pytest.fixture(params=["h1", "rsgi", "asgi"])
def each(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Live]:
    """Every kind of server, of `vec` by its bare name and `raw`."""
    with Live(request.param, settings, ("vec", "raw")) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server


@pytest.fixture
def server(settings: Settings) -> Iterator[Live]:
    with Live("h1", settings, ("vec", "raw")) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    with Registry(settings.registry, settings.database_url) as registry:
        yield registry


def put(server: Live, document: Any, name: str = "vec") -> dict[str, Any]:
    reply = server.http.put(f"/admin/routes/{name}", json=document)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def answered(reply: httpx.Response) -> str:
    """The version that answered, by the header; the body agrees."""
    assert reply.status_code == 200, reply.text
    version = reply.headers["x-penstock-model"].partition(":")[2].partition("/")[0]
    body = reply.json()
    assert body.get("model_version", version) == version
    return str(version)


def predict(server: Live, path: str = "/models/vec/predict", body: Any = None, **headers: str) -> str:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return answered(server.http.post(path, json=body or BODY, headers=given))


def test_a_bare_name_is_answered_by_the_route_and_an_explicit_version_goes_past_it(each: Live) -> None:
    shown = put(each, {**HALVES, "why": "half"})
    assert (shown["state"], shown["not_ready"], shown["behind"], shown["why"]) == ("in force", {}, 0, "half")
    route = each.service.engine.deployment.traffic.active["vec"].route
    for path in ("/models/vec/predict", "/predict", "/inference/predict"):
        for key in map(str, range(12)):
            wanted = choose(route, key, None, "")
            assert wanted is not None
            assert predict(each, path, x_penstock_key=key) == wanted.version
    assert {predict(each, x_request_id=str(n)) for n in range(30)} == {"v1.0", "v2.0"}
    for key in ("a", "b", "c"):
        assert predict(each, "/models/vec/versions/v1.0/predict", x_penstock_key=key) == "v1.0"
        assert predict(each, "/models/vec@stable/predict", x_penstock_key=key) == "v1.0"
        assert predict(each, body={**BODY, "model_version": "v2.0"}, x_penstock_key=key) == "v2.0"


def test_the_whole_batch_sees_one_version(each: Live) -> None:
    put(each, HALVES)
    seen = set()
    for key in map(str, range(16)):
        body = {"model": "vec", "requests": [BODY] * 9}
        reply = each.http.post("/predict/batch", json=body, headers={"x-penstock-key": key})
        assert reply.status_code == 200
        versions = {item["model_version"] for item in reply.json()["predictions"]}
        assert versions == {reply.headers["x-penstock-model"].partition(":")[2].partition("/")[0]}
        assert versions == {predict(each, x_penstock_key=key)}
        seen |= versions
    assert seen == {"v1.0", "v2.0"}


@pytest.mark.parametrize(
    ("sticky", "headers"),
    [
        ({"by": "header", "name": "X-User"}, {"x-user": "{}"}),
        ({"by": "cookie", "name": "sid"}, {"cookie": "a=b; sid={}"}),
        ({"by": "request_id"}, {"x-request-id": "{}"}),
    ],
)
def test_clients_stay_at_their_version_by_header_cookie_or_request_id(
    server: Live, sticky: Any, headers: dict[str, str]
) -> None:
    put(server, {**HALVES, "sticky": sticky})
    seen = {}
    for user in map(str, range(20)):
        given = {name: value.format(user) for name, value in headers.items()}
        replies = [server.http.post("/models/vec/predict", json=BODY, headers=given) for _ in range(3)]
        (seen[user],) = {answered(reply) for reply in replies}
    assert set(seen.values()) == {"v1.0", "v2.0"}


def test_clients_stay_at_their_version_by_a_field_of_the_body(each: Live) -> None:
    put(each, {**HALVES, "sticky": {"by": "field", "name": "batch_size"}})
    seen = {}
    for rows in range(1, 17):
        body = {"input_data": ROW * rows, "batch_size": rows}
        (seen[rows],) = {predict(each, body=body, x_request_id=f"{rows}-{n}") for n in range(3)}
        batch = each.http.post("/predict/batch", json={"model": "vec", "requests": [body, BODY]})
        assert {item["model_version"] for item in batch.json()["predictions"]} == {seen[rows]}
    assert set(seen.values()) == {"v1.0", "v2.0"}


def test_a_field_that_no_request_has_is_refused(each: Live) -> None:
    reply = each.http.put("/admin/routes/vec", json={**HALVES, "sticky": {"by": "field", "name": "batchsize"}})
    assert reply.status_code == 422
    assert "sticky.name: requests of vec:v1.0 have no field 'batchsize'; there are " in reply.json()["detail"]
    assert "batch_size" in reply.json()["detail"]


def test_a_rule_sends_its_requests_to_a_dark_version(each: Live) -> None:
    put(each, {**ONE, "rules": [{"when": {"header": "X-Beta", "equals": "1"}, "version": "v2.0"}]})
    assert {predict(each, x_request_id=str(n)) for n in range(20)} == {"v1.0"}
    assert {predict(each, x_beta="1", x_request_id=str(n)) for n in range(5)} == {"v2.0"}
    assert predict(each, x_beta="0") == "v1.0"


def test_requests_of_one_turn_are_split_by_version_and_each_gets_its_own_answer(server: Live) -> None:
    put(server, HALVES)
    route = server.service.engine.deployment.traffic.active["vec"].route
    seen: dict[str, str] = {}

    def send(part: int) -> None:
        with httpx.Client(base_url=server.url) as client:
            for n in range(25):
                key = f"{part}-{n}"
                reply = client.post("/models/vec/predict", json=BODY, headers={"x-penstock-key": key})
                seen[key] = answered(reply)

    threads = [threading.Thread(target=send, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 200
    for key, version in seen.items():
        wanted = choose(route, key, None, "")
        assert wanted is not None
        assert version == wanted.version


def test_observations_name_the_route_and_the_arm_on_both_ways(server: Live) -> None:
    put(server, HALVES)
    seen: list[Any] = []
    server.service.engine.observers.append(seen.append)
    predict(server, x_penstock_key="ann")
    predict(server, body={**BODY, "task": "vector-classification"}, x_penstock_key="ann")
    server.http.post("/models/vec/predict", json={"input_data": [1]}, headers={"x-penstock-key": "ann"})
    predict(server, "/models/vec/versions/v1.0/predict", x_penstock_key="ann")
    wait_until(lambda: len(seen) == 4)
    route = server.service.engine.deployment.traffic.active["vec"].route
    arm = choose(route, "ann", None, "")
    assert arm is not None
    assert [(each.route, each.arm, each.version) for each in seen[:3]] == [("vec", arm.version, arm.version)] * 3
    assert [each.outcome for each in seen[:3]] == ["ok", "ok", "invalid"]
    assert (seen[3].route, seen[3].arm, seen[3].version) == ("", "", "v1.0")


def test_the_bare_name_means_the_heaviest_arm_where_one_version_is_asked_for(server: Live) -> None:
    put(server, OTHER)
    assert server.http.get("/model/info").json()["version"] == "v2.0"
    put(server, ONE)
    assert server.http.get("/model/info").json()["version"] == "v1.0"
    assert server.http.delete("/admin/routes/vec").json() == {"name": "vec", "removed": True, "behind": 0}
    wait_until(lambda: predict(server) == "v2.0")  # the highest release


def test_a_route_set_elsewhere_is_followed_within_a_second(server: Live, registry: Registry) -> None:
    registry.set_route("vec", OTHER, who="ann@laptop", why="blue")
    began = time.monotonic()
    wait_until(lambda: predict(server) == "v2.0")
    registry.set_route("vec", ONE)
    wait_until(lambda: predict(server) == "v1.0")
    assert time.monotonic() - began < 20
    entry = server.http.get("/admin/audit?route=vec&limit=1").json()["audit"][0]
    assert [arm["weight"] for arm in entry["before"]["arms"]] == [0, 100]


def test_a_version_whose_golden_samples_fail_gets_no_request(server: Live, registry: Registry, tmp_path: Path) -> None:
    put(server, ONE)
    publish_version(registry, tmp_path, broken=True)
    reply = server.http.put("/admin/routes/vec", json={"arms": [{"version": "v1.0", "weight": 1}, *_arms(v3=99)]})
    assert reply.status_code == 409
    assert "route vec is not changed, since this machine cannot load vec:v3.0" in reply.json()["detail"]
    registry.routes.set("vec", {"arms": [{"version": "v1.0", "weight": 1}, *_arms(v3=99)]}, force=True)
    wait_until(lambda: server.http.get("/admin/routes/vec").json()["state"] == "waiting")
    state = server.http.get("/admin/routes/vec").json()
    assert list(state["not_ready"]) == ["v3.0"]
    assert {predict(server, x_request_id=str(n)) for n in range(20)} == {"v1.0"}
    ready = server.http.get("/health/ready")
    assert ready.status_code == 200
    assert any("route vec: vec:v3.0" in reason for reason in ready.json()["reasons"])


def _arms(**weights: int) -> list[dict[str, Any]]:
    return [{"version": f"{name}.0", "weight": weight} for name, weight in weights.items()]


def test_a_server_that_starts_with_a_broken_arm_serves_the_others(
    settings: Settings, registry: Registry, tmp_path: Path
) -> None:
    publish_version(registry, tmp_path, broken=True)
    registry.routes.set("vec", {"arms": _arms(v1=60, v3=40)}, force=True)
    with Live("h1", settings, ("vec",)) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        assert {predict(server, x_request_id=str(n)) for n in range(20)} == {"v1.0"}
        assert server.http.get("/admin/routes/vec").json()["state"] == "degraded"


def test_a_server_of_one_version_is_not_routed(settings: Settings, registry: Registry) -> None:
    registry.routes.set("vec", OTHER, force=True)
    with Live("h1", settings, ("vec:v1.0",)) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        assert {predict(server, x_request_id=str(n)) for n in range(5)} == {"v1.0"}
        assert server.http.get("/admin/routes/vec").json()["state"] == "not served"


def test_a_version_of_a_route_is_neither_unloaded_nor_evicted(server: Live) -> None:
    put(server, HALVES)
    reply = server.http.post("/admin/unload", json={"model": "vec:v2.0"})
    assert reply.status_code == 422
    assert "vec:v2.0 is part of the route vec; take it out of the route first" in reply.json()["detail"]
    assert server.http.post("/admin/unload", json={"model": "vec"}).status_code == 200
    assert server.http.post("/models/vec/predict", json=BODY).status_code == 404
    assert server.http.post("/admin/load", json={"model": "vec"}).status_code == 200
    wait_until(lambda: server.http.get("/admin/routes/vec").json()["state"] == "in force")
    assert {predict(server, x_request_id=str(n)) for n in range(30)} == {"v1.0", "v2.0"}


def test_blue_green_switches_and_back_over_http(each: Live) -> None:
    put(each, ONE)
    reply = each.http.post("/admin/routes/vec/switch", json={"to": "v2.0", "why": "green"})
    assert (reply.status_code, reply.json()["state"]) == (200, "in force")
    assert {predict(each, x_request_id=str(n)) for n in range(9)} == {"v2.0"}
    back = each.http.post("/admin/routes/vec/switch", json={}).json()
    assert back["why"] == "back to the route before"
    assert {predict(each, x_request_id=str(n)) for n in range(9)} == {"v1.0"}


def test_a_version_that_was_rolled_back_needs_consent_over_http(server: Live) -> None:
    put(server, ONE)
    canary = {"to": "v2.0", "why": "a test"}
    assert server.http.post("/admin/routes/vec/canary", json=canary).status_code == 200
    assert server.http.post("/admin/routes/vec/rollback", json={"why": "slow"}).status_code == 200
    refused = server.http.put("/admin/routes/vec", json=HALVES)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "arms.1.version")
    assert "v2.0 was rolled back before" in refused.json()["detail"]
    assert server.http.put("/admin/routes/vec", json={**HALVES, "again": True}).status_code == 200
    assert "again" not in server.http.get("/admin/routes/vec").json()
    put(server, ONE)
    assert server.http.post("/admin/routes/vec/switch", json={"to": "v2.0"}).status_code == 422
    assert server.http.post("/admin/routes/vec/switch", json={"to": "v2.0", "again": True}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "document", "status", "words"),
    [
        ("PUT", "/admin/routes/vec", {"arms": _arms(v1=90)}, 422, "route vec: arms: the weights add up to 90"),
        ("PUT", "/admin/routes/vec", {"arms": _arms(v1=90, v9=10)}, 422, "arms.1.version: vec has no version 'v9.0'"),
        ("PUT", "/admin/routes/vec", [1], 422, "route vec: give an object"),
        ("PUT", "/admin/routes/vec", {**ONE, "x": 1}, 422, "route vec: x: there is no such field"),
        ("PUT", "/admin/routes/nope", ONE, 404, "there is no model 'nope'"),
        ("PUT", "/admin/routes/a%20b", ONE, 422, "is not a name"),
        ("GET", "/admin/routes/raw", None, 404, "there is no route 'raw'"),
        ("DELETE", "/admin/routes/raw", None, 404, "there is no route 'raw'"),
        ("POST", "/admin/routes/vec/switch", {"to": "v9.0"}, 422, "vec has no version 'v9.0'"),
        ("POST", "/admin/routes/vec/switch", {"too": "v9.0"}, 422, "too: there is no such field; there are to, why"),
        ("POST", "/admin/routes/vec/switch", {"again": "v9.0"}, 422, "again: give true or false"),
        ("POST", "/admin/routes/raw/switch", {}, 404, "the route raw has no earlier state to go back to"),
        ("GET", "/admin/audit?" + "&".join(["limit=1"] * 9), None, 422, "query: it has more than 8 fields"),
        ("GET", "/admin/audit?limit=x", None, 422, "limit: give a whole number from 1 to 1000"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    server: Live, method: str, path: str, document: Any, status: int, words: str
) -> None:
    reply = (
        server.http.request(method, path, json=document) if document is not None else server.http.request(method, path)
    )
    assert reply.status_code == status, reply.text
    assert words in reply.json()["detail"]
    assert "\n" not in reply.json()["detail"]


def test_routes_need_the_admin_key(server: Live) -> None:
    for method, path in (("PUT", "/admin/routes/vec"), ("GET", "/admin/routes"), ("GET", "/admin/audit")):
        reply = httpx.request(method, server.url + path, **({"json": ONE} if method == "PUT" else {}))
        assert reply.status_code in (401, 403)


def test_what_an_administrator_changes_is_in_the_audit_log(server: Live) -> None:
    server.http.put("/admin/models/vec/aliases/next", json={"version": "v2.0"})
    server.http.post("/admin/unload", json={"model": "raw"})
    put(server, {**ONE, "why": "calm"})
    entries = server.http.get("/admin/audit?limit=3").json()["audit"]
    assert [entry["what"] for entry in entries] == ["route vec: set", "change the deployment", "set alias vec@next"]
    assert {entry["who"] for entry in entries} == {"an administrator, by key"}
    assert (entries[0]["why"], entries[1]["after"]["unloads"]) == ("calm", ["raw"])
    assert entries[0]["at"].endswith("Z")


def test_changes_under_load_fail_no_request_and_send_none_to_a_wrong_version(server: Live, registry: Registry) -> None:
    """Every answer is that of a route that was in force between its request and its answer."""
    put(server, ONE)
    stop = threading.Event()
    wrong: list[Any] = []
    counts: Counter[str] = Counter()

    def load(part: int) -> None:
        with httpx.Client(base_url=server.url) as client:
            n = 0
            while not stop.is_set():
                n += 1
                beta = {"x-beta": "1"} if n % 5 == 0 else {}
                body = {"model": "vec", "requests": [BODY] * 3} if n % 7 == 0 else BODY
                path = "/predict/batch" if n % 7 == 0 else "/models/vec/predict"
                reply = client.post(path, json=body, headers={"x-penstock-key": f"{part}-{n}", **beta})
                if reply.status_code != 200:
                    wrong.append(reply.text)
                    continue
                version = reply.headers["x-penstock-model"].partition(":")[2].partition("/")[0]
                counts[version] += 1
                items = reply.json().get("predictions", []) if n % 7 == 0 else [reply.json()]
                if {item["model_version"] for item in items} != {version} or (beta and version != "v2.0"):
                    wrong.append((beta, version, items))

    rule = [{"when": {"header": "X-Beta", "equals": "1"}, "version": "v2.0"}]
    put(server, {**ONE, "rules": rule})
    threads = [threading.Thread(target=load, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for n in range(25):
        share = (n * 37) % 101
        registry.routes.set("vec", {"arms": _arms(v1=100 - share, v2=share), "rules": rule}, force=True)
        registry.set_alias("vec", "next", f"v{n % 2 + 1}.0", force=True)
    wait_until(lambda: server.service.engine.deployment.traffic.followed == registry.routes.revision())
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert set(counts) == {"v1.0", "v2.0"}


def test_a_database_that_is_gone_leaves_the_routes_in_force_and_the_server_ready(
    server: Live, registry: Registry, settings: Settings
) -> None:
    put(server, OTHER)
    file = settings.registry / "registry.db"
    away = file.with_suffix(".away")
    registry.close()
    file.rename(away)
    try:
        wait_until(lambda: any("is gone" in reason for reason in server.http.get("/health/ready").json()["reasons"]))
        assert server.http.get("/health/ready").status_code == 200
        assert "penstock_routes_stale 1.0" in server.http.get("/metrics").text
        assert {predict(server, x_request_id=str(n)) for n in range(20)} == {"v2.0"}
        assert server.http.put("/admin/routes/vec", json=ONE).status_code == 409
    finally:
        away.rename(file)
    registry.routes.set("vec", ONE, force=True)
    wait_until(lambda: predict(server) == "v1.0")
    wait_until(lambda: server.http.get("/health/ready").json()["reasons"] == [])


def test_the_fallback_answers_for_a_version_that_keeps_failing(
    server: Live, registry: Registry, tmp_path: Path
) -> None:
    publish_failing(registry, tmp_path)
    put(server, {"arms": _arms(v4=100), "fallback": "v1.0"})
    statuses = [server.http.post("/models/vec/predict", json=FAILS).status_code for _ in range(12)]
    assert statuses == [500] * 5 + [200] * 7
    assert predict(server) == "v1.0"
    state = server.http.get("/admin/routes/vec").json()["circuits"]
    assert (state["v4.0"]["state"], state["v4.0"]["trips"]) == ("open", 1)
    assert 'penstock_circuit_open{model="vec",version="v4.0"} 1.0' in server.http.get("/metrics").text
    circuit = server.service.engine.deployment.traffic.circuits.of["vec", "v4.0"]
    circuit._until = time.monotonic()
    assert predict(server) == "v4.0"  # the probe
    assert circuit.closed
    put(server, OTHER)
    assert server.service.engine.deployment.traffic.circuits not in server.service.engine.observers


def test_no_client_tries_a_version_whose_golden_sample_still_fails(
    server: Live, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_failing(registry, tmp_path, golden=GOLDEN)
    put(server, {"arms": _arms(v4=100), "fallback": "v1.0"})
    engine = server.service.engine
    may_run = _hold_proofs(engine.deployment.traffic, monkeypatch)
    model = engine.deployment.routed("vec:v4.0")
    assert model is not None
    right, other = model.artifact, engine.deployment.routed("vec:v1.0")
    assert right is not None
    assert other is not None
    for _ in range(5):
        assert server.http.post("/models/vec/predict", json=FAILS).status_code == 500
    circuit = engine.deployment.traffic.circuits.of["vec", "v4.0"]
    asked = _requests(server, "v4.0")

    model.artifact = other.artifact  # it answers otherwise than it should
    circuit._until = time.monotonic()
    assert predict(server) == "v1.0"
    may_run.set()
    wait_until(lambda: circuit.trips == 2)
    assert {predict(server) for _ in range(5)} == {"v1.0"}
    assert server.http.get("/admin/routes/vec").json()["circuits"]["v4.0"]["state"] == "open"

    may_run.clear()
    model.artifact = right
    circuit._until = time.monotonic()
    assert predict(server) == "v1.0"  # while the sample is run
    may_run.set()
    wait_until(lambda: circuit.state(time.monotonic())["state"] == "probing")
    assert _requests(server, "v4.0") == asked  # no sample is counted
    assert predict(server) == "v4.0"
    assert circuit.closed


def test_a_version_that_cannot_be_loaded_is_not_ready_and_the_reason_stays_in_the_log(
    server: Live, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_version(registry, tmp_path, "v9.0", broken=True)
    reply = server.http.post("/models/vec/versions/v9.0/predict", json=BODY)
    assert (reply.status_code, reply.json()["type"]) == (503, "urn:penstock:model-not-ready")
    assert int(reply.headers["retry-after"]) >= 1
    assert "golden" not in reply.text
    assert "differs from its golden samples" in caplog.text
    assert predict(server) in ("v1.0", "v2.0")


def test_a_process_that_lacks_a_version_of_a_route_says_so_until_it_is_served_or_not_meant_to_be(
    server: Live, registry: Registry, tmp_path: Path
) -> None:
    publish_version(registry, tmp_path, "v9.0", broken=True)
    engine = server.service.engine
    assert engine.complete
    registry.routes.set(
        "vec", {"arms": [{"version": "v1.0", "weight": 50}, {"version": "v9.0", "weight": 50}]}, force=True
    )
    wait_until(lambda: not engine.complete)
    assert engine.deployment.traffic.lacking() == ["vec:v9.0"]
    registry.routes.set("vec", ONE, force=True)
    wait_until(lambda: engine.complete)


def _hold_proofs(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let proofs run only once the event is set: a quick one ends between the head and the body of a request."""
    may_run, prove = threading.Event(), traffic._prove

    async def held(model: LoadedModel) -> bool | None:
        assert await asyncio.to_thread(may_run.wait, 60)
        return await prove(model)

    monkeypatch.setattr(traffic, "_prove", held)
    return may_run


def _requests(server: Live, version: str) -> int:
    return int(server.http.get("/stats").json()["models"][f"vec:{version}"]["requests"])
