from __future__ import annotations

import pytest

from penstock_hydraulics.machine.states import HEAD_OF_KIND, HEADS
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.signals.coverage import EVIDENCE, UNMEASURED, coverage_of
from penstock_hydraulics.signals.evidence import StateEvidence

RIG = TEMPLATES["zema_rig"]


def share_of(topology, coverage, component_id):
    return coverage.components[topology.index[component_id]]


def test_every_sensor_covers_everything():
    for topology in TEMPLATES.values():
        coverage = coverage_of(topology, topology.expected_sensors)
        assert coverage.sensors == 1.0
        expected = {1.0 if part.kind not in HEAD_OF_KIND else UNMEASURED for part in topology.components}
        assert set(coverage.components) == expected
        assert coverage.missing == ()


def test_every_state_has_its_evidence():
    assert EVIDENCE.keys() == {head.name for head in HEADS}


def test_three_sensors_of_the_pump_do_not_cover_the_cooling_loop():
    coverage = coverage_of(RIG, ("pressure_pump_main", "temperature_pump_main", "vibration_pump_main"))
    assert coverage.sensors == pytest.approx(3 / 14)
    assert share_of(RIG, coverage, "pump_main") == pytest.approx(UNMEASURED / 3, abs=1e-4)
    assert share_of(RIG, coverage, "filter_main") == 0.0
    assert 0 < share_of(RIG, coverage, "cooler_main") < 0.2


def test_a_state_without_any_of_its_sensors_is_not_covered():
    coverage = coverage_of(RIG, ("vibration_pump_main",))
    assert share_of(RIG, coverage, "pump_main") == 0.0
    assert share_of(RIG, coverage, "accumulator_main") == 0.0


def test_a_valve_is_no_evidence_of_another_valve():
    topology = TEMPLATES["excavator"]
    coverage = coverage_of(topology, ("pressure_valve_arm",))
    assert share_of(topology, coverage, "valve_arm") > 0
    assert share_of(topology, coverage, "valve_boom") == 0.0


def test_a_topology_that_lists_no_sensors_counts_its_components():
    topology = Topology("bare", (Component("pump_a", "pump"), Component("tank", "reservoir")), (("pump_a", "tank"),))
    assert coverage_of(topology, ("pressure_pump_a",)).sensors == 0.5
    assert coverage_of(topology, ("pressure_pump_a", "temperature_tank")).sensors == 1.0


def test_coverage_is_lower_for_short_windows_assumed_machines_and_rules():
    told = dict.fromkeys((head.name for head in HEADS), StateEvidence(1.0, 0.5, 0.9, 1.0))
    coverage = coverage_of(RIG, RIG.expected_sensors, told)
    whole = coverage.of_window(60, 60, assumed=False, model=True)
    assert whole == 1.0
    assert coverage.of_window(30, 60, assumed=False, model=True) == 0.5
    assert coverage.of_window(60, 60, assumed=True, model=True) < whole
    assert coverage.of_window(60, 60, assumed=False, model=False) < 0.5
    assert coverage_of(RIG, RIG.expected_sensors).of_window(60, 60, assumed=False, model=True) == UNMEASURED


def test_measured_coverage_of_a_component_is_its_share_of_sure_answers():
    told = {"pump_leakage": StateEvidence(1.5, 0.6, 0.75, 0.99)}
    coverage = coverage_of(RIG, RIG.expected_sensors, told)
    assert share_of(RIG, coverage, "pump_main") == 0.75
    assert [share_of(RIG, coverage, part) for part in ("valve_main", "cooler_main", "accumulator_main")] == [0.0] * 3
    assert share_of(RIG, coverage, "filter_main") == 1.0
