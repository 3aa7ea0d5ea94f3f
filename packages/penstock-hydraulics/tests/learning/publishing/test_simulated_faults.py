import numpy as np
import pytest
from hydraulic_models import SIGNATURE, hydraulic_model, task_config

from penstock_hydraulics.diagnosis.advisories import simulation_advisories
from penstock_hydraulics.learning.publishing.simulated_faults import (
    RATES,
    SEVERITIES,
    Case,
    Outcome,
    cases,
    detected_from,
    requests,
    simulated_faults,
    simulated_section,
)
from penstock_hydraulics.simulator import FAULTS


def outcomes(**shares):
    """For each fault the share of detected windows by severity; half as many at the second rate where it is a pair."""
    return {
        Case(fault, "pump_main", severity): tuple(
            Outcome(share, 0.0, 1.0 - share, 0.0) for share in (each if isinstance(each, tuple) else (each, each))
        )
        for fault, row in shares.items()
        for severity, each in zip(SEVERITIES, row, strict=True)
    }


def test_a_fault_is_detected_from_the_severity_on_from_which_no_rate_and_no_higher_severity_misses_it():
    found = detected_from(
        outcomes(
            leakage=(0.5, 0.9, 1.0),
            cavitation=(0.0, 0.0, 0.8),
            contamination=(1.0, 0.5, 1.0),
            overheating=(1.0, 1.0, (1.0, 0.5)),
            valve_stiction=(1.0, 1.0, 1.0),
        )
    )
    assert {fault: parts["pump_main"] for fault, parts in found.items()} == {
        "leakage": 0.5,
        "cavitation": None,
        "contamination": 1.0,
        "overheating": None,
        "valve_stiction": 0.25,
    }


def test_every_fault_is_simulated_at_every_component_and_severity_with_fast_and_slow_flows():
    every = cases()
    assert every[0] == Case("none", "", 0.0)
    assert {case.fault for case in every[1:]} == set(FAULTS)
    assert {case.severity for case in every[1:]} == set(SEVERITIES)
    ((fast, slow),) = requests(Case("leakage", "pump_main", 1.0), 1)
    assert len(fast["sensor_data"]["flow_pump_main"]) == 600
    assert len(slow["sensor_data"]["flow_pump_main"]) == 60
    assert np.mean(slow["sensor_data"]["flow_pump_main"]) == pytest.approx(
        np.mean(fast["sensor_data"]["flow_pump_main"]), abs=1e-3
    )


def test_the_outcomes_of_a_model_add_up_and_rules_detect_a_clogged_filter(tmp_path):
    model = hydraulic_model(tmp_path / "model.onnx")
    found = simulated_faults(task_config(), SIGNATURE, model, windows=1)
    assert list(found) == cases()
    for each in found.values():
        assert len(each) == len(RATES)
        assert [sum(outcome) for outcome in each] == [1.0] * len(RATES)
    assert detected_from(found)["contamination"] == {"filter_main": 1.0}
    assert detected_from(found)["cavitation"] == {"pump_main": None}
    assert len(simulated_section(found).splitlines()) == len(found) + 9


def test_a_warning_names_what_is_not_detected_and_what_only_at_full_severity():
    (warning,) = simulation_advisories(
        {"cavitation": {"pump_main": None}, "contamination": {"filter_main": 1.0}, "leakage": {"pump_main": 0.5}}
    )
    assert warning == (
        "not excluded, since not reliably detected in simulations of this circuit: cavitation of pump_main;"
        " below full severity contamination of filter_main"
    )
    assert simulation_advisories({"leakage": {"pump_main": 0.5}}) == []
