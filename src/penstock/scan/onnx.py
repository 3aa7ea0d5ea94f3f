"""Scans ONNX models: the operators that one needs and the external files that it refers to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from penstock.errors import quoted
from penstock.scan.external_data import external_size
from penstock.scan.findings import Finding, Refused
from penstock.scan.protobuf import BYTES, VARINT, fields, text

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING = range(8)

_WITHIN: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
}
"""The messages inside a message, by field number."""

_MAX_DEPTH = 100
"""The limit of protobuf itself."""

_IR_VERSION, _GRAPH_FIELD = 1, 7
_OP_TYPE, _DOMAIN = 4, 7  # of a node
_NAME, _FUNCTION_DOMAIN = 1, 10  # of a function
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # of a tensor
_TYPED_DATA = (4, 5, 6, 7, 10, 11)
_KEY, _VALUE = 1, 2

_DOMAINS = frozenset(
    [
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.nchwc",
        "com.microsoft.nhwc",
        "com.ms.internal.nhwc",
    ]
) | {""}
_NATIVE_OPERATORS = frozenset(
    ["PyOp", "EPContext", "ATen", "PythonOp", "PythonOpGrad", "TRT_EngineOp", "TritonOp", "ExternalCustomOp"]
)
"""Operators that run code outside the graph: Python, compiled engines (also from files), extensions of a runtime."""


class _Seen(NamedTuple):
    """What the walk collects: operators and functions as (domain, name), and the location of external tensors."""

    operators: set[tuple[str, str]]
    functions: set[tuple[str, str]]
    external: list[dict[str, str]]
    problems: dict[str, None]
    """In their order, each once."""


def scan(data: memoryview, path: Path | None) -> Iterator[Finding]:
    """What an ONNX model could do. External data is looked up next to `path`; without a path it is refused."""
    seen = _walk(data)
    yield from (Finding(None, problem) for problem in seen.problems)
    yield from _operators(seen)
    yield from _external(seen, path)


def external_files(data: memoryview) -> set[str]:
    """The names of the external files that a model refers to; raises Refused for a file that is not a model."""
    return {entries.get("location", "") for entries in _walk(data).external}


def _walk(data: memoryview) -> _Seen:
    """Depth first, one message open at each level: what waits does not grow with the file."""
    seen = _Seen(set(), set(), [], {})
    _require_model(data)
    levels = [_within(data, _MODEL, 0, len(data), seen)]
    while levels:
        inner = next(levels[-1], None)
        if inner is None:
            levels.pop()
        elif len(levels) > _MAX_DEPTH:
            raise Refused("its graphs are nested too deeply")
        else:
            levels.append(_within(data, *inner, seen))
    return seen


def _within(data: memoryview, kind: int, start: int, end: int, seen: _Seen) -> Iterator[tuple[int, int, int]]:
    """The messages inside a message, after it was read itself."""
    reader, within = _READERS.get(kind), _WITHIN.get(kind)
    if reader is not None:
        reader(data, start, end, seen)
    if within is not None:
        for field, wire, first, last in fields(data, start, end):
            if wire == BYTES and field in within:
                yield within[field], first, last


def _require_model(data: memoryview) -> None:
    graph = version = False
    for field, wire, _, _ in fields(data, 0, len(data)):
        graph = graph or (field, wire) == (_GRAPH_FIELD, BYTES)
        version = version or (field, wire) == (_IR_VERSION, VARINT)
    if not (graph and version):
        raise Refused("the file is damaged or not an ONNX model; export or copy it again")


def _read_node(data: memoryview, start: int, end: int, seen: _Seen) -> None:
    names = {_OP_TYPE: "", _DOMAIN: ""}
    for field, wire, first, last in fields(data, start, end):
        if wire == BYTES and field in names:
            if names[field]:
                raise Refused("one of its operators has two names")
            names[field] = text(data, first, last)
    seen.operators.add((names[_DOMAIN], names[_OP_TYPE]))


def _read_function(data: memoryview, start: int, end: int, seen: _Seen) -> None:
    names = {_NAME: "", _FUNCTION_DOMAIN: ""}
    for field, wire, first, last in fields(data, start, end):
        if wire == BYTES and field in names:
            names[field] = text(data, first, last)
    seen.functions.add((names[_FUNCTION_DOMAIN], names[_NAME]))


def _read_tensor(data: memoryview, start: int, end: int, seen: _Seen) -> None:
    """Where the data of a tensor is. Two locations are an attack: the data checked may not be the data used."""
    raw = typed = outside = False
    entries: list[tuple[str, str]] = []
    for field, wire, first, last in fields(data, start, end):
        if field == _RAW_DATA and wire == BYTES:
            raw = raw or last > first
        elif field in _TYPED_DATA:
            typed = typed or wire != BYTES or last > first
        elif field == _EXTERNAL_DATA and wire == BYTES:
            entries.append(_entry(data, first, last))
        elif field == _DATA_LOCATION and wire == VARINT:
            outside = first == 1
    if (raw and typed) or (entries and (raw or typed)):
        seen.problems["one of its tensors has its data in two places, and programs differ on which they use"] = None
    if outside and not entries:
        seen.problems["one of its tensors is in another file, which it does not name"] = None
    if entries:
        if len({key for key, _ in entries}) != len(entries):
            seen.problems["one of its tensors gives its location twice"] = None
        seen.external.append(dict(entries))


def _entry(data: memoryview, start: int, end: int) -> tuple[str, str]:
    found = {_KEY: "", _VALUE: ""}
    for field, wire, first, last in fields(data, start, end):
        if wire == BYTES and field in found:
            if found[field]:
                raise Refused("one of its tensors gives its location twice")
            found[field] = text(data, first, last)
    return found[_KEY], found[_VALUE]


_READERS: dict[int, Callable[[memoryview, int, int, _Seen], None]] = {
    _NODE: _read_node,
    _FUNCTION: _read_function,
    _TENSOR: _read_tensor,
}


def _operators(seen: _Seen) -> Iterator[Finding]:
    for domain, name in sorted(seen.operators):
        if name in _NATIVE_OPERATORS:
            yield Finding("native", f"the operator {quoted(name)} runs code outside the graph")
        elif domain not in _DOMAINS and (domain, name) not in seen.functions:
            yield Finding("native", f"the operator {quoted(f'{domain}:{name}')} needs a custom operator library")


def _external(seen: _Seen, path: Path | None) -> Iterator[Finding]:
    sizes: dict[str, int] = {}
    for entries in seen.external:
        location = entries.get("location", "")
        try:
            if path is None:
                raise Refused(f"its external data {quoted(location)} cannot be in an archive")
            if location not in sizes:
                sizes[location] = external_size(path, location)
            _require_inside(location, entries, sizes[location])
        except Refused as refused:
            yield Finding(None, str(refused))
            return


def _require_inside(location: str, entries: dict[str, str], size: int) -> None:
    offset, length = (entries.get(key, "0") for key in ("offset", "length"))
    if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in (offset, length)):
        raise Refused(f"its external data {quoted(location)} has an offset or length that is not a number")
    if int(offset) + int(length) > size:
        raise Refused(f"its external data {quoted(location)} is shorter than the model needs")
