"""Arrays in, arrays out, for models of every task and for bare files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zoo_text
from linear_models import CLASSES, FEATURES, SIGNATURE, linear, weights
from onnx import TensorProto, helper
from served_models import SIDE, build_registry

from penstock.artifacts.artifact import Range, Ranges, TaskEntry, VariantSource, write_artifact
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.errors import InvalidInput, OutOfRange
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

X = np.random.default_rng(3).standard_normal((200, FEATURES)).astype(np.float32)
TEXT_SIGNATURE = Signature(
    (TensorSpec("text", "BYTES", (-1,)),),
    (TensorSpec("label", "BYTES", (-1,)), TensorSpec("logits", "FP32", (-1, len(zoo_text.LABELS)))),
)


@pytest.fixture(scope="module")
def registry_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vec`, `pic`, `raw`, `slow`, `words` and `strict`, whose input is refused above 10."""
    root = tmp_path_factory.mktemp("models")
    path = build_registry(root)
    zoo_text.write_text_classifier(root / "words.onnx")
    linear(root / "strict.onnx")
    vector = TaskEntry(kind="vector-classification", config={"output": "logits"})
    text = TaskEntry(kind="text-classification", config={"scores": "logits", "output": "logits"})
    ranges = Ranges(inputs={"x": Range(minimum=-10, maximum=10)}, on_input="refuse")
    with Registry(path) as registry:
        for name, task, signature, more in (
            ("words", text, TEXT_SIGNATURE, {}),
            ("strict", vector, SIGNATURE, {"ranges": ranges}),
        ):
            artifact = write_artifact(
                root / f"source-{name}", name=name, version="1", task=task, signature=signature,
                variants=[VariantSource("onnx", "fp32", root / f"{name}.onnx")], golden=None, card="", **more,  # type: ignore[arg-type]
            )  # fmt: skip
            registry.publish(artifact.path)
    return path


@pytest.fixture
async def engine(registry_path: Path) -> AsyncIterator[InferenceEngine]:
    engine = InferenceEngine(InferenceConfig(batch_size=32), registry=registry_path)
    await engine.start()
    yield engine
    await engine.close()


def refused(error: InvalidInput) -> str:
    (fault,) = error.errors
    return fault.field


async def test_any_model_takes_and_returns_arrays_by_name(engine: InferenceEngine) -> None:
    vector = await engine.infer("vec:v1.0", {"x": X[:5]})
    np.testing.assert_allclose(vector.outputs["logits"], X[:5] @ weights(0), rtol=1e-4, atol=1e-5)
    assert (vector.model, vector.version, vector.variant, vector.batch_rows) == ("vec", "v1.0", "onnx-fp32", 5)
    assert min(vector.pre_ms, vector.run_ms, vector.total_ms) > 0
    picture = await engine.infer("pic", {"image": np.ones((2, 1, SIDE, SIDE), np.float32)})
    np.testing.assert_allclose(picture.outputs["logits"], np.ones((2, 2)), rtol=1e-5)
    two = await engine.infer("raw", {"b": X[:3, :2], "a": X[:3, 2:]})
    np.testing.assert_allclose(two.outputs["sum"], X[:3, :2] + X[:3, 2:], rtol=1e-6)
    words = np.array(["great engine", "poor"], object)
    text = await engine.infer("words", {"text": words})
    assert text.outputs["label"].tolist() == zoo_text.classify({"text": words})["label"].tolist()


async def test_lists_are_taken_as_arrays(engine: InferenceEngine) -> None:
    answer = await engine.infer("raw", {"a": [[1, 2]], "b": [[3, 4.5]]})
    assert answer.outputs["sum"].tolist() == [[4.0, 6.5]]


async def test_the_default_model_is_used_if_none_is_named(engine: InferenceEngine) -> None:
    answer = await engine.infer(None, {"image": np.ones((1, 1, SIDE, SIDE), np.float32)})
    assert answer.model == engine.default_ref


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (None, ["label", "logits"]),
        (["logits"], ["logits"]),
        ([], []),
        (["logits", "logits"], ["logits"]),
        ("label", ["label"]),
    ],
)
async def test_only_the_requested_outputs_are_returned(engine: InferenceEngine, outputs: Any, names: list[str]) -> None:
    answer = await engine.infer("words", {"text": ["fine"]}, outputs)
    assert list(answer.outputs) == names


async def test_an_unknown_output_is_refused_with_the_known_ones(engine: InferenceEngine) -> None:
    with pytest.raises(InvalidInput, match="scores: the model has no such output; it has label, logits") as caught:
        await engine.infer("words", {"text": ["fine"]}, ["logits", "scores"])
    assert refused(caught.value) == "scores"


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        ({}, "x"),
        ({"x": X, "z": X}, "z"),
        ({"X": X}, "x"),
        ({"x": X[:, :3]}, "x"),
        ({"x": X[0]}, "x"),
        ({"x": np.float32(3)}, "x"),
        ({"x": X[:0]}, "x"),
        ({"x": []}, "x"),
        ({"x": np.array([["a"] * FEATURES])}, "x"),
        ({"x": np.full((1, FEATURES), 1j)}, "x"),
        ({"x": np.ones((1, FEATURES), bool)}, "x"),
        ({"x": np.full((1, FEATURES), 1e300)}, "x"),
        ({"x": [[1, 2], [3]]}, "x"),
        ({"x": None}, "x"),
        (X, "inputs"),
        (None, "inputs"),
    ],
)
async def test_an_input_that_does_not_fit_is_named(engine: InferenceEngine, arrays: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await engine.infer("vec", arrays)
    assert refused(caught.value) == field


async def test_inputs_of_different_rows_are_refused(engine: InferenceEngine) -> None:
    with pytest.raises(InvalidInput, match="b: 2 rows, other inputs have 3"):
        await engine.infer("raw", {"a": X[:3, :2], "b": X[:2, :2]})


async def test_more_rows_than_a_batch_are_run_in_parts(engine: InferenceEngine) -> None:
    answer = await engine.infer("vec:v1.0", {"x": X})
    np.testing.assert_allclose(answer.outputs["logits"], X @ weights(0), rtol=1e-4, atol=1e-5)
    assert answer.outputs["logits"].shape == (200, CLASSES)
    assert answer.batch_rows == 32


async def test_equal_arrays_come_from_the_cache(registry_path: Path) -> None:
    engine = InferenceEngine(InferenceConfig(cache_size=10), registry=registry_path)
    await engine.start(["vec"])
    first, again = [await engine.infer("vec", {"x": X[:2]}) for _ in range(2)]
    again.outputs["logits"][:] = 0
    third = await engine.infer("vec", {"x": X[:2]})
    assert (first.batch_rows, again.batch_rows, third.batch_rows) == (2, 0, 0)
    np.testing.assert_array_equal(third.outputs["logits"], first.outputs["logits"])
    await engine.close()


async def test_expected_ranges_hold_for_arrays(engine: InferenceEngine) -> None:
    with pytest.raises(OutOfRange, match="x: 20 is above 10"):
        await engine.infer("strict", {"x": np.full((1, FEATURES), 20, np.float32)})


async def test_values_that_are_not_finite_reach_the_model_and_are_flagged(engine: InferenceEngine) -> None:
    answer = await engine.infer("raw", {"a": [[np.nan, 1]], "b": [[1, np.inf]]})
    assert np.isnan(answer.outputs["sum"][0, 0])
    assert [(flag.side, flag.tensor, flag.kind) for flag in answer.flags] == [("output", "sum", "not_finite")]


async def test_a_bare_file_takes_arrays(tmp_path: Path) -> None:
    engine = InferenceEngine(InferenceConfig(model_path=str(linear(tmp_path / "m.onnx")), registry=str(tmp_path / "r")))
    await engine.start()
    answer = await engine.infer(None, {"x": X[:3]})
    np.testing.assert_allclose(answer.outputs["logits"], X[:3] @ weights(0), rtol=1e-4, atol=1e-5)
    assert (await engine.model()).info.tasks == ("vector-classification", "tensor")
    prediction = await engine.predict({"x": X[:1]}, task="tensor")
    assert list(prediction.response.outputs) == ["logits"]  # type: ignore[attr-defined]
    await engine.close()


def echo(path: Path) -> Path:
    """texts = words"""
    tensors = [helper.make_tensor_value_info(name, TensorProto.STRING, ["batch"]) for name in ("words", "texts")]
    graph = helper.make_graph([helper.make_node("Identity", ["words"], ["texts"])], "echo", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class Unreadable:
    """Like a tensor that requires gradients: numpy cannot read it."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("call detach() first")


async def test_a_value_that_numpy_cannot_read_is_named(engine: InferenceEngine) -> None:
    with pytest.raises(InvalidInput, match=r"^x: it cannot be read as an array: call detach\(\) first$") as caught:
        await engine.infer("vec", {"x": Unreadable()})  # type: ignore[dict-item]
    assert refused(caught.value) == "x"


async def test_bytes_that_are_no_text_are_refused_by_onnx_runtime_alone(engine: InferenceEngine) -> None:
    with pytest.raises(InvalidInput, match=r"^text: a text is not valid UTF-8, which ONNX Runtime requires$") as caught:
        await engine.infer("words", {"text": [b"\xff"]})
    assert refused(caught.value) == "text"
