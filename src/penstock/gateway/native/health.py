"""Health, probes, statistics and metrics."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

import penstock
from penstock.errors import worded
from penstock.gateway.access.models import check_every_model
from penstock.gateway.http import Call, Reply, json_reply
from penstock.gateway.problems import WireModel, retry_after


class Health(WireModel):
    """The state of the whole server."""

    status: Literal["healthy", "unhealthy"]
    version: str = Field(description="The version of Penstock.")
    model_loaded: bool = Field(description="True if at least one model is loaded.", examples=[True])
    reasons: list[str] = Field(
        default_factory=list, description="The problems, one sentence each; a healthy server may have some too."
    )


class Probe(WireModel):
    """The answer to a probe."""

    status: Literal["ok", "unavailable"]
    reasons: list[str] = Field(
        default_factory=list,
        description="One sentence each: the reasons if unavailable, else what an operator should know all the same.",
    )


class ModelStats(WireModel):
    """Statistics of one model version: counts since the start, times over the last minute."""

    model_config = ConfigDict(extra="allow")

    requests: int
    errors: int = Field(description="Requests that failed, timed out or were refused because of the server.")
    error_rate: float
    outcomes: dict[str, int]
    avg_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    throughput: float = Field(description="Answered requests per second.")
    batch_size_histogram: dict[str, int] = Field(description="Number of requests by the rows of their batch.")
    uptime_s: float


class CacheStats(WireModel):
    """Statistics of the response cache."""

    entries: int
    bytes: int
    hits: int
    misses: int


class Stats(WireModel):
    """Statistics of the server."""

    model_config = ConfigDict(extra="allow")

    model_path: str | None = Field(description="The default model: a reference, or a file.")
    device: str = Field(description="The setting; `model_device` is the device of the default model.")
    batch_size: int
    model_device: str | None
    model_parameters: int | None
    queue_size: int = Field(description="Rows in the queues.")
    processing: int = Field(description="Requests in flight.")
    uptime_s: float
    processes: int = Field(description="Server processes that these figures are of.")
    cache: CacheStats | None = Field(default=None, description="The cache; null if there is none.")
    models: dict[str, ModelStats] = Field(description="By name:version.")


async def health(call: Call) -> Reply:
    """`GET /health`."""
    ready, reasons = _state(call)
    body = Health(
        status="healthy" if ready else "unhealthy",
        version=penstock.__version__,
        model_loaded=bool(call.service.engine.loaded()),
        reasons=reasons,
    )
    return _with_status(body, ready)


async def live(call: Call) -> Reply:  # noqa: ARG001
    """`GET /health/live`: the process answers."""
    return _with_status(Probe(status="ok"), True)


async def ready(call: Call) -> Reply:
    """`GET /health/ready`: every model that should be served is loaded, and the server is not draining."""
    return _probe(*_state(call))


async def startup(call: Call) -> Reply:
    """`GET /health/startup`: the initial load is done."""
    return _probe(call.service.started, [] if call.service.started else ["models are being loaded"])


async def stats(call: Call) -> Reply:
    """`GET /stats`."""
    check_every_model(call)
    return json_reply(Stats.model_validate(await call.service.stats()))


async def metrics(call: Call) -> Reply:
    """`GET /metrics`."""
    check_every_model(call)
    page = await call.service.metrics_page(", ".join(call.header_values("accept")))
    return Reply(200, [("content-type", page.content_type), ("vary", "Accept")], page.body)


def _state(call: Call) -> tuple[bool, list[str]]:
    ready, reasons = call.service.engine.ready()
    if not call.service.started and ready:
        return False, ["models are being loaded"]
    return ready, [worded(reason, "server") for reason in (reasons if not ready else call.service.notices())]


def _probe(good: bool, reasons: list[str]) -> Reply:
    return _with_status(Probe(status="ok" if good else "unavailable", reasons=reasons), good)


def _with_status(body: BaseModel, good: bool) -> Reply:
    reply = json_reply(body, 200 if good else 503)
    reply.headers.append(("cache-control", "no-store"))
    if not good:
        reply.headers.append(retry_after(1))
    return reply
