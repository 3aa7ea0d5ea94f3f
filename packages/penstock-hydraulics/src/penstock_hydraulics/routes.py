"""The routes beside the prediction: machines, their history, and the templates of circuits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

from penstock.errors import InvalidInput, ModelNotReady
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
_USUAL: Final = 100


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
    asked = _query(call, "after", "limit")
    return await asyncio.to_thread(_page, _fleet(call), asked.get("after", ""), _limit(asked, MAX_MACHINES_PER_PAGE))


def _page(fleet: Fleet, after: str, limit: int) -> Reply:
    found = fleet.page(after, limit + 1)
    page = [EquipmentAnswer.of(equipment) for equipment in found[:limit]]
    more = page[-1].equipment_id if len(found) > limit else None
    return json_reply(EquipmentList(equipment=page, total_count=fleet.count(), next=more))


async def remove_equipment(call: Call) -> Reply:
    """`DELETE /equipment/{id}?history=`: the history stays unless it is asked for."""
    equipment_id = _equipment_id(call)
    history = _query(call, "history").get("history", "false").lower()
    if history not in ("true", "false"):
        raise InvalidInput("history: say true or false", field="history")
    if not await asyncio.to_thread(_fleet(call).remove_equipment, equipment_id, history == "true"):
        raise _unknown(equipment_id)
    return json_reply(Removed(equipment_id=equipment_id, history_removed=history == "true"))


async def show_history(call: Call) -> Reply:
    """`GET /equipment/{id}/history?from=&to=&limit=&before=`."""
    equipment_id = _equipment_id(call)
    asked = _query(call, "from", "to", "limit", "before")
    start_s, end_s = _time(asked, "from"), _time(asked, "to")
    if start_s is not None and end_s is not None and start_s >= end_s:
        raise InvalidInput("from: the time is not before `to`", field="from")
    limit, before = _limit(asked, MAX_RESULTS_PER_PAGE), _cursor(asked)
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
        fleet = getattr(task, "plant", None)
        if isinstance(fleet, Fleet):
            return fleet
    raise ModelNotReady("no model of hydraulic diagnostics is loaded just now; try again")


def _equipment_id(call: Call) -> str:
    return check_equipment_id(call.params["id"])


def _unknown(equipment_id: str) -> Refusal:
    detail = f"there is no equipment {equipment_id!r}; PUT /equipment/{equipment_id} registers it"
    return Refusal(404, detail, title="No such equipment")


async def _json(call: Call) -> bytes:
    content_type = (call.header("content-type") or "").partition(";")[0].strip().lower()
    if content_type != JSON and not content_type.endswith("+json"):  # what a page could send without asking first
        raise Refusal(415, f"equipment is {JSON}, not {content_type[:100] or 'of no type'}")
    body = await call.body()
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(413, f"equipment may be {MAX_BODY_BYTES} bytes at most")
    return body


# The query


def _query(call: Call, *names: str) -> dict[str, str]:
    """The values that were given; raises InvalidInput naming what is no parameter or is given twice."""
    given = parse_qs(call.query, keep_blank_values=True)
    for name, values in given.items():
        if name not in names:
            takes = f"takes {', '.join(names)}" if names else "takes none"
            raise InvalidInput(f"{name[:80]}: no such parameter of the query; this route {takes}", field=name[:80])
        if len(values) > 1:
            raise InvalidInput(f"{name}: give it once", field=name)
    return {name: values[0] for name, values in given.items()}


def _limit(asked: Mapping[str, str], most: int) -> int:
    text = asked.get("limit", str(_USUAL))
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most):
        raise InvalidInput(f"limit: give a whole number from 1 to {most}", field="limit")
    return int(text)


def _time(asked: Mapping[str, str], name: str) -> float | None:
    text = asked.get(name)
    if text is None:
        return None
    try:
        # a plus that was not escaped arrives as a space
        time = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidInput(f"{name}: give a time such as 2026-01-31T12:00:00Z", field=name) from None


def _cursor(asked: Mapping[str, str]) -> tuple[float, int] | None:
    text = asked.get("before")
    if text is None:
        return None
    time, _, number = text.partition("_")
    try:
        at_s, result_id = float(time), int(number)
    except ValueError:
        at_s, result_id = math.nan, 0
    if not math.isfinite(at_s) or abs(result_id) >= 2**63:
        raise InvalidInput("before: give the `next` of an earlier answer", field="before")
    return at_s, result_id


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


def _limit_parameter(most: int) -> dict[str, Any]:
    whole = {"type": "integer", "minimum": 1, "maximum": most, "default": _USUAL}
    return {**_parameter("limit", "How many at most."), "schema": whole}


_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "1 to 128 letters, digits and _ . : -, with no sign first.",
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
        "PUT", "/equipment/{id}", put_equipment, TAG, "Register a machine, or change it",
        "Every server of the database knows it within a second. 201 where it is new.",
        requests=(EquipmentBody,), responses=(EquipmentAnswer,), parameters=(_ID,), example=_EXAMPLE,
        replies={201: {
            "description": "It is new.",
            "content": {JSON: {"schema": EquipmentAnswer}},
        }},
        problems=(413, 415, 422, 503),
    ),
    Endpoint(
        "GET", "/equipment/{id}", show_equipment, TAG, "One machine",
        responses=(EquipmentAnswer,), parameters=(_ID,), problems=(404, 422, 503),
    ),
    Endpoint(
        "DELETE", "/equipment/{id}", remove_equipment, TAG, "Forget a machine",
        "Its history stays until it is too old, unless `history=true` removes it as well.",
        responses=(Removed,), problems=(404, 422, 503),
        parameters=(_ID, _parameter("history", "Remove its history.", enum=["true", "false"], default="false")),
    ),
    Endpoint(
        "GET", "/equipment", list_equipment, TAG, "All machines, by the page",
        responses=(EquipmentList,), problems=(422, 503),
        parameters=(_parameter("after", "Only ids that follow this one."), _limit_parameter(MAX_MACHINES_PER_PAGE)),
    ),
    Endpoint(
        "GET", "/equipment/{id}/history", show_history, TAG, "What became of a machine",
        "The latest diagnoses of the time asked for, rising in time.",
        responses=(History,), problems=(404, 422, 503),
        parameters=(
            _ID,
            _parameter("from", "Not before this time (ISO 8601; without a zone UTC).", **_TIME),
            _parameter("to", "Before this time.", **_TIME),
            _limit_parameter(MAX_RESULTS_PER_PAGE),
            _parameter("before", "The `next` of an earlier answer: the results before those."),
        ),
    ),
    Endpoint(
        "GET", "/topologies", list_topologies, TAG, "The templates of circuits", responses=(TopologyList,),
        problems=(422,),
    ),
)  # fmt: skip
"""Served while a model of hydraulic diagnostics is."""
