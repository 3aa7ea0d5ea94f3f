"""Plain data as bytes, and back: what a child process hands to its parent. Reading it cannot run code, unlike pickle.

A frame is the length of a JSON document in 8 bytes, the document, and the bytes of the arrays in it, one after another.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from penstock.tensors import Array

_KINDS = "biufcSU"
"""The kinds of arrays that are their bytes."""


def encode(value: Any) -> bytes:
    """`value` as a frame: None, numbers, text, bytes, paths and arrays, in lists, tuples and dicts.

    Raises TypeError naming a type that has no place in it.
    """
    parts: list[bytes] = []
    document = json.dumps(_node(value, parts)).encode()
    return b"".join((len(document).to_bytes(8, "little"), document, *parts))


def decode(frame: bytes | bytearray) -> Any:
    """The inverse of `encode`; the arrays share the memory of `frame`. Raises ValueError for any other bytes."""
    length = int.from_bytes(frame[:8], "little")
    reader = _Reader(frame, 8 + length)
    try:
        return reader.value(json.loads(bytes(frame[8 : 8 + length])))
    except (KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(f"this is no frame: {error}") from None


def _node(value: Any, parts: list[bytes]) -> Any:
    """Scalars are themselves; everything else is a list of a tag and its content."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return _node(value.item(), parts)
    if isinstance(value, np.ndarray):
        return _array_node(value, parts)
    if isinstance(value, bytes | bytearray):
        parts.append(bytes(value))
        return ["bytes", len(value)]
    if isinstance(value, dict):
        return ["dict", [[_node(key, parts), _node(item, parts)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__ if type(value) in (list, tuple) else "tuple", [_node(one, parts) for one in value]]
    if isinstance(value, Path):
        return ["path", str(value)]
    raise TypeError(f"{type(value).__name__} is no plain data; return numbers, text, arrays, paths, lists or dicts")


def _array_node(array: Array, parts: list[bytes]) -> Any:
    shape = list(array.shape)
    if array.dtype.kind == "O":
        return ["objects", shape, [_node(one, parts) for one in array.ravel()]]
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"an array of {array.dtype} is no plain data")
    parts.append(np.ascontiguousarray(array).tobytes())
    return ["array", shape, array.dtype.str]


class _Reader:
    """Reads nodes in their order, and the bytes behind the document with them."""

    def __init__(self, frame: bytes | bytearray, start: int) -> None:
        self._frame = memoryview(frame)
        self._next = start

    def value(self, node: Any) -> Any:
        """The value of a node."""
        if not isinstance(node, list):
            return node
        match node:
            case ["dict", items]:
                return {self.value(key): self.value(item) for key, item in items}
            case ["list", items]:
                return [self.value(item) for item in items]
            case ["tuple", items]:
                return tuple(self.value(item) for item in items)
            case ["path", text]:
                return Path(text)
            case ["bytes", size]:
                return bytes(self._take(size))
            case ["array", shape, dtype]:
                return self._array(shape, np.dtype(dtype))
            case ["objects", shape, items]:
                return self._objects(shape, items)
        raise ValueError(f"this is no frame: it has {str(node)[:80]}")

    def _take(self, size: int) -> memoryview:
        part = self._frame[self._next : self._next + size]
        if size < 0 or len(part) != size:
            raise ValueError("this is no frame: it is too short")
        self._next += size
        return part

    def _array(self, shape: list[int], dtype: np.dtype[Any]) -> Array:
        if dtype.kind not in _KINDS:
            raise ValueError(f"this is no frame: it has an array of {dtype}")
        return np.frombuffer(self._take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    def _objects(self, shape: list[int], items: list[Any]) -> Array:
        array = np.empty(math.prod(shape), dtype=object)
        array[:] = [self.value(item) for item in items]
        return array.reshape(shape)
