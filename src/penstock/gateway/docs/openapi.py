"""The OpenAPI document, written from the table of routes and its Pydantic models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

import penstock
from penstock.gateway.bodies.arrays import DTYPE_HEADER, NPY, OCTETS, SHAPE_HEADER
from penstock.gateway.docs.examples import Example
from penstock.gateway.http import JSON, Endpoint
from penstock.gateway.problems import MEDIA_TYPE, Problem, title_of

Json: TypeAlias = dict[str, Any]
_Key: TypeAlias = tuple[Any, JsonSchemaMode]

_TAGS = {
    "inference": "Predictions.",
    "models": "Models in the registry.",
    "health": "Health probes.",
    "monitoring": "Statistics and metrics.",
    "admin": "Load and unload models, move aliases, drain, make keys. Needed is an API key with the scope admin or "
    "the admin key: the setting `admin_key`, or the one that the server keeps in `admin.key`.",
}

VECTOR_PATH = "/inference/predict"
"""The route that takes vectors only."""

PREDICTIONS = "inference"
"""The tag of the rows that accept deadlines and priorities."""

_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Up to 128 visible ASCII characters; returned with the reply and written to the logs.",
    "schema": {"type": "string"},
}
_PREDICT_HEADERS: list[Json] = [
    {
        "name": "task",
        "in": "query",
        "required": False,
        "description": "A task of the model; its first one by default. Every model has the task `tensor`. "
        "A JSON body may name it in a field `task` instead.",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "required": False,
        "description": "The deadline in milliseconds; the reply after it is 504. Any number above 0 is accepted; a "
        "busy server may miss a deadline below one second.",
        "schema": {"type": "integer", "minimum": 1000},
    },
    {
        "name": "X-Penstock-Priority",
        "in": "header",
        "required": False,
        "description": "Order in the queue: the higher number first, then the earlier deadline. In a full queue a "
        "request evicts one of lower priority. The server may limit the priority.",
        "schema": {"type": "integer", "minimum": -100, "maximum": 100},
    },
]
_ARRAYS: Json = {
    kind: {"schema": {"type": "string", "format": "binary", "description": described}}
    for kind, described in (
        (OCTETS, f"An array as little-endian bytes; `{DTYPE_HEADER}` and `{SHAPE_HEADER}` say what it is."),
        (NPY, "An array as a file of numpy's .npy format."),
    )
}
_ARRAY_HEADERS: list[Json] = [
    {
        "name": DTYPE_HEADER,
        "in": "header",
        "required": False,
        "description": f"Datatype of a body of {OCTETS}, such as FP32; the default is the model's.",
        "schema": {"type": "string"},
    },
    {
        "name": SHAPE_HEADER,
        "in": "header",
        "required": False,
        "description": f"Shape of a body of {OCTETS}, such as 1,784; the default follows from the model.",
        "schema": {"type": "string"},
    },
]
_PARAMETERS: dict[str, Json] = {
    "name": {"description": "Name of the model.", "example": "digits"},
    "version": {"description": "Version of the model.", "example": "v1.0"},
    "alias": {"description": "Name of the alias.", "example": "champion"},
}
_OUT: dict[str, Json] = {
    "X-Request-ID": {"description": "The id of the request, or a new one.", "schema": {"type": "string"}},
    "Server-Timing": {"description": "Milliseconds: queue, pre, run, post.", "schema": {"type": "string"}},
    "X-Penstock-Model": {
        "description": "The model that answered, as name:version/variant.",
        "schema": {"type": "string"},
    },
    "X-Penstock-Flags": {
        "description": "Tensors outside the expected range: side, name, and below, above or not_finite.",
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
}
_SECURITY: Json = {
    "adminKey": {"type": "http", "scheme": "bearer", "description": "An API key, a token, or the admin key."},
    "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "adminKeyHeader": {"type": "apiKey", "in": "header", "name": "X-Penstock-Admin-Key"},
}
_ASKED = (401, 403, 429)
"""Statuses of routes that may ask for a key, and count requests."""
_BINARY: Json = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}
_UPLOADS: dict[str, Json] = {
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": _BINARY}, "required": ["file"]},
    },
    "image/png": {"schema": _BINARY},
    "image/jpeg": {"schema": _BINARY},
}


def write_document(table: Iterable[Endpoint], example: Example | None = None) -> Json:
    """OpenAPI 3.1 for every row with a tag. `example` is a request for a served model."""
    rows = [row for row in table if row.tag]
    keys: list[_Key] = [(Problem, "serialization")]
    for row in rows:
        keys += [(model, "validation") for model in row.requests]
        keys += [(model, "serialization") for model in (*row.responses, *models_in(row.replies))]
    refs, definitions = models_json_schema(list(dict.fromkeys(keys)), ref_template="#/components/schemas/{model}")
    paths: dict[str, Json] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, refs, example)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": penstock.__version__,
            "summary": "Predictions of the models in a registry.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()]
        + [{"name": name} for name in dict.fromkeys(row.tag for row in rows) if name not in _TAGS],
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {}), "securitySchemes": _SECURITY},
    }


def _operation(row: Endpoint, refs: Mapping[_Key, Json], example: Example | None) -> Json:
    operation: Json = {
        "tags": [row.tag],
        "summary": row.summary,
        "operationId": _operation_id(row),
        "parameters": [
            *_parameters(row, example),
            *(_PREDICT_HEADERS if _predicts(row) else ()),
            *(_ARRAY_HEADERS if _takes_arrays(row) else ()),
            _REQUEST_ID,
        ],
        "responses": _responses(row, refs),
    }
    if row.guarded:
        operation["security"] = [{"adminKey": []}, {"apiKeyHeader": []}, {"adminKeyHeader": []}]
    elif row.needs != "nothing":
        operation["security"] = [{}, {"adminKey": []}, {"apiKeyHeader": []}]
    if row.description:
        operation["description"] = row.description
    if row.requests:
        operation["requestBody"] = {"required": not row.guarded, "content": _request(row, refs, example)}
    return operation


def _predicts(row: Endpoint) -> bool:
    return bool(row.requests) and row.tag == PREDICTIONS


def _takes_arrays(row: Endpoint) -> bool:
    """True for the routes of one prediction."""
    return _predicts(row) and "requests" not in (row.example or {})


def _operation_id(row: Endpoint) -> str:
    words = re.findall(r"\w+", row.path)
    return "_".join([row.method.lower(), *words])


def _request(row: Endpoint, refs: Mapping[_Key, Json], example: Example | None) -> Json:
    content: Json = {JSON: {"schema": _any_of([refs[model, "validation"] for model in row.requests])}}
    shown = _shown(row, example)
    others = example.others if example is not None and _predicts(row) and "{name}" in row.path else {}
    if others:
        content[JSON]["examples"] = {name: {"value": value} for name, value in others.items()}
    elif shown is not None:
        content[JSON]["example"] = shown
    return {**content, **(_ARRAYS if _takes_arrays(row) else {}), **(_UPLOADS if row.upload else {})}


def _shown(row: Endpoint, example: Example | None) -> Any:
    """The example of the table, or one for a served model; None if no such model answers the route."""
    if example is None or row.example is None or not _predicts(row):
        return row.example
    if "requests" in row.example:
        return {"requests": [example.request], **({} if example.is_default else {"model": example.name})}
    if row.path == VECTOR_PATH:
        return row.example if example.vector is None else example.vector
    return example.request if example.is_default or row.path != "/predict" else None


def _parameters(row: Endpoint, example: Example | None) -> list[Json]:
    """Parameters of the path, described by the row or by default, then those of the query."""
    described = {parameter["name"]: dict(parameter) for parameter in row.parameters}
    names = re.findall(r"\{(\w+)\}", row.path)
    plain = {"in": "path", "required": True, "schema": {"type": "string"}}
    path = [{"name": name, **plain, **described.pop(name, _parameter(name, example))} for name in names]
    return [*path, *described.values()]


def _parameter(name: str, example: Example | None) -> Json:
    described = _PARAMETERS.get(name, {})
    shown = getattr(example, name, None)
    return described if shown is None else {**described, "example": shown}


def _responses(row: Endpoint, refs: Mapping[_Key, Json]) -> Json:
    responses: Json = {}
    if row.responses:
        schema = _any_of([refs[model, "serialization"] for model in row.responses])
        responses["200"] = {"description": "The reply.", "content": {JSON: {"schema": schema}}}
    for status, reply in row.replies.items():
        responses[str(status)] = _with_references(reply, refs)
    problem = {MEDIA_TYPE: {"schema": refs[Problem, "serialization"]}}
    asked = () if row.needs == "nothing" else _ASKED
    for status in dict.fromkeys((*row.problems, *asked)):
        responses.setdefault(str(status), {"description": f"{title_of(status)}.", "content": problem})
    for code, described in responses.items():
        headers = ["X-Request-ID"]
        headers += ["Server-Timing", "X-Penstock-Model", "X-Penstock-Flags"] if _predicts(row) and code == "200" else []
        headers += ["Retry-After"] if code in ("429", "503") else []
        described["headers"] = {name: _OUT[name] for name in headers}
    return dict(sorted(responses.items()))


def models_in(value: Any) -> Iterator[type[BaseModel]]:
    """The Pydantic models in a description; each stands for its schema."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from models_in(part)
    elif isinstance(value, type) and issubclass(value, BaseModel):
        yield value


def _with_references(value: Any, refs: Mapping[_Key, Json]) -> Any:
    """A description with a reference for each model; models of the same name get longer names in the document."""
    if isinstance(value, Mapping):
        return {key: _with_references(part, refs) for key, part in value.items()}
    return refs[value, "serialization"] if isinstance(value, type) and issubclass(value, BaseModel) else value


def _any_of(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
