"""Artifacts of a few bytes, and registries with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import save_file

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

Write = Callable[..., Artifact]
Database = Callable[[Path], str]


@pytest.fixture
def signature() -> Signature:
    return Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 2)),))


@pytest.fixture
def golden() -> Golden:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Golden({"x": x}, {"y": x[:, :2]}, atol=1e-5, rtol=1e-4)


def _model(content: bytes) -> bytes:
    """The first two columns of `x`, with text that makes models differ."""
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, n]) for name, n in (("x", 4), ("y", 2))]
    cut = [
        helper.make_tensor(name, onnx.TensorProto.INT64, [1], [n]) for name, n in (("from", 0), ("to", 2), ("axis", 1))
    ]
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "from", "to", "axis"], ["y"])], "g", ports[:1], ports[1:], cut
    )
    opset = helper.make_opsetid("", 17)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=9, doc_string=content.decode())
    return model.SerializeToString()


@pytest.fixture
def write(tmp_path: Path, signature: Signature, golden: Golden) -> Write:
    """Write an artifact of two variants, golden samples and a card below tmp_path/sources."""

    def write(name: str = "m", version: str = "v1", content: bytes = b"weights", **changes: Any) -> Artifact:
        sources = tmp_path / "sources"
        sources.mkdir(exist_ok=True)
        number = len(list(sources.iterdir()))
        model, weights = sources / f"{number}.onnx", sources / f"{number}.safetensors"
        model.write_bytes(_model(content))
        save_file({"weights": np.frombuffer(content, np.uint8)}, weights)
        fields: dict[str, Any] = {
            "name": name,
            "version": version,
            "task": TaskEntry(kind="tensor"),
            "signature": signature,
            "variants": [
                VariantSource("onnx", "fp32", model),
                VariantSource("pytorch", "fp32", weights, architecture="a.b:C", architecture_args={"hidden": 3}),
            ],
            "golden": golden,
            "card": "# A model\n",
            "created_at": "2026-01-31T12:00:00Z",
        }
        return write_artifact(sources / f"artifact-{number}", **(fields | changes))

    return write


@pytest.fixture
def registry(tmp_path: Path, database: Database) -> Iterator[Registry]:
    path = tmp_path / "registry"
    with Registry(path, database(path)) as registry:
        yield registry
