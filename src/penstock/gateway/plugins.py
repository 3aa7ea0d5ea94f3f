"""Routes of installed packages, served while a model of their kind of task is loaded."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import orjson
from pydantic import BaseModel

from penstock.errors import type_and_message
from penstock.gateway.docs.examples import Example
from penstock.gateway.docs.openapi import models_in, write_document
from penstock.gateway.gateway import Gateway
from penstock.gateway.http import Endpoint
from penstock.gateway.native import batches, task_models
from penstock.gateway.routing.table import Routes
from penstock.tasks.base import Task

log = logging.getLogger(__name__)

GROUP = "penstock.routes"
"""The entry point group: name = kind of task, value = `module:attribute`, which is a tuple of `Endpoint` rows."""

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_PATH = re.compile(r"(/([\w.~-]+|\{\w+\}))+")


class PluginRoutes:
    """Keeps the routes of packages in a gateway's table, for the kinds of tasks that are loaded."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._own = gateway.table
        self._extensions = Extensions(gateway.table)
        self._kinds: frozenset[str] = frozenset()
        self._updating = asyncio.Lock()

    def follow(self) -> None:
        """Update the table and the OpenAPI document whenever models are loaded or unloaded."""
        self._gateway.service.on_models_changed.append(self._update)
        self._gateway.service.write_openapi = self._write_openapi

    async def _update(self) -> None:
        async with self._updating:
            kinds = frozenset(kind for model in self._gateway.service.engine.loaded() for kind in model.runners)
            if kinds == self._kinds:
                return
            rows = await asyncio.to_thread(self._extensions.rows, kinds)
            self._kinds = kinds
            self._gateway.table = (*self._own, *rows)
            self._gateway.routes.set(self._gateway.table)

    def _write_openapi(self, example: Example | None = None) -> dict[str, Any]:
        loaded = self._gateway.service.engine.loaded()
        tasks = [type(runner.task) for model in loaded for runner in model.runners.values()]
        return write_document(with_tasks(self._gateway.table, tasks), example)


class Extensions:
    """The rows of packages. A package is imported once, when a model of its kind is first loaded."""

    def __init__(self, table: tuple[Endpoint, ...]) -> None:
        self._own = Routes(table)
        self._rows: dict[str, tuple[Endpoint, ...]] = {}

    def rows(self, kinds: Iterable[str]) -> tuple[Endpoint, ...]:
        """The rows for these kinds of tasks, by kind; imports the packages of new kinds.

        A package that cannot be imported and a row that cannot be served are skipped with a warning in the log.
        """
        taken: dict[tuple[str, str], Endpoint] = {}
        kinds = sorted(kinds)
        self._add([kind for kind in kinds if kind not in self._rows])
        every = [row for kind in kinds for row in self._rows[kind]]
        return tuple(row for row in every if _is_free(row, taken))

    def _add(self, kinds: list[str]) -> None:
        """Import the packages of these kinds, which are new."""
        points = entry_points(group=GROUP) if kinds else ()  # reads the metadata of every installed package
        for kind in kinds:
            own = sorted((point for point in points if point.name == kind), key=lambda point: point.value)
            self._rows[kind] = tuple(row for point in own for row in self._checked(point))

    def _checked(self, point: EntryPoint) -> Iterator[Endpoint]:
        for row in _imported(point):
            try:
                ready = self._admitted(row)
            except Exception as error:  # a row may hold anything
                log.warning("a route of %s is skipped: %s", point.value, error)
            else:
                yield ready

    def _admitted(self, row: object) -> Endpoint:
        if not isinstance(row, Endpoint):
            raise TypeError(f"{type(row).__name__} is not an Endpoint")
        fault = self._fault(row)
        if fault is not None:
            raise ValueError(fault)
        return _ready(row)

    def _fault(self, row: Endpoint) -> str | None:
        """Why a row cannot be served; None for a valid one."""
        shown, handler = f"{row.method} {row.path}", cast(object, row.handler)
        if row.method not in _METHODS or not _PATH.fullmatch(str(row.path)):
            return f"{shown} must be one of {', '.join(_METHODS)} and a path such as /houses/{{id}}"
        names = re.findall(r"\{(\w+)\}", row.path)
        if len(set(names)) < len(names) or not all(name.isascii() and name.isidentifier() for name in names):
            return f"the parameters of {shown} must be distinct names"
        if not callable(handler):
            return f"the handler of {shown} is not callable"
        if self._own.knows(re.sub(r"\{\w+\}", "0", row.path)):
            return f"{row.path} is a route of Penstock"
        return None


def _ready(row: Endpoint) -> Endpoint:
    """The row as it is served; without a tag if it cannot be documented."""
    if not (row.tag and _can_be_documented(row)):
        row = replace(row, tag="")
    return row


def _can_be_documented(row: Endpoint) -> bool:
    """False for a row that would break the OpenAPI document."""
    try:
        if all(_has_schema(model) for model in (*row.requests, *row.responses, *models_in(row.replies))):
            orjson.dumps(write_document((row,)))
            return True
    except Exception as error:  # a row may hold anything
        log.warning("%s %s is not documented: %s", row.method, row.path, type_and_message(error))
    return False


def _imported(point: EntryPoint) -> Iterable[object]:
    try:
        return tuple(point.load())
    except (Exception, SystemExit) as error:  # a plug-in may raise anything while it is imported
        log.warning("the routes of %s cannot be served: %s", point.value, type_and_message(error))
        return ()


def _is_free(row: Endpoint, taken: dict[tuple[str, str], Endpoint]) -> bool:
    """False for a path of an earlier row; two kinds of one package may name the same rows."""
    key = (row.method, re.sub(r"\{\w+\}", "{}", row.path))
    first = taken.get(key)
    if first is None:
        taken[key] = row
    elif first != row:
        log.warning(
            "a route is skipped: %s %s is already served by %s", row.method, row.path, first.summary or first.path
        )
    return first is None


# Documentation of predictions


def with_tasks(table: Iterable[Endpoint], tasks: Iterable[type[Task]]) -> tuple[Endpoint, ...]:
    """The table, with the requests and responses of `tasks` added to its predictions."""
    added = [task for task in tasks if task.Request not in task_models.REQUESTS]
    added = [task for task in added if _has_schema(task.Request) and _has_schema(task.Response)]
    if not added:
        return tuple(table)
    requests = tuple(dict.fromkeys((*task_models.REQUESTS, *(task.Request for task in added))))
    responses = tuple(dict.fromkeys((*task_models.RESPONSES, *(task.Response for task in added))))
    return tuple(_documented(row, requests, responses) for row in table)


def _documented(
    row: Endpoint, requests: tuple[type[BaseModel], ...], responses: tuple[type[BaseModel], ...]
) -> Endpoint:
    if row.requests is task_models.REQUESTS:
        return replace(row, requests=requests, responses=responses)
    if row.handler is batches.predict_batch:
        return replace(row, responses=(batches.batch_response(responses),))
    return row


@lru_cache(maxsize=256)
def _has_schema(model: type[BaseModel]) -> bool:
    """False for a model without a JSON schema, such as one with a field of a custom class."""
    try:
        model.model_json_schema(mode="validation")
        model.model_json_schema(mode="serialization")
    except Exception as error:
        log.warning("%s is not documented: %s", model.__qualname__, type_and_message(error))
        return False
    return True
