"""Coverage: the share of a diagnosis's evidence that a request contains."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from penstock_hydraulics.machine.states import HEAD_OF_KIND
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.signals.evidence import States

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
"""Evidence of each state without measured coverage, as (kind of component, quantity): the sensors of the recordings
that predict its level alone (macro-F1 of at least 0.8 on held-out runs), and the component's own sensors."""

_Sensor: TypeAlias = tuple[str, int, str]
"""Name, component index and quantity."""

ASSUMED: Final = 0.5
"""Factor for an unregistered machine without a topology: its circuit is only assumed from the sensor names."""
RULES_ONLY: Final = 0.25
"""Factor for an answer from rules alone, which use a small part of the model's evidence."""
UNMEASURED: Final = 0.25
"""Factor for a model and circuit without measured coverage."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of one set of sensors on one topology."""

    sensors: float
    """Share of the expected sensors that are present."""
    components: tuple[float, ...]
    """Per component with a state: the measured share of cycles with a sure answer, 0 if its state is not told; without
    measurements, and for components without a state: the share of its evidence sensors that are present."""
    missing: tuple[str, ...]
    """Expected sensors that are absent."""
    told: States | None = None
    """The states that the sensors were measured to tell; None without measurements."""

    def of_window(self, seconds: float, window_s: float, *, assumed: bool, model: bool) -> float:
        """0 to 1 for a window of this length; lower for `assumed` topologies, without the model or measurements."""
        share = self.sensors * min(1.0, seconds / window_s) * (ASSUMED if assumed else 1.0)
        if not model:
            return share * RULES_ONLY
        return share * (UNMEASURED if self.told is None else 1.0)


def coverage_of(topology: Topology, sensors: Collection[str], told: States | None = None) -> Coverage:
    """Every one of `sensors` belongs to the topology, expected or not; `told` are the states they tell, if known."""
    present = frozenset(sensors)
    expected = topology.expected_sensors
    missing = tuple(name for name in expected if name not in present)
    known = [
        (name, *place) for name in dict.fromkeys((*expected, *sorted(present))) if (place := topology.sensor(name))
    ]
    components = tuple(_component(topology, component, present, known, told) for component in topology.components)
    if expected:
        share = 1.0 - len(missing) / len(expected)
    else:  # a topology without expected sensors: count components
        seen = {place[0] for name in present if (place := topology.sensor(name))}
        share = len(seen) / len(topology.components)
    return Coverage(share, components, missing, told)


def _component(
    topology: Topology, component: Component, present: Collection[str], known: Iterable[_Sensor], told: States | None
) -> float:
    head = HEAD_OF_KIND.get(component.kind)
    if head is not None and told is not None:
        return round(told[head.name].sure, 4) if head.name in told else 0.0
    sensors = _evidence_sensors(topology, component, known)
    share = sum(name in present for name in sensors) / len(sensors) if sensors else 0.0
    return round(share * (UNMEASURED if head is not None else 1.0), 4)


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
