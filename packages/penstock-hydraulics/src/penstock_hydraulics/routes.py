"""HTTP routes of machines, their history, and the circuit templates."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

from penstock.errors import InvalidInput, ModelNotReady, shortened
from penstock.plugin_api import JSON, Call, Endpoint, Refusal, Reply, json_reply, read_json, tasks_of
from penstock_hydraulics.fleet.equipment_schemas import (
    EquipmentAnswer,
    EquipmentBody,
    EquipmentList,
    History,
    HistoryItem,
    Removed,
    TopologyAnswer,
    TopologyList,
)
from penstock_hydraulics.fleet.fleet import Fleet, check_equipment_id, parse_equipment
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import KINDS, QUANTITIES
from penstock_hydraulics.task import HydraulicDiagnostics

TAG: Final = "hydraulics"
MAX_BODY_BYTES: Final = 256 * 1024
MAX_MACHINES_PER_PAGE: Final = 1_000
MAX_RESULTS_PER_PAGE: Final = 10_000
_DEFAULT_LIMIT: Final = 100


async def put_equipment(call: Call) -> Reply:
    """`PUT /equipment/{id}`: 201 for a new machine, 200 for a changed one."""
    equipment_id = _equipment_id(call)
    _query(call)
    return await asyncio.to_thread(_put, _fleet(call), equipment_id, await _json(call))


def _put(fleet: Fleet, equipment_id: str, body: bytes) -> Reply:
    document = read_json(EquipmentBody, body).model_dump(exclude_none=True)
    equipment = parse_equipment(equipment_id, document)
    new = fleet.put_equipment(equipment)
    return json_reply(EquipmentAnswer.of(equipment), 201 if new else 200)


async def show_equipment(call: Call) -> Reply:
    """`GET /equipment/{id}`."""
    equipment_id = _equipment_id(call)
    _query(call)
    found = await asyncio.to_thread(_fleet(call).find, equipment_id)
    if found is None:
        raise _unknown(equipment_id)
    return json_reply(EquipmentAnswer.of(found))


async def list_equipment(call: Call) -> Reply:
    """`GET /equipment?after=&limit=`."""
    query = _query(call, "after", "limit")
    return await asyncio.to_thread(_page, _fleet(call), query.get("after", ""), _limit(query, MAX_MACHINES_PER_PAGE))


def _page(fleet: Fleet, after: str, limit: int) -> Reply:
    found = fleet.page(after, limit + 1)
    page = [EquipmentAnswer.of(equipment) for equipment in found[:limit]]
    more = page[-1].equipment_id if len(found) > limit else None
    return json_reply(EquipmentList(equipment=page, total_count=fleet.count(), next=more))


async def remove_equipment(call: Call) -> Reply:
    """`DELETE /equipment/{id}?history=`: results are kept unless `history=true`."""
    equipment_id = _equipment_id(call)
    history = _query(call, "history").get("history", "false").lower()
    if history not in ("true", "false"):
        raise InvalidInput("history: must be true or false", field="history")
    if not await asyncio.to_thread(_fleet(call).remove_equipment, equipment_id, history == "true"):
        raise _unknown(equipment_id)
    return json_reply(Removed(equipment_id=equipment_id, history_removed=history == "true"))


async def show_history(call: Call) -> Reply:
    """`GET /equipment/{id}/history?from=&to=&limit=&before=`."""
    equipment_id = _equipment_id(call)
    query = _query(call, "from", "to", "limit", "before")
    start_s, end_s = _time(query, "from"), _time(query, "to")
    if start_s is not None and end_s is not None and start_s >= end_s:
        raise InvalidInput("from: must be before `to`", field="from")
    limit, before = _limit(query, MAX_RESULTS_PER_PAGE), _cursor(query)
    return await asyncio.to_thread(_history, _fleet(call), equipment_id, (start_s, end_s), limit, before)


def _history(
    fleet: Fleet,
    equipment_id: str,
    times_s: tuple[float | None, float | None],
    limit: int,
    before: tuple[float, int] | None,
) -> Reply:
    found = fleet.history(equipment_id, *times_s, limit + 1, before)
    if not found and fleet.find(equipment_id) is None and not fleet.history(equipment_id, limit=1):
        raise _unknown(equipment_id)
    page = found[-limit:]
    more = f"{page[0].result.at_s!r}_{page[0].id}" if len(found) > limit else None
    return json_reply(History(equipment_id=equipment_id, results=[HistoryItem.of(each) for each in page], next=more))


async def list_topologies(call: Call) -> Reply:
    """`GET /topologies`."""
    _query(call)
    topologies = [TopologyAnswer.of(topology) for topology in TEMPLATES.values()]
    return json_reply(TopologyList(topologies=topologies, units=dict(QUANTITIES), types=list(KINDS)))


def _fleet(call: Call) -> Fleet:
    for task in tasks_of(call, HydraulicDiagnostics.kind):
        fleet = getattr(task, "fleet", None)
        if isinstance(fleet, Fleet):
            return fleet
    raise ModelNotReady("no hydraulic-diagnostics model is loaded; try again later")


def _equipment_id(call: Call) -> str:
    return check_equipment_id(call.params["id"])


def _unknown(equipment_id: str) -> Refusal:
    detail = f"unknown equipment {equipment_id!r}; register it with PUT /equipment/{equipment_id}"
    return Refusal(404, detail, title="No such equipment")


async def _json(call: Call) -> bytes:
    body = await call.body()
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(413, f"the body exceeds {MAX_BODY_BYTES} bytes")
    return body


# The query


def _query(call: Call, *names: str) -> dict[str, str]:
    """The query parameters; raises InvalidInput for an unknown or repeated one."""
    given = parse_qs(call.query, keep_blank_values=True)
    for name, values in given.items():
        if name not in names:
            known = f"known parameters: {', '.join(names)}" if names else "this route has none"
            raise InvalidInput(f"{shortened(name, 80)}: unknown query parameter; {known}", field=shortened(name, 80))
        if len(values) > 1:
            raise InvalidInput(f"{name}: repeated query parameter; send it once", field=name)
    return {name: values[0] for name, values in given.items()}


def _limit(query: Mapping[str, str], most: int) -> int:
    text = query.get("limit", str(_DEFAULT_LIMIT))
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most):
        raise InvalidInput(f"limit: must be an integer from 1 to {most}", field="limit")
    return int(text)


def _time(query: Mapping[str, str], name: str) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        # an unescaped plus arrives as a space
        time = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidInput(f"{name}: must be a time such as 2026-01-31T12:00:00Z", field=name) from None


def _cursor(query: Mapping[str, str]) -> tuple[float, int] | None:
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


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


def _limit_parameter(most: int) -> dict[str, Any]:
    whole = {"type": "integer", "minimum": 1, "maximum": most, "default": _DEFAULT_LIMIT}
    return {**_parameter("limit", "Maximum number of items."), "schema": whole}


_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "1 to 128 letters, digits and _ . : -, starting with a letter or a digit.",
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}$"},
    "example": "exc_001",
}
_EXAMPLE = {
    "topology": "zema_rig",
    "nominal": {"pressure_pump_main": 161.0},
    "limits": {"temperature_cooler_main": {"max": 65.0}},
}
_TIME = {"format": "date-time"}

ROUTES: tuple[Endpoint, ...] = (
    Endpoint(
        "PUT", "/equipment/{id}", put_equipment, TAG, "Register or replace a machine",
        "All servers of the database see it within a second. 201 if it is new.",
        requests=(EquipmentBody,), responses=(EquipmentAnswer,), parameters=(_ID,), example=_EXAMPLE,
        replies={201: {
            "description": "Created.",
            "content": {JSON: {"schema": EquipmentAnswer}},
        }},
        problems=(413, 415, 422, 503),
    ),
    Endpoint(
        "GET", "/equipment/{id}", show_equipment, TAG, "Get a machine",
        responses=(EquipmentAnswer,), parameters=(_ID,), problems=(404, 422, 503),
    ),
    Endpoint(
        "DELETE", "/equipment/{id}", remove_equipment, TAG, "Delete a machine",
        "Its results are kept until they expire, unless `history=true` deletes them.",
        responses=(Removed,), problems=(404, 422, 503),
        parameters=(_ID, _parameter("history", "Delete its results.", enum=["true", "false"], default="false")),
    ),
    Endpoint(
        "GET", "/equipment", list_equipment, TAG, "List machines",
        responses=(EquipmentList,), problems=(422, 503),
        parameters=(_parameter("after", "Only ids after this one."), _limit_parameter(MAX_MACHINES_PER_PAGE)),
    ),
    Endpoint(
        "GET", "/equipment/{id}/history", show_history, TAG, "Stored results of a machine",
        "The latest diagnoses of a time range, in ascending order.",
        responses=(History,), problems=(404, 422, 503),
        parameters=(
            _ID,
            _parameter("from", "Start of the range, inclusive (ISO 8601; UTC without a time zone).", **_TIME),
            _parameter("to", "End of the range, exclusive.", **_TIME),
            _limit_parameter(MAX_RESULTS_PER_PAGE),
            _parameter("before", "The `next` of an earlier answer, for older results."),
        ),
    ),
    Endpoint(
        "GET", "/topologies", list_topologies, TAG, "List circuit templates", responses=(TopologyList,),
        problems=(422,),
    ),
)  # fmt: skip
"""Served while a hydraulic-diagnostics model is loaded."""
