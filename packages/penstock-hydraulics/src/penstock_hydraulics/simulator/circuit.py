"""Supply structure of a topology: pumps with their accumulators, relief valves and consumers."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_hydraulics.machine.topology import Component, Topology

ACTUATORS = ("cylinder", "motor", "load_valve")
_RETURN = ("reservoir", "filter", "heat_exchanger", "circulation_pump")
"""Components of the return line."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """A valve and its actuators; either may be missing. `place` is the index among the machine's consumers."""

    place: int
    valve: str | None
    actuators: tuple[Component, ...]

    @property
    def holds(self) -> bool:
        """Whether it holds its load when the valve closes: a cylinder does, a load valve does not."""
        return not any(actuator.kind == "load_valve" for actuator in self.actuators)


@dataclass(frozen=True, slots=True)
class Supply:
    """One pump and the components on its pressure line."""

    pump: str
    accumulators: tuple[str, ...]
    reliefs: tuple[str, ...]
    consumers: tuple[Consumer, ...]


def supplies_of(topology: Topology) -> tuple[Supply, ...]:
    """One supply per pump; components without a path to a pump belong to none."""
    consumers = _consumers(topology)
    feeding = {consumer.place: _nearest_pump(topology, _inlet(consumer)) for consumer in consumers}
    return tuple(
        Supply(
            pump.id,
            _fed(topology, "accumulator", pump.id),
            _fed(topology, "relief_valve", pump.id),
            tuple(consumer for consumer in consumers if feeding[consumer.place] == pump.id),
        )
        for pump in topology.of_kind("pump")
    )


def _inlet(consumer: Consumer) -> str:
    return consumer.valve or consumer.actuators[0].id


def _fed(topology: Topology, kind: str, pump: str) -> tuple[str, ...]:
    return tuple(part.id for part in topology.of_kind(kind) if _nearest_pump(topology, part.id) == pump)


def _consumers(topology: Topology) -> list[Consumer]:
    """Every valve with the actuators at its ports, then the actuators without a valve."""
    found: list[Consumer] = []
    moved: set[str] = set()
    for valve in topology.of_kind("directional_valve"):
        near = [part for part in topology.neighbours(valve.id) if part.kind in ACTUATORS and part.id not in moved]
        moved.update(part.id for part in near)
        found.append(Consumer(len(found), valve.id, tuple(near)))
    for actuator in topology.of_kind(*ACTUATORS):
        if actuator.id not in moved:
            found.append(Consumer(len(found), None, (actuator,)))
    return found


def _nearest_pump(topology: Topology, start: str) -> str | None:
    """Along the pressure line; through a filter or cooler only if there is no other path (pressure filter)."""
    return _nearest(topology, start, _RETURN) or _nearest(topology, start, ("reservoir",))


def _nearest(topology: Topology, start: str, barred: tuple[str, ...]) -> str | None:
    seen, front = {start}, [start]
    while front:
        near = [part for id_ in front for part in topology.neighbours(id_) if part.id not in seen]
        pump = next((part.id for part in near if part.kind == "pump"), None)
        if pump is not None:
            return pump
        front = [part.id for part in near if part.kind not in barred]
        seen.update(part.id for part in near)
    return None
