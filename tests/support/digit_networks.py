"""Small networks for the real digits: one hidden layer of random features, so that they are made in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec
from penstock_digits.data import features_of, load_split

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 784)),), (TensorSpec("logits", "FP32", (-1, 10)),))
HIDDEN = 400


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that no network was made from."""
    digits = load_split().held_out
    return features_of(digits.counts), digits.labels


def weights(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the hidden layer, drawn from the seed, and of the output, by ridge regression."""
    train = load_split().train
    x, wanted = features_of(train.counts).astype(np.float64), np.eye(10)[train.labels]
    hidden = np.random.default_rng(seed).standard_normal((784, HIDDEN)) / 28
    seen = np.maximum(x @ hidden, 0)
    output = np.linalg.solve(seen.T @ seen + 0.1 * np.eye(HIDDEN), seen.T @ wanted)
    return hidden.astype(np.float32), (10 * output).astype(np.float32)


def network(path: Path, seed: int, *, shift: int = 0, broken_above: float | None = None) -> Path:
    """A file. `shift` gives every class the number of another; above a sum of ink the answers are NaN."""
    hidden, output = weights(seed)
    nodes = [
        helper.make_node("MatMul", ["x", "hidden"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "output"], ["scores" if broken_above is not None else "logits"]),
    ]
    tensors = [numpy_helper.from_array(hidden, "hidden"), numpy_helper.from_array(np.roll(output, shift, 1), "output")]
    if broken_above is not None:
        tensors += [
            numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in (("limit", broken_above), ("nan", np.nan))
        ]
        tensors.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
        nodes += [
            helper.make_node("ReduceSum", ["x", "axes"], ["ink"], keepdims=1),
            helper.make_node("Greater", ["ink", "limit"], ["much"]),
            helper.make_node("Where", ["much", "nan", "scores"], ["logits"]),
        ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 784])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def publish(
    registry: Registry, place: Path, version: str, seed: int, labels: str | None = None, **more: object
) -> None:
    """One version of the model `net`; each letter of `labels` is the name of a class."""
    file = network(place / f"{version}.onnx", seed, **more)  # type: ignore[arg-type]
    task = TaskEntry(
        kind="vector-classification", config={"output": "logits", **({"labels": list(labels)} if labels else {})}
    )
    source = [VariantSource("onnx", "fp32", file)]
    directory = place / f"source-{version}"
    artifact = write_artifact(
        directory, name="net", version=version, task=task, signature=SIGNATURE, variants=source, golden=None, card=""
    )
    registry.publish(artifact.path)
