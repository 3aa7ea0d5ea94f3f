"""The four circuit templates."""

from __future__ import annotations

from collections.abc import Mapping

from penstock_hydraulics.machine.topology import Component, Topology

_RIG = Topology(
    "zema_rig",
    (
        Component("pump_main", "pump", ("pressure", "flow", "temperature", "vibration", "power")),
        Component("valve_main", "directional_valve", ("pressure", "temperature")),
        Component("load_valve", "load_valve", ("pressure",)),
        Component("accumulator_main", "accumulator", ("pressure",)),
        Component("tank", "reservoir", ("temperature",)),
        Component("circ_pump", "circulation_pump", ("flow",)),
        Component("filter_main", "filter", ("pressure",)),
        Component("cooler_main", "heat_exchanger", ("pressure", "temperature")),
    ),
    (
        ("pump_main", "valve_main"),
        ("pump_main", "accumulator_main"),
        ("accumulator_main", "valve_main"),
        ("valve_main", "load_valve"),
        ("load_valve", "tank"),
        ("tank", "pump_main"),
        ("tank", "circ_pump"),
        ("circ_pump", "filter_main"),
        ("filter_main", "cooler_main"),
        ("cooler_main", "tank"),
    ),
)
"""The test rig of the UCI recordings: a working circuit that loads a pump in steps, and a filter and cooling loop."""

_STANDARD = Topology(
    "standard_pump_system",
    (
        Component("pump_main", "pump", ("pressure", "flow", "temperature", "vibration", "power")),
        Component("relief_valve", "relief_valve", ("pressure",)),
        Component("accumulator_main", "accumulator", ("pressure",)),
        Component("valve_main", "directional_valve", ("pressure",)),
        Component("cylinder_main", "cylinder", ("pressure", "flow")),
        Component("filter_main", "filter", ("pressure",)),
        Component("cooler_main", "heat_exchanger", ("pressure", "temperature")),
        Component("tank", "reservoir", ("temperature",)),
    ),
    (
        ("tank", "pump_main"),
        ("pump_main", "relief_valve"),
        ("relief_valve", "tank"),
        ("pump_main", "accumulator_main"),
        ("pump_main", "valve_main"),
        ("valve_main", "cylinder_main"),
        ("valve_main", "filter_main"),
        ("filter_main", "cooler_main"),
        ("cooler_main", "tank"),
    ),
)
"""One pump, one cylinder, filter and cooler in the return line."""

_DUAL = Topology(
    "dual_pump_system",
    (
        Component("pump_main", "pump", ("pressure", "flow", "temperature", "vibration", "power")),
        Component("pump_aux", "pump", ("pressure", "flow", "temperature", "vibration", "power")),
        Component("relief_main", "relief_valve", ("pressure",)),
        Component("relief_aux", "relief_valve", ("pressure",)),
        Component("accumulator_main", "accumulator", ("pressure",)),
        Component("valve_main", "directional_valve", ("pressure",)),
        Component("valve_aux", "directional_valve", ("pressure",)),
        Component("cylinder_main", "cylinder", ("pressure", "flow")),
        Component("motor_aux", "motor", ("pressure", "flow", "vibration")),
        Component("filter_main", "filter", ("pressure",)),
        Component("cooler_main", "heat_exchanger", ("pressure", "temperature")),
        Component("tank", "reservoir", ("temperature",)),
    ),
    (
        ("tank", "pump_main"),
        ("tank", "pump_aux"),
        ("pump_main", "relief_main"),
        ("pump_aux", "relief_aux"),
        ("relief_main", "tank"),
        ("relief_aux", "tank"),
        ("pump_main", "accumulator_main"),
        ("pump_main", "valve_main"),
        ("pump_aux", "valve_aux"),
        ("valve_main", "cylinder_main"),
        ("valve_aux", "motor_aux"),
        ("valve_main", "filter_main"),
        ("valve_aux", "filter_main"),
        ("filter_main", "cooler_main"),
        ("cooler_main", "tank"),
    ),
)
"""Two pumps with separate circuits (a cylinder, a motor) and a common return line and tank."""

_EXCAVATOR = Topology(
    "excavator",
    (
        Component("pump_main", "pump", ("pressure", "flow", "temperature", "vibration", "power")),
        Component("pump_second", "pump", ("pressure", "flow", "vibration")),
        Component("relief_main", "relief_valve", ("pressure",)),
        Component("relief_second", "relief_valve", ("pressure",)),
        Component("accumulator_pilot", "accumulator", ("pressure",)),
        Component("valve_boom", "directional_valve", ("pressure",)),
        Component("valve_arm", "directional_valve", ("pressure",)),
        Component("valve_bucket", "directional_valve", ("pressure",)),
        Component("valve_swing", "directional_valve", ("pressure",)),
        Component("valve_travel", "directional_valve", ("pressure",)),
        Component("cylinder_boom", "cylinder", ("pressure",)),
        Component("cylinder_arm", "cylinder", ("pressure",)),
        Component("cylinder_bucket", "cylinder", ("pressure",)),
        Component("motor_swing", "motor", ("pressure", "vibration")),
        Component("motor_travel", "motor", ("pressure", "flow")),
        Component("filter_return", "filter", ("pressure",)),
        Component("cooler_main", "heat_exchanger", ("pressure", "temperature")),
        Component("tank", "reservoir", ("temperature",)),
    ),
    (
        ("tank", "pump_main"),
        ("tank", "pump_second"),
        ("pump_main", "relief_main"),
        ("pump_second", "relief_second"),
        ("relief_main", "tank"),
        ("relief_second", "tank"),
        ("pump_main", "accumulator_pilot"),
        ("pump_main", "valve_boom"),
        ("pump_main", "valve_bucket"),
        ("pump_main", "valve_travel"),
        ("pump_second", "valve_arm"),
        ("pump_second", "valve_swing"),
        ("valve_boom", "cylinder_boom"),
        ("valve_arm", "cylinder_arm"),
        ("valve_bucket", "cylinder_bucket"),
        ("valve_swing", "motor_swing"),
        ("valve_travel", "motor_travel"),
        ("valve_boom", "filter_return"),
        ("valve_arm", "filter_return"),
        ("valve_bucket", "filter_return"),
        ("valve_swing", "filter_return"),
        ("valve_travel", "filter_return"),
        ("filter_return", "cooler_main"),
        ("cooler_main", "tank"),
    ),
)
"""A crawler excavator: two pumps, three cylinders (boom, arm, bucket), two motors (swing, travel), one return line."""

TEMPLATES: Mapping[str, Topology] = {topology.name: topology for topology in (_RIG, _STANDARD, _DUAL, _EXCAVATOR)}
"""The circuits by name."""


def is_template(topology: Topology, names: tuple[str, ...] | str) -> bool:
    """Whether the topology is equal to one of these templates; the name alone does not count."""
    template = TEMPLATES.get(topology.name)
    return topology.name in names and template is not None and template.fingerprint == topology.fingerprint
