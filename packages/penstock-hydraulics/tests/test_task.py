from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hydraulic_models import SIGNATURE, hydraulic_model, readings, task_config
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import simulated_recordings

from penstock.errors import InvalidInput, ModelLoadError, OutOfRange
from penstock.registry.registry import Registry
from penstock.tensors import Signature
from penstock_hydraulics.diagnosis.schemas import PredictionRequest
from penstock_hydraulics.fleet.fleet import Equipment
from penstock_hydraulics.learning.publishing.reference_ranges import reference_ranges
from penstock_hydraulics.machine.states import ANOMALIES, HEAD_OF_KIND
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.signals.features import Scale, Scales
from penstock_hydraulics.simulator import simulate
from penstock_hydraulics.task import HydraulicDiagnostics

RIG = TEMPLATES["zema_rig"]
THREE = ("pressure_pump_main", "temperature_pump_main", "vibration_pump_main")


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(hydraulic_model(tmp_path_factory.mktemp("model") / "m.onnx"), options)


@pytest.fixture
def task() -> HydraulicDiagnostics:
    return HydraulicDiagnostics(task_config(), SIGNATURE)


@pytest.fixture
def ask(session, task):
    def asked(request=None, by=task, **fields):
        request = request or PredictionRequest(**{"equipment_id": "exc_001", **fields})
        inputs, _ = by.signature.validate(by.preprocess(request))
        outputs = dict(zip((spec.name for spec in SIGNATURE.outputs), session.run(None, dict(inputs)), strict=True))
        answer = by.postprocess(outputs, request)
        answer.stamp("1.0")
        return answer

    return asked


def test_a_complete_window_of_the_rig_gets_a_complete_answer(ask):
    answer = ask(sensor_data=readings(RIG), topology="zema_rig").model_dump()
    assert list(answer)[:4] == ["equipment_id", "health", "degradation", "anomaly"]
    assert {"inference_time_ms", "coverage", "warnings", "model_version", "components"} <= answer.keys()
    assert answer["coverage"] == 1.0
    assert answer["topology"] == "zema_rig"
    assert answer["unknown_sensors"] == []
    assert tuple(answer["anomaly"]["predictions"]) == ANOMALIES
    assert [part["component_id"] for part in answer["components"]] == [part.id for part in RIG.components]
    assert sorted(part["state"]["name"] for part in answer["components"] if part["state"]) == [
        "accumulator_pressure",
        "cooler_condition",
        "pump_leakage",
        "valve_condition",
    ]
    for part in answer["components"]:
        if part["state"]:
            assert sum(part["state"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["degradation"]["basis"] == "nominal"
    assert answer["degradation"]["rate"] == pytest.approx(1 - answer["health"]["score"], abs=1e-6)
    assert answer["degradation"]["time_to_failure_hours"] is None


def test_the_example_of_three_samples_is_answered_by_rules_with_low_coverage(ask):
    answer = ask(PredictionRequest(**HydraulicDiagnostics.example))
    assert (answer.health.score, answer.health.status, answer.health.basis) == (None, "unknown", "unavailable")
    assert answer.degradation.rate is None
    assert answer.coverage < 0.01
    assert answer.degradation.basis == "none"
    assert list(answer.anomaly.predictions) == list(ANOMALIES)
    assert answer.anomaly.detected_anomalies == []
    text = " ".join(answer.warnings)
    assert "not registered" in text
    assert "the window is 3 s" in text
    assert "flow_pump_main" in text
    assert all(part.state is None for part in answer.components)


def test_hot_oil_is_found_without_the_model(ask):
    data = {"temperature_tank": [85.0, 86.0, 87.0], "pressure_pump_main": [100.0, 101.0, 99.0]}
    answer = ask(sensor_data=data, topology="zema_rig")
    assert answer.anomaly.detected_anomalies == ["overheating"]
    assert answer.anomaly.basis["overheating"] == "rule"
    assert answer.health.status == "critical"
    assert answer.health.score == pytest.approx(0.4)
    assert next(part.health for part in answer.components if part.component_id == "tank") == pytest.approx(0.4)


def test_each_fault_has_a_basis(ask):
    answer = ask(sensor_data=readings(RIG), topology="zema_rig")
    basis, predictions = answer.anomaly.basis, answer.anomaly.predictions
    assert basis["leakage"] == "supervised"
    assert basis["valve_stiction"] == "proxy"
    assert basis["vibration_anomaly"] == basis["contamination"] == "rule"
    assert basis["cavitation"] == basis["seal_degradation"] == "unavailable"
    assert predictions["cavitation"] is None
    assert predictions["seal_degradation"] is None
    assert any("cavitation, seal_degradation" in warning for warning in answer.warnings)


def test_states_of_a_simulated_topology_are_a_proxy_with_a_warning(ask):
    topology = TEMPLATES["standard_pump_system"]
    answer = ask(sensor_data=readings(topology), topology="standard_pump_system")
    assert answer.anomaly.basis["leakage"] == "proxy"
    assert any("learned from a simulator" in warning for warning in answer.warnings)


def test_a_state_without_its_sensors_is_not_guessed(ask):
    data = {name: values for name, values in readings(RIG).items() if name in ("vibration_pump_main",)}
    answer = ask(sensor_data=data, topology="zema_rig")
    assert all(part.state is None for part in answer.components)
    assert answer.anomaly.basis["leakage"] == "unavailable"
    assert answer.coverage < 0.1


def test_thresholds_of_the_manifest_decide_what_is_detected(ask, session):
    low = HydraulicDiagnostics(task_config(thresholds={"leakage": 1e-6}, coverage={}), SIGNATURE)
    high = HydraulicDiagnostics(task_config(thresholds={"leakage": 1.0}, coverage={}), SIGNATURE)
    request = {"sensor_data": readings(RIG), "topology": "zema_rig"}
    assert "leakage" in ask(by=low, **request).anomaly.detected_anomalies
    assert "leakage" not in ask(by=high, **request).anomaly.detected_anomalies
    assert ask(by=low, **request).anomaly.thresholds["leakage"] == 1e-6


def test_an_unsupported_topology_is_answered_by_rules(ask):
    rig_only = HydraulicDiagnostics(task_config(topologies=["zema_rig"]), SIGNATURE)
    data = readings(TEMPLATES["excavator"])
    answer = ask(by=rig_only, sensor_data=data, topology="excavator")
    assert any("does not support the topology excavator" in warning for warning in answer.warnings)
    assert answer.coverage <= 0.25
    assert answer.degradation.basis == "none"
    assert ask(by=rig_only, sensor_data=readings(RIG), topology="zema_rig").coverage == 1.0


def test_a_graph_with_only_the_name_of_the_rig_is_not_the_rig(ask):
    rig_only = HydraulicDiagnostics(task_config(topologies=["zema_rig"]), SIGNATURE)
    document = {"name": "zema_rig", "components": [{"component_id": "pump_main", "type": "pump"}]}
    data = {"pressure_pump_main": readings(RIG)["pressure_pump_main"]}
    answer = ask(by=rig_only, sensor_data=data, topology=document)
    assert any("does not support" in warning for warning in answer.warnings)


def test_a_graph_in_the_request_is_used_and_parsed_once(ask, task):
    document = TEMPLATES["dual_pump_system"].document() | {"name": "mine"}
    data = readings(TEMPLATES["dual_pump_system"])
    first, second = (ask(sensor_data=data, topology=document) for _ in range(2))
    assert first.topology == "mine"
    assert first.components == second.components
    assert len(task._parsed) == 1
    assert len(task._plans) == 1


@pytest.mark.parametrize(
    ("topology", "sentence"),
    [
        ("zema", r"topology: unknown template 'zema'; known templates: zema_rig, standard_pump_system"),
        ({"components": [{"component_id": "a", "type": "turbine"}]}, "Component 'a' has the unknown type 'turbine'"),
        (
            {"components": [{"component_id": c, "type": "pump"} for c in "ab"], "edges": []},
            "disconnected: no path leads from 'a' to 'b'",
        ),
        ({"components": [{"component_id": "a", "type": "pump"}], "edges": [["a", "a"]]}, "'a' is connected to itself"),
        ({"components": [{"component_id": f"c{k}", "type": "pump"} for k in range(65)]}, "65 components"),
        ({"components": [{"component_id": "a", "type": "pump"}], "edges": [["a", {1}]]}, "An edge must be a pair"),
    ],
)
def test_an_invalid_topology_is_refused(ask, topology, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        ask(sensor_data={"pressure_a": [1.0]}, topology=topology)


def test_unknown_sensors_are_listed_and_change_nothing(ask):
    data = readings(RIG)
    plain = ask(sensor_data=data, topology="zema_rig")
    more = ask(sensor_data={**data, "pressure_pump_main_2": [1.0] * 7, "speed": [2.0]}, topology="zema_rig")
    assert more.unknown_sensors == ["pressure_pump_main_2", "speed"]
    assert more.health == plain.health
    assert more.components == plain.components
    assert any("pressure_pump_main_2, speed" in warning for warning in more.warnings)


def test_the_order_of_the_sensors_does_not_matter(ask):
    data = readings(RIG, rate_hz={"flow_pump_main": 10})
    rates = {"flow_pump_main": 10.0}
    forth = ask(sensor_data=data, sampling_rate_hz=rates, topology="zema_rig")
    back = ask(sensor_data=dict(reversed(data.items())), sampling_rate_hz=rates, topology="zema_rig")
    assert forth.health == back.health
    assert forth.components == back.components


def test_padding_changes_no_answer(ask, task):
    data = readings(RIG)
    small = ask(sensor_data=data, topology=Topology("mine", RIG.components, RIG.edges))
    unreachable = Component("gauge", "other", ())
    larger = Topology("mine_with_gauge", (*RIG.components, unreachable), (*RIG.edges, ("tank", "gauge")))
    assert task.preprocess(PredictionRequest(equipment_id="a", sensor_data=data, topology=larger))["kinds"].shape == (
        1,
        16,
    )
    large = ask(sensor_data=data, topology=larger)
    for one, other in zip(small.components, large.components, strict=False):
        assert one.state == other.state
        assert one.health == pytest.approx(other.health, abs=1e-6)


def test_a_window_of_45_seconds_is_completed_with_a_warning(ask):
    answer = ask(sensor_data=readings(RIG, seconds=45), topology="zema_rig")
    assert answer.coverage == 0.75
    assert any("45 s of a work cycle of 60 s" in warning for warning in answer.warnings)
    assert any(part.state for part in answer.components)


def test_a_short_window_of_a_recorded_machine_is_completed_with_the_usual_course(task):
    windows = np.random.default_rng(0).normal(160, 10, (20, 60)).astype(np.float32)
    scale = Scale.of(windows)
    scales = Scales({"zema_rig": {"pump_main.pressure": scale}}, {})
    known = HydraulicDiagnostics(task_config() | {"scales": scales.to_mapping()}, SIGNATURE)
    request = {"equipment_id": "a", "sensor_data": {"pressure_pump_main": scale.mean[:40] + 5}, "topology": "zema_rig"}
    signals = known.preprocess(PredictionRequest(**request))["signals"]
    np.testing.assert_allclose(signals[0, 0, 0], 5 / scale.deviation, rtol=1e-3)


def test_unusual_readings_give_warnings(ask):
    data = readings(RIG)
    data["pressure_accumulator_main"] = [0.0] * 60
    answer = ask(sensor_data=data, topology="zema_rig")
    assert any(warning.startswith("pressure_accumulator_main is constant at 0") for warning in answer.warnings)


def test_a_reference_tells_which_readings_are_usual_and_which_constant_sensors_rest(ask):
    table = reference_ranges(simulated_recordings(12, cycles=3))["zema_rig"]
    table["rows"]["pressure_accumulator_main"]["rest"] = "0 0"
    known = HydraulicDiagnostics(task_config(reference={"zema_rig": table}), SIGNATURE)
    window = simulated_recordings(1, cycles=1).window(0)
    sensors = ("pressure_pump_main", "power_pump_main", "temperature_tank")
    data = {name: window[name] for name in sensors} | {"pressure_accumulator_main": [0.0] * 60}
    usual = ask(by=known, sensor_data=data, topology="zema_rig")
    assert not [warning for warning in usual.warnings if "constant" in warning or "out of distribution" in warning]
    at_rest = ask(by=known, sensor_data=data | {"pressure_accumulator_main": [5.0] * 60}, topology="zema_rig")
    assert any(warning.startswith("pressure_accumulator_main is constant at 5") for warning in at_rest.warnings)
    for seconds in (60, 40):
        power = [value / 1000 for value in data["power_pump_main"]]
        odd = {name: values[:seconds] for name, values in (data | {"power_pump_main": power}).items()}
        answer = ask(by=known, sensor_data=odd, topology="zema_rig")
        assert [warning for warning in answer.warnings if "power_pump_main" in warning and "as if in kW" in warning]
        assert answer.health.status != "healthy"
    graph = {**RIG.document(), "name": "press"}
    other = ask(by=known, sensor_data=data | {"power_pump_main": power}, topology=graph)
    assert not [warning for warning in other.warnings if "out of distribution" in warning], "another circuit"


def test_unusual_windows_have_a_trend_of_their_own(task):
    table = reference_ranges(simulated_recordings(12, cycles=3))["zema_rig"]
    known = HydraulicDiagnostics(task_config(reference={"zema_rig": table}), SIGNATURE)
    data, evidence = simulated_recordings(1, cycles=1).window(0), []
    for factor in (1.0, 0.001):
        power = [value * factor for value in data["power_pump_main"]]
        request = PredictionRequest(
            equipment_id="a",
            sensor_data={"power_pump_main": power, "temperature_tank": data["temperature_tank"]},
            topology="zema_rig",
        )
        known.preprocess(request)
        evidence.append(request.take().evidence)
    assert evidence[1] == f"{evidence[0]}-unusual"
    assert len(evidence[1]) <= 32


def test_a_non_finite_output_is_refused(task):
    request = PredictionRequest(equipment_id="a", sensor_data=readings(RIG), topology="zema_rig")
    task.preprocess(request)
    outputs = {spec.name: np.full([1, 8, 14][: len(spec.shape)], np.nan, np.float32) for spec in SIGNATURE.outputs}
    with pytest.raises(OutOfRange, match="not finite"):
        task.postprocess(outputs, request)


def test_one_request_can_be_used_with_two_models_at_once(ask, session, task):
    other = HydraulicDiagnostics(task_config(thresholds={"leakage": 1e-6}), SIGNATURE)
    request = PredictionRequest(equipment_id="a", sensor_data=readings(RIG), topology="zema_rig")
    alone = ask(request)
    inputs = task.preprocess(request)
    other.preprocess(request)
    outputs = dict(zip((s.name for s in SIGNATURE.outputs), session.run(None, dict(inputs)), strict=True))
    assert task.postprocess(outputs, request).anomaly == alone.anomaly


@pytest.mark.parametrize(
    ("config", "signature", "sentence"),
    [
        ({}, SIGNATURE, "scales"),
        ({"scales": {"machines": 3}}, SIGNATURE, "scales"),
        (task_config(default_topology="moon"), SIGNATURE, "unknown template 'moon'"),
        (task_config(), Signature(SIGNATURE.inputs[1:], SIGNATURE.outputs), "no input 'signals'"),
        (task_config(), Signature(SIGNATURE.inputs, SIGNATURE.outputs[1:]), "no output 'levels'"),
        (task_config(min_window_s=90), SIGNATURE, "min_window_s"),
    ],
)
def test_an_invalid_manifest_is_refused_at_load(config, signature, sentence):
    with pytest.raises(ModelLoadError, match=sentence):
        HydraulicDiagnostics(config, signature)


_NUMBERS = st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.none(), st.text(max_size=3), st.booleans())
_FIELDS = st.fixed_dictionaries(
    {
        "equipment_id": st.one_of(st.just("a"), st.text(max_size=5)),
        "sensor_data": st.dictionaries(
            st.one_of(st.sampled_from([*RIG.expected_sensors, "pressure_tank", "x"]), st.text(max_size=8)),
            st.one_of(st.lists(st.floats(0, 300), max_size=70), st.lists(_NUMBERS, max_size=6), _NUMBERS),
            max_size=4,
        ),
    },
    optional={
        "sampling_rate_hz": st.one_of(_NUMBERS, st.dictionaries(st.sampled_from(RIG.expected_sensors), _NUMBERS)),
        "topology": st.one_of(st.sampled_from([*TEMPLATES, "x"]), _NUMBERS, st.dictionaries(st.text(), _NUMBERS)),
        "timestamp": st.one_of(_NUMBERS, st.just("2024-01-01T00:00:00Z")),
    },
)


@settings(max_examples=150, deadline=None)
@given(fields=_FIELDS)
def test_any_request_is_prepared_or_refused_in_one_sentence(fields):
    try:
        arrays = FUZZED.preprocess(FUZZED.coerce(fields))
    except InvalidInput as error:
        assert "\n" not in str(error) or "\n" in str(fields)  # noqa: PT017
        return
    assert all(np.isfinite(array).all() for array in arrays.values())


FUZZED = HydraulicDiagnostics(task_config(), SIGNATURE)


# With a fleet


@pytest.fixture
def attached(task, tmp_path: Path, database):
    registry_path = tmp_path / "registry"
    registry_path.mkdir()
    with Registry(registry_path, database(registry_path)) as registry:
        task.attach(registry, "rig:1")
        yield task
        task.close()


def test_a_registered_machine_needs_no_topology_and_has_its_own_limits(ask, attached):
    topology = TEMPLATES["standard_pump_system"]
    data = {"temperature_tank": [52.0, 52.1, 52.2], "pressure_pump_main": [150.0, 150.1, 150.2]}
    limits = {"temperature_tank": (None, 50.0)}
    attached.fleet.put_equipment(Equipment("press-1", topology, limits=limits))
    answer = ask(equipment_id="press-1", sensor_data=data)
    assert answer.topology == "standard_pump_system"
    assert answer.anomaly.detected_anomalies == ["overheating"]
    assert "temperature_tank reached 52.2 °C, its limit is 50" in answer.warnings
    attached.fleet.put_equipment(Equipment("press-1", topology))
    assert ask(equipment_id="press-1", sensor_data=data).anomaly.detected_anomalies == []
    assert ask(equipment_id="press-2", sensor_data=data).topology == "zema_rig"


def test_sensors_too_slow_for_the_model_are_used_by_rules_only_with_a_warning(ask):
    data = {"pressure_pump_main": [150.0 + k for k in range(12)], "temperature_tank": [81.0 + k / 9 for k in range(12)]}
    answer = ask(sensor_data=data, topology="zema_rig", sampling_rate_hz=0.2)
    assert "sampled below 1 Hz, used by rules only: pressure_pump_main" in answer.warnings
    assert [part.state for part in answer.components if part.type in ("pump", "directional_valve")] == [None, None]
    assert answer.coverage == pytest.approx(1 / 14, abs=1e-4)
    assert "overheating" in answer.anomaly.detected_anomalies
    only = ask(
        sensor_data={"pressure_pump_main": data["pressure_pump_main"]}, topology="zema_rig", sampling_rate_hz=0.2
    )
    assert only.coverage == 0.0
    assert only.degradation.basis == "none"


def test_a_limit_applies_to_every_sample(ask, attached):
    attached.fleet.put_equipment(Equipment("press-2", RIG, limits={"pressure_pump_main": (None, 250.0)}))
    data = {"pressure_pump_main": [150.0 + k % 7 for k in range(6000)]}
    data["pressure_pump_main"][2500] = 260.0
    answer = ask(by=attached, equipment_id="press-2", sensor_data=data, sampling_rate_hz=100.0)
    assert "pressure_pump_main reached 260 bar, its limit is 250" in answer.warnings


def test_falling_health_has_a_trend_and_a_time_to_failure(ask, attached):
    start = datetime.now(UTC) - timedelta(hours=60)
    data = readings(RIG)
    times = [start + timedelta(hours=2 * k) for k in range(20)]
    evidence = _evidence(attached, data)
    for k, at in enumerate(times):
        attached.fleet.record(_result("rig-7", at.timestamp(), 0.95 - 0.02 * k, evidence=evidence))
    answer = ask(equipment_id="rig-7", sensor_data=data, topology="zema_rig", timestamp=times[-1] + timedelta(hours=2))
    degradation = answer.degradation
    assert degradation.basis == "history"
    assert degradation.rate == pytest.approx(1.0, abs=0.2)
    low, high = degradation.rate_interval
    assert low <= degradation.rate <= high
    if degradation.time_to_failure_hours is not None:
        soonest, latest = degradation.time_to_failure_interval_hours
        assert soonest <= degradation.time_to_failure_hours <= latest


def test_a_change_of_model_is_not_degradation(ask, attached):
    start = datetime.now(UTC) - timedelta(hours=60)
    data = readings(RIG)
    evidence = _evidence(attached, data)
    for hour in range(20):
        attached.fleet.record(_result("rig-6", (start + timedelta(hours=hour)).timestamp(), 1.0, "rig:0", evidence))
    answer = ask(equipment_id="rig-6", sensor_data=data, topology="zema_rig", timestamp=datetime.now(UTC))
    assert answer.degradation.basis == "nominal"
    assert answer.degradation.time_to_failure_hours is None


def _result(equipment_id, at_s, health, trend="rig:1", evidence=""):
    from penstock_hydraulics.fleet.results import Result

    return Result(equipment_id, at_s, health, "healthy", trend=trend, evidence=evidence)


def _evidence(task, data):
    return task._plan(PredictionRequest(equipment_id="any", sensor_data=data, topology="zema_rig")).evidence


def test_a_trend_is_recomputed_only_when_the_machines_time_advances(ask, attached):
    start = datetime(2024, 1, 1, tzinfo=UTC)
    request = {"equipment_id": "rig-9", "sensor_data": readings(RIG), "topology": "zema_rig"}
    evidence = _evidence(attached, request["sensor_data"])
    for hour in range(10):
        attached.fleet.record(_result("rig-9", (start + timedelta(hours=hour)).timestamp(), 0.9, evidence=evidence))
    at = start + timedelta(hours=20)
    first = ask(timestamp=at, **request)
    again = ask(timestamp=at + timedelta(milliseconds=100), **request)
    later = ask(timestamp=at + timedelta(hours=9), **request)
    assert first.degradation.basis == "history"
    assert first.degradation == again.degradation
    assert later.degradation != first.degradation


def test_every_answer_is_written_to_the_history_with_its_version(ask, attached):
    now = datetime.now(UTC)
    ask(equipment_id="rig-8", sensor_data=readings(RIG), topology="zema_rig", timestamp=now)
    later = now + timedelta(seconds=2)
    ask(equipment_id="rig-8", sensor_data={"pressure_pump_main": [1.0, 2.0]}, topology="zema_rig", timestamp=later)
    whole, short = (stored.result for stored in attached.fleet.history("rig-8"))
    assert whole.model_version == short.model_version == "1.0"
    assert (whole.trend, short.trend) == ("rig:1", None)
    assert whole.components.keys() == {part.id for part in RIG.components if part.kind in HEAD_OF_KIND}
    assert len(attached.fleet.recent("rig-8", "rig:1", whole.evidence).health) == 1
    assert whole.at_s == pytest.approx(time.time(), abs=30)


def test_a_wearing_simulated_machine_gets_decreasing_health(task):
    faults = {"filter_main": {"contamination": (0.0, 1.0)}}
    scores = []
    for window in simulate(RIG, faults, 6, seed=1):
        data = {name: values.tolist() for name, values in window.readings.items()}
        request = PredictionRequest(
            equipment_id="a", sensor_data=data, sampling_rate_hz=dict(window.rates_hz), topology="zema_rig"
        )
        task.preprocess(request)
        prepared = request.take()
        scores.append(prepared.plan.anomalies.rule_set.evaluate(prepared.figures)[0]["contamination"])
    assert scores == sorted(scores)
    assert scores[-1] >= 0.5


@given(st.integers(2, 6), st.sampled_from(["rig", "fast", "short", "slow"]), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_requests_prepared_together_get_the_inputs_and_findings_of_each_alone(count, form, seed):
    task = HydraulicDiagnostics(task_config(), SIGNATURE)
    random = np.random.default_rng(seed)
    seconds = {"short": 40, "slow": 60}.get(form, 60)
    rate = {"fast": 10.0, "slow": 0.5}.get(form, 1.0)
    names = RIG.expected_sensors if form != "rig" else RIG.expected_sensors[:-2]

    def request(number):
        values = {name: (20 + random.normal(0, 1, int(seconds * rate))).tolist() for name in names}
        if number % 3 == 1:
            values["pressure_pump_main"] = [-0.05, *values["pressure_pump_main"][1:]]
        if number % 3 == 2:
            values["temperature_tank"] = [40.0] * len(values["temperature_tank"])
        fields = {"equipment_id": f"m-{number}", "sensor_data": values, "topology": "zema_rig"}
        return PredictionRequest(**fields, sampling_rate_hz=rate)

    requests = [request(number) for number in range(count)]
    together = task.preprocess_all(requests)
    found = [each.take() for each in requests]
    for number, each in enumerate(requests):
        alone = task.preprocess(each)
        assert {name: value.shape for name, value in alone.items()} == {
            name: (1, *value.shape[1:]) for name, value in together.items()
        }
        assert all(np.array_equal(value, together[name][number : number + 1]) for name, value in alone.items())
        assert each.take()[2:] == found[number][2:]


def test_requests_for_machines_with_different_sensors_are_not_prepared_together(task):
    both = [
        PredictionRequest(equipment_id="a", sensor_data=readings(RIG), topology="zema_rig"),
        PredictionRequest(equipment_id="b", sensor_data={"pressure_pump_main": [1.0] * 60}, topology="zema_rig"),
    ]
    assert task.preprocess_all(both) is None


def test_of_requests_prepared_together_a_bad_one_raises_its_own_error(task):
    good, bad = (PredictionRequest(equipment_id="a", sensor_data=readings(RIG), topology="zema_rig") for _ in range(2))
    bad.sensor_data["pressure_pump_main"] = [-5.0] * len(bad.sensor_data["pressure_pump_main"])
    with pytest.raises(InvalidInput, match="negative pressure"):
        task.preprocess_all([good, bad])
