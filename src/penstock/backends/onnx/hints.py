"""What an ONNX graph says of its inputs, read without the onnx package: the lengths that the first operators need,
the rows of tables that inputs index, and constants that may be lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penstock.backends.base import InputHints
from penstock.errors import IntegrityError
from penstock.scan.findings import Refused
from penstock.scan.memory_map import mapped
from penstock.scan.protobuf import BYTES, VARINT, fields, text, varints

MAX_NODES = 20_000
"""Of a larger graph only these are read."""
MAX_NUMBERS = 12
MAX_AXES = 64
"""Of a tensor; more are cut off, since every operator that follows would look at them."""

_GRAPH, _NODE, _INITIALIZER, _INPUT = 7, 1, 5, 11
_IN, _OUT, _OP, _ATTRIBUTE = 1, 2, 4, 5
_NAME, _INT, _TENSOR, _INTS = 1, 3, 5, 8
_DIMS, _TYPE, _INT64_DATA, _TENSOR_NAME, _RAW = 1, 2, 7, 8, 9
_INT64 = 7
_SMALL = 16

_KEEPS_SHAPE = frozenset(["Cast", "Identity", "Relu", "Clip", "Neg", "Abs", "Sqrt", "Log", "Exp", "Dropout"])
_BROADCASTS = frozenset(["Add", "Sub", "Mul", "Div", "Pow", "Where", "Equal", "Mod"])
_RECURRENT = frozenset(["LSTM", "GRU", "RNN"])
_PER_CHANNEL = frozenset(["BatchNormalization", "InstanceNormalization"])
_SHAPED_BY = frozenset(["Reshape", "Expand", "Split", "Slice", "STFT", "ConstantOfShape", "Resize"])


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    dims: list[int] = field(default_factory=list)
    values: tuple[int, ...] = ()
    """Of a small tensor of INT64."""


@dataclass(slots=True)
class _Node:
    op: str
    inputs: list[str]
    outputs: list[str]
    ints: dict[str, list[int]]
    constant: _Tensor | None = None

    def one(self, name: str, default: int) -> int:
        return self.ints.get(name, [default])[0]


def read_hints(path: Path) -> InputHints:
    """The hints of a file; none for one that cannot be read."""
    try:
        with mapped(path) as data:
            return _Reading(data).hints()
    except (Refused, IntegrityError, struct.error):
        return InputHints()


class _Reading:
    """Follows the inputs through operators that keep their shapes, to the first that needs something."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._constants: dict[str, _Tensor] = {}
        self._nodes: list[_Node] = []
        self._axes: dict[str, list[tuple[str, int] | None]] = {}
        """For each tensor that is an input in another form: where each of its axes comes from."""
        self._same: dict[str, str] = {}
        """For each such tensor: the input that it is."""
        self.lengths: dict[tuple[str, int], int] = {}
        self.least: dict[tuple[str, int], int] = {}
        self.ids: dict[str, int] = {}
        self._numbers: list[int] = []

    def hints(self) -> InputHints:
        for field_number, wire, start, end in fields(self._data, 0, len(self._data)):
            if field_number == _GRAPH and wire == BYTES:
                self._read_graph(start, end)
        for node in self._nodes:
            self._follow(node)
        numbers = [n for n in dict.fromkeys(self._numbers) if 1 < n <= 1 << 16]
        return InputHints(self.lengths, self.least, self.ids, tuple(numbers[:MAX_NUMBERS]))

    def _read_graph(self, start: int, end: int) -> None:
        for number, wire, first, last in fields(self._data, start, end):
            if wire != BYTES:
                continue
            if number == _NODE and len(self._nodes) < MAX_NODES:
                self._nodes.append(self._node(first, last))
            elif number == _INITIALIZER:
                tensor = self._tensor(first, last)
                self._constants[tensor.name] = tensor
            elif number == _INPUT:
                name, rank = self._input(first, last)
                self._axes[name] = [(name, axis) for axis in range(min(rank, MAX_AXES))]
                self._same[name] = name

    def _input(self, start: int, end: int) -> tuple[str, int]:
        """The name of a ValueInfoProto, and the number of its axes: type, tensor type, shape, and a field each."""
        name, rank = "", 0
        for number, wire, first, last in fields(self._data, start, end):
            if number == 1 and wire == BYTES:
                name = text(self._data, first, last)
            elif number == 2 and wire == BYTES:
                shape = (
                    dim
                    for tensor in self._within(first, last, 1)
                    for shape in self._within(*tensor, 2)
                    for dim in self._within(*shape, 1)
                )
                rank = sum(1 for _ in shape)
        return name, rank

    def _within(self, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
        found = fields(self._data, start, end)
        return ((first, last) for number, wire, first, last in found if number == wanted and wire == BYTES)

    def _node(self, start: int, end: int) -> _Node:
        node = _Node("", [], [], {})
        for number, wire, first, last in fields(self._data, start, end):
            if wire != BYTES:
                continue
            if number == _IN:
                node.inputs.append(text(self._data, first, last))
            elif number == _OUT:
                node.outputs.append(text(self._data, first, last))
            elif number == _OP:
                node.op = text(self._data, first, last)
            elif number == _ATTRIBUTE:
                self._attribute(node, first, last)
        return node

    def _attribute(self, node: _Node, start: int, end: int) -> None:
        name, ints = "", []
        for number, wire, first, last in fields(self._data, start, end):
            if number == _NAME and wire == BYTES:
                name = text(self._data, first, last)
            elif number in (_INT, _INTS) and wire == VARINT:
                ints.append(_signed(first))
            elif number == _INTS and wire == BYTES:
                ints += map(_signed, varints(self._data, first, last))
            elif number == _TENSOR and wire == BYTES:
                node.constant = self._tensor(first, last)
        node.ints[name] = ints

    def _tensor(self, start: int, end: int) -> _Tensor:
        tensor, kind, raw = _Tensor(), 0, b""
        typed: list[int] = []
        for number, wire, first, last in fields(self._data, start, end):
            if number == _DIMS and wire == VARINT:
                tensor.dims.append(_signed(first))
            elif number == _DIMS and wire == BYTES:
                tensor.dims += map(_signed, varints(self._data, first, last))
            elif number == _TYPE and wire == VARINT:
                kind = first
            elif number == _TENSOR_NAME and wire == BYTES:
                tensor.name = text(self._data, first, last)
            elif number == _RAW and wire == BYTES and last - first <= 8 * _SMALL:
                raw = bytes(self._data[first:last])
            elif number == _INT64_DATA and wire == BYTES and last - first <= 10 * _SMALL:
                typed += map(_signed, varints(self._data, first, last))
        if kind == _INT64:
            tensor.values = tuple(typed) or struct.unpack(f"<{len(raw) // 8}q", raw[: len(raw) // 8 * 8])
        del tensor.dims[MAX_AXES:]
        return tensor

    # The operators

    def _follow(self, node: _Node) -> None:
        if node.op == "Constant" and node.constant is not None and node.outputs:
            self._constants[node.outputs[0]] = node.constant
        if node.op in _SHAPED_BY:
            self._numbers += [n for name in node.inputs[1:] for n in self._values(name)]
        self._numbers += node.ints.get("kernel_shape", [])
        known = [name for name in node.inputs if name in self._axes]
        if not known or len(node.inputs) < 1:
            return
        if node.op in _KEEPS_SHAPE:
            self._pass_on(node, self._axes[known[0]], self._same.get(known[0]))
        elif node.op == "Transpose":
            axes = self._axes[known[0]]
            order = node.ints.get("perm", list(range(len(axes)))[::-1])[:MAX_AXES]
            self._pass_on(node, [axes[n] if 0 <= n < len(axes) else None for n in order], None)
        elif node.op in _BROADCASTS:
            self._broadcast(node, known[0])
        else:
            self._need(node)

    def _values(self, name: str) -> Sequence[int]:
        found = self._constants.get(name)
        return found.values if found is not None else ()

    def _dims(self, node: _Node, number: int) -> Sequence[int]:
        name = node.inputs[number] if number < len(node.inputs) else ""
        found = self._constants.get(name)
        return found.dims if found is not None else ()

    def _pass_on(self, node: _Node, axes: Sequence[tuple[str, int] | None], same: str | None) -> None:
        for name in node.outputs[:1]:
            self._axes[name] = list(axes)
            if same is not None:
                self._same[name] = same

    def _broadcast(self, node: _Node, name: str) -> None:
        others = [self._constants[other].dims for other in node.inputs if other in self._constants]
        axes = self._axes[name]
        for dims in others:
            for back, length in enumerate(reversed(dims), 1):
                if length > 1 and back <= len(axes):
                    self._set(axes[-back], length)
        if len(others) == len(node.inputs) - 1:
            self._pass_on(node, axes, None)

    def _need(self, node: _Node) -> None:
        """What an operator needs of its first input, or Gather of its second."""
        axes = self._axes.get(node.inputs[0], [])
        weight = self._dims(node, 1)
        if node.op == "Gather" and len(node.inputs) > 1 and node.inputs[1] in self._axes:
            self._index(node)
        elif node.op == "Conv" and len(weight) == len(axes) > 2:
            self._set(axes[1], weight[1] * node.one("group", 1))
            for axis, kernel in enumerate(weight[2:], 2):
                self._set_least(axes[axis], kernel)
        elif node.op in ("MatMul", "MatMulInteger") and weight:
            self._set(axes[-1] if axes else None, weight[-2] if len(weight) > 1 else weight[0])
        elif node.op == "Gemm" and len(weight) == len(axes) == 2:
            self._set(axes[node.one("transA", 0) ^ 1], weight[node.one("transB", 0)])
        elif node.op in _RECURRENT and len(weight) == len(axes) == 3:
            self._set(axes[2], weight[2])
        elif node.op in _PER_CHANNEL and weight and len(axes) > 1:
            self._set(axes[1], weight[0])
        elif node.op == "LayerNormalization" and weight and axes:
            self._set(axes[-1], weight[-1])

    def _index(self, node: _Node) -> None:
        table, indices = self._dims(node, 0), node.inputs[1]
        source = self._same.get(indices)
        axis = node.one("axis", 0)
        if source is not None and -len(table) <= axis < len(table):
            self.ids[source] = min(table[axis], self.ids.get(source, table[axis]))

    def _set(self, place: tuple[str, int] | None, length: int) -> None:
        if place is not None and length > 0:
            self.lengths.setdefault(place, length)

    def _set_least(self, place: tuple[str, int] | None, length: int) -> None:
        if place is not None:
            self.least[place] = max(length, self.least.get(place, 0))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
