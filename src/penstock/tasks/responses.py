"""Large responses as JSON text in pieces, so that neither the text nor the time for it is needed at once.

A serializer holds the interpreter's lock from its first byte to its last. Between two pieces the lock is free.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import orjson
from pydantic import BaseModel

from penstock.datatypes import BF16, as_text, float_from_bf16
from penstock.tensors import Array

LARGE_VALUES: Final = 8192
"""A response of more values than this is large: its text takes about a millisecond. 16 characters count as a value."""
PIECE_BYTES: Final = 1 << 17
"""About the size of a piece."""
WHOLE_BYTES: Final = 1 << 20
"""A reply of at most about this many bytes is sent whole, a longer one in chunks."""

_NUMBERS: Final = frozenset({float, int, bool, type(None)})

Render: TypeAlias = Callable[[Any], bytes]
"""The JSON text of a value in its place in a response."""


def is_large(value: Any) -> bool:
    """True for a response, or any value in one, of more than LARGE_VALUES."""
    return hasattr(value, "json_pieces") or _count(value, LARGE_VALUES) < 0


def _count(value: Any, left: int) -> int:
    """What is left of so many values after those in `value`; below 0 it stops counting."""
    kind = type(value)
    if kind in _NUMBERS:
        return left - 1
    if kind in (str, bytes):
        return left - 1 - len(value) // 16
    if isinstance(value, np.ndarray):
        return left - int(value.size)
    if isinstance(value, BaseModel):
        value = value.__dict__
    if isinstance(value, Mapping):
        items: Iterable[Any] = itertools.chain(value, value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        items = value
    else:
        return left - 1
    left -= len(value)
    if left < 0 or (kind in (list, tuple) and _NUMBERS.issuperset(map(type, value))):
        return left
    for item in items:
        left = _count(item, left)
        if left < 0:
            break
    return left


class ResponseText:
    """JSON text that is made as it is read, by one thread after the other."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = grouped(pieces)
        self.head = b""
        """The beginning of the text, once `start` was called."""
        self.whole = False
        """True if the head is the whole text."""

    def start(self) -> ResponseText:
        """Make the head, of at most about WHOLE_BYTES. Raises what the serializer raises."""
        parts: list[bytes] = []
        size = 0
        for piece in self.pieces:
            parts.append(piece)
            size += len(piece)
            if size >= WHOLE_BYTES:
                break
        else:
            self.whole = True
        self.head = b"".join(parts)
        return self

    def next(self) -> bytes:
        """The next piece after the head; empty at the end."""
        return next(self.pieces, b"")


def grouped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same text in pieces of about PIECE_BYTES."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def json_pieces(response: BaseModel) -> Iterator[bytes]:
    """What `to_json` writes for a response, piece by piece.

    A response whose class changes what its serializer writes is one piece, unless it has a method `json_pieces` of its
    own.
    """
    own = getattr(response, "json_pieces", None)
    if own is not None:
        yield from own()
    elif _is_plain(type(response)) and not response.__pydantic_extra__:
        names = [name for name in response.__dict__ if name in type(response).model_fields]
        yield from model_pieces(names, functools.partial(_field_pieces, response))
    else:
        yield response.__pydantic_serializer__.to_json(response)


def model_pieces(names: Iterable[str], field_pieces: Callable[[str], Iterator[bytes]]) -> Iterator[bytes]:
    """A JSON object of the fields of a response, each with its key; a field without pieces is left out."""
    separator = b"{"
    for name in names:
        for piece in field_pieces(name):
            yield separator + piece if separator else piece
            separator = b""
        separator = separator or b","
    yield b"{}" if separator == b"{" else b"}"


def _field_pieces(response: BaseModel, name: str) -> Iterator[bytes]:
    write = response.__pydantic_serializer__.to_json
    value = response.__dict__[name]
    empty = _empty(value)
    if empty is None or not is_large(value):
        yield from filter(None, [write(response, include={name})[1:-1]])
        return
    key = write(response.model_copy(update={name: empty}), include={name})[1:-3]  # without {, and without []}

    def render(part: Any) -> bytes:
        return write(response.model_copy(update={name: part}), include={name})[1 + len(key) : -1]

    yield from itertools.chain([key], _pieces(value, render)) if key else ()


def _empty(value: Any) -> Any:
    """What a value is cut into parts from; None for one that is not cut."""
    kind = type(value)
    return kind() if kind in (list, dict, str) else None


def _pieces(value: Any, render: Render) -> Iterator[bytes]:
    """The text of a value; `render` writes parts of it that are of the same type."""
    if not is_large(value) or _empty(value) is None:
        yield render(value)
    elif type(value) is str:
        yield b'"'
        for low in range(0, len(value), PIECE_BYTES):
            yield render(value[low : low + PIECE_BYTES])[1:-1]
        yield b'"'
    elif type(value) is list:
        yield from _list_pieces(value, render)
    else:
        yield from _dict_pieces(value, render)


def _list_pieces(values: list[Any], render: Render) -> Iterator[bytes]:
    yield b"["
    low = 0
    while low < len(values):
        part = _first_items(values[low : low + LARGE_VALUES])
        if low:
            yield b","
        if len(part) == 1:
            yield from _pieces(part[0], lambda item: render([item])[1:-1])
        else:
            yield render(part)[1:-1]
        low += len(part)
    yield b"]"


def _first_items(values: list[Any]) -> list[Any]:
    """As many items as are not large together, but at least one."""
    if _NUMBERS.issuperset(map(type, values)):
        return values
    left = LARGE_VALUES
    for number, item in enumerate(values):
        left = _count(item, left)
        if left < 0:
            return values[: number or 1]
    return values


def _dict_pieces(values: dict[Any, Any], render: Render) -> Iterator[bytes]:
    separator = b"{"
    for key, value in values.items():
        yield separator
        separator = b","
        empty = _empty(value)
        if empty is None or not is_large(value):
            yield render({key: value})[1:-1]
            continue
        start = render({key: empty})[1:-3]
        yield start
        yield from _pieces(value, functools.partial(_render_value, render, key, len(start)))
    yield b"}"


def _render_value(render: Render, key: Any, start: int, value: Any) -> bytes:
    return render({key: value})[1 + start : -1]


@functools.lru_cache(maxsize=1024)
def _is_plain(model: type[BaseModel]) -> bool:
    """True if the model, and what it contains, is written as its values are."""
    return not model.__pydantic_root_model__ and not _has_serializer(model.__pydantic_core_schema__, set())


def _has_serializer(schema: Any, seen: set[int]) -> bool:
    if id(schema) in seen:
        return False
    seen.add(id(schema))
    if isinstance(schema, Mapping):
        if schema.get("serialization") or schema.get("computed_fields"):
            return True
        return any(_has_serializer(value, seen) for key, value in schema.items() if key != "metadata")
    return isinstance(schema, list | tuple) and any(_has_serializer(value, seen) for value in schema)


# Arrays


def array_pieces(name: str, array: Array, dtype: str) -> Iterator[bytes]:
    """A tensor as nested lists, as JSON: the text of `to_json_values`, in pieces.

    Raises InvalidInput naming the tensor if a BYTES value is not valid UTF-8.
    """
    if array.ndim == 0 or array.size <= LARGE_VALUES:
        yield _array_text(name, array, dtype)
        return
    yield b"["
    rows = max(1, LARGE_VALUES * len(array) // array.size)
    for low in range(0, len(array), rows):
        if low:
            yield b","
        part = array[low : low + rows]
        if rows == 1:
            yield from array_pieces(name, part[0], dtype)
        else:
            yield _array_text(name, part, dtype)[1:-1]
    yield b"]"


def _array_text(name: str, array: Array, dtype: str) -> bytes:
    if dtype == "BYTES":
        return orjson.dumps(as_text(name, array).tolist())
    values = float_from_bf16(array) if dtype == BF16 else array
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # the digits of a Python float, as in a small response
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
