"""Diagnoses from a running server: the small test model, and the shipped one with recordings."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hydraulic_models import hydraulic_registry, readings
from live_servers import Live

from penstock.settings import Settings
from penstock_hydraulics.machine.states import ANOMALIES
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.simulator import simulate
from penstock_hydraulics.task import HydraulicDiagnostics

RIG = TEMPLATES["zema_rig"]
SHIPPED = importlib.resources.files("penstock_hydraulics") / "artifacts" / "hydraulics"
recorded_only = pytest.mark.skipif(
    "PENSTOCK_HYDRAULICS_DATA" not in os.environ or not SHIPPED.is_dir(),
    reason="PENSTOCK_HYDRAULICS_DATA names no recordings, or no trained model ships",
)


@pytest.fixture(scope="module")
def http(tmp_path_factory) -> Iterator[httpx.Client]:
    registry = hydraulic_registry(tmp_path_factory.mktemp("hydraulic"))
    with Live("rsgi", Settings(registry=registry, threads=1), ("hydraulics",)) as server:
        yield server.http


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Iterator[httpx.Client]:
    registry = tmp_path_factory.mktemp("shipped") / "registry"
    with Live("rsgi", Settings(registry=registry, threads=1), ("hydraulics",)) as server:
        yield server.http


def good(response: httpx.Response) -> dict:
    assert response.status_code == 200, response.text
    return response.json()


def request_of(topology="zema_rig", equipment_id="rig", **more):
    return {"equipment_id": equipment_id, "sensor_data": readings(TEMPLATES[topology]), "topology": topology, **more}


def without_times(answer: dict) -> dict:
    return {name: value for name, value in answer.items() if not name.endswith("_ms")}


def test_the_example_of_the_documentation_has_the_whole_schema(http):
    answer = good(http.post("/predict", json=HydraulicDiagnostics.example))
    assert answer["equipment_id"] == "exc_001"
    assert answer["health"] == {"score": None, "status": "unknown", "basis": "unavailable"}
    assert {"rate", "time_to_failure_hours", "basis"} <= answer["degradation"].keys()
    assert tuple(answer["anomaly"]["predictions"]) == ANOMALIES
    assert answer["anomaly"]["detected_anomalies"] == []
    assert answer["inference_time_ms"] >= 0
    assert answer["model_version"] == "1.0"
    assert answer["coverage"] < 0.05
    assert answer["warnings"]


def test_a_response_has_times_and_model_version(http):
    response = http.post("/predict", json=request_of())
    assert response.headers["x-penstock-model"].startswith("hydraulics:1.0/")
    assert "run;dur=" in response.headers["server-timing"]


def test_the_document_of_the_api_shows_the_request_and_its_example(http):
    document = http.get("/openapi.json").json()
    assert {"PredictionRequest", "PredictionResponse"} <= document["components"]["schemas"].keys()


def test_a_batch_of_several_topologies_equals_single_answers(http):
    items = [request_of(name, f"machine-{k}") for k, name in enumerate([*TEMPLATES, "zema_rig"] * 4)]
    items.append({**HydraulicDiagnostics.example, "equipment_id": "machine-short"})
    body = good(http.post("/predict/batch", json={"requests": items}))
    assert body["total_count"] == len(items)
    assert body["total_time_ms"] > 0
    for item, answer in zip(items, body["predictions"], strict=True):
        again = {**item, "equipment_id": item["equipment_id"] + "-alone"}
        single = good(http.post("/predict", json=again))
        assert answer["topology"] == single["topology"]
        assert answer["warnings"] == single["warnings"]
        assert answer["health"]["score"] == pytest.approx(single["health"]["score"], abs=1e-5)
        for one, other in zip(answer["components"], single["components"], strict=True):
            assert one["health"] == pytest.approx(other["health"], abs=1e-5)


def test_one_bad_item_of_a_batch_carries_its_own_error(http):
    bad = request_of()
    bad["sensor_data"]["pressure_pump_main"][3] = -40.0
    body = good(http.post("/predict/batch", json={"requests": [request_of(), bad, {"equipment_id": "x"}]}))
    first, second, third = body["predictions"]
    assert first["health"]
    assert body["total_count"] == 3
    assert second["error"]["status"] == 422
    assert "sensor_data.pressure_pump_main[3]" in second["error"]["detail"]
    assert "sensor_data" in third["error"]["detail"]


def test_one_machine_twice_in_a_batch_is_answered_twice(http):
    hot = request_of(equipment_id="twice")
    hot["sensor_data"]["temperature_tank"] = [95.0 + 0.01 * k for k in range(60)]
    first, second = good(http.post("/predict/batch", json={"requests": [request_of(equipment_id="twice"), hot]}))[
        "predictions"
    ]
    assert first["equipment_id"] == second["equipment_id"] == "twice"
    assert "overheating" in second["anomaly"]["detected_anomalies"]
    assert first["anomaly"]["predictions"]["overheating"] != second["anomaly"]["predictions"]["overheating"]


def _changed(**sensors):
    request = request_of()
    request["sensor_data"].update(sensors)
    return request


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (json.dumps(_changed(pressure_pump_main=[1.0, float("nan")])), "pressure_pump_main[1]"),
        (json.dumps(_changed(pressure_pump_main=[1.0, float("inf")])), "pressure_pump_main[1]"),
        (json.dumps(_changed(pressure_pump_main=["high"])), "pressure_pump_main[0]"),
        (json.dumps(_changed(pressure_pump_main=[])), "pressure_pump_main"),
        (json.dumps(_changed(pressure_pump_main=[1e400])).replace("Infinity", "1e400"), "pressure_pump_main[0]"),
        (json.dumps(_changed(temperature_tank=[40.0] * 30)), "temperature_tank"),
        (json.dumps(_changed(temperature_tank=[40.0] * 601)), "temperature_tank"),
        (json.dumps(_changed(pressure_pump_main=[-3.0] * 60)), "pressure_pump_main[0]"),
        (json.dumps(_changed(temperature_tank=[313.0] * 60)), "temperature_tank[0]"),
        (json.dumps(_changed(pressure_pump_main=[100] * 1_000_000)), "pressure_pump_main"),
        (json.dumps({"equipment_id": "a", "sensor_data": {"pressure_moon": [1.0]}}), "pressure_moon"),
        (json.dumps({"equipment_id": "a", "sensor_data": {}}), "sensor_data"),
        (json.dumps({"equipment_id": "a b", "sensor_data": {"x": [1.0]}}), "equipment_id"),
        (json.dumps(request_of(sampling_rate_hz={"flow_circ_pump": -1})), "flow_circ_pump"),
        (json.dumps(request_of() | {"topology": "rig"}), "topology"),
        (json.dumps(request_of() | {"topology": {"components": []}}), "components"),
        (json.dumps(request_of() | {"colour": "red"}), "colour"),
        ("[]", "body"),
        ("{", "body"),
        ("", "body"),
    ],
)
def test_bad_input_gets_one_sentence_that_names_it(http, body, named):
    response = http.post("/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    problem = response.json()
    assert named in problem["detail"]
    assert "\n" not in problem["detail"]
    assert len(problem["detail"]) < 600


def test_unusual_input_gets_a_warning_that_names_it(http):
    data = _changed(vibration_pump_main=[0.6] * 60, pressure_valve_main=[-0.01] + [100.0 + k for k in range(59)])
    text = " ".join(good(http.post("/predict", json=data))["warnings"])
    assert "vibration_pump_main is constant at 0.6" in text
    assert "pressure_valve_main has values down to -0.01" in text


@pytest.mark.parametrize("name", TEMPLATES)
def test_simulated_machines_of_every_template_are_diagnosed(http, name):
    window = next(iter(simulate(TEMPLATES[name], {}, 1, seed=2)))
    data = {sensor: values.tolist() for sensor, values in window.readings.items()}
    body = {
        "equipment_id": name,
        "sensor_data": data,
        "sampling_rate_hz": dict(window.rates_hz),
        "topology": TEMPLATES[name].document() | {"name": "mine"},
    }
    answer = good(http.post("/predict", json=body))
    assert answer["coverage"] == 0.25
    assert answer["health"]["status"] != "healthy"
    assert len(answer["components"]) == len(TEMPLATES[name].components)


def test_a_registered_machine_is_known_by_its_id(http):
    registered = http.put("/equipment/press-4", json={"topology": "standard_pump_system"})
    assert registered.status_code in (200, 201), registered.text
    body = {"equipment_id": "press-4", "sensor_data": readings(TEMPLATES["standard_pump_system"])}
    answer = good(http.post("/predict", json=body))
    assert answer["topology"] == "standard_pump_system"
    assert answer["coverage"] == 0.25


def test_concurrent_requests_get_their_own_answers(http):
    items = [request_of(list(TEMPLATES)[k % 4], f"caller-{k}") for k in range(48)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda item: good(http.post("/predict", json=item)), items))
    assert [answer["equipment_id"] for answer in answers] == [item["equipment_id"] for item in items]
    assert [answer["topology"] for answer in answers] == [item["topology"] for item in items]


def test_readings_at_100_hz_are_accepted(http):
    slow = request_of()
    fast = {name: [value for value in values for _ in range(100)] for name, values in slow["sensor_data"].items()}
    body = {**slow, "sensor_data": fast, "sampling_rate_hz": 100.0}
    answer, other = (good(http.post("/predict", json=each)) for each in (body, slow))
    assert answer["coverage"] == 1.0
    assert answer["anomaly"]["basis"] == other["anomaly"]["basis"]


def test_health_and_statistics_are_served(http):
    assert http.get("/health").json()["model_loaded"] is True
    assert "hydraulics" in json.dumps(http.get("/stats").json())


def test_a_machine_wearing_out_over_two_hundred_windows_ends_in_failure(http):
    faults = {"filter_main": {"contamination": (0.0, 1.0)}}
    last = None
    for k, window in enumerate(simulate(RIG, faults, 200, seed=3)):
        last = _ask_at(http, "worn-1", window, k)
    assert "contamination" in last["anomaly"]["detected_anomalies"]
    assert last["degradation"]["basis"] == "history"


def _ask_at(http, equipment_id, window, hour):
    body = {
        "equipment_id": equipment_id,
        "sensor_data": {name: values.tolist() for name, values in window.readings.items()},
        "sampling_rate_hz": dict(window.rates_hz),
        "topology": "zema_rig",
        "timestamp": f"2024-01-{1 + hour // 24:02d}T{hour % 24:02d}:00:00Z",
    }
    return good(http.post("/predict", json=body))


# The shipped model

shipped_only = pytest.mark.skipif(not SHIPPED.is_dir(), reason="no trained model ships with this copy of the package")


@shipped_only
def test_the_shipped_model_follows_a_machine_from_healthy_to_failed(shipped):
    faults = {
        "cooler_main": {"overheating": (0.0, 1.0)},
        "pump_main": {"leakage": (0.0, 1.0)},
        "valve_main": {"valve_stiction": (0.0, 1.0)},
        "filter_main": {"contamination": (0.0, 1.0)},
    }
    answers = [_ask_at(shipped, "worn-2", window, k) for k, window in enumerate(simulate(RIG, faults, 200, seed=3))]
    healths = [answer["health"]["score"] for answer in answers]
    assert healths[0] > 0.7
    assert answers[-1]["health"]["status"] == "critical"
    assert sum(healths[:40]) > sum(healths[80:120]) > sum(healths[160:])
    falling = [answer["degradation"] for answer in answers if answer["health"]["score"] > 0.35]
    assert any(each["time_to_failure_hours"] for each in falling)
    assert answers[-1]["degradation"]["basis"] == "history"
    assert {"leakage", "contamination"} <= set(answers[-1]["anomaly"]["detected_anomalies"])


@shipped_only
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_shipped_models_answer_for_every_template(shipped, name):
    window = next(iter(simulate(TEMPLATES[name], {}, 1, seed=2)))
    body = {
        "equipment_id": name,
        "sensor_data": {sensor: values.tolist() for sensor, values in window.readings.items()},
        "sampling_rate_hz": dict(window.rates_hz),
        "topology": name,
    }
    answer = good(shipped.post("/predict", json=body))
    assert len(answer["components"]) == len(TEMPLATES[name].components)
    network = good(shipped.post("/predict", json={**body, "model_version": "v1.0"}))
    assert 0 <= network["health"]["score"] <= 1
    if name == "zema_rig":
        assert 0 <= answer["health"]["score"] <= 1
    else:
        assert any(
            warning.endswith("rules alone; hydraulics:v1.0 supports any topology") for warning in answer["warnings"]
        )


@shipped_only
@pytest.mark.parametrize("seconds", [59, 45, 30])
def test_the_shipped_model_gives_the_same_levels_for_a_short_window(shipped, seconds):
    faults = {"cooler_main": {"overheating": 1.0}}
    window = list(simulate(RIG, faults, 2, seed=4))[-1]
    body = {"equipment_id": "short", "sampling_rate_hz": dict(window.rates_hz), "topology": "zema_rig"}
    whole = {name: values.tolist() for name, values in window.readings.items()}
    part = {name: values[: int(seconds * window.rates_hz[name])] for name, values in whole.items()}
    one, other = (good(shipped.post("/predict", json={**body, "sensor_data": data})) for data in (whole, part))
    assert _state(one, "cooler_condition")["level"] == 3
    for state in ("cooler_condition", "valve_condition"):
        assert _state(other, state)["level"] == _state(one, state)["level"]
    assert other["health"]["score"] == pytest.approx(one["health"]["score"], abs=0.1)


# The shipped model on recordings

LEVELS = (
    [("cooler_condition", "cooler", level) for level in (100, 20, 3)]
    + [("valve_condition", "valve", level) for level in (100, 90, 80, 73)]
    + [("pump_leakage", "leak", level) for level in (0, 1, 2)]
    + [("accumulator_pressure", "accumulator", level) for level in (130, 115, 100, 90)]
)

STATES = tuple(dict.fromkeys(state for state, *_ in LEVELS))


def _recorded(http, cycle, *only):
    from recorded import readings_of

    data, rates = readings_of(cycle, *only)
    body = {"equipment_id": "zema", "sensor_data": data, "sampling_rate_hz": rates, "topology": "zema_rig"}
    return good(http.post("/predict", json=body))


def _state(answer, name):
    return next(part["state"] for part in answer["components"] if part["state"] and part["state"]["name"] == name)


@recorded_only
@pytest.mark.parametrize(("state", "label", "level"), LEVELS)
def test_each_component_is_recognised_at_each_of_its_levels(shipped, state, label, level):
    from recorded import cycles

    chosen = cycles(**{label: level})[5::40][:20]
    found = [_state(_recorded(shipped, cycle), state)["level"] for cycle in chosen]
    assert found.count(level) / len(found) >= 0.85, found


@recorded_only
def test_recordings_of_three_sensors_are_answered_with_less_coverage(shipped):
    from recorded import cycles

    answer = _recorded(shipped, cycles()[0], "pressure_pump_main", "temperature_pump_main", "vibration_pump_main")
    assert answer["coverage"] == pytest.approx(3 / 14, abs=1e-4)
    assert _state(answer, "cooler_condition")
    assert any(
        warning.startswith("missing sensors: ") and "not judged: pump_leakage of pump_main" in warning
        for warning in answer["warnings"]
    )


@recorded_only
@pytest.mark.parametrize("hertz", [1, 2, 5])
def test_recordings_at_other_rates_give_the_same_levels_as_at_10_hz(shipped, hertz):
    from recorded import cycles, readings_of

    same = []
    for cycle in cycles()[::100]:
        data, rates = readings_of(cycle)
        wanted = {name: min(rate, hertz) for name, rate in rates.items()}
        step = {name: round(rates[name] / wanted[name]) for name in data}
        means = {
            name: [sum(v[k : k + step[name]]) / step[name] for k in range(0, len(v), step[name])]
            for name, v in data.items()
        }
        body = {"equipment_id": "zema", "sensor_data": means, "sampling_rate_hz": wanted, "topology": "zema_rig"}
        one, ten = good(shipped.post("/predict", json=body)), _recorded(shipped, cycle)
        same += [_state(one, state)["level"] == _state(ten, state)["level"] for state in STATES]
    assert sum(same) / len(same) >= 0.95


@recorded_only
@pytest.mark.parametrize("seconds", [59, 50, 30])
def test_truncated_recordings_give_nearly_the_same_levels(shipped, seconds):
    from recorded import cycles, readings_of

    right = []
    for cycle in cycles()[::60]:
        data, rates = readings_of(cycle)
        part = {name: values[: int(seconds * rates[name])] for name, values in data.items()}
        body = {"equipment_id": "cut", "sensor_data": part, "sampling_rate_hz": rates, "topology": "zema_rig"}
        one, other = _recorded(shipped, cycle), good(shipped.post("/predict", json=body))
        right += [_state(one, state)["level"] == _state(other, state)["level"] for state in STATES]
    assert sum(right) / len(right) >= 0.9
