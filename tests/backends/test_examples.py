"""Inputs to try a model with: lengths and values that it runs with, also where zeros and the length 8 fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from penstock.artifacts.golden import Golden
from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.backends.examples import Examples
from penstock.errors import InferenceError, InvalidInput
from penstock.tensors import Signature, TensorSpec

FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
Value = tuple[str, int, Sequence[str | int | None]]
Opened = Callable[..., Backend]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Opens a graph: its nodes, inputs, outputs and constants."""

    def open_graph(
        nodes: list[Any], inputs: list[Value], outputs: list[Value], constants: dict[str, np.ndarray] | None = None
    ) -> Backend:
        graph = helper.make_graph(
            nodes,
            "m",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
        )
        path = tmp_path / "m.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
        return open_backend("onnx", ModelFile(path), BackendOptions())

    return open_graph


def examples_of(backend: Backend) -> Examples:
    examples = Examples(backend, backend.signature, None)
    for rows in (1, 3):
        inputs = examples.of(rows)
        backend.signature.validate(inputs)
        backend.run(inputs)
    return examples


node = helper.make_node


def test_audio_of_one_length_is_found_from_the_runtimes_message(opened: Opened) -> None:
    backend = opened(
        [node("Gemm", ["x", "w"], ["y"])],
        [("x", FLOAT, ["batch", "samples"])],
        [("y", FLOAT, ["batch", 2])],
        {"w": np.ones((512, 2), np.float32)},
    )
    assert examples_of(backend).of(2)["x"].shape == (2, 512)


@pytest.mark.parametrize("length", [512, 1536, 16000, 347])
def test_a_length_that_only_a_constant_of_the_graph_knows_is_found(opened: Opened, length: int) -> None:
    backend = opened(
        [node("Reshape", ["x", "shape"], ["y"])],
        [("x", FLOAT, ["batch", "samples"])],
        [("y", FLOAT, [None, length])],
        {"shape": np.array([-1, length])},
    )
    assert examples_of(backend).of(1)["x"].shape == (1, length)


def test_audio_in_multiples_of_160_and_of_at_least_400_samples_is_found(opened: Opened) -> None:
    backend = opened(
        [
            node("Reshape", ["x", "frames"], ["framed"]),
            node("Reshape", ["framed", "channel"], ["one"]),
            node("Conv", ["one", "w"], ["y"], strides=[160]),
        ],
        [("x", FLOAT, ["batch", "samples"])],
        [("y", FLOAT, ["batch", 1, None])],
        {
            "frames": np.array([0, -1, 160]),
            "channel": np.array([0, 1, -1]),
            "w": np.ones((1, 1, 400), np.float32),
        },
    )
    length = examples_of(backend).of(1)["x"].shape[1]
    assert length >= 400
    assert length % 160 == 0


def test_an_image_of_multiples_of_64_is_found(opened: Opened) -> None:
    backend = opened(
        [
            node("MaxPool", ["x"], ["small"], kernel_shape=[64, 64], strides=[64, 64]),
            node("Resize", ["small", "", "scales"], ["large"], mode="nearest"),
            node("Concat", ["x", "large"], ["y"], axis=1),
        ],
        [("x", FLOAT, ["batch", 3, "height", "width"])],
        [("y", FLOAT, ["batch", 6, "height", "width"])],
        {"scales": np.array([1, 1, 64, 64], np.float32)},
    )
    height, width = examples_of(backend).of(1)["x"].shape[2:]
    assert (height % 64, width % 64) == (0, 0)


def test_channels_and_the_size_of_the_kernel_come_from_the_graph(opened: Opened) -> None:
    backend = opened(
        [node("Conv", ["x", "w"], ["y"])],
        [("x", FLOAT, ["batch", "channels", "height", "width"])],
        [("y", FLOAT, ["batch", 1, None, None])],
        {"w": np.ones((1, 3, 11, 9), np.float32)},
    )
    assert examples_of(backend).of(2)["x"].shape == (2, 3, 11, 9)


@pytest.mark.parametrize("kind", [INT32, INT64])
def test_an_integer_divisor_is_not_zero(opened: Opened, kind: int) -> None:
    backend = opened(
        [node("Div", ["a", "b"], ["y"])],
        [("a", kind, ["batch", 4]), ("b", kind, ["batch", 4])],
        [("y", kind, ["batch", 4])],
    )
    assert (examples_of(backend).of(8)["b"] > 0).all()


def test_the_size_of_a_resize_is_an_input(opened: Opened) -> None:
    backend = opened(
        [node("Resize", ["x", "", "scales"], ["y"], mode="nearest")],
        [("x", FLOAT, [1, 1, 4, 4]), ("scales", FLOAT, [4])],
        [("y", FLOAT, [None, None, None, None])],
    )
    examples = Examples(backend, Signature(backend.signature.inputs, backend.signature.outputs), None)
    assert (examples.of(1)["scales"] > 0).all()


def test_identifiers_stay_inside_the_table_of_the_graph_and_vary(opened: Opened) -> None:
    backend = opened(
        [node("Gather", ["table", "ids"], ["y"])],
        [("ids", INT64, ["batch", "length"])],
        [("y", FLOAT, ["batch", "length", 2])],
        {"table": np.zeros((40, 2), np.float32)},
    )
    ids = examples_of(backend).of(8)["ids"]
    assert ids.min() >= 0
    assert ids.max() < 40
    assert len(np.unique(ids)) > 10


def test_identifiers_that_begin_at_five_are_found(opened: Opened) -> None:
    backend = opened(
        [node("Sub", ["ids", "five"], ["from_zero"]), node("Gather", ["table", "from_zero"], ["y"])],
        [("ids", INT64, ["batch", "length"])],
        [("y", FLOAT, ["batch", "length", 2])],
        {"table": np.zeros((2, 2), np.float32), "five": np.array(5)},
    )
    assert examples_of(backend).of(2)["ids"].min() >= 3  # Gather counts negative indices from the end


def test_an_empty_past_keeps_its_length_of_zero(opened: Opened) -> None:
    backend = opened(
        [node("Concat", ["past", "x"], ["y"], axis=2)],
        [("past", FLOAT, ["batch", 2, 0, 4]), ("x", FLOAT, ["batch", 2, "new", 4])],
        [("y", FLOAT, ["batch", 2, None, 4])],
    )
    inputs = examples_of(backend).of(2)
    assert inputs["past"].shape == (2, 2, 0, 4)
    assert inputs["x"].shape[2] > 0


def test_an_axis_named_as_a_sum_has_the_length_of_the_sum(opened: Opened) -> None:
    backend = opened(
        [node("Concat", ["past", "x"], ["all"], axis=1), node("Mul", ["all", "mask"], ["y"])],
        [
            ("past", FLOAT, ["batch", "past"]),
            ("x", FLOAT, ["batch", "new"]),
            ("mask", FLOAT, ["batch", "past + new"]),
        ],
        [("y", FLOAT, ["batch", None])],
    )
    inputs = examples_of(backend).of(2)
    assert inputs["mask"].shape[1] == inputs["past"].shape[1] + inputs["x"].shape[1]
    assert (inputs["mask"] == 1).all()


def test_free_axes_of_one_name_share_their_length(opened: Opened) -> None:
    backend = opened(
        [node("MatMul", ["a", "b"], ["y"])],
        [("a", FLOAT, ["batch", 4, "n"]), ("b", FLOAT, ["batch", "n", 5])],
        [("y", FLOAT, ["batch", 4, 5])],
    )
    inputs = examples_of(backend).of(2)
    assert inputs["a"].shape[2] == inputs["b"].shape[1]


def test_a_length_that_another_input_fixes_is_found(opened: Opened) -> None:
    backend = opened(
        [node("Add", ["a", "b"], ["y"])],
        [("a", FLOAT, ["batch", "n"]), ("b", FLOAT, ["batch", 37])],
        [("y", FLOAT, ["batch", 37])],
    )
    assert examples_of(backend).of(2)["a"].shape == (2, 37)


def test_values_are_positive_where_others_give_no_number(opened: Opened) -> None:
    backend = opened([node("Log", ["x"], ["y"])], [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 4])])
    assert np.isfinite(backend.run(examples_of(backend).of(4))["y"]).all()


def test_inputs_are_random_and_the_same_at_each_call(opened: Opened) -> None:
    backend = opened([node("Relu", ["x"], ["y"])], [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 4])])
    examples = examples_of(backend)
    assert len(np.unique(examples.of(8)["x"])) == 32
    np.testing.assert_array_equal(examples.of(8)["x"][:3], examples.of(3)["x"])


class Tagger(torch.nn.Module):
    """A recurrent network over packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.GRU(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return torch.nn.utils.rnn.pad_packed_sequence(self.network(packed)[0], batch_first=True)[0]


class FixedAudio(torch.nn.Module):
    """Refuses any other number of samples, in its own words."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != 576:
            raise ValueError(f"Provided number of samples is {x.shape[-1]} (supported: 576)")
        return x.mean(1, keepdim=True)


def scripted(module: torch.nn.Module, tmp_path: Path, *inputs: TensorSpec, output: TensorSpec) -> Backend:
    path = tmp_path / "m.torchscript"
    torch.jit.script(module.eval()).save(str(path))
    return open_backend(
        "torchscript", ModelFile(path, Signature(inputs, (output,))), BackendOptions(device="cpu", trust="code")
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_packed_sequences_get_their_whole_length(tmp_path: Path) -> None:
    backend = scripted(
        Tagger(),
        tmp_path,
        TensorSpec("x", "FP32", (-1, -1, 3)),
        TensorSpec("lengths", "INT64", (-1,)),
        output=TensorSpec("y", "FP32", (-1, -1, 4)),
    )
    inputs = Examples(backend, backend.signature, None).of(2)
    assert inputs["lengths"].tolist() == [inputs["x"].shape[1]] * 2
    assert backend.run(inputs)["y"].shape == (2, inputs["x"].shape[1], 4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_length_that_a_program_asks_for_is_found(tmp_path: Path) -> None:
    spec = TensorSpec("x", "FP32", (-1, -1))
    backend = scripted(FixedAudio(), tmp_path, spec, output=TensorSpec("y", "FP32", (-1, 1)))
    assert Examples(backend, backend.signature, None).of(2)["x"].shape == (2, 576)


def test_a_model_that_runs_with_nothing_gives_its_first_reason_after_few_tries(opened: Opened) -> None:
    backend = opened(
        [node("Reshape", ["x", "shape"], ["y"])],
        [("x", FLOAT, ["batch", "a"])],
        [("y", FLOAT, [None, None])],
        {"shape": np.array([7, 5_000_011])},
    )
    with pytest.raises(InferenceError, match="Reshape"):
        Examples(backend, backend.signature, None)


def linear(opened: Opened) -> Backend:
    return opened([node("Relu", ["x"], ["y"])], [("x", FLOAT, ["batch", 2])], [("y", FLOAT, ["batch", 2])])


def test_golden_samples_are_repeated(opened: Opened) -> None:
    backend = linear(opened)
    samples = np.array([[1, 2], [3, 4]], np.float32)
    examples = Examples(backend, backend.signature, Golden({"x": samples}, {"y": samples}))
    assert not examples.made_up
    assert examples.of(3)["x"].tolist() == [[1, 2], [3, 4], [1, 2]]


def test_an_example_of_the_user_is_repeated_and_cut(opened: Opened) -> None:
    backend = linear(opened)
    examples = Examples(backend, backend.signature, None, {"x": [[1, 2], [3, 4]]})
    assert examples.of(3)["x"].tolist() == [[1, 2], [3, 4], [1, 2]]
    assert examples.of(1)["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "example: x: this input is missing"),
        ({"z": [[1, 2]]}, "example: the model has no input 'z'; it takes x"),
        (([[1, 2]], [[1, 2]]), "example: 2 arrays without names, the model takes 1 inputs; name them x"),
        ({"x": [[1, 2, 3]]}, r"example: x: the shape is \[1, 3\], the model takes \[-1, 2\]"),
        ({"x": np.zeros((0, 2))}, "example: it has no rows"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_by_name(opened: Opened, given: Any, sentence: str) -> None:
    backend = linear(opened)
    with pytest.raises(InvalidInput, match=sentence):
        Examples(backend, backend.signature, None, given)


def test_an_example_that_the_model_does_not_run_with_is_said(opened: Opened) -> None:
    backend = opened(
        [node("Gemm", ["x", "w"], ["y"])],
        [("x", FLOAT, ["batch", None])],
        [("y", FLOAT, ["batch", 1])],
        {"w": np.ones((3, 1), np.float32)},
    )
    with pytest.raises(InferenceError, match=r"it does not run with the example: .*Gemm"):
        Examples(backend, backend.signature, None, {"x": [[1, 2]]})
