"""Models that run with no input that is tried at load: they are served unproven, or refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.load import load_file
from penstock.errors import InferenceError, ModelLoadError
from penstock.file_description import FileDescription
from penstock.options import EngineOptions

ROWS, LENGTH = 7, 143
"""What the model takes, which neither its signature nor one number of its graph says."""
EXAMPLE = {"x": np.arange(ROWS * LENGTH, dtype=np.float32).reshape(ROWS, LENGTH)}


@pytest.fixture
def secretive(tmp_path: Path) -> Path:
    """Sums of rows, for the only shape that it reshapes to."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "shape"], ["blocks"]),
            helper.make_node("ReduceSum", ["blocks", "axes"], ["y"], keepdims=0),
        ],
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [
            numpy_helper.from_array(np.array([ROWS, 11, 13]), "shape"),
            numpy_helper.from_array(np.array([1, 2]), "axes"),
        ],
    )
    path = tmp_path / "secretive.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


async def test_a_model_that_no_probe_runs_is_served_unproven(
    secretive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = InferenceEngine(InferenceConfig(model_path=secretive), registry=tmp_path / "registry")
    with caplog.at_level(logging.WARNING):
        await engine.start()
    try:
        model = engine.default()
        assert model is not None
        assert not model.info.proven
        assert model.batcher.limits.whole
        assert any("no input was found that it runs with" in warning for warning in model.info.warnings)
        assert "each request runs whole and alone" in caplog.text
        assert "example_input=…" in caplog.text
        expected = ort.InferenceSession(secretive).run(None, EXAMPLE)[0]
        answer = await engine.infer(None, EXAMPLE)
        np.testing.assert_allclose(answer.outputs["y"], expected, rtol=1e-6)
        with pytest.raises(InferenceError, match="Reshape"):
            await engine.infer(None, {"x": EXAMPLE["x"][:2]})
    finally:
        await engine.close()


def test_a_setting_refuses_it(secretive: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"secretive\.onnx: unproven, as no input was found .*example_input=…"):
        load_file(secretive, EngineOptions(unproven="refuse"))


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_an_example_proves_it(secretive: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"example{suffix}"
    np.savez(file, **EXAMPLE) if suffix == ".npz" else np.save(file, EXAMPLE["x"])
    model = load_file(secretive, EngineOptions(unproven="refuse"), FileDescription(example=file))
    assert model.info.proven
    assert len(model.info.batch_ms) == 1
    model.close()


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        ({"z": [[1.0]]}, "example: the model has no input 'z'; it takes x"),
        ({"x": [1.0]}, r"example: x: the shape is \[1\], the model takes \[-1, -1\]"),
        ({"x": [[1.0, 2.0]]}, "it does not run with the example: .*Reshape"),
    ],
)
def test_an_example_that_does_not_fit_is_a_load_error(secretive: Path, example: Any, sentence: str) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        load_file(secretive, EngineOptions(), FileDescription(example=example))
