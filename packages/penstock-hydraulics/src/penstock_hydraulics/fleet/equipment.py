"""One registered machine: its circuit, nominal values and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from penstock.errors import InvalidInput, quoted, shortened
from penstock_hydraulics.diagnosis.trend import FAILURE_HEALTH
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Topology, parse_topology

Limits: TypeAlias = Mapping[str, tuple[float | None, float | None]]

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}")
_MAX_FAILURE_HEALTH: Final = 0.9
_MAX_NOTE: Final = 500
MAX_CYCLE_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Equipment:
    """A machine as registered by an operator. `nominal` holds the means of its readings over one healthy work cycle,
    `limits` the lower and upper limit, both by sensor and in its unit; at `failure_health` the machine has failed.
    """

    id: str
    topology: Topology
    nominal: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = field(default_factory=dict)
    failure_health: float = FAILURE_HEALTH
    note: str = ""
    cycle_s: float | None = None
    """Time from the start of one work cycle to the start of the next; None if it is unknown."""

    def document(self) -> dict[str, Any]:
        """The JSON document that `parse_equipment` reads; a template is given by name."""
        name = self.topology.name
        return {
            "topology": name if TEMPLATES.get(name) == self.topology else self.topology.document(),
            "nominal": dict(self.nominal),
            "limits": {sensor: {"min": low, "max": high} for sensor, (low, high) in self.limits.items()},
            "failure_health": self.failure_health,
            "note": self.note,
            "cycle_s": self.cycle_s,
        }


def check_equipment_id(equipment_id: str) -> str:
    """Return a valid id; raises InvalidInput for any other."""
    if _ID.fullmatch(equipment_id) is None:
        raise InvalidInput(
            f"equipment_id: {quoted(equipment_id)} is invalid; an id is 1 to 128 letters, digits and _ . : -,"
            " starting with a letter or a digit",
            field="equipment_id",
        )
    return equipment_id


def parse_equipment(equipment_id: str, document: Mapping[str, Any]) -> Equipment:
    """Parse an API document; raises InvalidInput that names the field, the sensor or the component."""
    topology = _topology(document.get("topology"))
    failure_health = document.get("failure_health", FAILURE_HEALTH)
    if not _is_number(failure_health) or not 0 <= failure_health <= _MAX_FAILURE_HEALTH:
        raise InvalidInput(f"failure_health: must be a number from 0 to {_MAX_FAILURE_HEALTH}", field="failure_health")
    note = document.get("note", "")
    if not isinstance(note, str) or len(note) > _MAX_NOTE or "\0" in note:
        raise InvalidInput(f"note: must be a string of at most {_MAX_NOTE} characters", field="note")
    cycle_s = document.get("cycle_s")
    if cycle_s is not None and not (_is_number(cycle_s) and 0 < cycle_s <= MAX_CYCLE_S):
        raise InvalidInput(
            f"cycle_s: must be a number of seconds above 0, at most {MAX_CYCLE_S:g}, or null", field="cycle_s"
        )
    return Equipment(
        check_equipment_id(equipment_id),
        topology,
        {sensor: _nominal(sensor, value, topology) for sensor, value in _mapping(document, "nominal").items()},
        {sensor: _limit(sensor, value, topology) for sensor, value in _mapping(document, "limits").items()},
        float(failure_health),
        note,
        None if cycle_s is None else float(cycle_s),
    )


def _topology(value: Any) -> Topology:
    if isinstance(value, str):
        if value not in TEMPLATES:
            raise InvalidInput(
                f"topology: unknown template {quoted(value)}; known templates: {', '.join(TEMPLATES)}; or send a graph",
                field="topology",
            )
        return TEMPLATES[value]
    if value is None:
        raise InvalidInput("topology: missing; name a template or send a graph", field="topology")
    return parse_topology(value)


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name}: must be an object with sensors as keys", field=name)
    return value


def _nominal(sensor: str, value: Any, topology: Topology) -> float:
    _check_sensor(sensor, topology, "nominal")
    if not _is_number(value):
        raise InvalidInput(f"nominal: {sensor} must be a finite number", field=f"nominal.{sensor}")
    return float(value)


def _limit(sensor: str, value: Any, topology: Topology) -> tuple[float | None, float | None]:
    _check_sensor(sensor, topology, "limits")
    name = f"limits.{sensor}"
    if not isinstance(value, Mapping) or not value or not value.keys() <= {"min", "max"}:
        raise InvalidInput(f"limits: {sensor} must be an object with `min`, `max` or both", field=name)
    low, high = value.get("min"), value.get("max")
    if any(bound is not None and not _is_number(bound) for bound in (low, high)):
        raise InvalidInput(f"limits: {sensor} must have finite numbers", field=name)
    if low is not None and high is not None and low >= high:
        raise InvalidInput(f"limits: the `min` of {sensor}, {low:g}, is not below its `max`, {high:g}", field=name)
    return (None if low is None else float(low)), (None if high is None else float(high))


def _check_sensor(sensor: str, topology: Topology, where: str) -> None:
    if topology.sensor(sensor) is None:
        raise InvalidInput(
            f"{where}: {quoted(sensor)} is not a sensor `<quantity>_<component_id>` of the topology {topology.name}",
            field=f"{where}.{shortened(sensor, 80)}",
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
