"""Decodes JSON bodies into requests of a task; what `fast_json` does not read goes through the Pydantic model.

The fast path never rejects: the Pydantic model decides and writes the error.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from penstock.errors import InvalidInput
from penstock.gateway.native import fast_json
from penstock.gateway.native.fast_json import has_arrays, read_items, validated
from penstock.gateway.native.json_outline import allowance, is_light, outline
from penstock.gateway.native.large_json import (
    LARGE,
    SLOW,
    check_light,
    check_unknown,
    read_heavy,
    split_batch,
    take_task,
)
from penstock.tasks.base import Task
from penstock.tasks.validation_errors import refusal

_PIECE = 1 << 19


class QuickDecoding:
    """Measures the decoding of small bodies on the event loop.

    One that takes SLOW_S may be one of many that arrive together: for PAUSE_S all are decoded in threads.
    """

    SLOW_S, PAUSE_S = 0.001, 0.05

    again = 0.0
    """When small bodies are decoded on the event loop again."""
    _began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        if now - self._began > self.SLOW_S:
            self.again = now + self.PAUSE_S


quick_decoding = QuickDecoding()


class Batch:
    """The body of a batch. The items of its list `requests` are decoded once their Task is known.

    `shell` is the body with None in place of each item.
    """

    def __init__(self, body: bytes, *, fast: bool = True) -> None:
        """`fast` is False if no Task has arrays. Raises InvalidInput unless the body is a JSON object."""
        self._body = body
        self._items: list[Any] | None = None
        self._texts: list[bytes] | None = None
        if len(body) >= LARGE:
            self.shell, self._texts = split_batch(body)
            return
        self._fast = read_items(body) if fast else None
        if self._fast is not None:
            self.shell = {**self._fast.envelope, "requests": [None] * len(self._fast)}
            return
        self.shell = document = parse(body)
        if not isinstance(document, dict):
            raise InvalidInput("body: Input should be an object", field="body")
        if isinstance(document.get("requests"), list):
            self._items = document["requests"]
            self.shell = {**document, "requests": [None] * len(self._items)}

    def items(self, task: Task) -> list[BaseModel | InvalidInput]:
        """Each item as the Task's `Request`, or its error. Can be called only once: it releases the parser's memory."""
        if self._texts is not None:
            return _read_large_items(task, self._texts, allowance(len(self._body)))
        fast, self._fast = self._fast, None
        fields = fast.fields(task) if fast is not None and has_arrays(task) else None
        del fast
        if fields is None:
            return [_item(task, item) for item in self._parsed()]
        found = [validated(task, each) for each in fields]
        if all(each is not None for each in found):
            return cast(list[BaseModel | InvalidInput], found)
        return [_item(task, item) if each is None else each for each, item in zip(found, self._parsed(), strict=True)]

    def _parsed(self) -> list[Any]:
        items: list[Any] = parse(self._body)["requests"] if self._items is None else self._items
        return items


def _read_large_items(task: Task, texts: list[bytes], allowed: int) -> list[BaseModel | InvalidInput]:
    """The items of a large batch, of which `allowed` bytes may become Python objects."""
    items: list[BaseModel | InvalidInput] = []
    for text in texts:
        try:
            if has_arrays(task) or task.tensors_field is not None:
                try:
                    read = read_heavy(task, text)
                    if read is not None:
                        items.append(read)
                        continue
                except InvalidInput:  # the Pydantic model decides and writes the error, if there is memory for it
                    pass
            allowed -= outline(text, listed=False).weight
            if allowed < 0:
                raise InvalidInput("body: too many values for one batch; send this item in another", field="body")
            items.append(read_json(task, text))
        except InvalidInput as error:
            items.append(_kept(error))
    return items


def read_json(task: Task, body: bytes) -> BaseModel:
    """The request of a task from a JSON body. Raises InvalidInput naming every faulty field."""
    request = fast_json.decode(task, body) if len(body) < LARGE else None
    return read_fully(task, body) if request is None else request


def read_fully(task: Task, body: bytes) -> BaseModel:
    """The request from a large body, or from one that the fast reader did not take. Raises InvalidInput."""
    request = None
    if len(body) >= SLOW or (len(body) >= LARGE and not is_light(body)):
        request = read_heavy(task, body)
    elif len(body) >= LARGE:
        request = fast_json.decode(task, body)
        if request is None:
            check_unknown(task, body)
    return request or decode_slowly(task.Request, body)


def _item(task: Task, item: Any) -> BaseModel | InvalidInput:
    try:
        return decode_item(task, item)
    except InvalidInput as error:
        return _kept(error)


def _kept(error: InvalidInput) -> InvalidInput:
    """The error without its frames, which would keep the whole body in memory until the collector finds them."""
    error.__context__ = None
    return error.with_traceback(None)


def decode_item(task: Task, item: Any) -> BaseModel:
    """The Task's `Request` from one parsed item of a larger JSON document. Raises InvalidInput."""
    field = task.array_field
    if field is not None and isinstance(item, dict) and isinstance(item.get(field), list):
        numbers = item[field]
        if not any(isinstance(number, bool) for number in numbers):
            try:
                values = np.frombuffer(array("d", numbers))
                if np.isfinite(values).all():  # otherwise the Pydantic model names the number
                    return task.Request.model_validate({**item, field: values})
            except (TypeError, OverflowError, ValidationError):
                pass  # the Pydantic model writes the error
    return decode_slowly(task.Request, _written(item))


def _written(item: Any) -> bytes:
    """The item encoded as JSON again, so that the Pydantic model reads it like a body. Raises InvalidInput.

    orjson is faster, but writes NaN as null; documents with null are encoded by Pydantic.
    """
    try:
        text = orjson.dumps(item)
    except (TypeError, ValueError):  # a whole number beyond 64 bits, an unpaired surrogate
        text = b"null"
    if b"null" not in text:
        return text
    try:
        return to_json(item, inf_nan_mode="constants")
    except PydanticSerializationError:
        raise InvalidInput("body: the item is nested too deeply", field="body") from None


def named_task(body: bytes, task: Task) -> tuple[Any, Callable[[Task], BaseModel]] | None:
    """The task that a body names in its field `task`, and what reads the rest of the body as a request of a task.

    None without the field. If the requests of `task` have a field `task` of their own, it belongs to the request.
    """
    if "task" in task.Request.model_fields:
        return None
    if len(body) >= LARGE:
        found = take_task(body)
        if found is None:
            return None
        kind, rest = found
        return kind, lambda chosen: read_json(chosen, rest)
    try:
        document = parse(body)
    except InvalidInput:  # the Pydantic model writes the error
        return None
    if not isinstance(document, dict) or "task" not in document:
        return None
    return document.pop("task"), lambda chosen: decode_item(chosen, document)


def holds(body: bytes, mark: bytes) -> bool:
    """True if `mark` is in the body, which is searched in pieces: a search holds the interpreter's lock."""
    if len(body) <= _PIECE:
        return mark in body
    return any(mark in body[low : low + _PIECE + len(mark)] for low in range(0, len(body), _PIECE))


def decode_slowly(model: type[BaseModel], body: bytes) -> BaseModel:
    """Decode any JSON body with its Pydantic model. Raises InvalidInput."""
    if not body or body.isspace():
        raise InvalidInput("body: the request has no body; send a JSON object", field="body")
    check_light(body)
    try:
        request = model.model_validate_json(body)
    except ValidationError as error:  # also for NaN and infinity, with the field
        raise refusal(error) from None
    if holds(body, b"NaN") or holds(body, b"Infinity"):
        _refuse_constants(body)
    return request


def parse(body: bytes) -> Any:
    """A JSON document as Python values. Raises InvalidInput for invalid JSON.

    NaN and 1e400 are accepted and become floats, so that the check of the fields can name the invalid one. Whole
    numbers keep all their digits, which orjson rounds beyond 64 bits.
    """
    check_light(body)
    try:
        return from_json(body)
    except ValueError as error:
        raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None


def _refuse_constants(body: bytes) -> None:
    """Refuse NaN and Infinity, which are not JSON; within a string they are allowed."""
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None
