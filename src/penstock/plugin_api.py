"""The API for packages, with `penstock`, `penstock.errors` and `penstock.tasks.base`.

Routes: a tuple of `Endpoint` rows in the entry point group `penstock.routes`. A handler takes a `Call` and returns a
`Reply`, whose body is bytes, or an asynchronous iterator of bytes that is sent as it is produced. Tables: a database
next to the registry's. Settings: the environment variables that begin with the package's name. See docs/extending.md.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from penstock.gateway.http import JSON, PAGE, Call, Endpoint, Handler, Reply, json_reply
from penstock.gateway.native.decoding import decode_slowly, parse
from penstock.gateway.problems import Refusal, describe
from penstock.registry.database.plugin_tables import migrate, open_database
from penstock.registry.registry import Registry
from penstock.settings import package_settings
from penstock.tasks.base import Task, TimedResponse
from penstock.tasks.validation_errors import parse_config, parse_request, refusal
from penstock.tensors import Arrays, Signature, TensorSpec

__all__ = [
    "JSON",
    "PAGE",
    "Arrays",
    "Call",
    "Endpoint",
    "Handler",
    "Refusal",
    "Registry",
    "Reply",
    "Signature",
    "Task",
    "TensorSpec",
    "TimedResponse",
    "describe",
    "json_reply",
    "migrate",
    "open_database",
    "package_settings",
    "parse",
    "parse_config",
    "parse_request",
    "read_json",
    "refusal",
    "tasks_of",
]

Model = TypeVar("Model", bound=BaseModel)


def read_json(model: type[Model], body: bytes) -> Model:
    """A JSON body as the Pydantic model. Raises InvalidInput naming every invalid field."""
    return decode_slowly(model, body)  # type: ignore[return-value]  # an instance of `model`


def tasks_of(call: Call, kind: str) -> list[Task]:
    """The tasks of a kind whose models are loaded in this process: the default model's first, then by latest use.

    A row of `penstock.routes` is served only while there is one, but the last model may be unloaded while a handler
    waits.
    """
    engine = call.service.engine
    default = engine.default()
    loaded = [model for model in reversed(engine.loaded()) if model is not default]
    models = loaded if default is None else [default, *loaded]
    return [model.runners[kind].task for model in models if kind in model.runners]
