"""What a package of your own may use of the platform, beside `penstock`, `penstock.errors` and `penstock.tasks.base`.

Routes: a tuple of `Endpoint` rows, named by the entry point group `penstock.routes`. Tables: a database beside the
registry's. Settings: the environment variables that begin with the package's name. See docs/extending.md.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from penstock.gateway.http import JSON, Call, Endpoint, Handler, Reply, json_reply
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
    """A JSON body as the Pydantic model. Raises InvalidInput naming every field that is wrong."""
    return decode_slowly(model, body)  # type: ignore[return-value]  # it is the model's own instance


def tasks_of(call: Call, kind: str) -> list[Task]:
    """The tasks of a kind that are at work in this process, the default model's first, then the latest used.

    A row of `penstock.routes` is only served while there is one; the last may leave while a handler waits.
    """
    engine = call.service.engine
    default = engine.default()
    loaded = [model for model in reversed(engine.loaded()) if model is not default]
    models = loaded if default is None else [default, *loaded]
    return [model.runners[kind].task for model in models if kind in model.runners]
