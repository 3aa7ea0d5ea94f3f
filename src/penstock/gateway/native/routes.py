"""The table of every route. What is served and what is documented is read from here, whatever server is in front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from penstock.gateway.docs import ui as pages
from penstock.gateway.http import JSON, Endpoint, Protocol, problem_reply
from penstock.gateway.native import admin, health, models
from penstock.gateway.native import predict as native

_PREDICT = (404, 413, 415, 422, 429, 500, 503, 504)
"""How a prediction may be refused."""

_ANY_TASK = (
    "The body is what the model's Task takes: JSON for numbers and tensors; for images a multipart form with a field "
    "`file`, or the bytes of the image as they are."
)
_VECTOR_EXAMPLE = {"input_data": [0.0, 0.25, 0.5, 1.0]}


def _unavailable(model: type[BaseModel]) -> Mapping[int, Mapping[str, Any]]:
    return {503: {"description": "Not now; `reasons` says why.", "content": {JSON: {"schema": model}}}}


def _text(kind: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": {"type": "string"}}}}


_CARD = {
    200: {
        "description": "The card, as Markdown or, where `Accept` prefers it, as HTML.",
        "content": {"text/markdown": {"schema": {"type": "string"}}, "text/html": {"schema": {"type": "string"}}},
    }
}


def _probe(path: str, handler: Any, summary: str) -> Endpoint:
    return Endpoint(
        "GET", path, handler, "health", summary, responses=(health.Probe,), replies=_unavailable(health.Probe)
    )


_HEALTH = (
    Endpoint(
        "GET", "/health", health.health, "health", "The state of the server",
        responses=(health.Health,), replies=_unavailable(health.Health),
    ),
    Endpoint("GET", "/health/live", health.live, "health", "Liveness probe", responses=(health.Probe,)),
    _probe("/health/ready", health.ready, "Readiness probe"),
    _probe("/health/startup", health.startup, "Startup probe"),
    Endpoint("GET", "/livez", health.live, "health", "Alias of /health/live", responses=(health.Probe,)),
    _probe("/readyz", health.ready, "Alias of /health/ready"),
    Endpoint(
        "GET", "/healthz", health.health, "health", "Alias of /health",
        responses=(health.Health,), replies=_unavailable(health.Health),
    ),
    Endpoint("GET", "/stats", health.stats, "monitoring", "Figures of the last minute", responses=(health.Stats,)),
    Endpoint(
        "GET", "/metrics", health.metrics, "monitoring", "Metrics for Prometheus",
        replies={200: _text("text/plain", "Prometheus' text format.")},
    ),
)  # fmt: skip

_MODELS = (
    Endpoint(
        "GET", "/model/info", models.model_info, "models", "The default model",
        responses=(models.ModelInfo,), problems=(404, 500, 503),
    ),
    Endpoint(
        "GET", "/models", models.list_models, "models", "All models of the registry",
        responses=(models.ModelList,), problems=(500,),
    ),
    Endpoint(
        "GET", "/models/{name}", models.show_model, "models", "One model",
        responses=(models.ModelSummary,), problems=(404, 500),
    ),
    Endpoint(
        "GET", "/models/{name}/versions/{version}", models.show_version, "models", "One version of a model",
        responses=(models.VersionInfo,), problems=(404, 500),
    ),
    Endpoint(
        "GET", "/models/{name}/card", models.card, "models", "The model card of the latest version",
        replies=_CARD, problems=(404, 500),
    ),
    Endpoint(
        "GET", "/models/{name}/versions/{version}/card", models.card, "models", "The model card of a version",
        replies=_CARD, problems=(404, 500),
    ),
)  # fmt: skip

_PREDICTIONS = (
    Endpoint(
        "POST", "/inference/predict", native.predict_vector, "inference", "Classify vectors of numbers",
        "Answered by the default model, or by the first served one that takes a vector.",
        requests=native.VECTOR_REQUESTS, responses=native.VECTOR_RESPONSES,
        problems=_PREDICT, example=_VECTOR_EXAMPLE,
    ),
    Endpoint(
        "POST", "/predict", native.predict, "inference", "Ask the default model", _ANY_TASK,
        requests=native.REQUESTS, upload=True, responses=native.RESPONSES,
        problems=_PREDICT, example=_VECTOR_EXAMPLE,
    ),
    Endpoint(
        "POST", "/predict/batch", native.predict_batch, "inference", "Ask one model several times",
        "Every item is answered or refused on its own; a refused one carries an `error` in place of its prediction.",
        requests=(native.BatchRequest,), responses=(native.batch_response(native.RESPONSES),),
        problems=_PREDICT, example={"requests": [_VECTOR_EXAMPLE, _VECTOR_EXAMPLE]},
    ),
    Endpoint(
        "POST", "/models/{name}/predict", native.predict_model, "inference", "Ask a model",
        f"`name` may carry an alias: `digits@champion`. {_ANY_TASK}",
        requests=native.REQUESTS, upload=True, responses=native.RESPONSES,
        problems=_PREDICT, example=_VECTOR_EXAMPLE,
    ),
    Endpoint(
        "POST", "/models/{name}/versions/{version}/predict", native.predict_version, "inference",
        "Ask a version of a model", _ANY_TASK,
        requests=native.REQUESTS, upload=True, responses=native.RESPONSES,
        problems=_PREDICT, example=_VECTOR_EXAMPLE,
    ),
)  # fmt: skip

_PAGES = (
    Endpoint("GET", "/docs", pages.docs, "", "Swagger UI"),
    Endpoint("GET", "/docs/assets/{file}", pages.asset, "", "Scripts and styles of the two pages"),
    Endpoint("GET", "/redoc", pages.redoc, "", "ReDoc"),
    Endpoint("GET", "/openapi.json", pages.openapi, "", "The OpenAPI document"),
)

_ORDERED = (401, 403, 404, 409, 413, 415, 422, 500, 503)
"""How an order may be refused."""
_EVERYWHERE = "Every process of this server follows before the reply."
_STORED = "Written into the registry: every server that uses it follows within a second."


def _order(method: str, path: str, handler: Any, summary: str, description: str, **more: Any) -> Endpoint:
    return Endpoint(method, path, handler, "admin", summary, description, problems=_ORDERED, guarded=True, **more)


_ADMIN = (
    _order(
        "GET", "/admin", admin.state, "What this server serves", "Of the process that answers.",
        responses=(admin.ServerState,),
    ),
    _order(
        "POST", "/admin/load", admin.load, "Load a model",
        f"It answers from now on, in memory and proved when the reply comes. {_EVERYWHERE}",
        requests=(admin.ModelOrder,), responses=(admin.Loaded,), example={"model": "digits"},
    ),
    _order(
        "POST", "/admin/unload", admin.unload, "Unload a model",
        f"A bare name means all its versions. Requests inside are answered first. {_EVERYWHERE}",
        requests=(admin.ModelOrder,), responses=(admin.Unloaded,), example={"model": "digits"},
    ),
    _order(
        "PUT", "/admin/models/{name}/aliases/{alias}", admin.set_alias, "Point an alias at a version", _STORED,
        requests=(admin.AliasOrder,), responses=(admin.Aliased,), example={"version": "v1.0"},
    ),
    _order(
        "DELETE", "/admin/models/{name}/aliases/{alias}", admin.remove_alias, "Remove an alias", _STORED,
        responses=(admin.Aliased,),
    ),
    _order(
        "POST", "/admin/drain", admin.drain, "Refuse predictions",
        f"Readiness turns 503 and new predictions are refused; the process goes on. {_EVERYWHERE}",
        requests=(admin.DrainOrder,), responses=(admin.Drained,), example={"wait_s": 10},
    ),
    _order(
        "DELETE", "/admin/drain", admin.resume, "Take predictions again", _EVERYWHERE, responses=(admin.Drained,)
    ),
)  # fmt: skip

TABLE: tuple[Endpoint, ...] = (*_PREDICTIONS, *_MODELS, *_HEALTH, *_ADMIN, *_PAGES)

NATIVE = Protocol("native", ("/",), TABLE, problem_reply)
"""Penstock's own HTTP API: problem documents for every path that no other protocol has."""
