"""Coverage: the share of a diagnosis's evidence that a request contains."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from penstock_hydraulics.machine.states import HEAD_OF_KIND
from penstock_hydraulics.machine.topology import Component, Topology

EVIDENCE: Final[Mapping[str, frozenset[tuple[str, str]]]] = {
    "cooler_condition": frozenset(
        {
            ("heat_exchanger", "temperature"),
            ("heat_exchanger", "pressure"),
            ("reservoir", "temperature"),
            ("circulation_pump", "flow"),
            ("filter", "pressure"),
            ("pump", "temperature"),
            ("directional_valve", "temperature"),
        }
    ),
    "valve_condition": frozenset(
        {("directional_valve", "pressure"), ("load_valve", "pressure"), ("pump", "pressure"), ("pump", "power")}
    ),
    "pump_leakage": frozenset({("pump", "flow"), ("pump", "pressure"), ("pump", "power")}),
    "accumulator_pressure": frozenset(
        {("pump", "pressure"), ("pump", "power"), ("pump", "flow"), ("accumulator", "pressure")}
    ),
}
"""Evidence of each state as (kind of component, quantity): the sensors of the recordings that predict its level alone
(macro-F1 of at least 0.8 on held-out runs), and the component's own sensors."""

_Sensor: TypeAlias = tuple[str, int, str]
"""Name, component index and quantity."""

ASSUMED: Final = 0.5
"""Factor for an unregistered machine without a topology: its circuit is only assumed from the sensor names."""
RULES_ONLY: Final = 0.25
"""Factor for an answer from rules alone, which use a small part of the model's evidence."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of one set of sensors on one topology."""

    sensors: float
    """Share of the expected sensors that are present."""
    components: tuple[float, ...]
    """Per component: share of its evidence sensors that are present."""
    missing: tuple[str, ...]
    """Expected sensors that are absent."""

    def of_window(self, seconds: float, window_s: float, *, assumed: bool, model: bool) -> float:
        """0 to 1 for a window of this length; lower for `assumed` topologies and for answers without the model."""
        share = self.sensors * min(1.0, seconds / window_s)
        return share * (ASSUMED if assumed else 1.0) * (1.0 if model else RULES_ONLY)


def coverage_of(topology: Topology, sensors: Collection[str]) -> Coverage:
    """Every one of `sensors` belongs to the topology, expected or not."""
    present = frozenset(sensors)
    expected = topology.expected_sensors
    missing = tuple(name for name in expected if name not in present)
    known = [
        (name, *place) for name in dict.fromkeys((*expected, *sorted(present))) if (place := topology.sensor(name))
    ]
    components = tuple(_component(topology, component, present, known) for component in topology.components)
    if expected:
        share = 1.0 - len(missing) / len(expected)
    else:  # a topology without expected sensors: count components
        seen = {place[0] for name in present if (place := topology.sensor(name))}
        share = len(seen) / len(topology.components)
    return Coverage(share, components, missing)


def _component(topology: Topology, component: Component, present: Collection[str], known: Iterable[_Sensor]) -> float:
    evidence_sensors = _evidence_sensors(topology, component, known)
    return (
        round(sum(name in present for name in evidence_sensors) / len(evidence_sensors), 4) if evidence_sensors else 0.0
    )


def _evidence_sensors(topology: Topology, component: Component, known: Iterable[_Sensor]) -> list[str]:
    """The expected or sent sensors that are evidence of a component's state."""
    head = HEAD_OF_KIND.get(component.kind)
    if head is None:
        return [name for name, at, _ in known if topology.components[at] is component]
    evidence, found = EVIDENCE[head.name], []
    for name, place, quantity in known:
        at = topology.components[place]
        if (at.kind, quantity) in evidence and (at is component or at.kind != component.kind):
            found.append(name)
    return found
