"""The page, its files, and the machines with their latest diagnosis."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Final, get_args

from penstock.errors import InvalidInput, quoted
from penstock.plugin_api import PAGE, Call, Endpoint, Refusal, Reply, json_reply
from penstock_hydraulics.diagnosis.schemas import Status
from penstock_hydraulics.fleet.fleet import Fleet
from penstock_hydraulics.page.schemas import Latest, MachineItem, MachineList
from penstock_hydraulics.queries import (
    ID_PARAMETER,
    TAG,
    equipment_id_of,
    fleet_of,
    limit_of,
    limit_parameter,
    parameter,
    query_of,
    unknown_machine,
)
from penstock_hydraulics.task import HydraulicDiagnostics

MAX_MACHINES: Final = 500
_MAX_SEARCH: Final = 128
_ASSETS: Final = Path(__file__).parent / "assets"
_HTML: Final = "text/html; charset=utf-8"
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_POLICY: Final = (
    "content-security-policy",
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
"""Nothing comes from another host, and nothing runs but the files of this package."""


async def show_page(call: Call) -> Reply:  # noqa: ARG001
    """`GET /hydraulics`."""
    html = await asyncio.to_thread(_file, "index.html")
    return Reply(200, [("content-type", _HTML), ("cache-control", "no-cache"), _POLICY, *PAGE], html)


async def show_asset(call: Call) -> Reply:
    """`GET /hydraulics/assets/{file}`."""
    name = call.params["file"]
    if name not in _names():
        raise Refusal(404, f"there is no file {quoted(name)} of the page")
    body = await asyncio.to_thread(_file, name)
    headers = [("content-type", _TYPES[Path(name).suffix]), ("cache-control", "no-cache"), _POLICY, *PAGE]
    return Reply(200, headers, body)


@cache
def _names() -> frozenset[str]:
    return frozenset(path.name for path in _ASSETS.iterdir() if path.suffix in _TYPES)


@cache
def _file(name: str) -> bytes:
    return (_ASSETS / name).read_bytes()


async def list_machines(call: Call) -> Reply:
    """`GET /hydraulics/machines?after=&limit=&search=&status=`."""
    query = query_of(call, "after", "limit", "search", "status")
    search, status = query.get("search", "").strip(), query.get("status", "")
    if len(search) > _MAX_SEARCH:
        raise InvalidInput(f"search: must have at most {_MAX_SEARCH} characters", field="search")
    if status and status not in get_args(Status):
        raise InvalidInput(f"status: must be one of {', '.join(get_args(Status))}", field="status")
    limit, models = limit_of(query, MAX_MACHINES), _models(call)
    return await asyncio.to_thread(_machines, fleet_of(call), (query.get("after", ""), search, status), limit, models)


def _models(call: Call) -> list[str]:
    """The names of the models that diagnose, the default first."""
    engine = call.service.engine
    default = engine.default()
    loaded = [model for model in engine.loaded() if HydraulicDiagnostics.kind in model.runners]
    return list(dict.fromkeys(model.info.name for model in sorted(loaded, key=lambda model: model is not default)))


def _machines(fleet: Fleet, wanted: tuple[str, str, str], limit: int, models: list[str]) -> Reply:
    after, search, status = wanted
    found, counts = fleet.read(lambda store: (store.states(after, limit + 1, search, status), store.state_counts()))
    page = [MachineItem.of(state) for state in found[:limit]]
    more = page[-1].equipment_id if len(found) > limit else None
    return json_reply(MachineList(machines=page, counts=counts, next=more, models=models))


async def show_latest(call: Call) -> Reply:
    """`GET /equipment/{id}/latest`."""
    equipment_id = equipment_id_of(call)
    query_of(call)
    return await asyncio.to_thread(_latest, fleet_of(call), equipment_id)


def _latest(fleet: Fleet, equipment_id: str) -> Reply:
    found, registered = fleet.read(lambda store: store.latest(equipment_id)), fleet.find(equipment_id)
    if found is None and registered is None and not fleet.history(equipment_id, limit=1):
        raise unknown_machine(equipment_id)
    return json_reply(Latest.of(equipment_id, found, registered))


_STATUS: Final = {"enum": [*get_args(Status)]}

PAGE_ROUTES: Final[tuple[Endpoint, ...]] = (
    Endpoint("GET", "/hydraulics", show_page, "", "The page of the machines", needs="nothing"),
    Endpoint("GET", "/hydraulics/assets/{file}", show_asset, "", "A file of the page", needs="nothing"),
    Endpoint(
        "GET", "/hydraulics/machines", list_machines, TAG, "Machines with their state",
        "Registered machines and those with a diagnosis, each with its latest one.",
        responses=(MachineList,), problems=(422, 503),
        parameters=(
            parameter("after", "Only ids after this one."),
            limit_parameter(MAX_MACHINES),
            parameter("search", "Only ids that contain this text."),
            parameter("status", "Only machines with this status.", **_STATUS),
        ),
    ),
    Endpoint(
        "GET", "/equipment/{id}/latest", show_latest, TAG, "Latest diagnosis of a machine",
        "The whole answer, the readings of its window, and the machine as it is registered.",
        responses=(Latest,), parameters=(ID_PARAMETER,), problems=(404, 422, 503),
    ),
)  # fmt: skip
"""The page asks nobody for a key: it holds no data, and asks its reader for the key that its requests need."""
