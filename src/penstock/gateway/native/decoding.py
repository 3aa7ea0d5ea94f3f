"""Decodes JSON bodies into requests of a task; what `fast_json` does not read goes through the Pydantic model.

The fast path never rejects: the Pydantic model decides and writes the error.
"""

from __future__ import annotations

from array import array
from typing import Any, cast

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from penstock.errors import InvalidInput
from penstock.gateway.native.fast_json import has_arrays, read_items, validated
from penstock.tasks.base import Task
from penstock.tasks.validation_errors import refusal


class Batch:
    """The body of a batch. The items of its list `requests` are decoded once their Task is known.

    `shell` is the body with None in place of each item.
    """

    def __init__(self, body: bytes, *, fast: bool = True) -> None:
        """`fast` is False if no Task has arrays. Raises InvalidInput unless the body is a JSON object."""
        self._body = body
        self._items: list[Any] | None = None
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


def _item(task: Task, item: Any) -> BaseModel | InvalidInput:
    try:
        return decode_item(task, item)
    except InvalidInput as error:
        return error


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


def document_with_task(body: bytes, task: Task) -> dict[str, Any] | None:
    """The parsed body if it names a task in its field `task`; otherwise None.

    If the requests of `task` have a field `task` of their own, the field belongs to the request.
    """
    if "task" in task.Request.model_fields:
        return None
    try:
        document = parse(body)
    except InvalidInput:  # the Pydantic model writes the error
        return None
    return document if isinstance(document, dict) and "task" in document else None


def decode_slowly(model: type[BaseModel], body: bytes) -> BaseModel:
    """Decode any JSON body with its Pydantic model. Raises InvalidInput."""
    if not body or body.isspace():
        raise InvalidInput("body: the request has no body; send a JSON object", field="body")
    try:
        request = model.model_validate_json(body)
    except ValidationError as error:  # also for NaN and infinity, with the field
        raise refusal(error) from None
    if b"NaN" in body or b"Infinity" in body:
        _refuse_constants(body)
    return request


def parse(body: bytes) -> Any:
    """A JSON document as Python values. Raises InvalidInput for invalid JSON.

    NaN and 1e400 are accepted and become floats, so that the check of the fields can name the invalid one.
    """
    try:
        return orjson.loads(body)
    except ValueError as error:
        try:  # orjson refuses the whole document for one NaN or one number too large for a float
            return from_json(body)
        except ValueError:
            raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None


def _refuse_constants(body: bytes) -> None:
    """Refuse NaN and Infinity, which are not JSON; within a string they are allowed."""
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None
