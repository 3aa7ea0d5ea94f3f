"""Finds the inputs and outputs of an ONNX graph that record no shape: ONNX Runtime shows them as single values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.errors import IntegrityError
from penstock.scan.findings import Refused
from penstock.scan.memory_map import mapped
from penstock.scan.protobuf import BYTES, fields, text

_GRAPH = 7  # ModelProto
_VALUES = (11, 12)  # GraphProto.input and .output
_NAME, _TYPE = 1, 2  # ValueInfoProto
_TENSOR, _SHAPE = 1, 2  # TypeProto.tensor_type, TypeProto.Tensor.shape


def without_shape(path: Path) -> frozenset[str]:
    """The names of those values; none if the file cannot be read."""
    try:
        with mapped(path) as data:
            return frozenset(_without_shape(data))
    except (Refused, IntegrityError):
        return frozenset()


def _without_shape(data: memoryview) -> Iterator[str]:
    for graph in _messages(data, (0, len(data)), _GRAPH):
        for kind in _VALUES:
            for value in _messages(data, graph, kind):
                types = list(_messages(data, value, _TYPE))
                tensors = [tensor for each in types for tensor in _messages(data, each, _TENSOR)]
                if not any(True for tensor in tensors for _ in _messages(data, tensor, _SHAPE)):
                    yield from (text(data, *name) for name in _messages(data, value, _NAME))


def _messages(data: memoryview, place: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    """Start and end of each message in the field `wanted` of the message at `place`."""
    return ((one, other) for field, wire, one, other in fields(data, *place) if field == wanted and wire == BYTES)
