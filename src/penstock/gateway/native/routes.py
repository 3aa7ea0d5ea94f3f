"""The table of all native routes: served by every kind of server and documented in OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from penstock.gateway.docs import ui
from penstock.gateway.http import JSON, Endpoint, Protocol, problem_reply
from penstock.gateway.native import admin, batches, health, models, task_models
from penstock.gateway.native import predict as native
from penstock.gateway.native.access import keys_admin
from penstock.gateway.native.rollouts import canary_admin, drift, feedback, results_admin, routes_admin

_PREDICT = (400, 401, 403, 404, 406, 413, 415, 422, 429, 500, 503, 504)
"""Statuses of a refused prediction."""

_ANY_TASK = (
    "The body depends on the task of the model: JSON for numbers and tensors; for images a multipart form with a field "
    "`file`, or the image file as the whole body."
)
_VECTOR_EXAMPLE = {"input_data": [0.0, 0.25, 0.5, 1.0]}


def _unavailable(model: type[BaseModel]) -> Mapping[int, Mapping[str, Any]]:
    return {503: {"description": "Unavailable; `reasons` says why.", "content": {JSON: {"schema": model}}}}


_METRICS = {
    "description": "Prometheus' text format, or OpenMetrics (with exemplars) if `Accept` prefers it.",
    "content": {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")},
}


_CARD = {
    200: {
        "description": "The card as Markdown, or as HTML if `Accept` prefers it.",
        "content": {"text/markdown": {"schema": {"type": "string"}}, "text/html": {"schema": {"type": "string"}}},
    }
}


def _probe(path: str, handler: Any, summary: str) -> Endpoint:
    return Endpoint(
        "GET",
        path,
        handler,
        "health",
        summary,
        responses=(health.Probe,),
        replies=_unavailable(health.Probe),
        needs="nothing",
    )


_HEALTH = (
    Endpoint(
        "GET", "/health", health.health, "health", "The state of the server",
        responses=(health.Health,), replies=_unavailable(health.Health), needs="nothing",
    ),
    Endpoint(
        "GET", "/health/live", health.live, "health", "Liveness probe", responses=(health.Probe,), needs="nothing"
    ),
    _probe("/health/ready", health.ready, "Readiness probe"),
    _probe("/health/startup", health.startup, "Startup probe"),
    Endpoint(
        "GET", "/livez", health.live, "health", "Alias of /health/live",
        responses=(health.Probe,), needs="nothing",
    ),
    _probe("/readyz", health.ready, "Alias of /health/ready"),
    Endpoint(
        "GET", "/healthz", health.health, "health", "Alias of /health",
        responses=(health.Health,), replies=_unavailable(health.Health), needs="nothing",
    ),
    Endpoint("GET", "/stats", health.stats, "monitoring", "Statistics of the last minute", responses=(health.Stats,)),
    Endpoint(
        "GET", "/metrics", health.metrics, "monitoring", "Metrics for Prometheus",
        replies={200: _METRICS},
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
        "GET", "/models/{name}", models.show_model, "models", "One model, with its requests and responses",
        responses=(models.ModelDetails,), problems=(404, 500),
    ),
    Endpoint(
        "GET", "/models/{name}/versions/{version}", models.show_version, "models", "One version of a model",
        responses=(models.VersionInfo,), problems=(404, 500),
    ),
    Endpoint(
        "GET", "/models/{name}/drift", drift.drift, "monitoring", "Drift of a model's traffic from its reference",
        "`name` may carry a version or an alias: `digits@champion`.",
        responses=(drift.Drift,), problems=(404, 500),
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
        "Answered by the default model, or by the first served model that takes a vector.",
        requests=task_models.VECTOR_REQUESTS, responses=task_models.VECTOR_RESPONSES,
        problems=_PREDICT, changes=False, example=_VECTOR_EXAMPLE,
    ),
    Endpoint(
        "POST", "/predict", native.predict, "inference", "Predict with the default model", _ANY_TASK,
        requests=task_models.REQUESTS, upload=True, responses=task_models.RESPONSES,
        problems=_PREDICT, changes=False, example=_VECTOR_EXAMPLE,
    ),
    Endpoint(
        "POST", "/predict/batch", batches.predict_batch, "inference", "Predict several requests with one model",
        "Every item succeeds or fails on its own; a failed item has an `error` in place of its prediction.",
        requests=(batches.BatchRequest,),
        responses=task_models.LateModels(lambda: (batches.batch_response(task_models.RESPONSES),)),
        problems=_PREDICT, changes=False, example={"requests": [_VECTOR_EXAMPLE, _VECTOR_EXAMPLE]},
    ),
    Endpoint(
        "POST", "/models/{name}/predict", native.predict_model, "inference", "Predict with a model",
        f"`name` may carry an alias: `digits@champion`. {_ANY_TASK}",
        requests=task_models.REQUESTS, upload=True, responses=task_models.RESPONSES,
        problems=_PREDICT, changes=False, example=_VECTOR_EXAMPLE,
    ),
    Endpoint(
        "POST", "/models/{name}/versions/{version}/predict", native.predict_version, "inference",
        "Predict with a version of a model", _ANY_TASK,
        requests=task_models.REQUESTS, upload=True, responses=task_models.RESPONSES,
        problems=_PREDICT, changes=False, example=_VECTOR_EXAMPLE,
    ),
)  # fmt: skip

_PAGES = (
    Endpoint("GET", "/", ui.home, "", "Leads to /docs", needs="nothing"),
    Endpoint("GET", "/docs", ui.docs, "", "Swagger UI", needs="nothing"),
    Endpoint("GET", "/docs/assets/{file}", ui.asset, "", "Scripts and styles of the documentation", needs="nothing"),
    Endpoint("GET", "/redoc", ui.redoc, "", "ReDoc", needs="nothing"),
    Endpoint("GET", "/openapi.json", ui.openapi, "", "The OpenAPI document", needs="nothing"),
)

_ADMIN_PROBLEMS = (401, 403, 404, 409, 413, 415, 422, 429, 500, 503)
"""Statuses of a refused admin request."""
_EVERYWHERE = "All processes of this server apply it before the reply."
_DEPLOYED = (
    "It is stored in the registry where its database can be written: then every server of the registry follows within "
    f"a second, and it holds after a restart. {_EVERYWHERE}"
)
_STORED = "Written to the registry: every server on it follows within a second."


def _admin(method: str, path: str, handler: Any, summary: str, description: str, **more: Any) -> Endpoint:
    return Endpoint(
        method, path, handler, "admin", summary, description, problems=_ADMIN_PROBLEMS, guarded=True, **more
    )


_ADMIN = (
    _admin(
        "GET", "/admin", admin.state, "Models and state of this server", "Of the process that answers.",
        responses=(admin.ServerState,),
    ),
    _admin(
        "POST", "/admin/load", admin.load, "Load a model",
        f"The reply comes when the model is loaded and verified. {_DEPLOYED}",
        requests=(admin.ModelCommand,), responses=(admin.Loaded,), example={"model": "digits"},
    ),
    _admin(
        "POST", "/admin/unload", admin.unload, "Unload a model",
        "It stays unloaded until it is loaded again. A bare name means all its versions. Requests in flight are "
        f"answered first. {_DEPLOYED}",
        requests=(admin.ModelCommand,), responses=(admin.Unloaded,), example={"model": "digits"},
    ),
    _admin(
        "PUT", "/admin/models/{name}/aliases/{alias}", admin.set_alias, "Point an alias at a version", _STORED,
        requests=(admin.AliasCommand,), responses=(admin.Aliased,), example={"version": "v1.0"},
    ),
    _admin(
        "DELETE", "/admin/models/{name}/aliases/{alias}", admin.remove_alias, "Remove an alias", _STORED,
        responses=(admin.Aliased,),
    ),
    _admin(
        "POST", "/admin/drain", admin.drain, "Drain",
        f"Readiness turns 503 and new predictions are refused; the process keeps running. {_EVERYWHERE}",
        requests=(admin.DrainCommand,), responses=(admin.Drained,), example={"wait_s": 10},
    ),
    _admin(
        "DELETE", "/admin/drain", admin.resume, "Resume after a drain", _EVERYWHERE, responses=(admin.Drained,)
    ),
)  # fmt: skip

_ROUTE_EXAMPLE = {
    "arms": [{"version": "v1.0", "weight": 90}, {"version": "v2.0", "weight": 10}],
    "fallback": "v1.0",
    "why": "first real traffic",
}
_ROUTED = (
    "Versions that are new in the route are loaded first. Every process follows within a second; a version gets no "
    "request before it is loaded and verified there, and until then the route before stays in force."
)
_CANARY_EXAMPLE = {"to": "v2.0", "steps": [1, 5, 25, 50, 100], "hold_s": 600, "why": "a quarter fewer errors"}
_CANARY = (
    "The servers of the registry advance the version, or roll it back, by what they see. It is loaded and verified in "
    "every process before its first request."
)


def _canary_verb(verb: Literal["promote", "rollback", "pause", "resume"], summary: str) -> Endpoint:
    return _admin(
        "POST", f"/admin/routes/{{name}}/{verb}", canary_admin.verb(verb), summary,
        "A reason is needed; it is kept in the audit log.", requests=(canary_admin.CanaryVerb,),
        responses=(canary_admin.CanaryState,), example={"why": "the support desk asked for it"},
    )  # fmt: skip


_ROLLOUTS = (
    _admin(
        "GET", "/admin/routes", routes_admin.list_routes, "All routes", "Their state is that of this server.",
        responses=(routes_admin.RouteList,),
    ),
    _admin(
        "GET", "/admin/routes/{name}", routes_admin.show_route, "The route of a model",
        "Its state is that of this server.", responses=(routes_admin.RouteState,),
    ),
    _admin(
        "PUT", "/admin/routes/{name}", routes_admin.set_route, "Set the route of a model", _ROUTED,
        requests=(routes_admin.RouteDocument,), responses=(routes_admin.RouteState,), example=_ROUTE_EXAMPLE,
    ),
    _admin(
        "POST", "/admin/routes/{name}/switch", routes_admin.switch_route, "Send all requests to one version, or back",
        f"The other versions stay loaded, so that the way back is instant. {_ROUTED}",
        requests=(routes_admin.SwitchCommand,), responses=(routes_admin.RouteState,), example={"to": "v2.0"},
    ),
    _admin(
        "DELETE", "/admin/routes/{name}", routes_admin.remove_route, "Remove the route of a model",
        "The name means its alias champion again, or its highest release.", responses=(routes_admin.Removed,),
        parameters=({"name": "why", "in": "query", "schema": {"type": "string"}},),
    ),
    _admin(
        "POST", "/admin/routes/{name}/canary", canary_admin.start, "Roll out a version in steps", _CANARY,
        requests=(canary_admin.CanaryCommand,), responses=(canary_admin.CanaryState,), example=_CANARY_EXAMPLE,
    ),
    _admin(
        "GET", "/admin/routes/{name}/canary", canary_admin.show, "The canary of a model",
        "The newest one, also if it has ended.", responses=(canary_admin.CanaryState,),
    ),
    _canary_verb("promote", "Give all requests to the new version now"),
    _canary_verb("rollback", "End a canary; everything is as before it"),
    _canary_verb("pause", "Keep the share of a canary as it is"),
    _canary_verb("resume", "Let a paused canary go on"),
    _admin(
        "GET", "/admin/routes/{name}/decisions", canary_admin.decisions, "What was decided about canaries, and why",
        "The newest decision first.", responses=(canary_admin.CanaryDecisions,),
        parameters=({"name": "limit", "in": "query", "schema": {"type": "integer", "default": 100}},),
    ),
    _admin(
        "GET", "/admin/routes/{name}/results", results_admin.show, "What versions that share requests have shown",
        "Since their shares were set, in all server processes.", responses=(results_admin.RouteResults,),
    ),
    _admin(
        "GET", "/admin/audit", routes_admin.audit, "Who changed what, when and why", "The newest change first.",
        responses=(routes_admin.AuditLog,),
        parameters=(
            {"name": "limit", "in": "query", "schema": {"type": "integer", "default": 100}},
            {"name": "route", "in": "query", "schema": {"type": "string"}, "description": "Of one route only."},
        ),
    ),
)  # fmt: skip

_KEY_EXAMPLE = {"name": "billing", "scopes": ["infer"], "models": ["fraud-*"], "expires": "30d", "rate": "600/m"}
_KEYED = "Every server of the registry follows within a second."

_KEYS = (
    _admin(
        "GET", "/admin/keys", keys_admin.list_keys, "All API keys", "Without their secrets.",
        responses=(keys_admin.KeyList,),
    ),
    _admin(
        "POST", "/admin/keys", keys_admin.create, "Make an API key",
        f"Its secret is in this reply and nowhere else. {_KEYED}",
        requests=(keys_admin.KeyCommand,), responses=(keys_admin.KeyMade,), example=_KEY_EXAMPLE,
    ),
    _admin(
        "POST", "/admin/keys/{id}/rotate", keys_admin.rotate, "Give an API key another secret",
        f"Its id, scopes, models and limits stay. {_KEYED}",
        requests=(keys_admin.RotateCommand,), responses=(keys_admin.KeyMade,), example={"grace": "1h"},
    ),
    _admin(
        "DELETE", "/admin/keys/{id}", keys_admin.revoke, "Revoke an API key", _KEYED,
        responses=(keys_admin.KeyShown,),
    ),
)  # fmt: skip

_FEEDBACK = (
    Endpoint(
        "POST", "/feedback", feedback.feedback, "monitoring", "The right class of a prediction",
        "For predictions in the sample that `prediction_log` keeps. A label that is sent again changes nothing; "
        "another one replaces it.",
        requests=(feedback.FeedbackItem, feedback.FeedbackItems),
        replies={202: {"description": "Recorded.", "content": {JSON: {"schema": feedback.FeedbackTaken}}}},
        problems=(400, 401, 403, 404, 413, 415, 422, 429, 500, 503), example={"request_id": "3f2a91c0-1b", "label": 7},
    ),
)  # fmt: skip

TABLE: tuple[Endpoint, ...] = (*_PREDICTIONS, *_FEEDBACK, *_MODELS, *_HEALTH, *_ADMIN, *_ROLLOUTS, *_KEYS, *_PAGES)

NATIVE = Protocol("native", ("/",), TABLE, problem_reply)
"""Penstock's own HTTP API: problem documents for every path that no other protocol has."""
