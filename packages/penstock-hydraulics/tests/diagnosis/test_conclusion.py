"""No verdict without evidence: any output of the model, any sensors, the tables of the shipped models."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hydraulic_models import SIGNATURE, task_config
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Artifact
from penstock_hydraulics.diagnosis.conclusion import NO_FAULT
from penstock_hydraulics.diagnosis.rules import NOMINAL
from penstock_hydraulics.diagnosis.schemas import PredictionRequest
from penstock_hydraulics.machine.states import ANOMALIES, HEADS, LEVELS, SUPERVISED
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.task import HydraulicDiagnostics

RIG = TEMPLATES["zema_rig"]
SENSORS = RIG.expected_sensors
SHIPPED = Path(str(files("penstock_hydraulics") / "artifacts" / "hydraulics"))


def task_of(version):
    manifest = Artifact.open(SHIPPED / version).manifest
    return HydraulicDiagnostics(manifest.task.config, manifest.signature)


TASKS = [
    *(task_of(version) for version in ("v1.0", "v1.0-trees")),
    HydraulicDiagnostics(task_config(coverage={}), SIGNATURE),
]
NETWORK = TASKS[0]


def outputs_of(levels, anomalies=None):
    """The model's outputs, with `levels` [LEVELS] at every component."""
    rows = np.tile(np.asarray(levels, np.float32), (1, len(RIG.components), 1))
    none = np.zeros((1, len(RIG.components)), np.float32)
    faults = np.zeros((1, len(ANOMALIES)), np.float32)
    for one in SUPERVISED:
        faults[0, ANOMALIES.index(one.anomaly)] = min(1.0, rows[0, 0, one.columns].sum())
    one = np.ones(1, np.float32)
    return {"levels": rows, "component_health": none, "health": one, "degradation": one, "anomalies": faults}


def levels_of(**chosen):
    """[LEVELS] sure levels; the default is the best one."""
    found = np.zeros(LEVELS, np.float32)
    for head in HEADS:
        found[head.columns] = 0.01
        found[head.start + chosen.get(head.name, 0)] = 1 - 0.01 * (len(head.levels) - 1)
    return found


def diagnosed(task, sensors, levels, seconds=60, rate=1, topology="zema_rig", hot=False):
    noise = np.random.default_rng(0)
    data = {
        name: np.abs(NOMINAL["zema_rig"].get(name, 1.0) * (1 + 0.01 * noise.standard_normal(seconds * rate)))
        for name in sensors
    }
    if hot:
        data |= {name: values + 60.0 for name, values in data.items() if name.startswith("temperature")}
    fields = {"equipment_id": "a", "sensor_data": {name: values.tolist() for name, values in data.items()}}
    request = PredictionRequest(**fields, sampling_rate_hz=float(rate), topology=topology)
    task.preprocess(request)
    return task.postprocess(outputs_of(levels), request)


def said(answer, text):
    return [warning for warning in answer.warnings if text in warning]


@pytest.mark.parametrize("sensor", ["vibration_pump_main", "flow_circ_pump", "temperature_valve_main"])
def test_whatever_the_model_says_about_what_it_has_not_seen_is_not_said(sensor):
    worst = levels_of(**{head.name: len(head.levels) - 1 for head in HEADS})
    answer = diagnosed(NETWORK, [sensor], worst)
    assert (answer.health.score, answer.health.status, answer.health.basis) == (None, "unknown", "unavailable")
    assert all(part.state is None and part.health is None for part in answer.components)
    assert not answer.anomaly.detected_anomalies
    assert all(answer.anomaly.basis[each.anomaly] in ("unavailable", "rule") for each in SUPERVISED)
    assert len(said(answer, "missing sensors: ")) == 1
    assert answer.degradation.rate is None


def test_four_temperatures_tell_the_cooler_and_nothing_else():
    temperatures = [name for name in SENSORS if name.startswith("temperature")]
    answer = diagnosed(NETWORK, temperatures, levels_of(valve_condition=3, pump_leakage=2, accumulator_pressure=3))
    assert [part.state.name for part in answer.components if part.state] == ["cooler_condition"]
    assert (answer.health.score, answer.health.status, answer.health.basis) == (None, "unknown", "partial")
    assert len(said(answer, NO_FAULT)) == 1
    assert len(said(answer, "not judged: pump_leakage of pump_main, valve_condition of valve_main")) == 1
    failing = diagnosed(NETWORK, temperatures, levels_of(cooler_condition=2))
    assert (failing.health.status, failing.health.basis) == ("critical", "partial")
    assert failing.anomaly.detected_anomalies == ["overheating"]


@pytest.mark.parametrize("seconds", [3, 40])
def test_a_short_window_is_not_healthy(seconds):
    answer = diagnosed(NETWORK, SENSORS, levels_of(), seconds)
    assert answer.health.status == "unknown"
    assert (answer.health.score is None) == (seconds < 30)
    assert len(said(answer, NO_FAULT)) == 1


def test_every_sensor_of_a_sound_machine_makes_it_healthy_unless_the_readings_are_unusual():
    usual = HydraulicDiagnostics(task_config(coverage=NETWORK.settings.model_dump()["coverage"]), NETWORK.signature)
    answer = diagnosed(usual, SENSORS, levels_of())
    assert (answer.health.status, answer.health.basis) == ("healthy", "measured")
    assert answer.health.score > 0.9
    assert not said(answer, NO_FAULT)
    unusual = diagnosed(NETWORK, SENSORS, levels_of())  # by the scales of the recordings a noisy constant is
    assert said(unusual, "out of distribution")
    assert (unusual.health.status, unusual.health.score) == ("unknown", answer.health.score)


def test_a_light_fault_is_a_warning_though_health_is_high():
    answer = diagnosed(NETWORK, SENSORS, levels_of(valve_condition=1))
    assert answer.health.score >= 0.7
    assert answer.anomaly.detected_anomalies == ["valve_stiction"]
    assert answer.health.status == "warning"


def test_a_model_without_measured_coverage_answers_with_low_coverage_and_is_never_healthy():
    answer = diagnosed(TASKS[2], SENSORS, levels_of())
    assert (answer.health.status, answer.health.basis) == ("unknown", "unmeasured")
    assert answer.health.score > 0.9
    assert answer.coverage == 0.25
    assert len(said(answer, "not measured for this model and circuit")) == 1


@st.composite
def answers(draw):
    task = draw(st.sampled_from(TASKS))
    sensors = draw(st.lists(st.sampled_from([*SENSORS, "pressure_tank"]), min_size=1, unique=True))
    levels = np.zeros(LEVELS)
    for head in HEADS:
        weights = draw(
            st.lists(st.sampled_from([0, 1, 2, 5, 100]), min_size=len(head.levels), max_size=len(head.levels))
        )
        levels[head.columns] = np.array(weights) / max(sum(weights), 1) if sum(weights) else 1 / len(weights)
    hot = draw(st.sampled_from([False, False, True]))
    seconds, rate = draw(st.sampled_from([(3, 1), (40, 1), (60, 1), (60, 10)]))
    topology = draw(st.sampled_from(["zema_rig", None]))
    return diagnosed(task, sensors, levels, seconds, rate, topology, hot)


@settings(max_examples=200, deadline=None)
@given(answer=answers())
def test_no_part_of_an_answer_contradicts_another(answer):
    health, detected = answer.health, answer.anomaly.detected_anomalies
    judged = {part.state.name for part in answer.components if part.state}
    assert health.status != "healthy" or not detected
    assert health.status != "critical" or detected
    assert health.status != "healthy" or judged == {head.name for head in HEADS}
    assert health.status != "healthy" or health.basis == "measured"
    assert (health.score is None) <= (health.status == "unknown")
    assert (health.basis == "unavailable") <= (health.score is None)
    assert (answer.degradation.rate is None) == (health.score is None)
    assert len(said(answer, NO_FAULT)) == (health.status == "unknown")
    assert not (detected and said(answer, NO_FAULT))
    unjudged = " ".join(said(answer, "not judged"))
    for name, value in answer.anomaly.predictions.items():
        assert (value is None) == (answer.anomaly.basis[name] == "unavailable") == (name in unjudged)
        assert (name in detected) == (value is not None and value >= answer.anomaly.thresholds[name])
    for head in HEADS:
        assert (head.name in unjudged) == (head.name not in judged)
    for part in answer.components:
        assert part.state is None or part.coverage > 0
        if part.state:
            assert sum(part.state.probabilities.values()) == pytest.approx(1, abs=1e-5)
