"""Admin routes for canaries: start, promote, roll back, pause, resume, and why things are as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import parse_qs

from pydantic import ConfigDict, Field, JsonValue

from penstock.errors import InvalidInput
from penstock.gateway.http import Call, Handler, Reply, json_reply
from penstock.gateway.native.admin import behind_of, document_of, guarded, note
from penstock.gateway.native.rollouts.routes_admin import moment
from penstock.gateway.problems import WireModel

MOST_DECISIONS = 1000


class CanaryCommand(WireModel):
    """The plan of a canary. A limit that is null is not checked."""

    model_config = ConfigDict(extra="forbid")

    to: str = Field(description="The new version, or `@alias`, which is frozen to its version.", examples=["v2.0"])
    steps: list[int] = Field(default=[1, 5, 25, 50, 100], description="Rising percentages, the last one 100.")
    hold_s: float = Field(default=600.0, description="The least time of a step.")
    max_hold_s: float | None = Field(default=None, description="Without enough evidence for so long: on_inconclusive.")
    warmup_s: float | None = Field(default=None, description="Latencies of the first seconds do not count.")
    bake_s: float | None = Field(default=None, description="How long the old version stays loaded afterwards.")
    min_requests: int = Field(default=100, description="Of each version in each step.")
    max_error_rate: float | None = Field(default=0.01, description="Failures of the new version.")
    max_error_ratio: float | None = Field(default=None, description="Failures of the new version to those of the old.")
    max_p99_ratio: float | None = Field(default=None, description="How much slower it may be at p95 and p99.")
    max_disagreement: float | None = Field(default=None, description="Other answers to the same requests.")
    shadow: float = Field(default=0.1, description="The share of requests that both answer, to compare them.")
    on_inconclusive: Literal["pause", "rollback", "advance"] = "pause"
    strict: bool = Field(default=False, description="Ask for proof of every limit.")
    alpha: float = Field(default=0.05, description="The chance to roll back a version exactly at its limits.")
    again: bool = Field(default=False, description="Take a version that was rolled back before.")
    why: str = Field(description="The reason, for the audit log.", examples=["a quarter fewer errors in replay"])


class CanaryVerb(WireModel):
    """What a person decides about a canary."""

    model_config = ConfigDict(extra="forbid")

    why: str = Field(description="The reason, for the audit log.", examples=["the support desk asked for it"])


class CanaryState(WireModel):
    """A canary: its plan, where it is, the newest sentence about it, and the figures of both versions."""

    id: str
    route: str
    state: Literal["preparing", "running", "paused", "baking", "promoted", "rolled_back"]
    step: int = Field(description="The index of the step, -1 while the new version is loaded.")
    share: int = Field(description="The percentage of the requests that the new version gets.")
    sentence: str = Field(description="The newest decision or look, with its figures.")
    verdicts: dict[str, JsonValue] = Field(description="The checks of that look, by name.")
    spec: dict[str, JsonValue]
    started_at: str
    entered_at: str
    checked_at: str
    evidence: dict[str, dict[str, JsonValue]] = Field(description="By version.")
    behind: int = Field(default=0, description="Processes of this server that have yet to follow.")


class CanaryDecision(WireModel):
    """One decision about a canary."""

    at: str
    canary: str
    step: int
    action: Literal["advance", "hold", "pause", "rollback", "promote"]
    sentence: str
    verdicts: dict[str, JsonValue]


class CanaryDecisions(WireModel):
    """The newest decisions about the canaries of a route, the newest first."""

    decisions: list[CanaryDecision]


@guarded
async def start(call: Call) -> Reply:
    """`POST /admin/routes/{name}/canary`."""
    from penstock.rollouts.commands import start_canary

    name, document = call.params["name"], await _document(call)
    return await _changed(call, lambda: start_canary(call.service.engine.registry, name, document))


def verb(which: Literal["promote", "rollback", "pause", "resume"]) -> Handler:
    """The handler of `POST /admin/routes/{name}/{which}`."""

    @guarded
    async def answer(call: Call) -> Reply:
        from penstock.rollouts.commands import command

        name, document = call.params["name"], await _document(call)
        if unknown := next((field for field in document if field != "why"), None):
            raise InvalidInput(f"{unknown[:50]}: there is no such field; there is why", field=unknown[:50])
        registry, why = call.service.engine.registry, document.get("why", "")
        return await _changed(call, lambda: command(registry, name, which, why=why))

    return answer


@guarded
async def show(call: Call) -> Reply:
    """`GET /admin/routes/{name}/canary`."""
    return json_reply(await asyncio.to_thread(_shown, call))


@guarded
async def decisions(call: Call) -> Reply:
    """`GET /admin/routes/{name}/decisions`, `?limit=`."""
    from penstock.rollouts.commands import decisions as decided

    given = parse_qs(call.query, max_num_fields=8).get("limit", ["100"])[-1]
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= MOST_DECISIONS):
        raise InvalidInput(f"limit: give a whole number from 1 to {MOST_DECISIONS}", field="limit")
    found = await asyncio.to_thread(decided, call.service.engine.registry, call.params["name"], int(given))
    return json_reply(
        CanaryDecisions(decisions=[CanaryDecision(**each | {"at": moment(each["at"])}) for each in found])
    )


async def _changed(call: Call, change: Callable[[], object]) -> Reply:
    await asyncio.to_thread(change)
    await call.service.follow_routes()
    shown = await asyncio.to_thread(_shown, call)
    note(call, "changed the canary", f"of {shown.route}: {shown.sentence}")
    shown.behind = await behind_of(call)
    return json_reply(shown)


def _shown(call: Call) -> CanaryState:
    from penstock.rollouts.commands import newest_described

    document = newest_described(call.service.engine.registry, call.params["name"])
    times = {name: moment(document[name]) for name in ("started_at", "entered_at", "checked_at")}
    return CanaryState(**document | times)


async def _document(call: Call) -> Mapping[str, Any]:
    document = await document_of(call)
    if not isinstance(document, dict):
        raise InvalidInput("body: give an object", field="body")
    return document
