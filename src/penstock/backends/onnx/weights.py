"""Counts the trained numbers in an ONNX file, and their bytes, by walking its protobuf: without the onnx package.

Only the headers of fields are read; everything else is skipped by its length, so a file of gigabytes
costs as little as a small one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_GRAPH, _INITIALIZER = 7, 5  # ModelProto.graph, GraphProto.initializer
_DIMS, _DATA_TYPE = 1, 2  # TensorProto.dims, TensorProto.data_type
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_NOT_TRAINED = frozenset({7, 8, 9})  # INT64 holds shapes and indices; STRING and BOOL are no numbers
_BITS = {1: 32, 4: 16, 5: 16, 6: 32, 7: 64, 8: 0, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= dict.fromkeys((21, 22, 23), 4)
_OTHER_BITS = 8  # bytes, booleans and the four kinds of FLOAT8
_MAX_VARINT_BYTES = 10
_NEGATIVE = 1 << 63  # how an int64 below zero reads as a varint


class _Malformed(Exception):
    """The bytes are not protobuf, or end too early."""


class Weights(NamedTuple):
    """How many trained numbers there are, shapes and indices left out, and the bytes of all constants."""

    parameters: int
    bytes: int


def count_parameters(path: Path) -> int | None:
    """Numbers in the initializers of the model's main graph, shapes and indices left out; None if unreadable."""
    weights = weigh(path)
    return None if weights is None else weights.parameters


def weigh(path: Path) -> Weights | None:
    """The initializers of the model's main graph, wherever their data lies; None if unreadable."""
    try:
        with path.open("rb") as file:
            return _weigh(file)
    except (_Malformed, OSError):
        return None


def _weigh(file: BinaryIO) -> Weights | None:
    total: Weights | None = None
    for graph_end in _messages(file, os.fstat(file.fileno()).st_size, _GRAPH):
        parameters, size = total or (0, 0)
        for tensor_end in _messages(file, graph_end, _INITIALIZER):
            kind, elements = _tensor(file, tensor_end)
            parameters += 0 if kind in _NOT_TRAINED else elements
            size += elements * _BITS.get(kind, _OTHER_BITS) // 8
        total = Weights(parameters, size)
    return total


def _messages(file: BinaryIO, end: int, wanted: int) -> Iterator[int]:
    """Steps into each `wanted` message before `end`, giving the position it ends at."""
    for field, wire_type, field_end in _fields(file, end):
        if field == wanted and wire_type == _BYTES:
            yield field_end


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Field number, wire type and end of each field before `end`; the file stands at the field's value."""
    while (position := file.tell()) < end:
        tag = _varint(file)
        field_end = _field_end(file, tag & 7)
        if not position < field_end <= end:
            raise _Malformed
        yield tag >> 3, tag & 7, field_end
        file.seek(field_end)


def _field_end(file: BinaryIO, wire_type: int) -> int:
    if wire_type == _BYTES:
        return _varint(file) + file.tell()
    start = file.tell()
    if wire_type == _VARINT:
        _varint(file)
        length = file.tell() - start
        file.seek(start)
        return start + length
    if wire_type not in _FIXED_SIZES:
        raise _Malformed
    return start + _FIXED_SIZES[wire_type]


def _tensor(file: BinaryIO, end: int) -> tuple[int, int]:
    """The tensor's type, and how many elements it has."""
    dims: list[int] = []
    data_type = 0
    for field, wire_type, field_end in _fields(file, end):
        if field == _DIMS:
            dims += _integers(file, wire_type, field_end)
        elif field == _DATA_TYPE and wire_type == _VARINT:
            data_type = _varint(file)
    if any(length >= _NEGATIVE for length in dims):
        raise _Malformed
    return data_type, math.prod(dims)


def _integers(file: BinaryIO, wire_type: int, end: int) -> Iterator[int]:
    """A repeated integer field, whether its writer packed it (one field of bytes) or not (one field each)."""
    if wire_type not in (_VARINT, _BYTES):
        raise _Malformed
    while file.tell() < end:
        yield _varint(file)


def _varint(file: BinaryIO) -> int:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise _Malformed
        value |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return value
    raise _Malformed
