"""A small classifier as an ONNX file, in a registry, with rows to optimize it with; no PyTorch is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.tensors import Array, Signature, TensorSpec

FEATURES, HIDDEN, CLASSES = 64, 128, 8
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, FEATURES)),), (TensorSpec("logits", "FP32", (-1, CLASSES)),))


def _weights() -> list[Array]:
    random = np.random.default_rng(3)
    shapes = ((FEATURES, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CLASSES))
    return [(random.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32) for shape in shapes]


def reference(x: Array) -> Array:
    first, second, third = _weights()
    return np.asarray(np.maximum(np.maximum(x @ first, 0) @ second, 0) @ third)


def rows(count: int = 400, seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal((count, FEATURES)).astype(np.float32)


def write_onnx(path: Path) -> Path:
    names = ("w1", "w2", "w3")
    nodes = []
    at = "x"
    for number, name in enumerate(names):
        out = "logits" if number == 2 else f"h{number}"
        nodes.append(helper.make_node("MatMul", [at, name], [out], name=f"layer{number}"))
        at = out
        if number < 2:
            nodes.append(helper.make_node("Relu", [at], [f"r{number}"], name=f"relu{number}"))
            at = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in zip(names, _weights(), strict=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def published(registry: Registry, scratch: Path, name: str = "mlp", **changes: Any) -> Artifact:
    """The model as version v1.0 of a registry."""
    scratch.mkdir(parents=True, exist_ok=True)
    x = rows(16, seed=9)
    fields: dict[str, Any] = {
        "name": name,
        "version": "v1.0",
        "task": TaskEntry(kind="tensor"),
        "signature": SIGNATURE,
        "variants": [VariantSource("onnx", "fp32", write_onnx(scratch / "model.onnx"))],
        "golden": Golden({"x": x}, {"logits": reference(x)}),
        "card": "# A classifier\n\n## Limits\n\nNone are known.\n",
        "lineage": {"seed": 3},
    }
    return registry.publish(write_artifact(scratch / "artifact", **(fields | changes)).path)
