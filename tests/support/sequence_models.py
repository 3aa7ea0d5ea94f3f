"""Minimal models of variable length: tokens and a mask in, logits for the sequence and a score per token out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import (
    Artifact,
    BatchingPolicy,
    Golden,
    PaddingPolicy,
    TaskEntry,
    VariantSource,
    write_artifact,
)
from penstock.tensors import Arrays, Signature, TensorSpec

VOCABULARY, WIDTH, CLASSES = 50, 8, 3
SIGNATURE = Signature(
    (TensorSpec("tokens", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1))),
    (TensorSpec("logits", "FP32", (-1, CLASSES)), TensorSpec("scores", "FP32", (-1, -1))),
)
POLICY = PaddingPolicy(axes={"tokens": 1}, buckets=(4, 8, 16), mask="mask", outputs={"scores": 1})
"""What is right for the model below."""

_random = np.random.default_rng(5)
_EMBEDDING = _random.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
_HEAD = _random.standard_normal((WIDTH, CLASSES)).astype(np.float32)


def answer(tokens: np.ndarray) -> Arrays:
    """The expected outputs for tokens without padding."""
    vectors = _EMBEDDING[tokens]
    return {"logits": vectors.mean(axis=1) @ _HEAD, "scores": vectors.sum(axis=2)}


def token_model(path: Path, *, careless: bool = False, longest: int = 64, one_count: bool = False) -> Path:
    """logits = mean over the real tokens @ head, scores = sum of each token's vector; `careless` ignores the mask.

    It has `longest` position vectors (zeros), and fails on a longer input. With `one_count` the mean divides by the
    length of the longest row in the run, which is right for rows of one length only.
    """
    mask = "ones" if careless else "mask"
    nodes = [
        helper.make_node("Mul", ["mask", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "one"], ["ones"]),
        helper.make_node("Cast", [mask], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Gather", ["embedding", "tokens"], ["words"]),
        helper.make_node("Shape", ["tokens"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["positions", "first", "length"], ["places"]),
        helper.make_node("Add", ["words", "places"], ["vectors"]),
        helper.make_node("Mul", ["vectors", "column"], ["real"]),
        helper.make_node("ReduceSum", ["real", "middle"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["column", "middle"], ["count"], keepdims=0),
        helper.make_node("ReduceMax", ["count"], ["most"], keepdims=0),
        helper.make_node("Div", ["total", "most" if one_count else "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
        helper.make_node("ReduceSum", ["vectors", "last_axis"], ["scores"], keepdims=0),
    ]
    constants = {
        "zero": np.int64(0),
        "one": np.int64(1),
        "last": np.array([2]),
        "middle": np.array([1]),
        "last_axis": np.array([2]),
        "first": np.array([0]),
        "positions": np.zeros((longest, WIDTH), np.float32),
        "embedding": _EMBEDDING,
        "head": _HEAD,
    }
    free = ["batch", "length"]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info(name, TensorProto.INT64, free) for name in ("tokens", "mask")],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, free),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def token_artifact(
    root: Path,
    *,
    name: str = "tokens",
    policy: PaddingPolicy = POLICY,
    batching: BatchingPolicy | None = None,
    careless: bool = False,
    longest: int = 64,
    one_count: bool = False,
) -> Artifact:
    """The model as an artifact with a padding policy, below `root`."""
    file = root / f"{name}.onnx"
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (4, 6))
    return write_artifact(
        root / f"source-{name}",
        name=name,
        version="1.0",
        task=TaskEntry(kind="tensor"),
        signature=SIGNATURE,
        variants=[
            VariantSource("onnx", "fp32", token_model(file, careless=careless, longest=longest, one_count=one_count))
        ],
        golden=Golden({"tokens": tokens, "mask": np.ones_like(tokens)}, answer(tokens), 1e-5, 1e-5),
        card="",
        batching=batching,
        padding=[policy],
    )
