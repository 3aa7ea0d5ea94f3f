"""HTTP routes of machines, their history, and the circuit templates."""

from __future__ import annotations

import asyncio
from typing import Final

from penstock.errors import InvalidInput
from penstock.plugin_api import JSON, Call, Endpoint, Refusal, Reply, json_reply, read_json
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
from penstock_hydraulics.fleet.fleet import Fleet, parse_equipment
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import KINDS, QUANTITIES
from penstock_hydraulics.page.routes import PAGE_ROUTES
from penstock_hydraulics.queries import (
    DATE_TIME,
    ID_PARAMETER,
    TAG,
    cursor_of,
    equipment_id_of,
    fleet_of,
    limit_of,
    limit_parameter,
    parameter,
    query_of,
    time_of,
    unknown_machine,
)

MAX_BODY_BYTES: Final = 256 * 1024
MAX_MACHINES_PER_PAGE: Final = 1_000
MAX_RESULTS_PER_PAGE: Final = 10_000


async def put_equipment(call: Call) -> Reply:
    """`PUT /equipment/{id}`: 201 for a new machine, 200 for a changed one."""
    equipment_id = equipment_id_of(call)
    query_of(call)
    return await asyncio.to_thread(_put, fleet_of(call), equipment_id, await _json(call))


def _put(fleet: Fleet, equipment_id: str, body: bytes) -> Reply:
    document = read_json(EquipmentBody, body).model_dump(exclude_none=True)
    equipment = parse_equipment(equipment_id, document)
    new = fleet.put_equipment(equipment)
    return json_reply(EquipmentAnswer.of(equipment), 201 if new else 200)


async def show_equipment(call: Call) -> Reply:
    """`GET /equipment/{id}`."""
    equipment_id = equipment_id_of(call)
    query_of(call)
    found = await asyncio.to_thread(fleet_of(call).find, equipment_id)
    if found is None:
        raise unknown_machine(equipment_id)
    return json_reply(EquipmentAnswer.of(found))


async def list_equipment(call: Call) -> Reply:
    """`GET /equipment?after=&limit=`."""
    query = query_of(call, "after", "limit")
    return await asyncio.to_thread(
        _page, fleet_of(call), query.get("after", ""), limit_of(query, MAX_MACHINES_PER_PAGE)
    )


def _page(fleet: Fleet, after: str, limit: int) -> Reply:
    found = fleet.page(after, limit + 1)
    page = [EquipmentAnswer.of(equipment) for equipment in found[:limit]]
    more = page[-1].equipment_id if len(found) > limit else None
    return json_reply(EquipmentList(equipment=page, total_count=fleet.count(), next=more))


async def remove_equipment(call: Call) -> Reply:
    """`DELETE /equipment/{id}?history=`: results are kept unless `history=true`."""
    equipment_id = equipment_id_of(call)
    history = query_of(call, "history").get("history", "false").lower()
    if history not in ("true", "false"):
        raise InvalidInput("history: must be true or false", field="history")
    if not await asyncio.to_thread(fleet_of(call).remove_equipment, equipment_id, history == "true"):
        raise unknown_machine(equipment_id)
    return json_reply(Removed(equipment_id=equipment_id, history_removed=history == "true"))


async def show_history(call: Call) -> Reply:
    """`GET /equipment/{id}/history?from=&to=&limit=&before=`."""
    equipment_id = equipment_id_of(call)
    query = query_of(call, "from", "to", "limit", "before")
    start_s, end_s = time_of(query, "from"), time_of(query, "to")
    if start_s is not None and end_s is not None and start_s >= end_s:
        raise InvalidInput("from: must be before `to`", field="from")
    limit, before = limit_of(query, MAX_RESULTS_PER_PAGE), cursor_of(query)
    return await asyncio.to_thread(_history, fleet_of(call), equipment_id, (start_s, end_s), limit, before)


def _history(
    fleet: Fleet,
    equipment_id: str,
    times_s: tuple[float | None, float | None],
    limit: int,
    before: tuple[float, int] | None,
) -> Reply:
    found = fleet.history(equipment_id, *times_s, limit + 1, before)
    if not found and fleet.find(equipment_id) is None and not fleet.history(equipment_id, limit=1):
        raise unknown_machine(equipment_id)
    page = found[-limit:]
    more = f"{page[0].result.at_s!r}_{page[0].id}" if len(found) > limit else None
    return json_reply(History(equipment_id=equipment_id, results=[HistoryItem.of(each) for each in page], next=more))


async def list_topologies(call: Call) -> Reply:
    """`GET /topologies`."""
    query_of(call)
    topologies = [TopologyAnswer.of(topology) for topology in TEMPLATES.values()]
    return json_reply(TopologyList(topologies=topologies, units=dict(QUANTITIES), types=list(KINDS)))


async def _json(call: Call) -> bytes:
    body = await call.body()
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(413, f"the body exceeds {MAX_BODY_BYTES} bytes")
    return body


_EXAMPLE = {
    "topology": "zema_rig",
    "nominal": {"pressure_pump_main": 161.0},
    "limits": {"temperature_cooler_main": {"max": 65.0}},
}

ROUTES: tuple[Endpoint, ...] = (
    Endpoint(
        "PUT", "/equipment/{id}", put_equipment, TAG, "Register or replace a machine",
        "All servers of the database see it within a second. 201 if it is new.",
        requests=(EquipmentBody,), responses=(EquipmentAnswer,), parameters=(ID_PARAMETER,), example=_EXAMPLE,
        replies={201: {
            "description": "Created.",
            "content": {JSON: {"schema": EquipmentAnswer}},
        }},
        problems=(413, 415, 422, 503),
    ),
    Endpoint(
        "GET", "/equipment/{id}", show_equipment, TAG, "Get a machine",
        responses=(EquipmentAnswer,), parameters=(ID_PARAMETER,), problems=(404, 422, 503),
    ),
    Endpoint(
        "DELETE", "/equipment/{id}", remove_equipment, TAG, "Delete a machine",
        "Its results are kept until they expire, unless `history=true` deletes them.",
        responses=(Removed,), problems=(404, 422, 503),
        parameters=(ID_PARAMETER, parameter("history", "Delete its results.", enum=["true", "false"], default="false")),
    ),
    Endpoint(
        "GET", "/equipment", list_equipment, TAG, "List machines",
        responses=(EquipmentList,), problems=(422, 503),
        parameters=(parameter("after", "Only ids after this one."), limit_parameter(MAX_MACHINES_PER_PAGE)),
    ),
    Endpoint(
        "GET", "/equipment/{id}/history", show_history, TAG, "Stored results of a machine",
        "The latest diagnoses of a time range, in ascending order.",
        responses=(History,), problems=(404, 422, 503),
        parameters=(
            ID_PARAMETER,
            parameter("from", "Start of the range, inclusive (ISO 8601; UTC without a time zone).", **DATE_TIME),
            parameter("to", "End of the range, exclusive.", **DATE_TIME),
            limit_parameter(MAX_RESULTS_PER_PAGE),
            parameter("before", "The `next` of an earlier answer, for older results."),
        ),
    ),
    Endpoint(
        "GET", "/topologies", list_topologies, TAG, "List circuit templates", responses=(TopologyList,),
        problems=(422,),
    ),
    *PAGE_ROUTES,
)  # fmt: skip
"""Served while a hydraulic-diagnostics model is loaded."""
