"""A machine over a cycle: energy balance, and the levels of the recorded rig."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.simulator.cycle import Cycle, settled
from penstock_hydraulics.simulator.machine import Machine
from penstock_hydraulics.simulator.ratings import ratings_of
from penstock_hydraulics.simulator.sensors import reading
from penstock_hydraulics.simulator.thermal import conductance


def _cycle(name: str = "zema_rig", **severities: dict[str, float]) -> Cycle:
    topology = TEMPLATES[name]
    return settled(Machine.of(topology, ratings_of(topology), severities))


def _seconds(cycle: Cycle, sensor: str) -> np.ndarray:
    found = cycle.machine.topology.sensor(sensor)
    assert found is not None
    return reading(cycle, cycle.machine.topology.components[found[0]], found[1]).reshape(60, -1).mean(1)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_heat_balance_is_closed(name: str) -> None:
    cycle = _cycle(name)
    rated = cycle.machine.ratings

    through_cooler, from_tank = conductance(cycle.machine, cycle.loop)
    heat = (through_cooler + from_tank) * (cycle.tank_c - rated.ambient)

    assert heat == pytest.approx(rated.heat * cycle.power.mean(), rel=0.03)


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_pump_delivers_more_energy_than_its_drive_consumes(name: str) -> None:
    for flow in _cycle(name).flows:
        handed_over = flow.pressure * flow.delivered / 0.6
        assert 0.5 * flow.power.mean() < handed_over.mean() < flow.power.mean()


@pytest.mark.parametrize("name", TEMPLATES)
def test_return_flow_equals_delivery_over_a_cycle(name: str) -> None:
    cycle = _cycle(name)
    given = sum(float(flow.delivered.mean()) for flow in cycle.flows)

    assert cycle.returned.mean() == pytest.approx(given, rel=2e-3)


def test_the_healthy_rig_has_the_recorded_readings() -> None:
    cycle = _cycle()
    settled_levels = {
        "pressure_pump_main": {5: 191.4, 15: 146.6, 25: 156.4, 35: 166.2, 45: 156.4, 55: 151.5},
        "pressure_valve_main": {5: 0.0, 15: 120.5, 25: 130.5, 35: 140.2, 45: 130.5, 55: 125.5},
        "flow_pump_main": {5: 0.0, 15: 7.92, 25: 7.84, 35: 7.79, 45: 7.84, 55: 7.85},
        "power_pump_main": {5: 2938.0, 15: 2338.0, 25: 2473.0, 35: 2609.0, 45: 2472.0, 55: 2405.0},
    }
    for sensor, levels in settled_levels.items():
        course = _seconds(cycle, sensor)
        for second, expected in levels.items():
            assert course[second] == pytest.approx(expected, rel=0.01, abs=0.05), (sensor, second)


def test_the_healthy_rig_has_the_recorded_temperatures_and_loop() -> None:
    cycle = _cycle()
    recorded = {
        "temperature_pump_main": 36.3,
        "temperature_valve_main": 41.9,
        "temperature_tank": 39.2,
        "temperature_cooler_main": 31.2,
        "flow_circ_pump": 10.16,
        "pressure_filter_main": 9.83,
        "pressure_cooler_main": 9.72,
        "pressure_accumulator_main": 10.06,
        "vibration_pump_main": 0.552,
    }
    for sensor, expected in recorded.items():
        assert _seconds(cycle, sensor).mean() == pytest.approx(expected, rel=0.025), sensor


@pytest.mark.parametrize(("severity", "recorded"), [(0.0, 85.1), (1 / 3, 76.7), (2 / 3, 62.0), (1.0, 47.5)])
def test_a_sticking_valve_changes_the_second_of_its_opening_as_recorded(severity: float, recorded: float) -> None:
    cycle = _cycle(valve_main={"valve_stiction": severity})

    assert _seconds(cycle, "pressure_valve_main")[9] == pytest.approx(recorded, abs=3.0)


@pytest.mark.parametrize(("severity", "recorded"), [(0.0, 7.84), (0.5, 7.63), (1.0, 7.52)])
def test_a_leaking_pump_has_the_recorded_flow(severity: float, recorded: float) -> None:
    cycle = _cycle(pump_main={"leakage": severity})

    assert _seconds(cycle, "flow_pump_main")[25] == pytest.approx(recorded, abs=0.05)


@pytest.mark.parametrize(("severity", "recorded"), [(0.0, 31.2), (0.5, 40.5), (1.0, 49.6)])
def test_a_failing_cooler_warms_its_oil_as_recorded(severity: float, recorded: float) -> None:
    cycle = _cycle(cooler_main={"overheating": severity})

    assert _seconds(cycle, "temperature_cooler_main").mean() == pytest.approx(recorded, abs=1.5)


@pytest.mark.parametrize(("severity", "recorded"), [(0.0, 174.2), (1.0, 177.5)])
def test_a_low_precharge_raises_the_pressure_faster_as_recorded(severity: float, recorded: float) -> None:
    cycle = _cycle(accumulator_main={"pressure_drop": severity})

    assert _seconds(cycle, "pressure_pump_main")[0] == pytest.approx(recorded, abs=2.5)
