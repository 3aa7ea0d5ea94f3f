"""Whether the cost of an ONNX graph is known from its number of rows, read from the file without a protobuf package.

A loop, a branch, or an axis as long as a value of an input says makes a graph that is quick on one input run for hours
on another. Such a graph must never run on an event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from penstock.errors import IntegrityError
from penstock.scan.findings import Refused
from penstock.scan.memory_map import mapped
from penstock.scan.protobuf import BYTES, VARINT, fields, text

MOST_NODES = 500
"""A graph of more nodes runs longer than a switch of threads takes, so its cost need not be known."""

_GRAPH, _FUNCTIONS = 7, 25  # ModelProto
_NODES, _INPUTS = 1, 11  # GraphProto
_NAME = 1  # ValueInfoProto
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7  # NodeProto
_SUBGRAPH, _SUBGRAPHS, _TYPE = 6, 11, 20  # AttributeProto
_GRAPH_TYPES = (5, 10)  # AttributeProto.AttributeType

_ANY = tuple(range(8))
_SIZED_BY = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": _ANY,
    "OneHot": (1,),
    "Pad": (1,),
    "Range": _ANY,
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Tile": (1, 2),
    "Upsample": (1,),
}
"""Operators whose output is as large as the values of these inputs say."""

_COUNTING = frozenset(["Compress", "ImageDecoder", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"])
"""Operators whose output is as large as what they find in their input."""

_OF_SHAPES = frozenset(["Shape", "Size"])
"""Operators that read no values."""

_STANDARD = frozenset(["", "ai.onnx", "ai.onnx.ml"])
_CONTRIBUTED = ("Attention", "Bias", "DynamicQuantize", "FastGelu", "Fused", "Gelu", "MatMul", "MultiHead", "Q", "Skip")
"""The beginnings of operators of ONNX Runtime itself whose cost depends on shapes only."""


class _Node(NamedTuple):
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    has_graph: bool


def depends_on_rows_only(path: Path) -> bool:
    """True if the graph has no loop, no branch and no size that comes from the values of an input.

    The lengths of the inputs are not looked at. False for a file that cannot be read.
    """
    try:
        with mapped(path) as data:
            return _is_plain(data)
    except (Refused, IntegrityError):
        return False


def _is_plain(data: memoryview) -> bool:
    graphs = []
    for field, wire, start, end in fields(data, 0, len(data)):
        if field == _FUNCTIONS:
            return False
        if field == _GRAPH and wire == BYTES:
            graphs.append((start, end))
    values: set[str] = set()
    nodes: list[_Node] = []
    for start, end in graphs:
        for field, wire, one, other in fields(data, start, end):
            if field == _INPUTS and wire == BYTES:
                values.update(_texts(data, one, other, _NAME))
            elif field == _NODES and wire == BYTES:
                nodes.append(_node(data, one, other))
                if len(nodes) > MOST_NODES or not _is_known(nodes[-1]):
                    return False
    return not _sized_by_values(nodes, values)


def _is_known(node: _Node) -> bool:
    contributed = node.domain == "com.microsoft" and node.operator.startswith(_CONTRIBUTED)
    return not node.has_graph and (node.domain in _STANDARD or contributed)


def _sized_by_values(nodes: list[_Node], values: set[str]) -> bool:
    """True if a size comes from `values`: the inputs of the graph, and what is computed from them.

    Nodes may be in any order; each input and each output of a node is looked at once.
    """
    users: dict[str, list[tuple[_Node, int]]] = {}
    for node in nodes:
        for place, name in enumerate(node.inputs):
            users.setdefault(name, []).append((node, place))
    known, waiting, passed = set(values), list(values), set[int]()
    while waiting:
        for node, place in users.get(waiting.pop(), ()):
            if node.operator in _OF_SHAPES:
                continue
            if node.operator in _COUNTING or place in _SIZED_BY.get(node.operator, ()):
                return True
            if id(node) not in passed:
                passed.add(id(node))
                fresh = set(node.outputs) - known
                known |= fresh
                waiting += fresh
    return False


def _node(data: memoryview, start: int, end: int) -> _Node:
    found: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _OP_TYPE: [""], _DOMAIN: [""]}
    has_graph = False
    for field, wire, one, other in fields(data, start, end):
        if wire == BYTES and field in found:
            found[field].append(text(data, one, other))
        elif wire == BYTES and field == _ATTRIBUTE:
            has_graph = has_graph or _holds_graph(data, one, other)
    return _Node(found[_OP_TYPE][-1], found[_DOMAIN][-1], tuple(found[_INPUT]), tuple(found[_OUTPUT]), has_graph)


def _holds_graph(data: memoryview, start: int, end: int) -> bool:
    return any(
        field in (_SUBGRAPH, _SUBGRAPHS) or (field == _TYPE and wire == VARINT and value in _GRAPH_TYPES)
        for field, wire, value, _ in fields(data, start, end)
    )


def _texts(data: memoryview, start: int, end: int, wanted: int) -> Iterator[str]:
    return (text(data, one, other) for field, wire, one, other in fields(data, start, end) if field == wanted)
