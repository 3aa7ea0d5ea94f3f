"""Small ONNX models whose tensors have their batch on different axes, or none, with requests that each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from penstock.tensors import Arrays

F, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Shape = Sequence[int | str | None] | None
Value = tuple[str, int, Shape]
"""Name, datatype and shape; None for a rank that is not recorded."""

_random = np.random.default_rng(11)


class Graph(NamedTuple):
    """A model, and requests of the shapes that it takes. `whole`: each request runs alone, in the file's shapes."""

    nodes: Sequence[NodeProto]
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    requests: Sequence[Arrays]
    constants: Mapping[str, Any] = {}
    whole: bool = True

    def save(self, path: Path) -> Path:
        """Write it, unchecked: real files have wrong shapes as well."""
        graph = helper.make_graph(
            list(self.nodes),
            "g",
            [helper.make_tensor_value_info(*value) for value in self.inputs],
            [helper.make_tensor_value_info(*value) for value in self.outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, path)
        return path


def answers(path: Path, requests: Sequence[Arrays]) -> list[Arrays]:
    """What ONNX Runtime itself answers."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return [dict(zip(names, session.run(None, request), strict=True)) for request in requests]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node; names are separated by spaces, `_` is an input that is left out."""
    return helper.make_node(op, [name.strip("_") for name in inputs.split()], outputs.split(), **attributes)


def reals(*shape: int) -> np.ndarray:
    """Random numbers."""
    return _random.standard_normal(shape).astype(np.float32)


def _gru(inputs: Sequence[Value], outputs: Sequence[Value], requests: Sequence[Arrays], **more: Any) -> Graph:
    """x of [time, batch, 4], and a state h of [1, batch, 3] if it is an input."""
    state = "h" if any(name == "h" for name, _, _ in inputs) else "_"
    weights = {"w": reals(1, 9, 4), "r": reals(1, 9, 3), "b": reals(1, 18)}
    return Graph([node("GRU", f"x w r b _ {state}", "y hn", hidden_size=3)], inputs, outputs, requests, weights, **more)


GRAPHS: dict[str, Graph] = {
    "silero": Graph(
        [
            node("ReduceMean", "x", "mean", axes=[1], keepdims=1),
            node("Cast", "sr", "rate", to=F),
            node("Div", "rate thousand", "ratio"),
            node("Mul", "mean ratio", "p"),
            node("Add", "state mean", "stateN"),
        ],
        [("x", F, ["batch", "seq"]), ("state", F, [2, "batch", 128]), ("sr", I64, [])],
        [("p", F, ["batch", 1]), ("stateN", F, [2, "batch", 128])],
        [
            {"x": reals(n, t), "state": reals(2, n, 128), "sr": np.array(16000, np.int64)}
            for n, t in ((1, 512), (3, 256))
        ],
        {"thousand": np.float32(1000)},
    ),
    "gru with a state": _gru(
        [("x", F, ["time", "batch", 4]), ("h", F, [1, "batch", 3])],
        [("y", F, ["time", 1, "batch", 3]), ("hn", F, [1, "batch", 3])],
        [{"x": reals(t, n, 4), "h": reals(1, n, 3)} for t, n in ((5, 1), (7, 3), (50, 2))],
    ),
    "gru without names": _gru(
        [("x", F, [None, None, 4])],
        [("y", F, [None, 1, None, 3]), ("hn", F, [1, None, 3])],
        [{"x": reals(t, n, 4)} for t, n in ((5, 1), (50, 2))],
    ),
    "state of a batch-first model": Graph(
        [
            node("ReduceMean", "x", "mean", axes=[1], keepdims=0),
            node("Add", "h mean", "hn"),
            node("ReduceSum", "hn zero", "y", keepdims=0),
        ],
        [("x", F, ["batch", "seq", 3]), ("h", F, [1, "batch", 3])],
        [("y", F, ["batch", 3]), ("hn", F, [1, "batch", 3])],
        [{"x": reals(n, t, 3), "h": reals(1, n, 3)} for n, t in ((1, 4), (3, 2))],
        {"zero": np.array([0])},
    ),
    "piper": Graph(
        [
            node("Cast", "input", "numbers", to=F),
            node("Gather", "scales first", "scale"),
            node("Mul", "numbers scale", "scaled"),
            node("Cast", "input_lengths", "lengths", to=F),
            node("Unsqueeze", "lengths last", "column"),
            node("Add", "scaled column", "output"),
        ],
        [("input", I64, ["batch", "phonemes"]), ("input_lengths", I64, ["batch"]), ("scales", F, [3])],
        [("output", F, ["batch", "time"])],
        [
            {"input": np.arange(n * t).reshape(n, t), "input_lengths": np.full(n, t), "scales": reals(3)}
            for n, t in ((1, 7), (2, 5))
        ],
        {"first": np.array(0), "last": np.array([1])},
    ),
    "top k": Graph(
        [node("TopK", "x k", "values indices")],
        [("x", F, ["batch", 6]), ("k", I64, [1])],
        [("values", F, ["batch", "k"]), ("indices", I64, ["batch", "k"])],
        [{"x": reals(n, 6), "k": np.array([k])} for n, k in ((1, 2), (4, 3))],
    ),
    "square": Graph(
        [node("MatMul", "x x", "y")],
        [("x", F, ["N", "N"])],
        [("y", F, ["N", "N"])],
        [{"x": reals(n, n)} for n in (1, 3, 5)],
    ),
    "square without names": Graph(
        [node("MatMul", "x x", "y")],
        [("x", F, [None, None])],
        [("y", F, [None, None])],
        [{"x": reals(n, n)} for n in (1, 3, 5)],
    ),
    "gram": Graph(
        [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        [("x", F, ["n", 4])],
        [("y", F, ["n", "n"])],
        [{"x": reals(n, 4)} for n in (1, 3)],
    ),
    "gram without names": Graph(
        [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        [("x", F, [None, 4])],
        [("y", F, [None, None])],
        [{"x": reals(n, 4)} for n in (1, 3)],
    ),
    "attention over seq": Graph(
        [node("MatMul", "mask x", "y")],
        [("x", F, ["seq", 4]), ("mask", F, ["seq", "seq"])],
        [("y", F, ["seq", 4])],
        [{"x": reals(n, 4), "mask": reals(n, n)} for n in (1, 3)],
    ),
    "one name for axes of several lengths": Graph(
        [node("Relu", "x", "y")],
        [("x", F, ["N", "N"])],
        [("y", F, ["N", "N"])],
        [{"x": reals(2, 5)}, {"x": reals(3, 1)}],
    ),
    "graph of nodes": Graph(
        [node("MatMul", "adjacency x", "y")],
        [("x", F, ["nodes", 4]), ("adjacency", F, ["nodes", "nodes"])],
        [("y", F, ["nodes", 4])],
        [{"x": reals(n, 4), "adjacency": reals(n, n)} for n in (1, 3)],
    ),
    "loss": Graph(
        [node("ReduceMean", "x", "loss", keepdims=0), node("Relu", "x", "y")],
        [("x", F, ["batch", 3])],
        [("y", F, ["batch", 3]), ("loss", F, [])],
        [{"x": reals(n, 3)} for n in (1, 4)],
    ),
    "loss of a declared rank": Graph(
        [node("ReduceMean", "x", "loss", keepdims=1)],
        [("x", F, ["batch", 3])],
        [("loss", F, [1, 1])],
        [{"x": reals(n, 3)} for n in (1, 4)],
    ),
    "constant labels": Graph(
        [node("Relu", "x", "y"), node("Identity", "names", "labels")],
        [("x", F, ["batch", 3])],
        [("y", F, ["batch", 3]), ("labels", I64, [3])],
        [{"x": reals(n, 3)} for n in (1, 2, 3, 5)],
        {"names": np.array([7, 8, 9])},
    ),
    "rows of NonZero": Graph(
        [node("NonZero", "x", "places"), node("Transpose", "places", "y", perm=[1, 0])],
        [("x", F, ["batch", 3])],
        [("y", I64, ["k", 2])],
        [{"x": np.array(x, np.float32)} for x in ([[0, 1, 2]], [[0, 0, 0]], [[1, 0, 0], [1, 1, 1]])],
    ),
    "columns of NonZero": Graph(
        [node("NonZero", "x", "y")],
        [("x", F, [None, 3])],
        [("y", I64, [2, None])],
        [{"x": np.array(x, np.float32)} for x in ([[0, 1, 2]], [[0, 0, 0]], [[1, 0, 0], [1, 1, 1]])],
    ),
    "NMS": Graph(
        [node("NonMaxSuppression", "boxes scores most overlap", "chosen")],
        [("boxes", F, ["batch", "boxes", 4]), ("scores", F, ["batch", "classes", "boxes"])],
        [("chosen", I64, ["k", 3])],
        [
            {
                "boxes": np.sort(_random.random((n, 6, 2, 2)), axis=2).reshape(n, 6, 4).astype(np.float32),
                "scores": _random.random((n, 2, 6)).astype(np.float32),
            }
            for n in (1, 3)
        ],
        {"most": np.array([2]), "overlap": np.array([0.5], np.float32)},
    ),
    "time first": Graph(
        [node("ReduceMean", "x", "y", axes=[0], keepdims=0)],
        [("x", F, ["seq", "batch", 4])],
        [("y", F, ["batch", 4])],
        [{"x": reals(t, n, 4)} for t, n in ((1, 2), (40, 3))],
    ),
    "time first, both ways": Graph(
        [node("CumSum", "x axis", "y")],
        [("x", F, ["seq", "batch", 4])],
        [("y", F, ["seq", "batch", 4])],
        [{"x": reals(t, n, 4)} for t, n in ((1, 2), (40, 3))],
        {"axis": np.array(0)},
    ),
    "no rank": Graph(
        [node("Relu", "x", "y")],
        [("x", F, None)],
        [("y", F, None)],
        [{"x": reals()}, {"x": reals(3)}, {"x": reals(2, 0)}, {"x": reals(2, 3, 1)}],
    ),
    "no rank of the output": Graph(
        [node("Expand", "x shape", "y")],
        [("x", F, [None, 4]), ("shape", I64, [None])],
        [("y", F, None)],
        [{"x": reals(1, 4), "shape": np.array(shape)} for shape in ([1], [4, 4], [2, 2, 1])],
    ),
    "fixed shapes that differ": Graph(
        [node("Reshape", "x five", "y")],
        [("x", F, [1, 5, 1])],
        [("y", F, [5])],
        [{"x": reals(1, 5, 1)}],
        {"five": np.array([5])},
    ),
    "one sample of several inputs": Graph(
        [node("MatMul", "x w", "p"), node("Add", "p b", "y")],
        [("x", F, [2, 3]), ("w", F, [3, 4]), ("b", F, [4])],
        [("y", F, [2, 4])],
        [{"x": reals(2, 3), "w": reals(3, 4), "b": reals(4)}],
    ),
    "tiled rows": Graph(
        [node("Tile", "x twice", "y")],
        [("x", F, ["batch", 3])],
        [("y", F, ["batch", 3])],
        [{"x": reals(n, 3)} for n in (1, 4)],
        {"twice": np.array([2, 1])},
    ),
    "one row more": Graph(
        [node("Concat", "first x", "y", axis=0)],
        [("x", F, [None, 3])],
        [("y", F, [None, 3])],
        [{"x": reals(n, 3)} for n in (1, 4)],
        {"first": reals(1, 3)},
    ),
    "batch folded into rows": Graph(
        [node("Reshape", "x shape", "y")],
        [("x", F, ["batch", "seq", 3])],
        [("y", F, ["rows", 3])],
        [{"x": reals(n, t, 3)} for n, t in ((1, 4), (2, 5), (3, 1))],
        {"shape": np.array([-1, 3])},
    ),
    "one row only": Graph(
        [node("Reshape", "x shape", "y")],
        [("x", F, ["batch", 6])],
        [("y", F, [2, 3])],
        [{"x": reals(1, 6)}],
        {"shape": np.array([2, 3])},
    ),
    "one row of any length": Graph(
        [node("Relu", "x", "y")],
        [("x", F, [1, "seq", 3])],
        [("y", F, [1, "seq", 3])],
        [{"x": reals(1, t, 3)} for t in (1, 9)],
        whole=False,
    ),
    "one row of any length, squeezed": Graph(
        [node("Squeeze", "x zero", "y")],
        [("x", F, [1, "seq", 3])],
        [("y", F, ["seq", 3])],
        [{"x": reals(1, t, 3)} for t in (1, 9)],
        {"zero": np.array([0])},
    ),
    "an empty past": Graph(
        [node("Concat", "past x", "y", axis=1)],
        [("x", F, [1, "seq", 3]), ("past", F, [1, 0, 3])],
        [("y", F, [1, "seq", 3])],
        [{"x": reals(1, t, 3), "past": reals(1, 0, 3)} for t in (1, 4)],
        whole=False,
    ),
    "an empty past of a batch": Graph(
        [node("Concat", "past x", "y", axis=2)],
        [("x", F, ["batch", 2, "seq", 3]), ("past", F, ["batch", 2, "past", 3])],
        [("y", F, ["batch", 2, "past + seq", 3])],
        [{"x": reals(n, 2, 4, 3), "past": reals(n, 2, p, 3)} for n, p in ((1, 0), (2, 0), (2, 3))],
        whole=False,
    ),
    "an empty tensor first": Graph(
        [node("Concat", "past x", "y", axis=0)],
        [("x", F, ["seq", 3]), ("past", F, [0, 3])],
        [("y", F, ["seq", 3])],
        [{"x": reals(t, 3), "past": reals(0, 3)} for t in (1, 4)],
    ),
    "a table and places": Graph(
        [node("Gather", "table places", "y", axis=0)],
        [("table", F, [None, 3]), ("places", I64, [None])],
        [("y", F, [None, 3])],
        [{"table": reals(4, 3), "places": np.array([0, 3])}, {"table": reals(2, 3), "places": np.array([1, 1, 0])}],
    ),
    "two inputs joined": Graph(
        [node("Concat", "a b", "y", axis=0)],
        [("a", F, [None, 3]), ("b", F, [None, 3])],
        [("y", F, [None, 3])],
        [{"a": reals(1, 3), "b": reals(2, 3)}, {"a": reals(4, 3), "b": reals(1, 3)}],
    ),
    "single values": Graph(
        [node("Mul", "a b", "y")],
        [("a", F, []), ("b", F, [])],
        [("y", F, [])],
        [{"a": reals(), "b": reals()}],
    ),
    "rows by themselves": Graph(
        [node("Add", "a b", "y")],
        [("a", F, [None, 3]), ("b", F, [None, 3])],
        [("y", F, [None, 3])],
        [{"a": reals(n, 3), "b": reals(n, 3)} for n in (1, 4)],
        whole=False,
    ),
    "names made up by an exporter": Graph(
        [node("Add", "a b", "y")],
        [("a", F, ["a_dynamic_axes_1", 3]), ("b", F, ["b_dynamic_axes_1", 3])],
        [("y", F, ["Addy_dim_0", 3])],
        [{"a": reals(n, 3), "b": reals(n, 3)} for n in (1, 4)],
        whole=False,
    ),
    "an output noted as traced": Graph(
        [node("Relu", "x", "y")],
        [("x", F, ["batch", 3])],
        [("y", F, [1, 3])],
        [{"x": reals(n, 3)} for n in (1, 4)],
        whole=False,
    ),
    "four rows": Graph(
        [node("Relu", "x", "y")],
        [("x", F, [4, 3])],
        [("y", F, [4, 3])],
        [{"x": reals(4, 3)}],
        whole=False,
    ),
    "points of a batch": Graph(
        [node("ReduceMax", "x", "y", axes=[1], keepdims=0)],
        [("x", F, ["B", "N", 3])],
        [("y", F, ["B", 3])],
        [{"x": reals(n, t, 3)} for n, t in ((1, 4), (3, 2))],
        whole=False,
    ),
}
