"""JSON arrays of numbers without a Python object for each number: the fast path from a body to a request.

It never rejects. For everything else (nested arrays, duplicate keys, values that are no numbers) the result is None,
and the Pydantic model decides and writes the error.
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
"""A parser keeps the memory of its largest document; larger bodies get one of their own."""
_MOST_KEYS = 64
_MOST_SERIES = 128
_LONGEST_KEY = 128
"""simdjson looks for a key from the first one on: of very many keys each costs as much as all of them."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""simdjson skips it, and it is no JSON."""


_UNSURE = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError)
"""What the parsers raise for a document of another form, or for what is no JSON."""


def has_arrays(task: Task) -> bool:
    """Whether its requests have a field that the fast path can read."""
    return task.array_field is not None or task.series_field is not None


def decode(task: Task, body: bytes) -> BaseModel | None:
    """The `Request` of a task from a JSON body; None where the Pydantic model decides."""
    if task.array_field is None and task.series_field is None:
        return None
    return validated(task, read(body, task))


def validated(task: Task, fields: Fields | None) -> BaseModel | None:
    """The `Request` with these fields; None where the Pydantic model, which reads the same bytes, decides."""
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
    """The objects in the list `requests` of a batch, and the envelope around them; not for two threads at once."""

    def __init__(self, body: bytes) -> None:
        """Raises one of `_UNSURE` for what the Pydantic model decides."""
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
        """Those of every item, its arrays as the task takes them; None where the Pydantic model decides."""
        try:
            read = [_fields(item, task) for item in self._requests]
        except _UNSURE:
            return None
        return [fields for fields, _ in read] if self._arrays == 1 + sum(arrays for _, arrays in read) else None


def read_items(body: bytes) -> ArrayItems | None:
    """A batch, as far as the fast path can read it."""
    if simdjson is None or body.startswith(_BYTE_ORDER_MARK):
        return None
    try:
        return ArrayItems(body)
    except _UNSURE:
        return None


def read_simdjson(body: bytes, task: Task) -> Fields | None:
    """The fields of an object, its numbers as a float64 array or as several, None where the Pydantic model decides."""
    # as_buffer() would flatten nested arrays without a word: as many may begin as are taken
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
    """0, 1 or 2 for more; find() searches many bytes at a time, count() one by one."""
    first = body.find(mark)
    return 0 if first < 0 else 1 if body.find(mark, first + 1) < 0 else 2


def _members(found: Any, most: int) -> Fields:
    """An object's values, arrays and objects among them unread. Raises ValueError for a key given twice."""
    if not isinstance(found, simdjson.Object):
        raise TypeError("no object")
    keys = list(found)
    if len(keys) > most or any(len(key) > _LONGEST_KEY or "\0" in key for key in keys):
        raise ValueError("too many keys, a long one, or one that simdjson would look up as what is before its NUL")
    members = {key: found[key] for key in keys}  # items() would make a list of an array, number by number
    if len(members) != len(keys):
        raise ValueError("a key is given twice")
    return members


def _fields(found: Any, task: Task) -> tuple[Fields, int]:
    """An object's values, and how many arrays are among them."""
    fields, arrays = _members(found, _MOST_KEYS), 0
    for key, value in fields.items():
        if key == task.array_field:
            # as_buffer() hands out a copy of its own, not the parser's memory
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
    """The same without simdjson, for one array only: orjson does not tell of a name that is given twice."""
    if task.series_field is not None or b"true" in body or b"false" in body:  # array() would take them for 1 and 0
        return None
    try:
        fields = orjson.loads(body)
        fields[task.array_field] = np.frombuffer(array("d", fields[task.array_field]))
    except _UNSURE:
        return None
    # orjson reads a whole number beyond 64 bits as a float, which has forgotten its last digits
    exact = all(type(v) is not float or abs(v) < 2**53 for k, v in fields.items() if k != task.array_field)
    return fields if exact else None


read = read_orjson
if simdjson is not None:
    _local = _PerThread()
    _CONTAINERS = (simdjson.Object, simdjson.Array)
    read = read_simdjson
