"""Versions of a digits model that a canary has to tell apart: small networks trained on the real images.

`v1.0` and `v2.0` differ in their seed and are both good. The others do one thing wrong on top of what v2.0 learned.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec
from penstock_digits.data import Features, features_of, load_split

NAME = "digits"
HIDDEN = 32
SLOW_SIDE = 1400
SLOW_TIMES = 24
"""So slow that it shows beside a busy machine, where every request waits for a core."""
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 784)),), (TensorSpec("logits", "FP32", (-1, 10)),))
BAD = ("labels", "slow", "nan", "fails")


def build_digits(root: Path) -> tuple[Path, Features]:
    """A registry with every version, and the images that were held out of the training."""
    split = load_split()
    train, held_out = features_of(split.train.counts), features_of(split.held_out.counts)
    ink = held_out.sum(axis=1)
    first, second = (_trained(train, split.train.labels, seed) for seed in (0, 1))
    with Registry(root / "registry") as registry:
        for version, weights in (("v1.0", first), ("v2.0", second), *((each, second) for each in BAD)):
            file = root / f"{version}.onnx"
            _write(file, weights, version, float(np.quantile(ink, 0.93)))
            registry.publish(
                _artifact(root, file, version, weights, held_out[ink < np.quantile(ink, 0.5)][:4]), prove=False
            )
        registry.set_alias(NAME, "champion", "v1.0", force=True)
        return registry.path, held_out


def answers(root: Path, version: str, x: Features) -> Features:
    """The logits of a version for many images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(root / f"{version}.onnx"), providers=["CPUExecutionProvider"])
    found: Features = session.run(None, {"x": x})[0]
    return found


def _trained(x: Features, labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """The weights of a network with one hidden layer, by Adam on the softmax loss."""
    random = np.random.default_rng(seed)
    weights = [
        random.normal(0, 0.05, (784, HIDDEN)),
        np.zeros(HIDDEN),
        random.normal(0, 0.2, (HIDDEN, 10)),
        np.zeros(10),
    ]
    first, second = [np.zeros_like(each) for each in weights], [np.zeros_like(each) for each in weights]
    targets = np.eye(10)[labels]
    for step in range(1, 800):
        rows = random.integers(0, len(x), 128)
        batch, goal = x[rows].astype(np.float64), targets[rows]
        hidden = np.maximum(batch @ weights[0] + weights[1], 0)
        logits = hidden @ weights[2] + weights[3]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        off = (powers / powers.sum(axis=1, keepdims=True) - goal) / len(rows)
        back = (off @ weights[2].T) * (hidden > 0)
        for index, slope in enumerate((batch.T @ back, back.sum(axis=0), hidden.T @ off, off.sum(axis=0))):
            first[index] = 0.9 * first[index] + 0.1 * slope
            second[index] = 0.999 * second[index] + 0.001 * slope**2
            scale = np.sqrt(second[index] / (1 - 0.999**step)) + 1e-8
            weights[index] = weights[index] - 0.01 * first[index] / (1 - 0.9**step) / scale
    return [each.astype(np.float32) for each in weights]


def _artifact(root: Path, file: Path, version: str, weights: list[np.ndarray], x: Features) -> Path:
    logits = np.maximum(x @ weights[0] + weights[1], 0) @ weights[2] + weights[3]
    if version == "labels":
        logits = logits[:, ::-1]
    return write_artifact(
        root / f"source-{version}",
        name=NAME,
        version=version,
        task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", file)],
        golden=Golden({"x": x}, {"logits": np.ascontiguousarray(logits)}, 1e-3, 1e-3),
        card="---\nlicense: apache-2.0\n---\n# Digits for tests\n",
        metrics={"accuracy": 0.9},
    ).path


def _write(file: Path, weights: list[np.ndarray], version: str, ink: float) -> None:
    """The network as ONNX, with the fault of its version. `ink` is more than most images have."""
    w1, b1, w2, b2 = weights
    if version == "labels":
        w2, b2 = np.ascontiguousarray(w2[:, ::-1]), np.ascontiguousarray(b2[::-1])
    tensors = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Add", ["a", "b1"], ["b"]),
        helper.make_node("Relu", ["b"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["c"]),
        helper.make_node("Add", ["c", "b2"], ["good"]),
        *_fault(version, tensors, ink),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 784])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


def _fault(version: str, tensors: dict[str, np.ndarray], ink: float) -> list[onnx.NodeProto]:
    """The nodes from the logits of a good network to those of this version."""
    if version == "slow":
        return _slow(tensors)
    if version not in ("nan", "fails"):
        return [helper.make_node("Identity", ["good"], ["logits"])]
    tensors |= {"ink": np.float32(ink), "axis": np.array([1]), "none": np.full(1, np.nan, np.float32)}
    dark = [
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
        helper.make_node("Greater", ["sum", "ink"], ["dark"]),
    ]
    if version == "nan":
        return [*dark, helper.make_node("Where", ["dark", "none", "good"], ["logits"])]
    tensors["zero"] = np.zeros(1, np.float32)  # of which a dark image takes the second element
    return [
        *dark,
        helper.make_node("Cast", ["dark"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zero", "index"], ["nothing"]),
        helper.make_node("Add", ["good", "nothing"], ["logits"]),
    ]


def _slow(tensors: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """The same answers after some large products."""
    random = np.random.default_rng(3)
    tensors["up"] = random.normal(0, 0.01, (10, SLOW_SIDE)).astype(np.float32)
    tensors["wide"] = (random.normal(0, 1, (SLOW_SIDE, SLOW_SIDE)) / SLOW_SIDE).astype(np.float32)
    tensors["down"] = np.full((SLOW_SIDE, 10), 1e-12, np.float32)
    steps = [helper.make_node("MatMul", ["good", "up"], ["s0"])]
    steps += [helper.make_node("MatMul", [f"s{n}", "wide"], [f"s{n + 1}"]) for n in range(SLOW_TIMES)]
    steps += [helper.make_node("MatMul", [f"s{SLOW_TIMES}", "down"], ["little"])]
    return [*steps, helper.make_node("Add", ["good", "little"], ["logits"])]
