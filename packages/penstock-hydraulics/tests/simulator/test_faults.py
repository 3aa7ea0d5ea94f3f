"""The nine faults: each changes the expected sensor in the expected direction."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.states import ANOMALIES
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.simulator.cycle import settled
from penstock_hydraulics.simulator.faults import FAULTS, check_faults, severities
from penstock_hydraulics.simulator.machine import Machine
from penstock_hydraulics.simulator.ratings import ratings_of
from penstock_hydraulics.simulator.sensors import reading

SHOWS = [
    ("zema_rig", "accumulator_main", "pressure_drop", "pressure_pump_main", "first_second", 1),
    ("dual_pump_system", "relief_main", "pressure_drop", "pressure_pump_main", "max", -1),
    ("zema_rig", "cooler_main", "overheating", "temperature_cooler_main", "mean", 1),
    ("excavator", "cooler_main", "overheating", "temperature_tank", "mean", 1),
    ("zema_rig", "pump_main", "cavitation", "flow_pump_main", "mean", -1),
    ("zema_rig", "pump_main", "cavitation", "vibration_pump_main", "mean", 1),
    ("zema_rig", "pump_main", "leakage", "flow_pump_main", "mean", -1),
    ("excavator", "pump_second", "leakage", "flow_pump_second", "mean", -1),
    ("zema_rig", "circ_pump", "leakage", "flow_circ_pump", "mean", -1),
    ("zema_rig", "pump_main", "vibration_anomaly", "vibration_pump_main", "mean", 1),
    ("dual_pump_system", "motor_aux", "vibration_anomaly", "vibration_motor_aux", "mean", 1),
    ("zema_rig", "valve_main", "flow_restriction", "pressure_pump_main", "mean", 1),
    ("zema_rig", "load_valve", "flow_restriction", "pressure_valve_main", "mean", 1),
    ("zema_rig", "cooler_main", "flow_restriction", "pressure_cooler_main", "mean", 1),
    ("standard_pump_system", "cylinder_main", "flow_restriction", "pressure_valve_main", "mean", 1),
    ("zema_rig", "filter_main", "contamination", "pressure_filter_main", "mean", 1),
    ("excavator", "filter_return", "contamination", "pressure_filter_return", "mean", 1),
    ("standard_pump_system", "cylinder_main", "seal_degradation", "flow_cylinder_main", "mean", -1),
    ("standard_pump_system", "cylinder_main", "seal_degradation", "pressure_cylinder_main", "mean", -1),
    ("zema_rig", "pump_main", "seal_degradation", "flow_pump_main", "mean", -1),
    ("zema_rig", "valve_main", "valve_stiction", "pressure_valve_main", "mean", -1),
    ("standard_pump_system", "valve_main", "valve_stiction", "flow_cylinder_main", "mean", -1),
]


def _figure(name: str, component: str, fault: str, severity: float, sensor: str, what: str) -> float:
    topology = TEMPLATES[name]
    cycle = settled(Machine.of(topology, ratings_of(topology), {component: {fault: severity}}))
    found = topology.sensor(sensor)
    assert found is not None
    course = reading(cycle, topology.components[found[0]], found[1]).reshape(60, -1).mean(1)
    return float({"mean": course.mean(), "max": course.max(), "first_second": course[0]}[what])


@pytest.mark.parametrize(("name", "component", "fault", "sensor", "what", "sign"), SHOWS)
def test_a_growing_fault_moves_its_sensor_monotonically(
    name: str, component: str, fault: str, sensor: str, what: str, sign: int
) -> None:
    figures = [_figure(name, component, fault, severity, sensor, what) for severity in (0.0, 0.2, 0.5, 0.8, 1.0)]

    assert (sign * np.diff(figures) > 0).all(), figures


def test_the_table_above_covers_every_fault_at_every_kind() -> None:
    shown = {fault for _, _, fault, *_ in SHOWS}

    assert shown == set(FAULTS)
    assert tuple(FAULTS) == ANOMALIES


def test_contamination_affects_only_its_filter() -> None:
    for sensor in ("pressure_pump_main", "flow_pump_main", "temperature_tank", "pressure_cooler_main"):
        sound = _figure("zema_rig", "filter_main", "contamination", 0.0, sensor, "mean")
        assert _figure("zema_rig", "filter_main", "contamination", 1.0, sensor, "mean") == pytest.approx(sound)


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"pump_9": {"leakage": 0.5}}, "no component 'pump_9'"),
        ({"pump_main": {"rust": 0.5}}, "Unknown fault 'rust'"),
        ({"tank": {"leakage": 0.5}}, "'tank' is a reservoir, which cannot have leakage"),
        ({"pump_main": {"leakage": 1.5}}, "leakage at 'pump_main' must be from 0 to 1"),
        ({"pump_main": {"leakage": (0.0, -1.0)}}, "must be from 0 to 1"),
        ({"pump_main": {"leakage": float("nan")}}, "must be from 0 to 1"),
    ],
)
def test_an_impossible_fault_is_refused_with_its_component(faults: dict[str, dict[str, float]], sentence: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_faults(TEMPLATES["zema_rig"], faults)

    assert sentence in str(refusal.value)


def test_a_pair_of_severities_is_interpolated_over_the_windows() -> None:
    grown = [severities({"p": {"leakage": (0.0, 1.0), "cavitation": 0.3}}, window, 5) for window in range(5)]

    assert [now["p"]["leakage"] for now in grown] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {now["p"]["cavitation"] for now in grown} == {0.3}
