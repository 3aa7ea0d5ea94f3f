"""Reads large JSON bodies in bounded memory: arrays of numbers block by block, everything else only if it is light.

Between blocks the interpreter's lock is free, so that the event loop goes on while megabytes are read.
"""

from __future__ import annotations

import functools
import re
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from penstock.datatypes import read_array
from penstock.errors import InvalidInput, printable
from penstock.gateway.native.json_outline import LIGHT_BYTES, MAX_MEMBERS, Member, Outline, is_light, outline
from penstock.tasks.base import Task
from penstock.tasks.validation_errors import refusal
from penstock.tensors import Array, Signature

LARGE: Final = 256 * 1024
"""Bodies of so many bytes are looked at before they are parsed; smaller ones cannot take much."""
SLOW: Final = 2 << 20
"""A parser would hold the interpreter's lock too long for bodies of so many bytes, so they are read block by block."""
_BLOCK: Final = 1 << 16
_LONG_TEXT: Final = 1 << 20
_LONGEST_VALUE: Final = 1 << 20
"""With the blanks and brackets around it."""
_COMMA, _OPEN, _CLOSE = b",[]"
_BLANK: Final = b" \t\r\n"
_HIGH_SURROGATE: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_UNBRACKETED: Final = bytes.maketrans(b"[]", b"  ")


def check_light(body: bytes) -> None:
    """Raise InvalidInput for a large body that would take too much memory as Python objects."""
    if len(body) >= LARGE and not is_light(body):
        raise _too_many("body")


def read_heavy(task: Task, body: bytes) -> BaseModel | None:
    """The `Request` of a task from a body that is too large to be parsed at once; None if it is light without its
    arrays and long texts, of which it has none.

    Raises InvalidInput naming the field, also where a field has too many values that are not its arrays of numbers.
    """
    found = outline(body)
    if found.kind != "{":
        raise InvalidInput("body: Input should be an object", field="body")
    _check_names(task, found)
    arrays = dict(_arrays(task, body, found))
    rest = _without(body, [member for member, _ in arrays.values()])
    if not is_light(rest):
        raise _heaviest(body, [member for member in found.members if member.key not in arrays])
    if not arrays:
        return None
    try:
        fields = from_json(rest, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None
    try:
        return task.Request.model_validate(fields | {key: value for key, (_, value) in arrays.items()})
    except ValidationError as error:
        raise refusal(error) from None


def split_batch(body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The body of a batch with None in place of each item, and the items. Raises InvalidInput."""
    found = outline(body)
    if found.kind != "{":
        raise InvalidInput("body: Input should be an object", field="body")
    if found.too_many:
        raise InvalidInput(f"body: more than {MAX_MEMBERS} fields", field="body")
    lists = [member for member in found.members if member.key == "requests" and _first(body, member) == b"["]
    for member in found.members:
        if member not in lists and member.end - member.start >= LARGE:
            name = printable(member.key, 100)
            raise InvalidInput(f"{name}: too long for a field of a batch", field=name)
    rest = _without(body, lists)
    check_light(rest)
    try:
        shell: dict[str, Any] = from_json(rest, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None
    if not lists:
        return shell, []
    items = outline(body, lists[-1].start, lists[-1].end).members
    return {**shell, "requests": [None] * len(items)}, [body[each.start : each.end] for each in items]


def take_task(body: bytes) -> tuple[Any, bytes] | None:
    """The value of the top-level field `task` and the body without it; None without such a field."""
    found = outline(body)
    named = [member for member in found.members if member.key == "task"]
    if found.kind != "{" or len(named) != 1 or named[0].end - named[0].start > MAX_MEMBERS:
        return None
    place = found.members.index(named[0])
    start = found.members[place - 1].end if place else body.index(b"{") + 1
    end = named[0].end + (place == 0 and len(found.members) > 1)
    try:
        return orjson.loads(body[named[0].start : named[0].end]), body[:start] + body[end:]
    except ValueError:
        raise InvalidInput("body: not valid JSON", field="body") from None


def check_unknown(task: Task, body: bytes) -> None:
    """Raise InvalidInput for the first of many unknown fields, each of which would be an error of its own."""
    if task.Request.model_config.get("extra") == "forbid" and body.count(b":") > MAX_MEMBERS:
        found = outline(body)
        if found.kind == "{" and found.too_many:
            _check_names(task, found)


def _check_names(task: Task, found: Outline) -> None:
    """Raise InvalidInput for an unknown field, very many fields, or one that is given twice."""
    seen: set[str] = set()
    strict = task.Request.model_config.get("extra") == "forbid"
    known = {name for key, field in task.Request.model_fields.items() for name in (key, field.alias)}
    for member in found.members:
        name = printable(member.key, 100)
        if strict and member.key not in known:
            raise InvalidInput(f"{name}: Extra inputs are not permitted", field=name)
        if member.key in seen:
            raise InvalidInput(f"{name}: this field is given twice", field=name)
        seen.add(member.key)
    if found.too_many:
        raise InvalidInput(f"body: more than {MAX_MEMBERS} fields", field="body")


def _arrays(task: Task, body: bytes, found: Outline) -> Iterator[tuple[str, tuple[Member, Any]]]:
    """The fields of the body that are arrays of numbers, objects of such arrays, or long texts."""
    for member in found.members:
        mark = _first(body, member)
        if member.key == task.array_field and mark == b"[":
            yield member.key, (member, _flat(body, member, member.key))
        elif member.key == task.series_field and mark == b"{":
            yield member.key, (member, _each(body, member, _series))
        elif member.key == task.tensors_field and mark == b"{":
            yield member.key, (member, _each(body, member, functools.partial(_tensor, task.signature)))
        elif mark == b'"' and member.end - member.start >= _LONG_TEXT:
            yield member.key, (member, read_text(body, member.start, member.end))


def _first(body: bytes, member: Member) -> bytes:
    return body[member.start : min(member.start + 64, member.end)].lstrip(_BLANK)[:1]


def _each(body: bytes, member: Member, read: Callable[[bytes, Member, str], Any]) -> dict[str, Any]:
    found = outline(body, member.start, member.end)
    if found.too_many:
        raise InvalidInput(f"{member.key}: more than {MAX_MEMBERS} fields", field=member.key)
    values: dict[str, Any] = {}
    for each in found.members:
        name = f"{member.key}.{printable(each.key, 100)}"
        if each.key in values:
            raise InvalidInput(f"{name}: this field is given twice", field=name)
        values[each.key] = read(body, each, name)
    return values


def _series(body: bytes, member: Member, field: str) -> Any:
    if _first(body, member) != b"[":
        return _parsed(body, member, field)
    values = array("d")
    values.frombytes(_flat(body, member, field).view(np.uint8).data)
    return values


def _tensor(signature: Signature, body: bytes, member: Member, field: str) -> Any:
    spec = next((spec for spec in signature.inputs if spec.name == member.key), None)
    if spec is None:
        known = ", ".join(spec.name for spec in signature.inputs)
        raise InvalidInput(f"{field}: the model has no such input; it takes {known}", field=field)
    if spec.dtype == "BYTES" or _first(body, member) != b"[":
        return _parsed(body, member, field)
    return read_numbers(body, member.start, member.end, spec.dtype, field)


def _flat(body: bytes, member: Member, field: str) -> Array:
    values = read_numbers(body, member.start, member.end, "FP64", field)
    if values.ndim != 1:
        raise InvalidInput(f"{field}[0]: Input should be a valid number", field=f"{field}[0]")
    return values


def _parsed(body: bytes, member: Member, field: str) -> Any:
    """A value that is not an array of numbers, if it is light."""
    if _first(body, member) == b'"':
        return read_text(body, member.start, member.end)
    text = body[member.start : member.end]
    if not is_light(text):
        raise _too_many(field)
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None


def _without(body: bytes, members: list[Member]) -> bytes:
    parts, low = [], 0
    for member in sorted(members, key=lambda each: each.start):
        parts += [body[low : member.start], b"null"]
        low = member.end
    return b"".join([*parts, body[low:]])


def _heaviest(body: bytes, members: list[Member]) -> InvalidInput:
    heaviest = max(members, key=lambda member: outline(body, member.start, member.end, listed=False).weight)
    return _too_many(printable(heaviest.key, 100))


def _too_many(field: str) -> InvalidInput:
    return InvalidInput(
        f"{field}: too many values, lists or objects for one request; beside arrays of numbers and long texts it has "
        f"room for {LIGHT_BYTES >> 20} MiB of them as Python objects; send fewer, or several requests",
        field=field,
    )


# Long texts


def read_text(body: bytes, start: int, end: int) -> str:
    """The text in `body[start:end]`, with its quotes. Raises InvalidInput."""
    low, end = body.find(b'"', start, end) + 1, body.rfind(b'"', start, end)
    parts = []
    try:
        while low < end:
            high = end if end - low <= _BLOCK else _between_characters(body, low, low + _BLOCK)
            parts.append(orjson.loads(b'"%b"' % body[low:high]))
            low = high
    except ValueError as error:
        raise InvalidInput(f"body: not valid JSON: {error}", field="body") from None
    return "".join(parts)


def _between_characters(body: bytes, low: int, high: int) -> int:
    """The last place up to `high` that is inside no character and no escape of the text from `low` on."""
    mark = body.rfind(b"\\", high - 16, high)
    if mark < 0:
        while body[high] & 0xC0 == 0x80:
            high -= 1
        return high
    start = low + len(body[low : mark + 1].rstrip(b"\\"))  # of the backslashes that end at the mark
    if mark - start >= 16:
        return start + (mark - start) // 2 * 2
    if _HIGH_SURROGATE.fullmatch(body, start - 6, start):
        before = body[low : start - 5]
        if (len(before) - len(before.rstrip(b"\\"))) % 2:
            return start - 6
    return start


# Arrays of numbers


class _Block(NamedTuple):
    """Some values of nested lists, and the brackets that open before and close after each."""

    values: Array
    opened: NDArray[np.int8]
    closed: NDArray[np.int8]


def read_numbers(body: bytes, start: int, end: int, dtype: str, field: str) -> Array:
    """Nested lists of numbers or booleans in `body[start:end]` as an array of the datatype `dtype`.

    Raises InvalidInput naming the field.
    """
    start += len(body[start : start + 64]) - len(body[start : start + 64].lstrip(_BLANK))
    most = 1 + sum(
        int(np.count_nonzero(np.frombuffer(body, np.uint8, min(_BLOCK, end - low), low) == _COMMA))
        for low in range(start, end, _BLOCK)
    )
    values: Array | None = None
    opened = np.empty(most, np.int8)
    count, closed_before = 0, None
    for low, high in _blocks(body, start, end):
        if high - low > _LONGEST_VALUE:
            raise InvalidInput(f"{field}: a number is too long, or lists are nested too deeply", field=field)
        block = _read_block(body[low:high], dtype, field, count)
        values = np.empty(most, block.values.dtype) if values is None else values
        new = count + len(block.values)
        if new > most or (closed_before is not None and block.opened[0] != closed_before):
            raise _ragged(field)
        if not np.array_equal(block.opened[1:], block.closed[:-1]):
            raise _ragged(field)
        values[count:new], opened[count:new] = block.values, block.opened
        count, closed_before = new, block.closed[-1]
    assert values is not None
    if count != most or closed_before != opened[0]:
        raise _ragged(field)
    return values.reshape(_shape(opened, field))


def _blocks(body: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Parts of the text that end at a comma, which is not part of either."""
    low = start
    while low < end:
        high = end
        if end - low > _BLOCK:
            high = body.rfind(b",", low, low + _BLOCK)
            if high < 0:
                high = body.find(b",", low + _BLOCK, end)
            high = end if high < 0 else high
        yield low, high
        low = high + 1


def _read_block(text: bytes, dtype: str, field: str, count: int) -> _Block:
    found = _numbers(text.translate(_UNBRACKETED), dtype, field, count)
    marks = np.frombuffer(text.translate(None, _BLANK), np.uint8)
    opens, closes = np.flatnonzero(marks == _OPEN), np.flatnonzero(marks == _CLOSE)
    padded = np.concatenate(([_COMMA], marks, [_COMMA]))
    before, after = padded[opens], padded[closes + 2]
    if not (np.isin(before, (_COMMA, _OPEN)).all() and np.isin(after, (_COMMA, _CLOSE)).all()):
        raise _ragged(field)
    commas = np.flatnonzero(marks == _COMMA)
    fields = len(commas) + 1
    if fields != len(found):
        raise _ragged(field)
    opened = np.bincount(np.searchsorted(commas, opens), minlength=fields).clip(max=127).astype(np.int8)
    closed = np.bincount(np.searchsorted(commas, closes), minlength=fields).clip(max=127).astype(np.int8)
    return _Block(found, opened, closed)


def _numbers(text: bytes, dtype: str, field: str, count: int) -> Array:
    """The values of a block, whose brackets are blanks."""
    try:
        values = orjson.loads(b"[" + text + b"]")
    except ValueError:
        raise _unreadable(text, dtype, field) from None
    if dtype == "FP64" and not set(map(type, values)) <= {int, float}:
        wrong = next(number for number, value in enumerate(values) if type(value) not in (int, float))
        place = f"{field}[{count + wrong}]"
        raise InvalidInput(f"{place}: Input should be a valid number", field=place)
    if dtype[0] in "IU" and float in map(type, values) and not any(mark in text for mark in b".eE"):
        raise InvalidInput(f"{field}: a number does not fit into {dtype}", field=field)
    return read_array(field, values, dtype)


def _unreadable(text: bytes, dtype: str, field: str) -> InvalidInput:
    if not text.strip(_BLANK + b","):
        return InvalidInput(f"{field}: a row has no values", field=field)
    try:
        from_json(b"[" + text + b"]")  # also reads NaN, and 1e400 as infinity
    except ValueError:
        return InvalidInput(f"{field}: the rows differ in length, or this is not valid JSON", field=field)
    return InvalidInput(f"{field}: a number is not finite or does not fit into {dtype}", field=field)


def _shape(opened: NDArray[np.int8], field: str) -> tuple[int, ...]:
    """The shape of nested lists from the brackets that open before each value. Raises InvalidInput."""
    depth, total = int(opened[0]), len(opened)
    later = opened[1:]
    if depth > 32 or (later.size and int(later.max()) >= depth):
        raise _ragged(field)
    lengths, inner = [], 1
    for level in range(1, depth):
        starts = opened >= level
        second = int(starts[1:].argmax()) + 1 if starts[1:].any() else total
        starts[::second] ^= True
        if starts.any() or total % second or second % inner:
            raise _ragged(field)
        lengths.append(second // inner)
        inner = second
    return (total // inner, *reversed(lengths)) if depth else ()


def _ragged(field: str) -> InvalidInput:
    return InvalidInput(f"{field}: the rows differ in length", field=field)
