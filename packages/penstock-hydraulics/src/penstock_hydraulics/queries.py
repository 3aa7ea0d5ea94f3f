"""What the routes read of a call: the fleet, the machine's id, and the query."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

from penstock.errors import InvalidInput, ModelNotReady, shortened
from penstock.plugin_api import Call, Refusal, tasks_of
from penstock_hydraulics.fleet.fleet import Fleet, check_equipment_id
from penstock_hydraulics.task import HydraulicDiagnostics

TAG: Final = "hydraulics"
"""The routes of this package in the documentation."""
DEFAULT_LIMIT: Final = 100
DATE_TIME: Final = {"format": "date-time"}
ID_PARAMETER: Final[Mapping[str, Any]] = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "1 to 128 letters, digits and _ . : -, starting with a letter or a digit.",
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}$"},
    "example": "exc_001",
}


def fleet_of(call: Call) -> Fleet:
    """The fleet of a served model. Raises ModelNotReady without one."""
    for task in tasks_of(call, HydraulicDiagnostics.kind):
        fleet = getattr(task, "fleet", None)
        if isinstance(fleet, Fleet):
            return fleet
    raise ModelNotReady("no hydraulic-diagnostics model is loaded; try again later")


def equipment_id_of(call: Call) -> str:
    """The machine in the path. Raises InvalidInput."""
    return check_equipment_id(call.params["id"])


def unknown_machine(equipment_id: str) -> Refusal:
    """404 that says how to register a machine."""
    detail = f"unknown equipment {equipment_id!r}; register it with PUT /equipment/{equipment_id}"
    return Refusal(404, detail, title="No such equipment")


# The query


def query_of(call: Call, *names: str) -> dict[str, str]:
    """The query parameters; raises InvalidInput for an unknown or repeated one."""
    given = parse_qs(call.query, keep_blank_values=True)
    for name, values in given.items():
        if name not in names:
            known = f"known parameters: {', '.join(names)}" if names else "this route has none"
            raise InvalidInput(f"{shortened(name, 80)}: unknown query parameter; {known}", field=shortened(name, 80))
        if len(values) > 1:
            raise InvalidInput(f"{name}: repeated query parameter; send it once", field=name)
    return {name: values[0] for name, values in given.items()}


def limit_of(query: Mapping[str, str], most: int) -> int:
    """The maximum number of items, at most `most`. Raises InvalidInput."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most):
        raise InvalidInput(f"limit: must be an integer from 1 to {most}", field="limit")
    return int(text)


def time_of(query: Mapping[str, str], name: str) -> float | None:
    """A time in seconds since 1970. Raises InvalidInput."""
    text = query.get(name)
    if text is None:
        return None
    try:
        # an unescaped plus arrives as a space
        time = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidInput(f"{name}: must be a time such as 2026-01-31T12:00:00Z", field=name) from None


def cursor_of(query: Mapping[str, str]) -> tuple[float, int] | None:
    """Time and id of `before`. Raises InvalidInput."""
    text = query.get("before")
    if text is None:
        return None
    time, _, number = text.partition("_")
    try:
        at_s, result_id = float(time), int(number)
    except ValueError:
        at_s, result_id = math.nan, 0
    if not math.isfinite(at_s) or abs(result_id) >= 2**63:
        raise InvalidInput("before: must be the `next` of an earlier answer", field="before")
    return at_s, result_id


def parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A parameter of the query, as OpenAPI describes it."""
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


def limit_parameter(most: int) -> dict[str, Any]:
    """The parameter `limit`."""
    whole = {"type": "integer", "minimum": 1, "maximum": most, "default": DEFAULT_LIMIT}
    return {**parameter("limit", "Maximum number of items."), "schema": whole}
