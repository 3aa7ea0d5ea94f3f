from __future__ import annotations

import numpy as np
import pytest

from penstock_hydraulics.diagnosis.health import ComponentAssessor, cap_health, machine_health, status_of
from penstock_hydraulics.machine.states import HEAD_OF_KIND, HEADS, LEVELS, equipment_health
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.signals.coverage import coverage_of

RIG = TEMPLATES["zema_rig"]
ALL = coverage_of(RIG, RIG.expected_sensors)


def levels_with(**chosen):
    """[8, 14] certain levels; the default is the best level."""
    levels = np.zeros((8, LEVELS), np.float32)
    for head in HEADS:
        levels[:, head.start + chosen.get(head.name, 0)] = 1.0
    return levels


def assessed(levels, coverage=ALL):
    return ComponentAssessor(RIG, coverage)(levels, np.full(8, 0.9, np.float32))


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


def test_a_kind_without_states_has_the_health_output_of_the_model():
    answer = part(assessed(levels_with()), "filter_main")
    assert answer.state is None
    assert answer.health == pytest.approx(0.9)


def test_a_component_without_evidence_has_no_health():
    parts = assessed(levels_with(), coverage_of(RIG, ("vibration_pump_main",)))
    assert all(each.health is None and each.state is None and each.coverage == 0 for each in parts)
    assert machine_health(parts, 0.4) == 0.4
    assert [each.health for each in ComponentAssessor(RIG, ALL).without_model()] == [None] * 8


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
    found = machine_health(parts, 0.0)
    stated = np.array([each.health for each in parts if each.state], np.float32)
    assert found == pytest.approx(equipment_health(stated), abs=1e-6)
    assert found == pytest.approx(score, abs=0.005)
    assert status_of(found) == status


def test_a_firing_rule_caps_health_and_never_raises_it():
    assert status_of(cap_health(1.0, 0.51)) == "warning"
    assert status_of(cap_health(1.0, 1.0)) == "critical"
    assert cap_health(0.1, 0.5) == 0.1
