"""A small network in fp32 and, by ONNX Runtime's dynamic quantization, in int8 under two recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.tensors import Signature, TensorSpec

FEATURES, HIDDEN, CLASSES = 16, 32, 4
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, FEATURES)),), (TensorSpec("logits", "FP32", (-1, CLASSES)),))
INT8_ATOL = 0.2
"""Far above the error of int8 here (0.05) and far below the spread of the logits."""


def _weights() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    shapes = ((FEATURES, HIDDEN), (HIDDEN, CLASSES))
    return [(random.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32) for shape in shapes]


def reference(x: np.ndarray) -> np.ndarray:
    first, second = _weights()
    return np.asarray(np.maximum(x @ first, 0) @ second)


def samples(rows: int = 8, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, FEATURES)).astype(np.float32)


def fp32(path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("MatMul", ["h2", "w2"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in zip(("w1", "w2"), _weights(), strict=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def int8(path: Path, *, per_channel: bool) -> Path:
    source = fp32(path.with_suffix(".fp32.onnx"))
    quantize_dynamic(source, path, per_channel=per_channel, weight_type=QuantType.QInt8)
    return path


def int8_variants(folder: Path) -> list[VariantSource]:
    """Two recipes of one format and precision; the second has a custom name."""
    return [
        VariantSource("onnx", "int8", int8(folder / "tensor.onnx", per_channel=False)),
        VariantSource("onnx", "int8", int8(folder / "channel.onnx", per_channel=True), name="onnx-int8-per-channel"),
    ]


def write_quantized(directory: Path, version: str, variants: list[VariantSource], atol: float = INT8_ATOL) -> Artifact:
    """An artifact whose golden samples are those of the fp32 network."""
    x = samples()
    return write_artifact(
        directory,
        name="mlp",
        version=version,
        task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
        signature=SIGNATURE,
        variants=variants,
        golden=Golden({"x": x}, {"logits": reference(x)}, atol=atol, rtol=0.0),
        card="",
    )
