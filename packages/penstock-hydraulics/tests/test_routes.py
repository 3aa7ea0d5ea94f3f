from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hydraulic_models import hydraulic_registry, readings
from live_servers import Live
from postgres import Server

from penstock.settings import Settings
from penstock_hydraulics.machine.templates import TEMPLATES

Database = Callable[[Path], str]
RIG = readings(TEMPLATES["zema_rig"])
PRESS = {
    "name": "press",
    "components": [
        {"component_id": "pump_1", "type": "pump", "sensors": ["pressure"]},
        {"component_id": "tank", "type": "reservoir", "sensors": ["temperature"]},
    ],
    "edges": [["pump_1", "tank"]],
}


def _served(path: Path, address: str | None, kind: str = "rsgi") -> Live:
    registry = hydraulic_registry(path, address)
    return Live(kind, Settings(registry=registry, database_url=address), ("hydraulics",))


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with _served(tmp_path_factory.mktemp("served"), None, request.param) as live:
        yield live.http


def _predict(http: httpx.Client, equipment_id: str, data: dict[str, Any] = RIG, **more: Any) -> Any:
    reply = http.post("/predict", json={"equipment_id": equipment_id, "sensor_data": data, **more})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_machine_can_be_created_read_updated_and_deleted(http: httpx.Client) -> None:
    body = {"topology": PRESS, "nominal": {"pressure_pump_1": 160}, "limits": {"temperature_tank": {"max": 65}}}
    created = http.put("/equipment/press-1", json=body)
    assert created.status_code == 201
    shown = http.get("/equipment/press-1").json()
    assert shown == created.json()
    assert shown["equipment_id"] == "press-1"
    assert shown["topology"] == PRESS
    assert shown["limits"] == {"temperature_tank": {"min": None, "max": 65.0}}
    assert http.put("/equipment/press-1", json={"topology": "excavator"}).status_code == 200
    assert http.get("/equipment/press-1").json()["topology"] == "excavator"
    assert http.delete("/equipment/press-1").json() == {"equipment_id": "press-1", "history_removed": False}
    for method in ("GET", "DELETE"):
        gone = http.request(method, "/equipment/press-1")
        assert gone.status_code == 404
        assert gone.json()["detail"] == "unknown equipment 'press-1'; register it with PUT /equipment/press-1"


def test_a_get_response_is_a_valid_put_body(http: httpx.Client) -> None:
    http.put("/equipment/back", json={"topology": PRESS, "limits": {"temperature_tank": {"max": 65}}, "note": "hall 3"})
    shown = http.get("/equipment/back").json()
    del shown["equipment_id"]
    assert http.put("/equipment/back", json=shown).status_code == 200


def test_a_prediction_uses_the_registered_circuit(http: httpx.Client) -> None:
    http.put("/equipment/press-2", json={"topology": PRESS})
    answer = _predict(http, "press-2", {"pressure_pump_1": [100.0 + i for i in range(60)]})
    assert answer["topology"] == "press"
    assert [each["component_id"] for each in answer["components"]] == ["pump_1", "tank"]


def test_machines_are_listed_in_pages(http: httpx.Client) -> None:
    names = [f"page-{i}" for i in range(5)]
    for name in names:
        http.put(f"/equipment/{name}", json={"topology": "zema_rig"})
    first = http.get("/equipment", params={"after": "page", "limit": 3}).json()
    assert [each["equipment_id"] for each in first["equipment"]] == names[:3]
    assert first["total_count"] >= 5
    rest = http.get("/equipment", params={"after": first["next"]}).json()["equipment"]
    assert [each["equipment_id"] for each in rest][:2] == names[3:]


def test_every_template_is_listed_and_can_be_registered(http: httpx.Client) -> None:
    listed = http.get("/topologies").json()
    assert [each["name"] for each in listed["topologies"]] == list(TEMPLATES)
    assert listed["units"]["vibration"] == "mm/s"
    for each in listed["topologies"]:
        assert each["sensors"] == list(TEMPLATES[each["name"]].expected_sensors)
        graph = {key: each[key] for key in ("name", "components", "edges")}
        assert http.put("/equipment/template", json={"topology": graph}).status_code in (200, 201)
        assert http.get("/equipment/template").json()["topology"] == each["name"]


def test_the_history_is_read_by_time_and_in_pages(http: httpx.Client) -> None:
    start = datetime(2026, 1, 31, 12, tzinfo=UTC)
    for number in range(5):
        _predict(http, "past", timestamp=(start + timedelta(minutes=number)).isoformat())
    history = http.get("/equipment/past/history").json()
    assert [each["timestamp"] for each in history["results"]] == [f"2026-01-31T12:0{i}:00Z" for i in range(5)]
    assert history["next"] is None
    last = history["results"][-1]
    assert last["model_version"] == "1.0"
    assert last["late"] is False
    assert set(last["components"]) <= {component.id for component in TEMPLATES["zema_rig"].components}
    some = http.get("/equipment/past/history?from=2026-01-31T12:01:00%2B00:00&to=2026-01-31T13:03:00+01:00").json()
    assert [each["timestamp"] for each in some["results"]] == ["2026-01-31T12:01:00Z", "2026-01-31T12:02:00Z"]
    page = http.get("/equipment/past/history", params={"limit": 2}).json()
    older = http.get("/equipment/past/history", params={"limit": 3, "before": page["next"]}).json()
    assert older["results"] + page["results"] == history["results"]
    assert older["next"] is None


def test_a_history_is_deleted_on_request(http: httpx.Client) -> None:
    _predict(http, "gone")
    assert len(http.get("/equipment/gone/history").json()["results"]) == 1
    assert http.delete("/equipment/gone?history=true").json()["history_removed"] is True
    assert http.get("/equipment/gone/history").status_code == 404


def test_a_machine_without_results_has_an_empty_history(http: httpx.Client) -> None:
    http.put("/equipment/new", json={"topology": "zema_rig"})
    assert http.get("/equipment/new/history").json() == {"equipment_id": "new", "results": [], "next": None}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "topology"),
        ({"topology": None}, "topology: missing; name a template or send a graph"),
        ({"topology": "rig"}, "topology: unknown template 'rig'"),
        ({"topology": {**PRESS, "edges": [["pump_1", "pump_1"]]}}, "'pump_1' is connected to itself"),
        ({"topology": {**PRESS, "edges": []}}, "disconnected"),
        ({"topology": {**PRESS, "edges": [["pump_1", "tonk"]]}}, "'tonk'"),
        (
            {"topology": {"components": [{"component_id": f"c{i}", "type": "pump"} for i in range(65)], "edges": []}},
            "65 components",
        ),
        ({"topology": "zema_rig", "nominal": {"pressure_pump_mani": 3}}, "'pressure_pump_mani' is not a sensor"),
        ({"topology": "zema_rig", "limits": {"pressure_pump_main": {"mix": 3}}}, "limits.pressure_pump_main.mix"),
        ({"topology": "zema_rig", "failure_health": 2}, "failure_health"),
        ({"topology": "zema_rig", "failure_health": "0.3"}, "failure_health: Input should be a valid number"),
        ({"topology": "zema_rig", "nominal": {"pressure_pump_main": "3"}}, "nominal.pressure_pump_main: Input should"),
        ({"topology": "zema_rig", "limits": {"pressure_pump_main": {"max": True}}}, "limits.pressure_pump_main.max"),
        ({"topology": "zema_rig", "colour": "red"}, "colour"),
    ],
)
def test_an_invalid_machine_is_refused_in_one_sentence(http: httpx.Client, body: dict[str, Any], sentence: str) -> None:
    refused = http.put("/equipment/bad", json=body)
    assert refused.status_code == 422
    assert sentence in refused.json()["detail"]
    assert http.get("/equipment/bad").status_code == 404


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/equipment?limit=0", "limit: must be an integer from 1 to 1000"),
        ("/equipment?limit=many", "limit: must be an integer"),
        ("/equipment?colour=red", "colour: unknown query parameter; known parameters: after, limit"),
        ("/equipment?limit=1&limit=2", "limit: repeated query parameter"),
        ("/equipment/a/history?from=yesterday", "from: must be a time such as 2026-01-31T12:00:00Z"),
        ("/equipment/a/history?from=2026-02-01&to=2026-01-01", "from: must be before `to`"),
        ("/equipment/a/history?to=2026-13-01T00:00:00Z", "to: must be a time"),
        ("/equipment/a/history?limit=10001", "limit: must be an integer from 1 to 10000"),
        ("/equipment/a/history?before=nan_3", "before: must be the `next` of an earlier answer"),
        ("/equipment/-a", "equipment_id: '-a' is invalid"),
        ("/equipment/%C3%A4", "equipment_id: 'ä'"),
        ("/equipment/a%252Db", "equipment_id: 'a%2Db'"),
        ("/topologies?name=x", "name: unknown query parameter; this route has none"),
    ],
)
def test_an_invalid_query_is_refused_in_one_sentence(http: httpx.Client, path: str, sentence: str) -> None:
    refused = http.get(path)
    assert refused.status_code == 422, refused.text
    assert sentence in refused.json()["detail"]


def test_only_json_of_limited_size_is_accepted(http: httpx.Client) -> None:
    assert http.put("/equipment/a", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    big = b'{"topology":"zema_rig","note":"' + b"x" * 300_000 + b'"}'
    refused = http.put("/equipment/a", content=big, headers={"content-type": "application/json"})
    assert refused.status_code == 413
    assert http.put("/equipment/a", content=b"{", headers={"content-type": "application/json"}).status_code == 422


def test_the_routes_are_in_the_openapi_document(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert {"/equipment", "/equipment/{id}", "/equipment/{id}/history", "/topologies"} <= document["paths"].keys()
    parameters = document["paths"]["/equipment/{id}/history"]["get"]["parameters"]
    assert [each["name"] for each in parameters][:5] == ["id", "from", "to", "limit", "before"]
    assert "EquipmentAnswer" in document["components"]["schemas"]


def test_a_decline_is_reported_with_its_time_to_failure(tmp_path: Path, database: Database) -> None:
    """The trend of stored results, on both databases and after a restart."""
    with _served(tmp_path / "a", database(tmp_path / "a" / "registry")) as live:
        start = datetime.now(UTC) - timedelta(hours=20)
        for number in range(12):
            answer = _predict(live.http, "trend", timestamp=(start + timedelta(hours=number)).isoformat())
            assert answer["degradation"]["basis"] == ("nominal" if number < 7 else "history")
        settings = live.settings
    with Live("rsgi", settings, ("hydraulics",)) as live:
        live.http.get("/equipment/trend/history")
        bases = set()
        for _ in range(50):
            at = datetime.now(UTC).isoformat()
            bases.add(_predict(live.http, "trend", timestamp=at)["degradation"]["basis"])
            if "history" in bases:
                break
            time.sleep(0.1)
        assert "history" in bases


def test_windows_of_one_batch_have_a_time_only_by_the_cycle_length(http: httpx.Client) -> None:
    """Twenty windows at once, without timestamps: no trend, or one over nineteen cycles."""
    batch = {"requests": [{"equipment_id": "batch", "sensor_data": RIG, "topology": "zema_rig"}] * 20}
    for answer in http.post("/predict/batch", json=batch).json()["predictions"]:
        assert answer["degradation"]["basis"] == "nominal"
        assert answer["degradation"]["time_to_failure_hours"] is None
        assert any(warning.startswith("no timestamp") for warning in answer["warnings"])
    shown = http.put("/equipment/batch", json={"topology": "zema_rig", "cycle_s": 75})
    assert (shown.status_code, shown.json()["cycle_s"]) == (201, 75.0)
    answers = http.post("/predict/batch", json=batch).json()["predictions"]
    assert [answer["degradation"]["basis"] for answer in answers] == ["nominal"] * 7 + ["history"] * 13
    assert {answer["degradation"]["rate"] for answer in answers[7:]} == {0.0}
    found = http.get("/equipment/batch/history", params={"limit": 20}).json()["results"]
    times = [datetime.fromisoformat(each["timestamp"]) for each in found]
    gaps = {round((later - earlier).total_seconds(), 3) for earlier, later in pairwise(times)}
    assert gaps == {75.0}
    for wrong in (0, -1, 1e6, "60", True):
        refused = http.put("/equipment/batch", json={"topology": "zema_rig", "cycle_s": wrong})
        assert refused.status_code == 422, wrong
        assert "cycle_s" in refused.text


def test_predictions_continue_during_a_database_outage(tmp_path: Path) -> None:
    with Server() as server, _served(tmp_path, server.new_database()) as live:
        assert live.http.put("/equipment/rig", json={"topology": "zema_rig"}).status_code == 201
        _predict(live.http, "rig")
        assert [each["late"] for each in live.http.get("/equipment/rig/history").json()["results"]] == [False]
        server.crash()
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(lambda _: _predict(live.http, "rig"), range(20)))) == 20
        away = live.http.get("/equipment/rig/history")
        assert away.status_code == 503
        assert "predictions continue" in away.json()["detail"]
        assert int(away.headers["retry-after"]) >= 1
        assert live.http.put("/equipment/b", json={"topology": "zema_rig"}).status_code == 503
        assert live.http.get("/equipment/rig").status_code == 200
        server.start()
        for _ in range(100):
            found = live.http.get("/equipment/rig/history")
            if found.status_code == 200 and len(found.json()["results"]) == 21:
                break
            time.sleep(0.1)
        late = [each["late"] for each in found.json()["results"]]
        assert late[0] is False
        assert late.count(True) >= 1
        assert len(late) == 21
