"""Admin routes for routes: set, show, switch, remove, and the audit log."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qs

from pydantic import ConfigDict, Field, JsonValue

from penstock.errors import InvalidInput
from penstock.gateway.http import Call, Reply, json_reply
from penstock.gateway.native.admin import behind_of, document_of, guarded, note
from penstock.gateway.problems import WireModel
from penstock.registry.audit import Entry
from penstock.registry.route_book import MOST_ENTRIES
from penstock.registry.routes import Route, StoredRoute

MOST_QUERY_FIELDS = 8


class ArmDocument(WireModel):
    """A version and its share."""

    version: str = Field(description="A version, or `@alias`, which is frozen to its version.", examples=["v1.0"])
    weight: int = Field(ge=0, description="0 is a dark launch: loaded, and reached by rules only.", examples=[90])


class StickyDocument(WireModel):
    """What keeps a client at its version; a request without it is placed by its request id."""

    by: Literal["key", "request_id", "header", "cookie", "field"] = Field(
        description="`key` is the header `X-Penstock-Key`, `field` a field of the JSON request."
    )
    name: str | None = Field(default=None, description="Of the header, cookie or field.", examples=["X-User"])


class WhenDocument(WireModel):
    """A condition on a header."""

    header: str = Field(examples=["X-Beta"])
    equals: str = Field(examples=["1"])


class RuleDocument(WireModel):
    """Requests that go to one version, whatever the weights are; the first rule that fits counts."""

    when: WhenDocument
    version: str


class ShadowDocument(WireModel):
    """A version that gets copies of some requests; its answers reach no client."""

    version: str
    sample: float = Field(ge=0, le=1)


class RouteFields(WireModel):
    """The rules by which a name resolves to versions."""

    model_config = ConfigDict(extra="forbid")

    arms: list[ArmDocument] = Field(description="Their weights add up to 100, or to 10000.")
    sticky: StickyDocument = StickyDocument(by="key")
    rules: list[RuleDocument] = Field(default_factory=list)
    shadow: list[ShadowDocument] = Field(default_factory=list)
    fallback: str | None = Field(default=None, description="The version in place of one that keeps failing.")
    why: str = Field(default="", description="The reason, for the audit log.", examples=["first real traffic"])


class RouteDocument(RouteFields):
    """The rules by which a name resolves to versions, to be set."""

    again: bool = Field(default=False, description="Send requests also to a version that a canary has rolled back.")


class SwitchCommand(WireModel):
    """All requests to one version, or back to what was before."""

    model_config = ConfigDict(extra="forbid")

    to: str | None = Field(default=None, description="The version; without it, back to before the last change.")
    why: str = ""
    again: bool = Field(default=False, description="Also to a version that a canary has rolled back.")


class ArmEvidence(WireModel):
    """What a version has answered on this server since it was loaded."""

    requests: int
    errors: int
    error_rate: float
    p50_ms: float | None
    p99_ms: float | None


class CopiesShown(WireModel):
    """What copies of requests have shown of a shadow version, since it was named in the route, in every process."""

    compared: int = Field(description="Requests that both versions have answered.")
    disagreed: int = Field(description="Of these, those with another class or, without classes, other numbers.")
    failures: int = Field(description="Copies that the version did not answer.")
    skipped: int = Field(description="Copies that were not made for lack of room or time.")
    max_abs: float | None = Field(description="The largest absolute difference of an output; null if not finite.")
    kl: float | None = Field(description="The mean Kullback-Leibler divergence in nats, where there are classes.")
    worst: list[dict[str, JsonValue]] = Field(description="The request ids that disagreed most.")


class RouteState(RouteFields):
    """A route, and how far this server follows it."""

    name: str
    canary: dict[str, JsonValue] | None = Field(default=None, description="The running canary.")
    state: Literal["in force", "degraded", "waiting", "not served"] = Field(
        description="Of the process that answers. waiting: a version is not ready, so the route before stays in force; "
        "degraded: in force without the versions in `not_ready`."
    )
    in_force: int | None = Field(description="The revision that answers requests now.")
    not_ready: dict[str, str] = Field(description="Why a version answers nothing yet.")
    circuits: dict[str, dict[str, JsonValue]] = Field(description="Of a route with a fallback: by version.")
    evidence: dict[str, ArmEvidence] = Field(description="By version.")
    copies: dict[str, CopiesShown] = Field(default_factory=dict, description="By shadow version.")
    revision: int
    updated_at: str
    updated_by: str
    behind: int = Field(default=0, description="Processes of this server that have yet to follow.")


class RouteList(WireModel):
    """All routes."""

    routes: list[RouteState]


class Removed(WireModel):
    """A route that is removed."""

    name: str
    removed: bool
    behind: int = Field(description="Processes of this server that have yet to follow.")


class AuditEntry(WireModel):
    """One change of the registry."""

    at: str
    who: str
    what: str = Field(examples=["route digits: set"])
    why: str
    before: JsonValue
    after: JsonValue


class AuditLog(WireModel):
    """The newest changes of the registry, the newest first."""

    audit: list[AuditEntry]


@guarded
async def list_routes(call: Call) -> Reply:
    """`GET /admin/routes`."""
    routes = await asyncio.to_thread(_book(call).all)
    shown = [await _shown(call, stored) for _, stored in sorted(routes.stored.items())]
    return json_reply(RouteList(routes=shown))


@guarded
async def show_route(call: Call) -> Reply:
    """`GET /admin/routes/{name}`."""
    return json_reply(await _shown(call, await asyncio.to_thread(_book(call).get, call.params["name"])))


@guarded
async def set_route(call: Call) -> Reply:
    """`PUT /admin/routes/{name}`: the reply comes when this server follows, or knows why it does not."""
    name, document = call.params["name"], await document_of(call)
    return await _changed(call, name, lambda: _book(call).set(name, document, **_loading(call)))


@guarded
async def switch_route(call: Call) -> Reply:
    """`POST /admin/routes/{name}/switch`: blue-green, and back."""
    name, command = call.params["name"], SwitchCommand.model_validate(_known(await document_of(call), "to", "why"))
    book, to, said = _book(call), command.to, {"why": command.why, "again": command.again}
    if to is None:
        return await _changed(call, name, lambda: book.back(name, **said))
    return await _changed(call, name, lambda: book.switch(name, to, **said, **_loading(call)))


@guarded
async def remove_route(call: Call) -> Reply:
    """`DELETE /admin/routes/{name}`."""
    name = call.params["name"]
    book, why = _book(call), _query(call).get("why", "")
    await asyncio.to_thread(lambda: book.remove(name, why=why))
    note(call, "removed the route", name)
    await _followed(call)
    return json_reply(Removed(name=name, removed=True, behind=await behind_of(call)))


@guarded
async def audit(call: Call) -> Reply:
    """`GET /admin/audit`, `?limit=` and `?route=`."""
    query = _query(call)
    given = query.get("limit", "100")
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= MOST_ENTRIES):
        raise InvalidInput(f"limit: give a whole number from 1 to {MOST_ENTRIES}", field="limit")
    book, limit, name = _book(call), int(given), query.get("route")
    entries = await asyncio.to_thread(lambda: book.audit(limit) if name is None else book.history(name, limit))
    return json_reply(AuditLog(audit=[entry_shown(entry) for entry in entries]))


def entry_shown(entry: Entry) -> AuditEntry:
    """An entry as users see it."""
    fields = entry._asdict() | {"at": moment(entry.at)}
    return AuditEntry(**fields)


def moment(milliseconds: int) -> str:
    """A time of the store in ISO 8601."""
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _book(call: Call) -> Any:
    return call.service.engine.registry.routes


def _loading(call: Call) -> Mapping[str, Any]:
    """What is loaded here with its present content needs no further proof."""
    engine = call.service.engine
    return {"trust": engine.config.trust, "loaded": engine.manager.has_current}


def _known(document: Any, *fields: str) -> Mapping[str, Any]:
    """The document, if it is an object of texts in these fields, and `again`. Raises InvalidInput naming the field."""
    if not isinstance(document, dict):
        raise InvalidInput("body: give an object", field="body")
    for name, value in document.items():
        if name == "again":
            if not isinstance(value, bool):
                raise InvalidInput("again: give true or false", field="again")
        elif name not in fields:
            kept = ", ".join((*fields, "again"))
            raise InvalidInput(f"{name[:50]}: there is no such field; there are {kept}", field=name[:50])
        elif not isinstance(value, str):
            raise InvalidInput(f"{name}: give text", field=name)
    return document


def _query(call: Call) -> dict[str, str]:
    try:
        given = parse_qs(call.query, max_num_fields=MOST_QUERY_FIELDS)
    except ValueError:
        raise InvalidInput(f"query: it has more than {MOST_QUERY_FIELDS} fields", field="query") from None
    return {name: values[-1] for name, values in given.items()}


async def _changed(call: Call, name: str, change: Callable[[], StoredRoute]) -> Reply:
    stored = await asyncio.to_thread(change)
    note(call, "set the route", f"{name}, revision {stored.revision}")
    await _followed(call)
    shown = await _shown(call, stored)
    shown.behind = await behind_of(call)
    return json_reply(shown)


async def _followed(call: Call) -> None:
    """Wait until this process follows the store, or knows why it cannot."""
    await call.service.follow_routes()
    await call.service.engine.deployment.traffic.settled(_timeout_s(call))
    await call.service.follow_routes()


def _timeout_s(call: Call) -> float:
    return call.service.settings.request_timeout_ms / 1000


async def _shown(call: Call, stored: StoredRoute) -> RouteState:
    route, traffic = stored.route, call.service.engine.deployment.traffic
    models = (await call.service.stats())["models"]
    seen = {version: models.get(f"{route.name}:{version}") for version in route.versions}
    evidence = {
        version: ArmEvidence(**{name: figures[name] for name in ArmEvidence.model_fields})
        for version, figures in seen.items()
        if figures is not None
    }
    return RouteState(
        name=route.name,
        **route.to_document(),
        canary=route.to_record()["canary"],
        **traffic.state(route.name),
        evidence=evidence,
        copies=await _copies(call, route),
        revision=stored.revision,
        updated_at=moment(stored.updated_at),
        updated_by=stored.updated_by,
    )


async def _copies(call: Call, route: Route) -> dict[str, CopiesShown]:
    """What copies have shown, over all processes."""
    if not route.shadow:
        return {}
    from penstock.rollouts.route_copies import merged

    found = merged(await call.service.copies())
    return {
        each.version: CopiesShown(
            compared=seen.compared,
            disagreed=seen.disagreed,
            failures=seen.failures,
            skipped=seen.skipped,
            max_abs=_finite(seen.max_abs),
            kl=_finite(seen.kl / seen.kl_count) if seen.kl_count else None,
            worst=[{name: _finite(value) for name, value in one.items()} for one in seen.worst],
        )
        for each in route.shadow
        if (seen := found.get((route.name, each.version))) is not None
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
