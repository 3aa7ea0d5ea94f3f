"""Shapes that do not match: those of a request are an InvalidInput, those of a model a ModelLoadError."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.backends.base import Backend
from penstock.backends.examples import Examples
from penstock.backends.verification import warm_up
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import InferenceError, InvalidInput, ModelLoadError
from penstock.registry.registry import Registry
from penstock.tensors import Arrays, Signature, TensorSpec

FLOAT = TensorProto.FLOAT


def save(path: Path, op: str, inputs: dict[str, list[str | int]], output: list[str | int]) -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["y"])],
        "m",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, output)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def sum_of_two(path: Path) -> Path:
    return save(path, "Add", {"a": ["batch", "length"], "b": ["batch", "length"]}, ["batch", "length"])


CLASH = {"a": np.zeros((1, 3), np.float32), "b": np.zeros((1, 4), np.float32)}
SENTENCE = r"b: axis 1 has the length 4, axis 1 of a has 3; the model takes one length \(length\) for both"


def test_axes_of_the_same_name_in_a_bare_file_are_checked_before_the_run(tmp_path: Path) -> None:
    with Predictor(sum_of_two(tmp_path / "sum.onnx")) as predictor:
        with pytest.raises(InvalidInput, match=SENTENCE):
            predictor.predict(CLASH)
        assert predictor.predict({"a": [[1, 2]], "b": [[3, 4]]}).outputs["y"] == [[4, 6]]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        yield registry


def test_axis_names_come_from_the_file_if_the_manifest_has_none(tmp_path: Path, registry: Registry) -> None:
    a, b, y = (TensorSpec(name, "FP32", (-1, -1)) for name in "aby")
    artifact = write_artifact(
        tmp_path / "source",
        name="sum",
        version="1",
        task=TaskEntry(kind="tensor"),
        signature=Signature((a, b), (y,)),
        variants=[VariantSource("onnx", "fp32", sum_of_two(tmp_path / "sum.onnx"))],
        golden=None,
        card="",
    )
    registry.publish(artifact.path)
    with Predictor("sum", registry=registry) as predictor, pytest.raises(InvalidInput, match=SENTENCE):
        predictor.predict(CLASH)


def test_a_model_whose_answer_has_no_rows_is_not_loaded_as_one_that_has(tmp_path: Path, registry: Registry) -> None:
    path = save(tmp_path / "turned.onnx", "Transpose", {"x": ["batch", 3]}, [3, "batch"])
    artifact = write_artifact(
        tmp_path / "source",
        name="turned",
        version="1",
        task=TaskEntry(kind="vector-classification"),
        signature=Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)),)),
        variants=[VariantSource("onnx", "fp32", path)],
        golden=None,
        card="",
    )
    with pytest.raises(ModelLoadError, match="the task vector-classification needs rows, and y has no batch axis"):
        registry.publish(artifact.path)


class Wrong(Backend):
    """Returns the given outputs."""

    format, device, num_parameters = "wrong", "cpu", None

    def __init__(self, **outputs: np.ndarray) -> None:
        self.signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))
        self._outputs = outputs

    @classmethod
    def open(cls, *_: object) -> Wrong:
        raise NotImplementedError

    def run(self, inputs: Arrays) -> Arrays:
        return dict(self._outputs)


@pytest.mark.parametrize(
    ("outputs", "sentence"),
    [
        ({"z": np.zeros((1, 2), np.float32)}, "the model returned no output 'y', but z"),
        ({}, "the model returned no output 'y', but none"),
        ({"y": np.zeros((1, 2))}, "output 'y' is of type float64, its signature says FP32"),
        ({"y": np.float32(1).reshape(())}, "output 'y' has a single value for a batch of 1"),
    ],
)
def test_outputs_that_do_not_match_the_signature_are_found_in_the_first_run(
    outputs: dict[str, np.ndarray], sentence: str
) -> None:
    backend = Wrong(**outputs)
    with pytest.raises(InferenceError, match=sentence):
        warm_up(backend, backend.signature, BatchLimits().batch_rows, Examples(backend, backend.signature, None))
