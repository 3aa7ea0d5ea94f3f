"""Loads with other options, what a variant is called, the order of use, and batches that do not fit into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from linear_models import FEATURES, Publish
from onnx import TensorProto, helper

from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.manager import ModelManager
from penstock.errors import ModelLoadError
from penstock.registry.registry import Registry

SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
pytestmark = SQLITE
X = np.ones((1, FEATURES), np.float32)


# Other options


@pytest.mark.parametrize(
    "overrides", [{"threads": 1}, {"precision": "fp16"}, {"pin_memory": False}, {"use_compile": True}]
)
def test_a_load_with_other_options_replaces_the_model(
    registry: Registry, publish: Publish, overrides: dict[str, object]
) -> None:
    publish()
    manager = ModelManager(registry)
    first = manager.load_model("m")
    second = manager.load_model("m", **overrides)  # type: ignore[arg-type]
    assert second is not first
    assert first.retired
    assert manager.get_model("m") is second
    assert manager.load_model("m", **overrides) is second  # type: ignore[arg-type]
    assert manager.load_model("m") is second, "a call that asks for nothing takes what is loaded"


@pytest.mark.parametrize(
    "overrides", [{"device": "cpu"}, {"device": "CPU"}, {"precision": "fp32"}, {"variant": "onnx-fp32"}]
)
def test_a_load_with_the_options_in_force_takes_the_loaded_model(
    registry: Registry, publish: Publish, overrides: dict[str, object]
) -> None:
    publish()
    manager = ModelManager(registry)
    model = manager.load_model("m")
    assert manager.load_model("m", **overrides) is model  # type: ignore[arg-type]


def test_a_load_with_another_task_replaces_the_model_of_a_file(registry: Registry, onnx_file: Path) -> None:
    manager = ModelManager(registry)
    assert manager.load_model(onnx_file).task.kind == "vector-classification"
    model = manager.load_model(onnx_file, task="tensor")
    assert model.task.kind == "tensor"
    assert manager.load_model(onnx_file, task="tensor", example_input=X) is model


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_file_that_runs_in_fp32_is_called_fp32(registry: Registry, onnx_file: Path, precision: str) -> None:
    info = ModelManager(registry, precision=precision).load_model(onnx_file).info
    assert (info.variant, info.precision) == ("onnx-fp32", "fp32")
    assert any(f"{precision} was requested" in warning for warning in info.warnings)


# Order of use


def test_the_least_recently_used_model_is_evicted(registry: Registry, publish: Publish) -> None:
    for name in "abc":
        publish(name)
    manager = ModelManager(registry, max_models=2)
    manager.load_model("a")
    manager.load_model("b")
    manager.get_model("a")
    manager.get_model_info("b")  # a look at the facts is no use
    manager.load_model("c")
    assert [info.name for info in manager.list_cached_models()] == ["a", "c"]


async def test_a_prediction_counts_as_a_use(registry: Registry, publish: Publish) -> None:
    for name in "abcd":
        publish(name)
    engine = InferenceEngine(InferenceConfig(max_models=3, cache_size=10), registry=registry)
    for ref in "abc":
        await engine.predict(X[0], ref=ref)
    await engine.predict(X[0], ref="a")  # from the cache of answers, which is a use of the model as well
    await engine.predict(X[0], ref="d")
    assert [model.name for model in engine.loaded()] == ["c", "a", "d"]
    await engine.close()


# Memory


def hungry(path: Path, most: int) -> Path:
    """y = x + 0; a run needs 4 MiB for up to `most` rows and terabytes for more."""
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["rows"], end=1),
            helper.make_node("Greater", ["rows", "most"], ["beyond"]),
            helper.make_node("Where", ["beyond", "huge", "small"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        "hungry",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", FEATURES])],
        [
            helper.make_tensor(name, TensorProto.INT64, [1], [value])
            for name, value in (("most", most), ("small", 2**20), ("huge", 2**44))
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("most", [2, 7])
def test_a_batch_that_does_not_fit_into_memory_lowers_the_limit(registry: Registry, tmp_path: Path, most: int) -> None:
    model = ModelManager(registry, batch_size=32).load_model(hungry(tmp_path / "hungry.onnx", most))
    fits = {2: 2, 7: 4}[most]
    assert model.batcher.limits.batch_rows == fits
    assert f"a run takes {fits} rows at most: 32, as was asked for, do not fit into memory" in model.info.warnings


def test_a_model_of_which_not_one_row_fits_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="does not fit into memory"):
        ModelManager(registry).load_model(hungry(tmp_path / "hungry.onnx", 0))
