"""JSON bodies into Task requests: a fast way for one flat array of numbers, Pydantic for everything else.

The fast way only ever says yes. Whatever it is not sure of (nested arrays, a key given twice, a value that is no
number) goes through the Pydantic model, which decides and writes the error.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from penstock.errors import InvalidInput
from penstock.tasks.base import Task
from penstock.tasks.refusals import refusal

try:
    import simdjson as _simdjson
except ImportError:  # no wheel for this Python: orjson reads the array
    simdjson: Any = None
else:
    simdjson = _simdjson

_KEEP_PARSER_BELOW = 1 << 20
"""A parser keeps the memory of its largest document; larger bodies get one of their own."""

Fields: TypeAlias = dict[str, Any]


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.parser = simdjson.Parser()


def decode(task: Task, body: bytes) -> BaseModel:
    """The Task's `Request` from a JSON body. Raises InvalidInput naming every faulty field, `body` for broken JSON."""
    if task.array_field is not None:
        fields = read_flat(body, task.array_field)
        if fields is not None:
            try:
                return task.Request.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
            except ValidationError:
                pass  # the model below reads the same bytes and writes the error
    return decode_slowly(task.Request, body)


def decode_item(task: Task, item: Any) -> BaseModel:
    """The Task's `Request` from one parsed item of a larger JSON document. Raises InvalidInput."""
    field = task.array_field
    if field is not None and isinstance(item, dict) and isinstance(item.get(field), list):
        numbers = item[field]
        if not any(isinstance(number, bool) for number in numbers):
            try:
                values = np.frombuffer(array("d", numbers))
                if np.isfinite(values).all():  # else as above: the model names the number
                    return task.Request.model_validate({**item, field: values})
            except (TypeError, OverflowError, ValidationError):
                pass  # as above
    return decode_slowly(task.Request, _written(item))


def _written(item: Any) -> bytes:
    """The item as JSON again, for the model to read as it reads a body; orjson is quicker, and writes NaN as null."""
    try:
        text = orjson.dumps(item)
    except (TypeError, ValueError):  # a whole number beyond 64 bits, a lone surrogate
        text = b"null"
    return to_json(item, inf_nan_mode="constants") if b"null" in text else text


def decode_slowly(model: type[BaseModel], body: bytes) -> BaseModel:
    """Any JSON body through its Pydantic model. Raises InvalidInput."""
    if not body or body.isspace():
        raise InvalidInput("body: the request has no body; send a JSON object", field="body")
    try:
        request = model.model_validate_json(body)
    except ValidationError as error:  # NaN and infinity among them, by the field they stand in
        raise refusal(error) from None
    if b"NaN" in body or b"Infinity" in body:
        _refuse_constants(body)
    return request


def parse(body: bytes) -> Any:
    """Any JSON document as Python values; raises InvalidInput for broken JSON.

    NaN and 1e400 come through as floats, so that whoever checks the fields can name the one that is wrong.
    """
    try:
        return orjson.loads(body)
    except ValueError as error:
        try:  # orjson refuses a whole document for one NaN or one number beyond a float
            return from_json(body)
        except ValueError:
            raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None


def _refuse_constants(body: bytes) -> None:
    """NaN and Infinity are Python's idea of JSON; inside a text they are just letters."""
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None


# The fast way


def _read_flat_simdjson(body: bytes, field: str) -> Fields | None:
    """The fields of a flat object with `field` as a float64 array, None where the slow way must decide."""
    # as_buffer() would flatten nested arrays without a word, and simdjson skips a byte order mark, which is no JSON
    if not (_once(body, b"[") and _once(body, b"{")) or body.startswith(b"\xef\xbb\xbf"):
        return None
    parser = _local.parser if len(body) < _KEEP_PARSER_BELOW else simdjson.Parser()
    try:
        document = parser.parse(body)
        keys = list(document)
        fields = {key: document[key] for key in keys}  # items() would make a list of the array, number by number
        if len(fields) != len(keys):  # a key given twice
            return None
        # as_buffer() hands out a copy of its own, not the parser's memory
        fields[field] = np.frombuffer(fields[field].as_buffer(of_type="d"))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None
    return fields


def _once(body: bytes, mark: bytes) -> bool:
    """As `body.count(mark) == 1`; find() searches many bytes at a time, count() one by one."""
    first = body.find(mark)
    return first >= 0 and body.find(mark, first + 1) < 0


def _read_flat_orjson(body: bytes, field: str) -> Fields | None:
    """The same without simdjson, for flat objects of any shape."""
    if b"true" in body or b"false" in body:  # array() would take them for 1 and 0
        return None
    try:
        fields = orjson.loads(body)
        fields[field] = np.frombuffer(array("d", fields[field]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    # orjson reads a whole number beyond 64 bits as a float, which has forgotten its last digits
    exact = all(type(v) is not float or abs(v) < 2**53 for k, v in fields.items() if k != field)
    return fields if exact else None


read_flat: Callable[[bytes, str], Fields | None] = _read_flat_orjson
if simdjson is not None:
    _local = _PerThread()
    read_flat = _read_flat_simdjson
