from __future__ import annotations

import numpy as np
import pytest

from penstock_hydraulics.diagnosis.health import ComponentAssessor, cap_health, machine_health, status_of
from penstock_hydraulics.machine.states import ANOMALIES, HEAD_OF_KIND, HEADS, LEVELS, equipment_health
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.signals.coverage import coverage_of
from penstock_hydraulics.signals.evidence import StateEvidence

RIG = TEMPLATES["zema_rig"]
ALL = coverage_of(RIG, RIG.expected_sensors)


def levels_with(**chosen):
    """[8, 14] certain levels; the default is the best level."""
    levels = np.zeros((8, LEVELS), np.float32)
    for head in HEADS:
        levels[:, head.start + chosen.get(head.name, 0)] = 1.0
    return levels


def assessed(levels, coverage=ALL):
    return ComponentAssessor(RIG, coverage)(levels, [0.0] * len(ANOMALIES)).parts


def part(parts, component_id):
    return next(each for each in parts if each.component_id == component_id)


@pytest.mark.parametrize("head", HEADS)
def test_every_level_of_every_state_has_its_unit(head):
    component = next(each.id for each in RIG.components if each.kind == head.kind)
    for place, level in enumerate(head.levels):
        answer = part(assessed(levels_with(**{head.name: place})), component)
        assert (answer.state.name, answer.state.level, answer.state.unit) == (head.name, level, head.unit)
        assert answer.health == pytest.approx(1 - place / (len(head.levels) - 1), abs=1e-6)
        assert list(answer.state.probabilities) == [f"{each:g}" for each in head.levels]
        assert answer.state.probabilities[f"{level:g}"] == 1.0


def test_health_is_one_minus_the_expected_level():
    levels = levels_with()
    head = HEAD_OF_KIND["pump"]
    levels[:, head.columns] = (0.2, 0.5, 0.3)
    assert part(assessed(levels), "pump_main").health == pytest.approx(1 - (0.5 * 0.5 + 0.3))


def test_a_kind_without_states_has_no_health_of_the_model():
    answer = part(assessed(levels_with()), "filter_main")
    assert (answer.state, answer.health) == (None, None)


def test_a_component_without_evidence_has_no_health():
    parts = assessed(levels_with(), coverage_of(RIG, ("vibration_pump_main",)))
    assert all(each.health is None and each.state is None and each.coverage == 0 for each in parts)
    assert machine_health(parts) is None
    assert [each.health for each in ComponentAssessor(RIG, ALL).without_model([0.0]).parts] == [None] * 8


def test_the_evidence_softens_states_and_the_faults_that_they_show():
    told = {head.name: StateEvidence(2.0, 0.5, 1.0, 1.0) for head in HEADS}
    levels = levels_with()
    levels[:, HEAD_OF_KIND["directional_valve"].columns] = (0.04, 0.0, 0.64, 0.32)
    found = ComponentAssessor(RIG, coverage_of(RIG, RIG.expected_sensors, told))(levels, [0.5] * len(ANOMALIES))
    roots = np.sqrt([0.04, 0.0, 0.64, 0.32])
    state = part(found.parts, "valve_main").state
    assert list(state.probabilities.values()) == pytest.approx((roots / roots.sum()).tolist(), abs=1e-6)
    assert state.level == 80
    assert found.anomalies[ANOMALIES.index("valve_stiction")] == pytest.approx(1 - roots[0] / roots.sum())
    assert found.anomalies[ANOMALIES.index("leakage")] == 0.0
    assert found.anomalies[ANOMALIES.index("cavitation")] == 0.5
    assert found.faulty


def test_of_several_components_the_worst_shows_the_fault():
    topology = TEMPLATES["excavator"]
    levels = np.zeros((len(topology.components), LEVELS), np.float32)
    levels[:, [head.start for head in HEADS]] = 1.0
    valves = [place for place, each in enumerate(topology.components) if each.kind == "directional_valve"]
    valve = HEAD_OF_KIND["directional_valve"]
    for share, place in zip((0.2, 0.9), (valves[0], valves[-1]), strict=True):
        levels[place, valve.columns] = (1 - share, 0, 0, share)
    assessor = ComponentAssessor(topology, coverage_of(topology, topology.expected_sensors))
    found = assessor(levels, [0.0] * len(ANOMALIES))
    assert found.anomalies[ANOMALIES.index("valve_stiction")] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("faults", "score", "status"),
    [
        ({}, 1.0, "healthy"),
        ({"valve_condition": 1}, 0.79, "healthy"),
        ({"pump_leakage": 1}, 0.69, "warning"),
        ({"accumulator_pressure": 2}, 0.58, "warning"),
        ({"cooler_condition": 2}, 0.375, "critical"),
        ({"cooler_condition": 2, "valve_condition": 3, "pump_leakage": 2, "accumulator_pressure": 3}, 0.0, "critical"),
    ],
)
def test_machine_health_is_half_the_worst_and_half_the_mean_component(faults, score, status):
    parts = assessed(levels_with(**faults))
    found = machine_health(parts)
    stated = np.array([each.health for each in parts if each.state], np.float32)
    assert found == pytest.approx(equipment_health(stated), abs=1e-6)
    assert found == pytest.approx(score, abs=0.005)
    assert status_of(found) == status


def test_a_firing_rule_caps_health_and_never_raises_it():
    assert status_of(cap_health(1.0, 0.51)) == "warning"
    assert status_of(cap_health(1.0, 1.0)) == "critical"
    assert cap_health(0.1, 0.5) == 0.1
