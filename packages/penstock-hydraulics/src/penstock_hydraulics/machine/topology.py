"""A hydraulic circuit as a graph: components, their sensors, and the oil lines between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput, shortened

QUANTITIES: Mapping[str, str] = {
    "pressure": "bar",
    "flow": "l/min",
    "temperature": "°C",
    "vibration": "mm/s",
    "power": "W",
}
"""Measured quantities and their units."""

KINDS: tuple[str, ...] = (
    "pump",
    "circulation_pump",
    "directional_valve",
    "load_valve",
    "relief_valve",
    "accumulator",
    "reservoir",
    "filter",
    "heat_exchanger",
    "cylinder",
    "motor",
    "other",
)
"""Kinds of components. The order is part of every trained model: a kind is encoded as its index + 1 (0 is padding)."""

MAX_COMPONENTS = 64

_ID = re.compile(r"[a-z0-9_]{1,64}")
_MAX_SHOWN = 80
"""Maximum number of characters of an input value in an error message."""


@dataclass(frozen=True, slots=True)
class Component:
    """One component of the circuit; `quantities` are its expected sensors, in the order of `QUANTITIES`."""

    id: str
    kind: str
    quantities: tuple[str, ...] = ()

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the expected sensors, `<quantity>_<component id>`."""
        return tuple(f"{quantity}_{self.id}" for quantity in self.quantities)


@dataclass(frozen=True)
class Topology:
    """A connected circuit of 1 to 64 components; `edges` are undirected oil lines.

    Cycles through several components are valid: in a hydraulic circuit the oil returns to the tank.
    Raises InvalidInput, naming the component, for an invalid graph.
    """

    name: str
    components: tuple[Component, ...]
    edges: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        _check_components(self.components)
        _check_edges(self.edges, {component.id for component in self.components})
        _check_connected(self)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Component id → index."""
        return {component.id: place for place, component in enumerate(self.components)}

    @cached_property
    def expected_sensors(self) -> tuple[str, ...]:
        """Names of all expected sensors, in the order of the components."""
        return tuple(name for component in self.components for name in component.sensors)

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits, equal for equal circuits; the order of the edges does not matter."""
        canonical = repr((self.name, self._parts(), sorted(tuple(sorted(edge)) for edge in self.edges)))
        return blake2b(canonical.encode(), digest_size=16).hexdigest()

    def _parts(self) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(component.id, component.kind, component.quantities) for component in self.components]

    def adjacency(self) -> NDArray[np.float32]:
        """[N, N]: 1 where two components share a line and on the diagonal, else 0; symmetric."""
        matrix = np.eye(len(self.components), dtype=np.float32)
        for first, second in self.edges:
            i, j = self.index[first], self.index[second]
            matrix[i, j] = matrix[j, i] = 1.0
        return matrix

    def neighbours(self, component_id: str) -> tuple[Component, ...]:
        """The components connected to this one, in the order of the edges."""
        ends = [(b if a == component_id else a) for a, b in self.edges if component_id in (a, b)]
        return tuple(self.components[self.index[end]] for end in ends)

    def of_kind(self, *kinds: str) -> tuple[Component, ...]:
        """The components of any of these kinds, in order."""
        return tuple(component for component in self.components if component.kind in kinds)

    def sensor(self, name: str) -> tuple[int, str] | None:
        """The component's index and the quantity of a sensor `<quantity>_<component id>`; None unless both are known.

        The match is exact: `pump_main` does not match `pump_main_2`.
        """
        quantity, _, component_id = name.partition("_")
        place = self.index.get(component_id)
        return (place, quantity) if place is not None and quantity in QUANTITIES else None

    def document(self) -> dict[str, Any]:
        """The JSON document that `parse_topology` reads."""
        components = [
            {"component_id": component.id, "type": component.kind, "sensors": list(component.quantities)}
            for component in self.components
        ]
        return {"name": self.name, "components": components, "edges": [list(edge) for edge in self.edges]}


def parse_topology(document: Mapping[str, Any]) -> Topology:
    """Parse the circuit of an API document; raises InvalidInput that names the component.

    The form: `{"name": "press", "components": [{"component_id": "pump_main", "type": "pump",
    "sensors": ["pressure"]}], "edges": [["pump_main", "tank"]]}`. `name` and `sensors` are optional.
    """
    if not isinstance(document, Mapping):
        raise InvalidInput("The topology must be an object with `components` and `edges`.", field="topology")
    _check_fields(document, {"name", "components", "edges"}, "The topology", "topology")
    components = tuple(_component(item) for item in _items(document, "components", MAX_COMPONENTS))
    most = MAX_COMPONENTS * (MAX_COMPONENTS - 1) // 2
    own = {part.id: part.id for part in components}  # edges share these strings, which saves memory
    ends = (_edge(item) for item in _items(document, "edges", most))
    edges = tuple((own.get(first, first), own.get(second, second)) for first, second in ends)
    return Topology(_name(document.get("name", "custom")), components, edges)


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable():
        raise InvalidInput("The topology's `name` must be 1 to 64 printable characters.", field="topology.name")
    return value


def _items(document: Mapping[str, Any], key: str, most: int) -> Sequence[Any]:
    items = document.get(key, () if key == "edges" else None)
    field = f"topology.{key}"
    if not isinstance(items, list | tuple):
        raise InvalidInput(f"The topology's `{key}` must be a list.", field=field)
    if len(items) > most:
        raise InvalidInput(f"The topology has {len(items)} {key}; the maximum is {most}.", field=field)
    return items


def _component(item: object) -> Component:
    if not isinstance(item, Mapping):
        raise InvalidInput(
            "A component must be an object with `component_id` and `type`, not " + _shown(item) + ".",
            field="topology.components",
        )
    component_id = _text(item, "component_id")
    _check_fields(item, {"component_id", "type", "sensors"}, f"Component {_shown(component_id)}", _shown(component_id))
    kind = _text(item, "type")
    sensors = item.get("sensors", ())
    if not isinstance(sensors, list | tuple) or any(sensor not in tuple(QUANTITIES) for sensor in sensors):
        raise InvalidInput(
            f"Component {_shown(component_id)} has `sensors` other than {', '.join(QUANTITIES)}.",
            field=_shown(component_id),
        )
    return Component(component_id, kind, tuple(quantity for quantity in QUANTITIES if quantity in sensors))


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        named = item.get("component_id")
        raise InvalidInput(
            f"Component {_shown(named) if isinstance(named, str) else '?'} has no string `{key}`.",
            field=f"topology.components.{key}",
        )
    return value


def _edge(item: object) -> tuple[str, str]:
    if isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(end, str) for end in item):
        return item[0], item[1]
    raise InvalidInput(f"An edge must be a pair of component ids, not {_shown(item)}.", field="topology.edges")


def _check_fields(item: Mapping[str, Any], known: set[str], whose: str, field: str) -> None:
    unknown = sorted(str(key) for key in item if key not in known)
    if unknown:
        raise InvalidInput(
            f"{whose} has an unknown field {_shown(unknown[0])}; the fields are {', '.join(sorted(known))}.",
            field=field,
        )


def _check_components(components: Sequence[Component]) -> None:
    if not 1 <= len(components) <= MAX_COMPONENTS:
        raise InvalidInput(
            f"The topology has {len(components)} components; the allowed number is 1 to {MAX_COMPONENTS}.",
            field="topology.components",
        )
    for component in components:
        _check_component(component)
    twice = [id_ for id_, count in Counter(component.id for component in components).items() if count > 1]
    if twice:
        raise InvalidInput(
            f"Component {_shown(twice[0])} appears twice in the topology; ids must be unique.", field=twice[0]
        )


def _check_component(component: Component) -> None:
    if _ID.fullmatch(component.id) is None:
        raise InvalidInput(
            f"Component {_shown(component.id)} has an invalid id; an id is 1 to 64 of the characters a-z, 0-9 and _.",
            field="topology.components.component_id",
        )
    if component.kind not in KINDS:
        raise InvalidInput(
            f"Component {_shown(component.id)} has the unknown type {_shown(component.kind)}; "
            f"the types are {', '.join(KINDS)}.",
            field=component.id,
        )


def _check_edges(edges: Iterable[tuple[str, str]], ids: set[str]) -> None:
    seen: set[frozenset[str]] = set()
    for first, second in edges:
        unknown_end = next((end for end in (first, second) if end not in ids), None)
        if unknown_end is not None:
            raise InvalidInput(
                f"An edge names the component {_shown(unknown_end)}, which the topology does not have.",
                field="topology.edges",
            )
        if first == second:
            raise InvalidInput(f"Component {_shown(first)} is connected to itself; remove this edge.", field=first)
        if frozenset((first, second)) in seen:
            raise InvalidInput(
                f"The edge between {_shown(first)} and {_shown(second)} appears twice; edges are undirected.",
                field=first,
            )
        seen.add(frozenset((first, second)))


def _check_connected(topology: Topology) -> None:
    lines: dict[str, list[str]] = {component.id: [] for component in topology.components}
    for first, second in topology.edges:
        lines[first].append(second)
        lines[second].append(first)
    reached, frontier = {topology.components[0].id}, [topology.components[0].id]
    while frontier:
        new = [end for end in lines[frontier.pop()] if end not in reached]
        reached.update(new)
        frontier.extend(new)
    if len(reached) < len(lines):
        unreachable = next(component.id for component in topology.components if component.id not in reached)
        raise InvalidInput(
            f"The topology is disconnected: no path leads from {_shown(topology.components[0].id)} to "
            f"{_shown(unreachable)}; add the missing edge or send two topologies.",
            field=unreachable,
        )


def _shown(value: object) -> str:
    return shortened(repr(value), _MAX_SHOWN)
