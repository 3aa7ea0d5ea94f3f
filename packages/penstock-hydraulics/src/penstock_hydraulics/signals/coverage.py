"""How much of what a diagnosis rests on was there."""

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
"""What carries a state: the sensors of the recordings which, each alone, tell its level (macro-F1 of 0.8 and more on
runs the model had not seen), by the kind of component they sit at and the quantity; and the component's own."""

_Sensor: TypeAlias = tuple[str, int, str]
"""Name, its component's index and quantity."""

ASSUMED: Final = 0.5
"""A machine of which nobody said what it is: half of the coverage is the word of its sensors' names."""
RULES_ONLY: Final = 0.25
"""An answer from limits and ratios alone covers little of what the model would look at."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of one set of sensors on one topology."""

    sensors: float
    """The share of the expected sensors that are there."""
    components: tuple[float, ...]
    """For each component, the share of the sensors that carry its state, or are its own, that are there."""
    missing: tuple[str, ...]
    """The expected sensors that are not."""

    def of_window(self, seconds: float, window_s: float, *, assumed: bool, model: bool) -> float:
        """0 to 1, for a window of so many seconds; `assumed` topologies and answers without the model count less."""
        share = self.sensors * min(1.0, seconds / window_s)
        return share * (ASSUMED if assumed else 1.0) * (1.0 if model else RULES_ONLY)


def coverage_of(topology: Topology, sensors: Collection[str]) -> Coverage:
    """`sensors` are known to the topology, whether it expects them or not."""
    there = frozenset(sensors)
    expected = topology.expected_sensors
    missing = tuple(name for name in expected if name not in there)
    known = [(name, *place) for name in dict.fromkeys((*expected, *sorted(there))) if (place := topology.sensor(name))]
    components = tuple(_component(topology, component, there, known) for component in topology.components)
    if expected:
        share = 1.0 - len(missing) / len(expected)
    else:  # a topology that lists no sensors: its components count
        seen = {place[0] for name in there if (place := topology.sensor(name))}
        share = len(seen) / len(topology.components)
    return Coverage(share, components, missing)


def _component(topology: Topology, component: Component, there: Collection[str], known: Iterable[_Sensor]) -> float:
    carriers = _carriers(topology, component, known)
    return round(sum(name in there for name in carriers) / len(carriers), 4) if carriers else 0.0


def _carriers(topology: Topology, component: Component, known: Iterable[_Sensor]) -> list[str]:
    """The sensors, of those expected or sent, that tell of a component."""
    head = HEAD_OF_KIND.get(component.kind)
    if head is None:
        return [name for name, at, _ in known if topology.components[at] is component]
    evidence, found = EVIDENCE[head.name], []
    for name, place, quantity in known:
        at = topology.components[place]
        if (at.kind, quantity) in evidence and (at is component or at.kind != component.kind):
            found.append(name)
    return found
