"""Small ONNX models whose rows are known to influence each other, or known not to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper, parser

FEATURES = 6
ROW = f"float[N,{FEATURES}]"


class RowModel(NamedTuple):
    """Nodes of a graph from `x` to `y`, in ONNX's text form, with the types of both."""

    nodes: str
    x: str = ROW
    y: str = ROW


_random = np.random.default_rng(11)


def _weights(*shape: int) -> np.ndarray:
    return (_random.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)


def _number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


WEIGHTS: dict[str, np.ndarray] = {
    "w": _weights(FEATURES, FEATURES),
    "w3": _weights(FEATURES, 3),
    "b": _weights(FEATURES),
    "table": _weights(20, FEATURES),
    "kernel": _weights(4, 3, 3, 3),
    "kernel_t": _weights(FEATURES, FEATURES, 3),
    "lstm_w": _weights(1, 4 * 5, FEATURES),
    "lstm_r": _weights(1, 4 * 5, 5),
    "gru_w": _weights(1, 3 * FEATURES, FEATURES),
    "gru_r": _weights(1, 3 * FEATURES, FEATURES),
    "w8": _random.integers(-100, 100, (FEATURES, FEATURES)).astype(np.int8),
    "scale": _number(0.05),
    "w_scale": _number(0.01),
    "middle": np.array(128, np.uint8),
    "w_middle": np.array(0, np.int8),
    "ones": np.ones(FEATURES, np.float32),
    "zeros": np.zeros(FEATURES, np.float32),
    "mean": np.zeros(FEATURES, np.float32),  # its own: ONNX Runtime writes to those of a model in train mode
    "variance": np.ones(FEATURES, np.float32),
    "nothing": _number(0),
    "small": _number(1e-3),
    "half": _number(0.5),
    "two": _number(2),
    "hundred": _number(100),
    "zero": np.array(0),
    "one": np.array(1),
    "true": np.array(True),
    "axis0": np.array([0]),
    "axis1": np.array([1]),
    "axes12": np.array([1, 2]),
    "last": np.array([-1]),
    "two_three": np.array([2, 3]),
    "row_before": np.array([1, 0, 0, 0]),
    "turned": np.array([FEATURES, -1]),
}

_SIZE = "n = Shape <start = 0, end = 1> (x)"
_DYNAMIC = (
    "q, s, z = DynamicQuantizeLinear (x)  i = MatMulInteger (q, w8, z, w_middle)  f = Cast <to = 1> (i)"
    "  t = Mul (s, w_scale)"
)
DEPENDENT = {
    "the mean of the batch": RowModel("m = ReduceMean <keepdims = 1> (x, axis0)  y = Sub (x, m)"),
    "a mean of small weight": RowModel("m = ReduceMean <keepdims = 1> (x, axis0)  s = Mul (m, small)  y = Sub (x, s)"),
    "the largest row": RowModel("m = ReduceMax <keepdims = 1> (x, axis0)  y = Div (x, m)"),
    "the largest value of all": RowModel(
        "m = ReduceMax <keepdims = 0> (x)  a = Abs (m)  d = Add (a, half)  y = Div (x, d)"
    ),
    "the sign of the sum": RowModel(
        "s = ReduceSum <keepdims = 0> (x)  p = Greater (s, nothing)  a = Mul (x, two)  c = Div (x, two)"
        "  y = Where (p, a, c)"
    ),
    "any large value": RowModel(
        "a = Abs (x)  m = ReduceMax <keepdims = 0> (a)  p = Greater (m, hundred)  h = Mul (x, half)"
        "  y = Where (p, h, x)"
    ),
    "a branch": RowModel(
        "s = ReduceSum <keepdims = 0> (x)  p = Greater (s, nothing)"
        f"  y = If (p) <then_branch = a () => ({ROW} u) {{ u = Mul (x, two) }},"
        f" else_branch = c () => ({ROW} v) {{ v = Div (x, two) }}>"
    ),
    "a softmax over the batch": RowModel("y = Softmax <axis = 0> (x)"),
    "a running sum": RowModel("y = CumSum (x, zero)"),
    "a running sum from the end": RowModel("y = CumSum <reverse = 1> (x, zero)"),
    "the row before": RowModel("p = Pad (x, row_before)  r = Slice (p, axis0, last, axis0)  y = Add (x, r)"),
    "its place": RowModel(
        f"{_SIZE}  c = Squeeze (n)  r = Range (zero, c, one)  f = Cast <to = 1> (r)  u = Unsqueeze (f, axis1)"
        "  y = Add (x, u)"
    ),
    "the number of rows": RowModel(f"{_SIZE}  f = Cast <to = 1> (n)  y = Div (x, f)"),
    "a little of the number of rows": RowModel(f"{_SIZE}  f = Cast <to = 1> (n)  t = Mul (f, small)  y = Add (x, t)"),
    "one scale for all activations": RowModel(f"{_DYNAMIC}  y = Mul (f, t)"),
    "a class from one scale for all": RowModel(
        f"{_DYNAMIC}  l = Mul (f, t)  y = ArgMax <axis = 1, keepdims = 0> (l)", y="int64[N]"
    ),
    "batch normalization in train mode": RowModel(
        "y, m, v = BatchNormalization <training_mode = 1> (x, ones, zeros, mean, variance)"
    ),
    "time as the first axis": RowModel(
        "u = Unsqueeze (x, axis1)  h, l = GRU <hidden_size = 6> (u, gru_w, gru_r)  y = Squeeze (h, axes12)"
    ),
    "a convolution over the batch": RowModel(
        "t = Transpose <perm = [1, 0]> (x)  u = Unsqueeze (t, axis0)"
        "  c = Conv <kernel_shape = [3], pads = [1, 1]> (u, kernel_t)"
        "  s = Squeeze (c, axis0)  y = Transpose <perm = [1, 0]> (s)"
    ),
    "attention between rows": RowModel(
        "t = Transpose <perm = [1, 0]> (x)  a = MatMul (x, t)  p = Softmax <axis = 1> (a)  y = MatMul (p, x)"
    ),
    "rows in order of size": RowModel(
        f"{_SIZE}  m = ReduceSum <keepdims = 0> (x, axis1)  v, i = TopK <axis = 0> (m, n)  y = Gather <axis = 0> (x, i)"
    ),
    "whole numbers above the mean": RowModel(
        "f = Cast <to = 1> (x)  m = ReduceMean <keepdims = 1> (f, axis0)  g = Greater (f, m)  y = Cast <to = 7> (g)",
        x=f"int64[N,{FEATURES}]",
        y=f"int64[N,{FEATURES}]",
    ),
    "booleans of all rows": RowModel(
        "i = Cast <to = 7> (x)  m = ReduceMax <keepdims = 1> (i, axis0)  y = Sub (m, i)", x="bool[N,6]", y="int64[N,6]"
    ),
    "memory in another order": RowModel("a = Reshape (x, turned)  t = Transpose <perm = [1, 0]> (a)  y = Identity (t)"),
    "random numbers": RowModel("r = RandomNormalLike (x)  y = Add (x, r)"),
    "dropout in train mode": RowModel("y = Dropout (x, half, true)"),
}
"""A row's answer depends on the other rows, on their number, on its place or on chance."""

INDEPENDENT = {
    "identity": RowModel("y = Identity (x)"),
    "a constant": RowModel("z = Mul (x, nothing)  y = Add (z, b)"),
    "two layers": RowModel(
        "h = MatMul (x, w)  a = Add (h, b)  r = Relu (a)  l = MatMul (r, w3)  y = Softmax (l)", y="float[N,3]"
    ),
    "a class": RowModel("l = MatMul (x, w3)  y = ArgMax <axis = 1, keepdims = 0> (l)", y="int64[N]"),
    "the mean of a row": RowModel("m = ReduceMean <keepdims = 1> (x, axis1)  y = Sub (x, m)"),
    "a running sum within a row": RowModel("y = CumSum (x, one)"),
    "the largest of a row": RowModel(
        "m = ReduceMax <keepdims = 1> (x, axis1)  p = Greater (m, two)  y = Where (p, x, m)"
    ),
    "layer normalization": RowModel("y = LayerNormalization (x, ones, zeros)"),
    "batch normalization": RowModel("y = BatchNormalization (x, ones, zeros, zeros, ones)"),
    "a convolution": RowModel(
        "c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, kernel)  r = Relu (c)  g = GlobalAveragePool (r)"
        "  y = Flatten (g)",
        x="float[N,3,12,12]",
        y="float[N,4]",
    ),
    "an LSTM over each row": RowModel(
        "t = Transpose <perm = [1, 0, 2]> (x)  a, h, c = LSTM <hidden_size = 5> (t, lstm_w, lstm_r)"
        "  y = Squeeze (h, axis0)",
        x=f"float[N,7,{FEATURES}]",
        y="float[N,5]",
    ),
    "attention within a row": RowModel(
        "t = Transpose <perm = [0, 2, 1]> (x)  a = MatMul (x, t)  p = Softmax <axis = 2> (a)  y = MatMul (p, x)",
        x=f"float[N,7,{FEATURES}]",
        y=f"float[N,7,{FEATURES}]",
    ),
    "an embedding": RowModel("e = Gather (table, x)  y = ReduceMean <keepdims = 0> (e, axis1)", x="int64[N,5]"),
    "static quantization": RowModel(
        "q = QuantizeLinear (x, scale, middle)  d = DequantizeLinear (q, scale, middle)"
        "  wd = DequantizeLinear (w8, w_scale, w_middle)  l = MatMul (d, wd)  o = QuantizeLinear (l, scale, middle)"
        "  y = DequantizeLinear (o, scale, middle)"
    ),
    "what overflows for large rows": RowModel("e = Exp (x)  f = Exp (e)  n = Sub (f, f)  y = Add (n, x)"),
    "a shape with the number of rows": RowModel(
        f"{_SIZE}  t = Concat <axis = 0> (n, two_three)  r = Reshape (x, t)  f = Flatten (r)  y = Relu (f)"
    ),
    "bytes": RowModel("f = Cast <to = 1> (x)  y = Div (f, hundred)", x="uint8[N,6]"),
    "booleans": RowModel("y = Not (x)", x="bool[N,6]", y="bool[N,6]"),
    "half precision inside": RowModel("c = Cast <to = 10> (x)  e = Mul (c, c)  y = Cast <to = 1> (e)"),
    "double precision": RowModel("y = Sin (x)", x="double[N,6]", y="double[N,6]"),
    "text": RowModel(
        'y = LabelEncoder <keys_strings: strings = ["a"], values_int64s: ints = [1]> (x)',
        x="string[N,2]",
        y="int64[N,2]",
    ),
}
"""A row's answer is its own."""


def write(path: Path, model: RowModel) -> Path:
    """The model as a file, with the weights that it uses."""
    versions = '<ir_version: 9, opset_import: ["" : 18, "ai.onnx.ml" : 3]>'
    proto = parser.parse_model(f"{versions} g ({model.x} x) => ({model.y} y) {{ {model.nodes} }}")
    for node in proto.graph.node:
        node.domain = "ai.onnx.ml" if node.op_type == "LabelEncoder" else ""
    named = {name for nodes in _graphs(proto.graph) for node in nodes for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in WEIGHTS.items() if name in named
    )
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    return path


def _graphs(graph: onnx.GraphProto) -> list[list[onnx.NodeProto]]:
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [list(graph.node), *(nodes for each in inner for nodes in _graphs(each))]
