from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hydraulic_models import readings
from live_servers import Live

from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.page import routes

ASSETS = Path(routes.__file__).parent / "assets"
RIG = readings(TEMPLATES["zema_rig"])


def test_the_page_and_its_files_come_from_this_server_and_run_nothing_else(served: Live) -> None:
    page = served.http.get("/hydraulics")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    files = re.findall(r'(?:href|src)="(hydraulics/assets/[^"]+)"', page.text)
    assert len(files) == 3
    for path in ("hydraulics", *files, *(f"hydraulics/assets/{file.name}" for file in ASSETS.glob("*.js"))):
        reply = served.http.get(f"/{path}")
        assert reply.status_code == 200, path
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-frame-options"] == "DENY"
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", reply.text), path
    assert served.http.get("/hydraulics/assets/routes.py").status_code == 404


def test_a_file_of_the_page_is_of_a_readable_size() -> None:
    assert max(len(path.read_text("utf-8").splitlines()) for path in ASSETS.iterdir()) <= 420


def test_the_latest_diagnosis_is_the_answer_with_its_readings(served: Live) -> None:
    body = {"equipment_id": "whole", "sensor_data": RIG, "topology": "zema_rig", "timestamp": "2026-01-31T12:00:00Z"}
    answer = served.http.post("/predict", json=body).json()
    older = {**body, "timestamp": "2026-01-31T11:00:00Z", "sensor_data": {"pressure_pump_main": [1.0, 2.0, 3.0]}}
    served.http.post("/predict", json=older)
    latest = served.http.get("/equipment/whole/latest").json()
    assert latest["answer"] == answer
    assert latest["timestamp"] == "2026-01-31T12:00:00Z"
    assert latest["equipment"] is None
    assert latest["readings"].keys() == RIG.keys()
    for name, values in latest["readings"].items():
        assert values == pytest.approx(RIG[name], abs=1e-3)


def test_readings_are_kept_as_sent_and_not_as_completed_for_the_model(served: Live) -> None:
    half = {name: values[:35] for name, values in RIG.items()}
    fast = {"flow_pump_main": [float(k // 10) for k in range(350)]}
    body = {"equipment_id": "half", "sensor_data": half | fast, "sampling_rate_hz": {"flow_pump_main": 10.0}}
    assert served.http.post("/predict", json=body).status_code == 200
    kept = served.http.get("/equipment/half/latest").json()["readings"]
    assert {len(values) for values in kept.values()} == {35}
    assert kept["flow_pump_main"] == [float(k) for k in range(35)]
    assert kept["pressure_pump_main"] == pytest.approx(half["pressure_pump_main"], abs=1e-3)


def test_machines_are_listed_by_state(served: Live) -> None:
    now = datetime.now(UTC).isoformat()
    for name in ("list_a", "list_B", "list_c_%"):
        served.http.post(
            "/predict", json={"equipment_id": name.replace("%", "x"), "sensor_data": RIG, "timestamp": now}
        )
    served.http.put("/equipment/list_d", json={"topology": "zema_rig"})
    served.http.get("/equipment/list_a/latest")
    found = served.http.get("/hydraulics/machines", params={"search": "LIST_", "limit": 3}).json()
    assert found["models"] == ["hydraulics"]
    ids = [each["equipment_id"] for each in found["machines"]]
    rest = served.http.get("/hydraulics/machines", params={"search": "list_", "after": found["next"]}).json()
    every = ids + [each["equipment_id"] for each in rest["machines"]]
    assert sorted(every) == ["list_B", "list_a", "list_c_x", "list_d"]
    assert rest["next"] is None
    states = {each["equipment_id"]: each for each in (*found["machines"], *rest["machines"])}
    assert states["list_d"]["health"] is None
    status = states["list_a"]["health"]["status"]
    assert found["counts"][status] >= 3
    same = served.http.get("/hydraulics/machines", params={"search": "list_", "status": status}).json()["machines"]
    assert {each["equipment_id"] for each in same} == {"list_B", "list_a", "list_c_x"}
    assert served.http.get("/hydraulics/machines", params={"search": "%"}).json()["machines"] == []


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/hydraulics/machines?limit=501", 422, "limit: must be an integer from 1 to 500"),
        ("/hydraulics/machines?status=ill", 422, "status: must be one of healthy, warning, critical, unknown"),
        (f"/hydraulics/machines?search={'x' * 129}", 422, "search: must have at most 128 characters"),
        ("/hydraulics/machines?colour=red", 422, "colour: unknown query parameter"),
        ("/equipment/nobody/latest", 404, "unknown equipment 'nobody'"),
        ("/equipment/-a/latest", 422, "equipment_id: '-a' is invalid"),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(served: Live, path: str, status: int, sentence: str) -> None:
    refused = served.http.get(path)
    assert refused.status_code == status
    assert sentence in refused.json()["detail"]


def test_the_reads_of_the_page_are_documented_and_the_page_is_not(served: Live) -> None:
    paths = served.http.get("/openapi.json").json()["paths"]
    assert {"/hydraulics/machines", "/equipment/{id}/latest"} <= paths.keys()
    assert not {"/hydraulics", "/hydraulics/assets/{file}"} & paths.keys()
