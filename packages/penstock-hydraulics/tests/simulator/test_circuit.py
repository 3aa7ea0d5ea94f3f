"""The supply structure of a topology."""

from __future__ import annotations

from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.simulator.circuit import supplies_of


def test_the_rigs_pump_feeds_one_valve_and_the_load_behind_it() -> None:
    (supply,) = supplies_of(TEMPLATES["zema_rig"])

    assert supply.pump == "pump_main"
    assert supply.accumulators == ("accumulator_main",)
    (consumer,) = supply.consumers
    assert consumer.valve == "valve_main"
    assert [part.id for part in consumer.actuators] == ["load_valve"]
    assert not consumer.holds


def test_each_pump_of_two_has_its_own_valves_and_relief() -> None:
    main, second = supplies_of(TEMPLATES["excavator"])

    assert [consumer.valve for consumer in main.consumers] == ["valve_boom", "valve_bucket", "valve_travel"]
    assert [consumer.valve for consumer in second.consumers] == ["valve_arm", "valve_swing"]
    assert (main.reliefs, second.reliefs) == (("relief_main",), ("relief_second",))
    assert main.consumers[0].holds


def test_a_filter_in_the_pressure_line_is_part_of_the_supply() -> None:
    topology = Topology(
        "pressed",
        (Component("p", "pump"), Component("f", "filter"), Component("v", "directional_valve")),
        (("p", "f"), ("f", "v")),
    )

    assert supplies_of(topology)[0].consumers[0].valve == "v"


def test_an_actuator_without_a_valve_is_supplied_by_the_pump() -> None:
    topology = Topology("bare", (Component("p", "pump"), Component("m", "motor")), (("p", "m"),))

    (consumer,) = supplies_of(topology)[0].consumers

    assert (consumer.valve, consumer.actuators[0].id) == (None, "m")


def test_a_circuit_without_a_pump_has_no_supplies() -> None:
    topology = Topology("dry", (Component("v", "directional_valve"), Component("t", "reservoir")), (("v", "t"),))

    assert supplies_of(topology) == ()
