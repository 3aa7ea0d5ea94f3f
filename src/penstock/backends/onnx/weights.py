"""Counts the parameters of an ONNX file, and the bytes of its constants, without the onnx package.

Only the headers of fields are read; everything else is skipped by its length, so a file of gigabytes costs as little as
a small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from penstock.errors import IntegrityError
from penstock.scan.findings import Refused
from penstock.scan.memory_map import mapped
from penstock.scan.protobuf import BYTES, VARINT, fields, varints

_GRAPH, _INITIALIZER = 7, 5  # ModelProto.graph, GraphProto.initializer
_DIMS, _DATA_TYPE = 1, 2  # TensorProto.dims, TensorProto.data_type
_NOT_TRAINED = frozenset({7, 8, 9})  # INT64 holds shapes and indices; STRING and BOOL are no numbers
_BITS = {1: 32, 4: 16, 5: 16, 6: 32, 7: 64, 8: 0, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS |= dict.fromkeys((21, 22, 23), 4)
_OTHER_BITS = 8  # bytes, booleans and the four kinds of FLOAT8
_MAX_DIMENSIONS = 64
_NEGATIVE = 1 << 63  # how an int64 below zero reads as a varint


class Weights(NamedTuple):
    """The number of parameters, without shapes and indices, and the bytes of all constants."""

    parameters: int
    bytes: int


def weigh(path: Path) -> Weights | None:
    """The initializers of the main graph, inside the file or external; None if unreadable."""
    try:
        with mapped(path) as data:
            return _weigh(data)
    except (Refused, IntegrityError):
        return None


def _weigh(data: memoryview) -> Weights | None:
    total: Weights | None = None
    for graph in _messages(data, 0, len(data), _GRAPH):
        parameters, size = total or (0, 0)
        for tensor in _messages(data, *graph, _INITIALIZER):
            kind, elements = _tensor(data, *tensor)
            parameters += 0 if kind in _NOT_TRAINED else elements
            size += elements * _BITS.get(kind, _OTHER_BITS) // 8
        total = Weights(parameters, size)
    return total


def _messages(data: memoryview, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Start and end of each message in the field `wanted`."""
    return ((one, other) for field, wire, one, other in fields(data, start, end) if field == wanted and wire == BYTES)


def _tensor(data: memoryview, start: int, end: int) -> tuple[int, int]:
    """The type of a tensor and its number of elements. Dimensions are packed into one field or one field each."""
    dims: list[int] = []
    data_type = 0
    for field, wire, one, other in fields(data, start, end):
        if field == _DIMS and wire == BYTES:
            dims += varints(data, one, other)
        elif field == _DIMS and wire == VARINT:
            dims.append(one)
        elif field == _DIMS:
            raise Refused("the dimensions of a tensor are not numbers")
        elif field == _DATA_TYPE and wire == VARINT:
            data_type = one
    if len(dims) > _MAX_DIMENSIONS:
        raise Refused(f"a tensor has {len(dims)} dimensions")
    if any(length >= _NEGATIVE for length in dims):
        raise Refused("a tensor has a negative length")
    return data_type, math.prod(dims)
