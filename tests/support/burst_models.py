"""Models for bursts: those of `served_models`, and others that fail on one row, watch ranges or answer more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import served_models
import zoo_text
from linear_models import CLASSES, FEATURES, SIGNATURE, weights
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.artifact import Range, Ranges, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

FAILS = 77.0
"""As the first number, it makes a run of `faulty` fail."""
NOT_A_NUMBER = 200.0
"""As the second number, it makes the outputs of `faulty` NaN, which is refused."""
FAR = 900.0
"""As the third number, it is beyond the range of `faulty`, which is refused."""
ODD = 60.0
"""As the third number, it makes an output beyond its range, which is counted."""
WIDE = 200
"""Numbers in the output of `wide` for one in its input."""
REFS = ("vec", "raw", "faulty", "wide", "table", "words")

_VECTOR = TaskEntry(kind="vector-classification", config={"output": "logits"})
_TABLE = TaskEntry(
    kind="tabular",
    config={
        "columns": [
            {"type": "number", "name": "age", "missing": 40},
            {"type": "category", "name": "city", "categories": list(zoo_text.CITIES), "encoding": "text"},
        ]
    },
)
_WORDS = TaskEntry(
    kind="text-classification", config={"scores": "logits", "output": "logits", "labels": list(zoo_text.LABELS)}
)


def build_registry(root: Path, database_url: str | None = None) -> Path:
    """The registry below `root`."""
    place = served_models.build_registry(root, database_url)
    zoo_text.write_tabular(root / "table.onnx")
    zoo_text.write_text_classifier(root / "words.onnx")
    ranges = Ranges(
        inputs={"x": Range(minimum=-500, maximum=500)},
        outputs={"logits": Range(minimum=-50, maximum=50)},
        on_input="refuse",
        on_output="count",
        on_nan="refuse",
    )
    with Registry(place, database_url) as registry:
        _publish(registry, failing_file(root), _VECTOR, SIGNATURE, ranges=ranges)
        _publish(registry, _wide(root), TaskEntry(kind="tensor"), _signature({"x": FEATURES}, {"y": FEATURES * WIDE}))
        table = (TensorSpec("age", "FP32", (-1, 1)), TensorSpec("city", "BYTES", (-1, 1)))
        _publish(registry, root / "table.onnx", _TABLE, Signature(table, (TensorSpec("price", "FP32", (-1, 1)),)))
        outputs = (TensorSpec("label", "BYTES", (-1,)), TensorSpec("logits", "FP32", (-1, len(zoo_text.LABELS))))
        _publish(registry, root / "words.onnx", _WORDS, Signature((TensorSpec("text", "BYTES", (-1,)),), outputs))
    return place


def _signature(inputs: dict[str, int], outputs: dict[str, int]) -> Signature:
    given, made = (
        tuple(TensorSpec(name, "FP32", (-1, size)) for name, size in specs.items()) for specs in (inputs, outputs)
    )
    return Signature(given, made)


def _publish(registry: Registry, file: Path, task: TaskEntry, signature: Signature, **more: Any) -> None:
    artifact = write_artifact(
        file.parent / f"source-{file.stem}",
        name=file.stem,
        version="1",
        task=task,
        signature=signature,
        variants=[VariantSource("onnx", "fp32", file)],
        golden=None,
        card="",
        **more,
    )
    registry.publish(artifact.path)


def failing_file(root: Path) -> Path:
    """logits = x @ w, plus the entry of a table of 64 zeros at |x[0]|, plus 0 * sqrt(100 - x[1])."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Gather", ["x", "first"], ["x0"], axis=1),
        helper.make_node("Abs", ["x0"], ["place"]),
        helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["zeros", "index"], ["found"], axis=0),
        helper.make_node("Gather", ["x", "second"], ["x1"], axis=1),
        helper.make_node("Sub", ["hundred", "x1"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["root"]),
        helper.make_node("Mul", ["root", "none"], ["nothing"]),
        helper.make_node("Add", ["scores", "found"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["logits"]),
    ]
    constants = {
        "w": weights(5),
        "zeros": np.zeros(64, np.float32),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "hundred": np.float32(100),
        "none": np.float32(0),
    }
    return _save(root / "faulty.onnx", nodes, ("x", FEATURES), ("logits", CLASSES), constants)


def _wide(root: Path) -> Path:
    """y = x, many times."""
    nodes = [helper.make_node("Tile", ["x", "times"], ["y"])]
    constants = {"times": np.array([1, WIDE], np.int64)}
    return _save(root / "wide.onnx", nodes, ("x", FEATURES), ("y", FEATURES * WIDE), constants)


def _save(
    path: Path, nodes: list[onnx.NodeProto], given: tuple[str, int], made: tuple[str, int], constants: dict[str, Any]
) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (given, made))
    known = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, [x], [y], known)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
