"""The four circuit templates."""

from __future__ import annotations

import pytest

from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import parse_topology

RIG = {
    "pressure_pump_main",
    "flow_pump_main",
    "temperature_pump_main",
    "vibration_pump_main",
    "power_pump_main",
    "pressure_valve_main",
    "temperature_valve_main",
    "pressure_load_valve",
    "pressure_accumulator_main",
    "temperature_tank",
    "flow_circ_pump",
    "pressure_filter_main",
    "pressure_cooler_main",
    "temperature_cooler_main",
}


def test_the_rig_has_the_fourteen_sensors_of_the_recordings() -> None:
    assert set(TEMPLATES["zema_rig"].expected_sensors) == RIG


def test_the_order_of_the_rigs_components_is_that_of_training() -> None:
    assert list(TEMPLATES["zema_rig"].index) == [
        "pump_main",
        "valve_main",
        "load_valve",
        "accumulator_main",
        "tank",
        "circ_pump",
        "filter_main",
        "cooler_main",
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_round_trips_through_its_document(name: str) -> None:
    assert parse_topology(TEMPLATES[name].document()) == TEMPLATES[name]
    assert TEMPLATES[name].name == name


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_has_the_sensors_of_the_example_request(name: str) -> None:
    for sensor in ("pressure_pump_main", "temperature_pump_main", "vibration_pump_main"):
        assert TEMPLATES[name].sensor(sensor) is not None


def test_no_two_templates_are_the_same_circuit() -> None:
    assert len({template.fingerprint for template in TEMPLATES.values()}) == len(TEMPLATES)
