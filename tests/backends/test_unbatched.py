"""Models without a batch axis: each row of a batch is a separate run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import InferenceError, InvalidInput
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

FLOAT = TensorProto.FLOAT
Shape = list[int | str]
Open = Callable[..., Backend]


def save(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, Shape], outputs: dict[str, Shape]) -> Path:
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def scaled(path: Path) -> Path:
    """y = x * factor + bias: a vector of 3, a single number and a vector of 1, none of them with a batch axis."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["big"]), helper.make_node("Add", ["big", "bias"], ["y"])]
    return save(path, nodes, {"x": [3], "factor": [], "bias": [1]}, {"y": [3]})


def nonzero(path: Path) -> Path:
    """The indices of non-zero elements: an output of variable length."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Cast", ["places"], ["y"], to=FLOAT),
    ]
    return save(path, nodes, {"x": [4]}, {"y": [1, "found"]})


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def opened(make: Callable[[Path], Path], signature: Signature | None = None) -> Backend:
        return open_backend(
            "onnx", ModelFile(make(tmp_path / "m.onnx"), signature), BackendOptions(device="cpu", threads=1)
        )

    return opened


X = np.arange(6, dtype=np.float32).reshape(2, 3)
INPUTS = {"x": X, "factor": np.array([2, 3], np.float32), "bias": np.array([[10], [20]], np.float32)}
EXPECTED = [[10, 12, 14], [29, 32, 35]]


SCALED = Signature(
    (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("factor", "FP32", (-1,)), TensorSpec("bias", "FP32", (-1, 1))),
    (TensorSpec("y", "FP32", (-1, 3)),),
    batched=False,
)


def test_each_row_of_a_request_is_a_run_of_its_own(opened: Open) -> None:
    backend = opened(scaled, SCALED)
    assert not backend.signature.batched
    assert {spec.name: spec.shape for spec in backend.signature.inputs} == {
        "x": (-1, 3),
        "factor": (-1,),
        "bias": (-1, 1),
    }
    assert backend.signature.outputs[0].shape == (-1, 3)
    assert backend.run(INPUTS)["y"].tolist() == EXPECTED
    assert backend.run({name: array[:0] for name, array in INPUTS.items()})["y"].shape == (0, 3)
    backend.close()
    with pytest.raises(InferenceError, match="closed"):
        backend.run(INPUTS)


def test_inputs_in_the_shapes_of_the_file_are_one_run_with_outputs_in_its_shapes(opened: Open) -> None:
    backend = opened(scaled, SCALED)
    one = {name: array[1] for name, array in INPUTS.items()}
    checked, rows = backend.signature.validate({name: array.tolist() for name, array in one.items()})
    assert rows == 1
    assert backend.run(checked)["y"].tolist() == EXPECTED[1]
    with pytest.raises(InvalidInput, match=r"bias: 2 rows \(axis 0\), other inputs have 3|a single value"):
        backend.signature.validate({**one, "bias": INPUTS["bias"]})


@pytest.mark.parametrize(
    ("inputs", "outputs", "batched"),
    [
        ({"x": ["n", 3]}, {"y": ["n", 3]}, True),
        ({"x": [8, 3]}, {"y": [8, 3]}, True),
        ({"x": [3]}, {"y": [3]}, True),
        ({"x": []}, {"y": []}, True),
        ({"x": [1, 3]}, {"y": [3, 1]}, True),
        ({"x": [6]}, {"y": [3]}, False),
    ],
)
def test_a_file_of_one_vector_is_given_rows(
    opened: Open, inputs: dict[str, Shape], outputs: dict[str, Shape], batched: bool
) -> None:
    x, y = inputs["x"], outputs["y"]
    op = "Transpose" if x == [1, 3] and y == [3, 1] else "Identity"
    nodes = [helper.make_node(op, ["x"], ["y"])]
    if not batched:
        nodes = [helper.make_node("MaxPool", ["in"], ["out"], kernel_shape=[2], strides=[2])]
        shape, back = (
            helper.make_node("Constant", [], [name], value_ints=v) for name, v in (("s", [1, 1, 6]), ("b", [3]))
        )
        nodes = [
            shape,
            back,
            helper.make_node("Reshape", ["x", "s"], ["in"]),
            *nodes,
            helper.make_node("Reshape", ["out", "b"], ["y"]),
        ]
    assert opened(lambda path: save(path, nodes, inputs, outputs)).signature.batched is batched


def test_rows_with_answers_of_several_shapes_are_sent_one_by_one(opened: Open) -> None:
    places = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 1, -1)),), batched=False)
    backend = opened(nonzero, places)
    assert backend.run({"x": np.array([[0, 1, 0, 1]], np.float32)})["y"].tolist() == [[[1, 3]]]
    with pytest.raises(InferenceError, match="output 'y' has another shape for each row"):
        backend.run({"x": np.array([[0, 1, 0, 1], [1, 0, 0, 0]], np.float32)})


def test_an_empty_row_is_refused_by_name(opened: Open) -> None:
    def make(path: Path) -> Path:
        nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
        return save(path, nodes, {"x": ["length"], "factor": []}, {"y": ["length"]})

    lengths = Signature(
        (TensorSpec("x", "FP32", (-1, -1)), TensorSpec("factor", "FP32", (-1,))),
        (TensorSpec("y", "FP32", (-1, -1)),),
        batched=False,
    )
    backend = opened(make, lengths)
    with pytest.raises(InvalidInput, match=r"x: a row of the shape \[0\] has no elements"):
        backend.run({"x": np.zeros((2, 0), np.float32), "factor": np.ones(2, np.float32)})


def test_an_artifact_of_an_unbatched_model_is_verified_and_served(tmp_path: Path) -> None:
    artifact = write_artifact(
        tmp_path / "source",
        name="scaled",
        version="1",
        task=TaskEntry(kind="tensor"),
        signature=SCALED,
        variants=[VariantSource("onnx", "fp32", scaled(tmp_path / "scaled.onnx"))],
        golden=Golden(INPUTS, {"y": np.array(EXPECTED, np.float32)}),
        card="",
    )
    with Registry(tmp_path / "registry") as registry:
        registry.publish(artifact.path)
        assert not registry.get("scaled:1").signature.batched
        with Predictor("scaled", registry=registry) as predictor:
            assert predictor.predict(INPUTS).outputs["y"] == EXPECTED
            one = {name: array[0] for name, array in INPUTS.items()}
            assert predictor.predict(one).outputs["y"] == EXPECTED[0]
            answers = predictor.predict_batch([{name: a[i : i + 1] for name, a in INPUTS.items()} for i in (0, 1)])
            assert [answer.outputs["y"] for answer in answers] == [[EXPECTED[0]], [EXPECTED[1]]]
