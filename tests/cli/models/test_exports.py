"""Files as exporters write them are published and then answer as ONNX Runtime does: noted lengths, external data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock.engine.predictor.predictor import Predictor
from penstock.registry.registry import Registry

Penstock = Callable[..., Any]


def tagger() -> onnx.ModelProto:
    """Tags of a text of any length, with the length that the exporter happened to run it with noted for its output.

    So does PyTorch's exporter for an LSTM.
    """
    random = np.random.default_rng(0)
    table = random.standard_normal((50, 16)).astype(np.float32)
    weights = random.standard_normal((16, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["e"]), helper.make_node("MatMul", ["e", "w"], ["tags"])],
        "tagger",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "time"])],
        [helper.make_tensor_value_info("tags", TensorProto.FLOAT, ["batch", 12, 5])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def check_answers(path: Path, ref: str) -> None:
    ids = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int64)
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"ids": ids})[0]
    for model in (ref, path):
        with Registry("registry") as registry, Predictor(model, registry=registry) as predictor:
            answer = np.asarray(predictor.predict({"inputs": {"ids": ids}}).outputs["tags"])
            assert predictor.task.kind == "tensor"
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)


def test_a_length_that_an_exporter_noted_for_an_output_is_no_promise(penstock: Penstock) -> None:
    onnx.save(tagger(), "tagger.onnx")
    assert penstock("models", "publish", "tagger.onnx").code == 0
    (tags,) = penstock("models", "show", "tagger", "--json").json()["manifest"]["signature"]["outputs"]
    assert tags["shape"] == [-1, -1, 5]
    check_answers(Path("tagger.onnx"), "tagger")


@pytest.mark.parametrize(
    ("location", "files"),
    [
        ("model.onnx.data", ["model.onnx.data"]),
        ("weights.bin", ["weights.bin"]),
        ("folder/weights.bin", ["folder/weights.bin"]),
        ("./weights.bin", ["weights.bin"]),
        (None, ["table", "w"]),
    ],
)
def test_external_data_is_published_wherever_it_lies(
    penstock: Penstock, location: str | None, files: list[str]
) -> None:
    Path("source/folder").mkdir(parents=True)
    path = Path("source/tagger.onnx")
    onnx.save_model(
        tagger(), path, save_as_external_data=True, all_tensors_to_one_file=location is not None, location=location,
        size_threshold=200,
    )  # fmt: skip
    done = penstock("models", "import", path)
    assert done.code == 0, done.err
    home = Path("registry/tagger/v1.0/variants/onnx-fp32")
    assert all((home / file).is_file() for file in files)
    check_answers(path, "tagger")


def test_external_data_outside_the_directory_is_refused(penstock: Penstock) -> None:
    Path("source").mkdir()
    onnx.save_model(tagger(), "source/tagger.onnx", save_as_external_data=True, location="w.bin", size_threshold=200)
    text = Path("source/tagger.onnx").read_bytes()
    Path("up.bin").write_bytes(Path("source/w.bin").read_bytes())
    Path("source/outside.onnx").write_bytes(text.replace(b"w.bin", b"../up"))
    Path("up").write_bytes(Path("up.bin").read_bytes())
    done = penstock("models", "import", "source/outside.onnx")
    assert done.code == 1
    assert "is not a relative path inside its directory" in done.err
