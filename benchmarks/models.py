"""The models of the benchmarks, with seeded random weights, since only their speed matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from penstock import Artifact, Signature, TensorSpec
from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.policies import PaddingPolicy

FEATURES = 784
CLASSES = 10
NARROW = 8


class Graph:
    """A sequential ONNX graph under construction."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.last = "input"
        self._random = np.random.default_rng(seed)

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scale = 1 / np.sqrt(np.prod(shape[1:]) or 1)
        values = (self._random.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(self, values: list[int]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def add(self, op: str, *inputs: str, output: str | None = None, **attributes: object) -> None:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *inputs], [output], **attributes))
        self.last = output

    def save(self, path: Path) -> Path:
        graph = helper.make_graph(
            self.nodes,
            path.stem,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", FEATURES])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def mlp(folder: Path) -> Path:
    """784 → 128 → 10, a few microseconds per sample: measures the server."""
    graph = Graph(seed=1)
    graph.add("Gemm", graph.weight(128, FEATURES), graph.weight(128), transB=1)
    graph.add("Relu")
    graph.add("Gemm", graph.weight(CLASSES, 128), graph.weight(CLASSES), transB=1, output="logits")
    return graph.save(folder / "mlp.onnx")


def cnn(folder: Path, width: int = 36) -> Path:
    """A small CNN over 28×28, about 0.7 ms per sample on one core: model and server share the machine."""
    graph = Graph(seed=2)
    graph.add("Reshape", graph.constant([-1, 1, 28, 28]))
    channels = 1
    for out, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2)):
        graph.add(
            "Conv",
            graph.weight(out, channels, 3, 3),
            graph.weight(out),
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[stride, stride],
        )
        graph.add("Relu")
        channels = out
    graph.add("GlobalAveragePool")
    graph.add("Flatten")
    graph.add("Gemm", graph.weight(CLASSES, channels), graph.weight(CLASSES), transB=1, output="logits")
    return graph.save(folder / "cnn.onnx")


def linear(folder: Path, name: str, version: str, *, bias: float) -> Path:
    """An artifact that returns the sum of its inputs plus `bias`, which identifies the version."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["s"]), helper.make_node("Add", ["s", "bias"], ["y"])]
    weights = [
        numpy_helper.from_array(np.array([1], np.int64), "axes"),
        numpy_helper.from_array(np.array([bias], np.float32), "bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", NARROW])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "linear.onnx")
    rows = np.random.default_rng(0).random((4, NARROW), np.float32)
    return write_artifact(
        folder / "artifact",
        name=name,
        version=version,
        task=TaskEntry(kind="tensor"),
        signature=Signature((TensorSpec("x", "FP32", (-1, NARROW)),), (TensorSpec("y", "FP32", (-1, 1)),)),
        variants=[VariantSource("onnx", "fp32", folder / "linear.onnx")],
        golden=Golden({"x": rows}, {"y": rows.sum(axis=1, keepdims=True) + np.float32(bias)}),
        card="",
    ).path


def renamed(artifact: Path, folder: Path, name: str) -> Path:
    """A copy of the model under another name."""
    model = Artifact.open(artifact)
    manifest, golden = model.manifest, model.golden()
    return write_artifact(
        folder,
        name=name,
        version=manifest.version,
        task=manifest.task,
        signature=manifest.signature,
        variants=[VariantSource(v.format, v.precision, model.variant_path(v), name=v.name) for v in manifest.variants],
        golden=golden,
        card="",
    ).path


def encoder(folder: Path, *, longest: int = 128) -> Path:
    """An artifact: a transformer encoder over tokens of free length with a padding mask, two layers of width 128."""
    import torch
    from encoder import Encoder

    torch.manual_seed(0)
    model = Encoder().eval()
    tokens, mask = torch.randint(1, 1000, (2, 16)), torch.ones(2, 16, dtype=torch.bool)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        model,
        (tokens, mask),
        dynamo=True,
        dynamic_shapes=(free, free),
        input_names=["tokens", "mask"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    folder.mkdir(parents=True, exist_ok=True)
    program.save(folder / "encoder.onnx", external_data=False)
    with torch.inference_mode():
        logits = model(tokens, mask).numpy()
    return write_artifact(
        folder / "artifact",
        name="encoder",
        version="1.0",
        task=TaskEntry(kind="tensor"),
        signature=Signature(
            (TensorSpec("tokens", "INT64", (-1, -1)), TensorSpec("mask", "BOOL", (-1, -1))),
            (TensorSpec("logits", "FP32", (-1, CLASSES)),),
        ),
        variants=[VariantSource("onnx", "fp32", folder / "encoder.onnx")],
        golden=Golden({"tokens": tokens.numpy(), "mask": mask.numpy()}, {"logits": logits}),
        card="",
        padding=[PaddingPolicy(axes={"tokens": 1}, buckets=tuple(range(16, longest + 1, 16)), mask="mask")],
    ).path
