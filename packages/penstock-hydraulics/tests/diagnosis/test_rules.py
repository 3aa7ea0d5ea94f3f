from __future__ import annotations

import os

import numpy as np
import pytest

from penstock_hydraulics.diagnosis.rules import NOMINAL, Expectations, Figures, Ramp, make_rule_set
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.signals.features import FeatureConfig, statistics_of
from penstock_hydraulics.signals.windows import fill_windows, plan_window
from penstock_hydraulics.simulator import simulate

RIG, STANDARD = TEMPLATES["zema_rig"], TEMPLATES["standard_pump_system"]
RATED = Expectations(NOMINAL["zema_rig"])


def scores_of(topology, data, rates, expectations, whole=True):
    plan = plan_window(data, rates, topology, FeatureConfig())
    window = fill_windows([data], plan, 60).windows[0]
    rule_set = make_rule_set(topology, plan.sensors, expectations, whole=whole)
    return rule_set.evaluate(Figures.of(window[:, : plan.steps]))


def simulated(topology, faults, expectations=RATED):
    window = next(iter(simulate(topology, faults, 1, seed=4)))
    data = {name: values.tolist() for name, values in window.readings.items()}
    return scores_of(topology, data, window.rates_hz, expectations)


def steady(**values):
    return {name: [value + 0.001 * (k % 3) for k in range(60)] for name, value in values.items()}


def test_a_ramp_is_piecewise_linear():
    ramp = Ramp(1.0, 3.0, 4.0)
    assert [ramp(x) for x in (0, 1, 2, 3, 3.5, 4, 9)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_figures_from_statistics_equal_figures_from_the_window():
    window = np.random.default_rng(2).normal(100, 20, (6, 60)).astype(np.float32)
    own, (from_statistics,) = Figures.of(window), Figures.of_statistics(statistics_of(window[None]))
    assert from_statistics.mean == pytest.approx(own.mean, rel=1e-5)
    assert (from_statistics.low, from_statistics.high) == (own.low, own.high)


def test_no_rule_fires_on_a_healthy_machine():
    for topology in (RIG, STANDARD):
        window = next(iter(simulate(topology, {}, 1, seed=1)))
        sound = Expectations({name: float(values.mean()) for name, values in window.readings.items()})
        scores, _ = simulated(topology, {}, sound)
        assert scores
        assert max(scores.values()) < 0.2


@pytest.mark.parametrize(
    ("component", "fault", "anomaly"),
    [
        ("filter_main", "contamination", "contamination"),
        ("cooler_main", "flow_restriction", "flow_restriction"),
        ("pump_main", "vibration_anomaly", "vibration_anomaly"),
    ],
)
def test_a_rule_fires_at_the_faulty_component_and_grows_with_its_fault(component, fault, anomaly):
    found = [simulated(RIG, {component: {fault: severity}}) for severity in (0.0, 0.8, 1.0)]
    grades = [scores[anomaly] for scores, _ in found]
    assert grades[0] < 0.1 < grades[1] <= grades[2]
    assert grades[2] >= 0.5
    assert found[2][1][anomaly] == component


def test_a_relief_valve_that_opens_early_is_a_pressure_drop_at_the_pump():
    window = next(iter(simulate(STANDARD, {}, 1, seed=4)))
    sound = Expectations({name: float(values.mean()) for name, values in window.readings.items()})
    grades = [
        simulated(STANDARD, {"relief_valve": {"pressure_drop": s}}, sound)[0]["pressure_drop"] for s in (0, 0.6, 1)
    ]
    assert grades[0] < 0.05 < grades[1] < grades[2]


@pytest.mark.parametrize("severity", [0.5, 1.0])
def test_a_leak_is_not_reported_as_a_restriction(severity):
    scores, _ = simulated(RIG, {"pump_main": {"leakage": severity}})
    assert scores["flow_restriction"] == 0.0


def test_overheating_fires_at_the_machines_limit_or_70_degrees():
    data = steady(temperature_tank=71.0)
    assert scores_of(RIG, data, 1.0, Expectations())[0]["overheating"] > 0.5
    strict = Expectations(limits={"temperature_tank": (None, 60.0)})
    assert scores_of(RIG, data, 1.0, strict)[0]["overheating"] > 0.9
    assert scores_of(RIG, steady(temperature_tank=45.0), 1.0, Expectations())[0]["overheating"] == 0.0


def test_vibration_is_judged_by_the_standard_and_the_machines_healthy_level():
    data = steady(vibration_pump_main=2.5)
    assert scores_of(RIG, data, 1.0, Expectations())[0]["vibration_anomaly"] < 0.1
    assert scores_of(RIG, data, 1.0, RATED)[0]["vibration_anomaly"] > 0.9


def test_cavitation_needs_a_suction_pressure_and_its_limit():
    data = steady(pressure_tank=0.7)
    assert "cavitation" not in scores_of(RIG, data, 1.0, Expectations())[0]
    limited = Expectations(limits={"pressure_tank": (0.8, None)})
    assert scores_of(RIG, data, 1.0, limited)[0]["cavitation"] > 0.5


def test_ratios_to_nominal_means_need_a_whole_cycle():
    data = steady(pressure_pump_main=100.0, flow_pump_main=3.0, temperature_tank=40.0)
    whole, _ = scores_of(RIG, data, 1.0, RATED)
    part, _ = scores_of(RIG, data, 1.0, RATED, whole=False)
    assert whole["pressure_drop"] == 1.0
    assert part.keys() == {"overheating"}


def test_an_exceeded_limit_is_reported_with_the_reading():
    limits = {"pressure_pump_main": (None, 200.0), "flow_circ_pump": (5.0, None)}
    data = steady(pressure_pump_main=210.0, flow_circ_pump=4.0)
    plan = plan_window(data, 1.0, RIG, FeatureConfig())
    filled = fill_windows([data], plan, 60)
    rule_set = make_rule_set(RIG, plan.sensors, Expectations(limits=limits))
    violations = [limit.violation(filled.low[0, limit.row], filled.high[0, limit.row]) for limit in rule_set.limits]
    assert sorted(violations) == [
        "flow_circ_pump fell to 4 l/min, its limit is 5",
        "pressure_pump_main reached 210 bar, its limit is 200",
    ]


@pytest.mark.skipif("PENSTOCK_HYDRAULICS_DATA" not in os.environ, reason="PENSTOCK_HYDRAULICS_DATA names no recordings")
def test_no_rule_fires_on_recorded_cycles_without_a_fault():
    from recorded import cycles, readings_of

    sound = cycles(cooler=100, valve=100, leak=0, accumulator=130)
    assert len(sound) >= 10
    highest = [max(scores_of(RIG, *readings_of(cycle), RATED)[0].values()) for cycle in sound]
    assert np.max(highest) < 0.2
