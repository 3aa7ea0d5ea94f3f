"""The fast path from a body to a request: decodes JSON arrays of numbers without a Python object for each number.

It never rejects. For anything else (nested arrays, duplicate keys, values that are not numbers) the result is None, and
the Pydantic model decides and writes the error.
"""

from __future__ import annotations

import threading
from array import array
from typing import Any, TypeAlias

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError

from penstock.tasks.base import Task

try:
    import simdjson as _simdjson
except ImportError:  # no wheel for this Python: orjson reads the arrays
    simdjson: Any = None
else:
    simdjson = _simdjson

Fields: TypeAlias = dict[str, Any]

_KEEP_PARSER_BELOW = 1 << 20
"""A parser keeps the memory of its largest document, so larger bodies get a new parser."""
_MOST_KEYS = 64
_MOST_SERIES = 128
_LONGEST_KEY = 128
"""simdjson searches keys from the start of the object: reading all of n keys takes n² steps."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""simdjson skips it, although it is not valid JSON."""


_UNSURE = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError)
"""Raised by the parsers for documents of another structure and for invalid JSON."""


def has_arrays(task: Task) -> bool:
    """True if the task's requests have a field that the fast path can read."""
    return task.array_field is not None or task.series_field is not None


def decode(task: Task, body: bytes) -> BaseModel | None:
    """The `Request` of a task from a JSON body; None if the Pydantic model must decide."""
    if task.array_field is None and task.series_field is None:
        return None
    return validated(task, read(body, task))


def validated(task: Task, fields: Fields | None) -> BaseModel | None:
    """The `Request` with these fields; None if the Pydantic model must decide from the bytes."""
    if fields is None:
        return None
    try:
        return task.Request.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
    except ValidationError:
        return None


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.parser = simdjson.Parser()


class ArrayItems:
    """The objects in the list `requests` of a batch, and the other fields of the body. Not thread-safe."""

    def __init__(self, body: bytes) -> None:
        """Raises one of `_UNSURE` if the Pydantic model must decide."""
        self._arrays = body.count(b"[")
        document = simdjson.Parser().parse(body)
        fields = _members(document, _MOST_KEYS)
        requests = fields.pop("requests", None)
        if not isinstance(requests, simdjson.Array) or any(map(_is_container, fields.values())):
            raise ValueError("an envelope of another form")
        self.envelope: Fields = fields
        self._requests = requests

    def __len__(self) -> int:
        return len(self._requests)

    def fields(self, task: Task) -> list[Fields] | None:
        """The fields of every item, with arrays as the task takes them; None if the Pydantic model must decide."""
        try:
            read = [_fields(item, task) for item in self._requests]
        except _UNSURE:
            return None
        return [fields for fields, _ in read] if self._arrays == 1 + sum(arrays for _, arrays in read) else None


def read_items(body: bytes) -> ArrayItems | None:
    """A batch; None if the fast path cannot read it."""
    if simdjson is None or body.startswith(_BYTE_ORDER_MARK):
        return None
    try:
        return ArrayItems(body)
    except _UNSURE:
        return None


def read_simdjson(body: bytes, task: Task) -> Fields | None:
    """The fields of an object, with numbers as one or more float64 arrays; None if the Pydantic model must decide."""
    # as_buffer() flattens nested arrays silently: compare the number of "[" with the number of arrays read
    arrays = _one_or_many(body, b"[") if task.series_field is None else body.count(b"[")
    if arrays == 0 or body.startswith(_BYTE_ORDER_MARK):
        return None
    parser = _local.parser if len(body) < _KEEP_PARSER_BELOW else simdjson.Parser()
    try:
        fields, taken = _fields(parser.parse(body), task)
    except _UNSURE:
        return None
    return fields if taken == arrays else None


def _one_or_many(body: bytes, mark: bytes) -> int:
    """The count of `mark`, where 2 means 2 or more; find() scans many bytes at a time, count() one by one."""
    first = body.find(mark)
    return 0 if first < 0 else 1 if body.find(mark, first + 1) < 0 else 2


def _members(found: Any, most: int) -> Fields:
    """An object's values; nested arrays and objects are not decoded. Raises ValueError for a duplicate key."""
    if not isinstance(found, simdjson.Object):
        raise TypeError("not an object")
    keys = list(found)
    if len(keys) > most or any(len(key) > _LONGEST_KEY or "\0" in key for key in keys):
        raise ValueError("too many keys, a long key, or one with NUL, at which simdjson would truncate it")
    members = {key: found[key] for key in keys}  # items() would convert an array to a list
    if len(members) != len(keys):
        raise ValueError("a key is given twice")
    return members


def _fields(found: Any, task: Task) -> tuple[Fields, int]:
    """An object's values, and the number of arrays in it."""
    fields, arrays = _members(found, _MOST_KEYS), 0
    for key, value in fields.items():
        if key == task.array_field:
            # as_buffer() returns a copy, not the parser's memory
            fields[key] = np.frombuffer(value.as_buffer(of_type="d"))
            arrays += 1
        elif key == task.series_field:
            each = _members(value, _MOST_SERIES)
            fields[key] = {name: _series(one) for name, one in each.items()}
            arrays += len(each)
        elif isinstance(value, simdjson.Object):
            fields[key] = _members(value, _MOST_KEYS)
            if any(map(_is_container, fields[key].values())):
                raise ValueError("an object in an object")
        elif isinstance(value, simdjson.Array):
            raise ValueError("another array")
    return fields, arrays


def _series(found: Any) -> array[float]:
    values = array("d")
    values.frombytes(found.as_buffer(of_type="d"))
    return values


def _is_container(value: Any) -> bool:
    return isinstance(value, _CONTAINERS)


def read_orjson(body: bytes, task: Task) -> Fields | None:
    """The same without simdjson, for a single array only, since orjson does not report duplicate keys."""
    if task.series_field is not None or b"true" in body or b"false" in body:  # array() would read them as 1 and 0
        return None
    try:
        fields = orjson.loads(body)
        fields[task.array_field] = np.frombuffer(array("d", fields[task.array_field]))
    except _UNSURE:
        return None
    # orjson reads a whole number beyond 64 bits as a float, which loses its last digits
    exact = all(type(v) is not float or abs(v) < 2**53 for k, v in fields.items() if k != task.array_field)
    return fields if exact else None


read = read_orjson
if simdjson is not None:
    _local = _PerThread()
    _CONTAINERS = (simdjson.Object, simdjson.Array)
    read = read_simdjson
