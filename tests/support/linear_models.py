"""A minimal real model: logits = x @ w, as an ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import Artifact
from penstock.tensors import Signature, TensorSpec

FEATURES, CLASSES = 4, 3
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, FEATURES)),), (TensorSpec("logits", "FP32", (-1, CLASSES)),))

Publish = Callable[..., Artifact]


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((FEATURES, CLASSES)).astype(np.float32)


def linear(path: Path, seed: int = 0, batch: int | str = "batch", classes: str = "a,b,c") -> Path:
    """logits = x @ weights(seed), with the names of the classes in the metadata; without any they may be anything."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(weights(seed), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if classes:
        helper.set_model_props(model, {"classes": classes})
    onnx.save(model, path)
    return path
