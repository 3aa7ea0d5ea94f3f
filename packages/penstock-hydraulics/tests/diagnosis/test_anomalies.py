from __future__ import annotations

import pytest

from penstock_hydraulics.diagnosis.anomalies import anomaly_detector
from penstock_hydraulics.diagnosis.rules import Expectations, Figures, make_rule_set
from penstock_hydraulics.machine.states import ANOMALIES
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.signals.coverage import coverage_of

RIG = TEMPLATES["zema_rig"]
PROBABILITIES = [0.1 * k for k in range(9)]


def detected_by(sensors, probabilities=PROBABILITIES, readings=(), thresholds=None, *, model=True, labelled=True):
    coverage = coverage_of(RIG, sensors)
    rule_set = make_rule_set(RIG, sensors, Expectations())
    detector = anomaly_detector(RIG, coverage, rule_set, thresholds or {}, model=model, labelled=labelled)
    return detector(probabilities, Figures([*readings], [*readings], [*readings])), detector


def test_the_model_judges_four_faults_and_rules_the_measured_ones():
    findings, detector = detected_by(("pressure_pump_main", "temperature_tank"), readings=(160.0, 40.0))
    predictions = findings.answer.predictions
    assert predictions["leakage"] == pytest.approx(0.3)
    assert {name for name, value in predictions.items() if value is None} == set(detector.unavailable)
    assert set(detector.unavailable) == set(ANOMALIES) - {"leakage", "valve_stiction", "overheating", "pressure_drop"}


def test_the_higher_score_of_model_and_rule_sets_the_basis():
    cold, _ = detected_by(("temperature_tank",), readings=(40.0,))
    hot, _ = detected_by(("temperature_tank",), readings=(90.0,))
    assert cold.answer.predictions["overheating"] == pytest.approx(0.1)
    assert cold.answer.basis["overheating"] == "proxy"
    assert cold.fired == {}
    assert hot.answer.predictions["overheating"] == 1.0
    assert hot.answer.basis["overheating"] == "rule"
    assert hot.fired == {"overheating": (1.0, "tank")}


def test_nothing_is_supervised_without_the_model_or_its_labels():
    assert detected_by(("pressure_pump_main",), readings=(1.0,))[0].answer.basis["leakage"] == "supervised"
    simulated, _ = detected_by(("pressure_pump_main",), readings=(1.0,), labelled=False)
    assert simulated.answer.basis["leakage"] == "proxy"
    without_model, _ = detected_by(("pressure_pump_main",), readings=(1.0,), model=False)
    assert set(without_model.answer.basis.values()) == {"unavailable"}


def test_thresholds_come_from_the_manifest_for_the_model_and_are_one_half_for_rules():
    findings, _ = detected_by(("temperature_tank",), readings=(71.0,), thresholds={"overheating": 0.9})
    assert findings.answer.detected_anomalies == ["overheating"]
    findings, _ = detected_by(("pressure_pump_main",), readings=(1.0,), thresholds={"leakage": 0.25})
    assert "leakage" in findings.answer.detected_anomalies


@pytest.mark.parametrize(
    ("probability", "temperature", "basis"),
    [(0.7, 71.0, "rule"), (0.7, 95.0, "rule"), (0.95, 71.0, "proxy"), (0.7, 65.0, None)],
)
def test_a_fault_is_detected_if_either_source_reaches_its_threshold(probability, temperature, basis):
    probabilities = [0.0, probability, *[0.0] * 7]
    findings, _ = detected_by(("temperature_tank",), probabilities, (temperature,), {"overheating": 0.9})
    answer = findings.answer
    assert answer.detected_anomalies == ([] if basis is None else ["overheating"])
    assert ("overheating" in findings.fired) <= bool(answer.detected_anomalies)
    if basis is not None:
        assert answer.basis["overheating"] == basis
        assert answer.predictions["overheating"] >= answer.thresholds["overheating"]


def test_a_rule_below_its_threshold_does_not_hide_a_detection_of_the_model():
    findings, _ = detected_by(("temperature_tank",), [0.0, 0.3, *[0.0] * 7], (69.0,), {"overheating": 0.2})
    assert findings.answer.detected_anomalies == ["overheating"]
    assert findings.answer.basis["overheating"] == "proxy"


def test_each_answer_has_its_own_thresholds():
    findings, detector = detected_by(("temperature_tank",), readings=(40.0,))
    findings.answer.thresholds["leakage"] = 0.0
    assert detector.thresholds["leakage"] == 0.5
