"""Models whose answers are far larger than their requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.tensors import Signature, TensorSpec


def wide(root: Path, name: str = "wide", *, columns: int | None = None) -> Path:
    """An artifact: `y [rows, n]` repeats the number in `x [rows, 1]`; `n` is the largest number, or `columns`."""
    length = -1 if columns is None else columns
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["rows"]),
        helper.make_node("Concat", ["rows", "count"], ["wanted"], axis=0),
        helper.make_node("Expand", ["x", "wanted"], ["y"]),
    ]
    if columns is None:
        nodes[:0] = [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["whole", "one"], ["count"]),
        ]
    constants = {"zero": [0], "one": [1]} | ({} if columns is None else {"count": [columns]})
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "n" if columns is None else columns])],
        [numpy_helper.from_array(np.array(value, np.int64), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    file = root / f"{name}.onnx"
    onnx.save(model, file)
    signature = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, length)),))
    return write_artifact(
        root / f"source-{name}",
        name=name,
        version="1.0",
        task=TaskEntry(kind="tensor"),
        signature=signature,
        variants=[VariantSource("onnx", "fp32", file)],
        golden=None,
        card=f"---\nlicense: apache-2.0\n---\n# {name}\n",
        metrics={},
    ).path
