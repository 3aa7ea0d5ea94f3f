"""Messages between a server and its workers as bytes, and back. Reading them cannot run code, unlike pickle.

A frame is two numbers (the bytes of its head, and of its body), the head, which is a JSON object, and the body: the
arrays, each at a multiple of 64 bytes, so that it is used where it lies. The head has the kind of the message, the
number of what it belongs to, any further fields, and a description of each array. One number may have several messages,
which is what partial answers need, and messages of several numbers may alternate.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from penstock.tensors import Array, Arrays

PREFIX = struct.Struct("<QQ")
"""The sizes of head and body."""
ALIGNED = 64
MOST_HEAD = 16 << 20
MOST_BODY = 4 << 30
_KINDS = "biuf"
"""The kinds of arrays that are their bytes."""
_TEXT = 1 << 31
"""The bit in the length of a value of BYTES that is a str."""


class BrokenFrame(ValueError):
    """The bytes are no frame."""


@dataclass(frozen=True, slots=True)
class Message:
    """What one side tells the other: the kind, the number of the request or run, fields of plain data, and arrays."""

    kind: str
    number: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def encode(message: Message) -> list[memoryview]:
    """The frame in pieces, of which the arrays are no copies.

    Raises TypeError for a value that has no place in one, ValueError for a message that is too large.
    """
    pieces: list[memoryview] = []
    described: list[Any] = []
    size = 0
    for name, array in message.arrays.items():
        kind, parts = _parts(name, array)
        length = sum(part.nbytes for part in parts)
        described.append([name, kind, list(array.shape), length])
        padding = -length % ALIGNED
        pieces += [*parts, memoryview(bytes(padding))] if padding else parts
        size += length + padding
    head = orjson.dumps({"kind": message.kind, "number": message.number, "fields": message.fields, "arrays": described})
    head += b" " * (-len(head) % ALIGNED)
    if len(head) > MOST_HEAD or size > MOST_BODY:
        raise ValueError(f"a message of {len(head) + size} bytes is too large; use smaller batches")
    return [memoryview(PREFIX.pack(len(head), size) + head), *(piece for piece in pieces if piece.nbytes)]


def sizes(prefix: bytes | bytearray) -> tuple[int, int]:
    """The sizes of head and body. Raises BrokenFrame for more than a frame may have."""
    head, body = PREFIX.unpack(prefix)
    if not 0 < head <= MOST_HEAD or body > MOST_BODY:
        raise BrokenFrame("the sizes are beyond what a frame may have")
    return head, body


def decode(data: Array, head: int) -> Message:
    """The message in head and body, whose arrays share the memory of `data`. Raises BrokenFrame."""
    try:
        found = orjson.loads(data[:head].tobytes())
        arrays: Arrays = {}
        start = head
        for name, kind, shape, length in found["arrays"]:
            part = data[start : start + length]
            if length < 0 or len(part) != length or any(axis < 0 for axis in shape):
                raise BrokenFrame("an array is cut off")
            arrays[str(name)] = _array(part, str(kind), tuple(shape))
            start += length + -length % ALIGNED
        return Message(str(found["kind"]), int(found["number"]), dict(found["fields"]), arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenFrame(f"this is no frame: {error}") from None


def _parts(name: str, array: Array) -> tuple[str, list[memoryview]]:
    """The kind of an array, and its bytes."""
    if array.dtype.kind in _KINDS:
        whole = np.ascontiguousarray(array)
        return array.dtype.str, [whole.reshape(-1).view(np.uint8).data] if whole.size else []
    if array.dtype.kind != "O":
        raise TypeError(f"{name}: an array of {array.dtype} is no tensor")
    lengths, values = np.empty(array.size, np.uint32), []
    for place, value in enumerate(array.ravel()):
        text = isinstance(value, str)
        if not text and not isinstance(value, bytes):
            raise TypeError(f"{name}: a value is {type(value).__name__}, not text or bytes")
        values.append(value.encode() if text else value)
        if len(values[-1]) >= _TEXT:
            raise ValueError(f"{name}: a text is too large")
        lengths[place] = len(values[-1]) | (_TEXT if text else 0)
    joined = memoryview(b"".join(values))
    return "O", [lengths.view(np.uint8).data, joined] if array.size else []


def _array(data: Array, kind: str, shape: tuple[int, ...]) -> Array:
    if kind == "O":
        return _objects(data, shape)
    dtype = np.dtype(kind)
    if dtype.kind not in _KINDS:
        raise BrokenFrame(f"an array of {dtype} is no tensor")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise BrokenFrame("the size of an array is not that of its shape")
    return data.view(dtype).reshape(shape)


def _objects(data: Array, shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    if 4 * count > len(data):
        raise BrokenFrame("an array of text is cut off")
    lengths, rest = data[: 4 * count].view(np.uint32), data[4 * count :].tobytes()
    found, start = np.empty(count, object), 0
    for place, length in enumerate(lengths.tolist()):
        end = start + (length & ~_TEXT)
        value = rest[start:end]
        found[place] = value.decode() if length & _TEXT else value
        start = end
    if start != len(rest):
        raise BrokenFrame("the size of an array of text is not that of its values")
    return found.reshape(shape)
