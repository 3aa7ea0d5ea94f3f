"""The admin route for what the versions that share the requests of a model have shown."""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import Field, JsonValue

from penstock.gateway.http import Call, Reply, json_reply
from penstock.gateway.native.admin import guarded
from penstock.gateway.native.rollouts.routes_admin import moment
from penstock.gateway.problems import WireModel


class ArmResults(WireModel):
    """What one version has shown, in all server processes. Rates are null without data."""

    share: float = Field(description="Of the requests, by the weights.")
    clients: int = Field(description="About how many distinct keys; 0 where clients are placed by something else.")
    requests: int
    failures: int
    error_rate: float | None
    errors: dict[str, int] = Field(description="Failures by what went wrong.")
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    classes: dict[str, int] = Field(description="Sampled answers by class.")
    confidences: dict[str, int] = Field(description="Sampled answers by confidence, in steps of 0.05.")
    mean_confidence: float | None
    unsure: float | None = Field(description="Share of the sampled answers with a confidence below 0.5.")
    recorded: int = Field(description="Logged predictions, which can get a label.")
    labelled: int
    labelled_share: float | None
    judged: int = Field(description="Labels that could be compared with the prediction.")
    correct: int
    accuracy: float | None
    dropped: int = Field(description="Requests that could not be counted for lack of time.")


class RateComparison(WireModel):
    """One rate of a version against that of `compared_with`; the verdict holds however often one looks."""

    version: str
    measure: Literal["errors", "unsure", "wrong"] = Field(
        description="Failed requests, answers with a confidence below 0.5, wrong answers of those with a label."
    )
    verdict: Literal["better", "worse", "open", "no_data", "refused"] = Field(
        description="refused: the clients, or the labels, of the two versions cannot be compared."
    )
    difference: float | None = Field(description="Of the rates; below 0 is an improvement.")
    low: float | None = Field(description="The difference is at least this, at any time; null for rare events.")
    high: float | None
    ratio: float | None = Field(description="Of the rates.")
    e: float = Field(description="Evidence that the rates differ.")
    needed: float = Field(description="The evidence that a verdict needs where there are no bounds.")
    sentence: str


class RouteResults(WireModel):
    """What the versions that share the requests of a model have shown since their shares were set."""

    route: str
    since: str
    compared_with: str = Field(description="The version with the greatest weight.")
    arms: dict[str, ArmResults] = Field(description="By version.")
    comparisons: list[RateComparison]
    notes: list[JsonValue] = Field(description="What a reader should know, one sentence each.")


@guarded
async def show(call: Call) -> Reply:
    """`GET /admin/routes/{name}/results`."""
    from penstock.rollouts.results.reading import results

    found = await asyncio.to_thread(results, call.service.engine.registry, call.params["name"])
    return json_reply(RouteResults(**found | {"since": moment(found["since"])}))
