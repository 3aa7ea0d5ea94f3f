"""The models the benchmarks serve, with seeded random weights: their speed is what counts, not their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES = 784
CLASSES = 10


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
    """784 → 128 → 10, a few microseconds a sample: what is measured is the server."""
    graph = Graph(seed=1)
    graph.add("Gemm", graph.weight(128, FEATURES), graph.weight(128), transB=1)
    graph.add("Relu")
    graph.add("Gemm", graph.weight(CLASSES, 128), graph.weight(CLASSES), transB=1, output="logits")
    return graph.save(folder / "mlp.onnx")


def cnn(folder: Path, width: int = 36) -> Path:
    """A small CNN over 28×28, about 0.7 ms a sample on one core: model and server share the machine."""
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
