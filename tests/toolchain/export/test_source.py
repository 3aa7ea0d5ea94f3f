"""What is exported: a copy of a module, its inputs by name, and the axes that are free."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import exportable_models as models
import numpy as np
import pytest
import torch
from torch import nn

from penstock.errors import InvalidInput
from penstock.tensors import TensorSpec
from penstock.toolchain.export.source import ModuleSource, module_source


def shapes(source: ModuleSource) -> dict[str, tuple[Any, ...]]:
    """Free axes by their names."""
    return {
        spec.name: tuple(name or n for n, name in zip(spec.shape, spec.dims or (None,) * len(spec.shape), strict=True))
        for spec in (*source.signature.inputs, *source.signature.outputs)
    }


def test_axis_0_of_every_input_is_free_by_default_and_the_example_gets_two_rows() -> None:
    source = module_source(*models.make_my_model())
    assert shapes(source) == {"x": ("batch", 1, 28, 28), "output": ("batch", 10)}
    assert source.example["x"].shape == (2, 1, 28, 28)


def test_the_reference_is_the_module_in_eager_pytorch() -> None:
    module, example = models.make_my_model()
    source = module_source(module, example)
    backend = source.reference()
    with torch.no_grad():
        expected = module(torch.from_numpy(source.example["x"])).numpy()
    assert np.allclose(backend.run(source.example)["output"], expected, atol=1e-6)
    backend.close()


def test_free_lengths_are_named_and_followed_by_outputs() -> None:
    source = module_source(*models.make_gru(), dynamic={"x": [0, 1]})
    assert shapes(source) == {"x": ("batch", "length", 4), "output": ("batch", "length", 3)}
    named = module_source(*models.make_gru(), dynamic={"x": {0: "texts", 1: "steps"}})
    assert shapes(named) == {"x": ("texts", "steps", 4), "output": ("texts", "steps", 3)}


def test_axes_that_must_change_together_share_a_name() -> None:
    source = module_source(*models.make_encoder(), dynamic={"tokens": [0, 1], "mask": [0, 1]})
    assert shapes(source) == {"tokens": ("batch", "length"), "mask": ("batch", "length"), "output": ("batch", 3)}


def test_several_inputs_of_several_types_and_outputs_by_their_keys() -> None:
    source = module_source(*models.make_mixed(), dynamic={"ids": [0, 1], "mask": [0, 1]})
    assert [(spec.name, spec.dtype) for spec in source.signature.inputs] == [
        ("x", "FP32"),
        ("ids", "INT64"),
        ("mask", "BOOL"),
    ]
    assert shapes(source)["probabilities"] == ("batch", 3)


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "array", "npz", "npy", "json"])
def test_an_example_is_a_tensor_a_tuple_a_mapping_or_a_file(form: str, tmp_path: Path) -> None:
    array = np.ones((2, 4), np.float32)
    np.savez(tmp_path / "x.npz", x=array)
    np.save(tmp_path / "x.npy", array)
    (tmp_path / "x.json").write_text(json.dumps({"inputs": {"x": (array / 2).tolist()}}))
    given: dict[str, Any] = {
        "tensor": torch.from_numpy(array),
        "tuple": (torch.from_numpy(array),),
        "dict": {"x": torch.from_numpy(array)},
        "array": array.astype(np.float64),
    }
    source = module_source(models.seeded(models.Branching), given.get(form, tmp_path / f"x.{form}"))
    assert shapes(source) == {"x": ("batch", 4), "output": ("batch", 3)}


def test_values_are_made_up_for_inputs_that_are_described() -> None:
    inputs = (TensorSpec("x", "FP32", (-1, -1, 4)),)
    source = module_source(models.seeded(models.Gru), inputs=inputs)
    assert shapes(source) == {"x": ("batch", "length", 4), "output": ("batch", "length", 3)}
    named = (TensorSpec("x", "FP32", (-1, -1, 4), ("n", "t", None)),)
    assert shapes(module_source(models.seeded(models.Gru), inputs=named))["x"] == ("n", "t", 4)


def test_inputs_can_be_renamed() -> None:
    source = module_source(*models.make_my_model(), input_names=["image"])
    assert [spec.name for spec in source.signature.inputs] == ["image"]


def test_a_module_in_training_mode_is_switched_and_the_user_reads_it() -> None:
    module, example = models.make_residual()
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    source = module_source(module, example)
    assert any("training mode" in note for note in source.notes)
    assert not any(part.training for part in source.module.modules())
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_module_in_evaluation_mode_has_no_notes() -> None:
    assert module_source(*models.make_residual()).notes == ()


def test_a_compiled_module_is_the_module_inside() -> None:
    module, example = models.make_my_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import behind torch.compile
        compiled = torch.compile(module)
    assert isinstance(module_source(compiled, example).module, models.MyModel)
    assert isinstance(module_source(nn.DataParallel(module), example).module, models.MyModel)


def test_a_batch_that_the_module_does_not_take_is_fixed_with_a_note() -> None:
    class Rows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(3, 4) + 1

    source = module_source(Rows(), torch.ones(3, 4))
    assert shapes(source)["x"] == (3, 4)
    assert any("keeps the length 3" in note for note in source.notes)


class Listed(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x, [x, x]


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


X = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("module", "example", "more", "says"),
    [
        (models.Branching, torch.ones(2, 5), {}, r"example_input: the model does not run on it \(x \[2, 5\]\): mat1"),
        (models.Branching, {"y": X}, {}, r"the model has no input 'y'; it takes x"),
        (models.Branching, (X, X), {}, r"it has 2 values, the model takes 1: x"),
        (models.Branching, [(X, X)], {}, r"a tuple of tensors; wrap the model in a module whose forward takes"),
        (models.Branching, {"x": None}, {}, r"input x is None, not a tensor"),
        (models.Branching, None, {}, r"give an example input, or describe the inputs"),
        (models.Branching, "nowhere.npz", {}, r"example_input: nowhere.npz cannot be read"),
        (models.Branching, X, {"dynamic": {"y": [0]}}, r"dynamic: the model has no input 'y'; it takes x"),
        (models.Branching, X, {"dynamic": {"x": [2]}}, r"dynamic: x has no axis 2; it has 2 axes"),
        (models.Branching, X, {"dynamic": {"x": [0, 1]}}, r"another length of axis 1 of x \(5 instead of 4\): mat1"),
        (models.Frozen, torch.ones(2, 6, 4), {"dynamic": {"x": [1]}}, r"axis 1 of x \(7 instead of 6\)"),
        (models.Branching, X, {"inputs": (TensorSpec("x", "FP64", (-1, 4)),)}, r"it was described as FP64 \[-1, 4\]"),
        (Noisy, X, {}, r"module: two runs on the same input differ \(output 'output'\)"),
        (Listed, X, {}, r"its output 'output_1' is of the type list"),
        (lambda: models.Branching, X, {}, r"a torch.nn.Module is exported, not the class Branching"),
        (lambda: nn.LazyLinear(3), X, {}, r"weight has no size yet; run the model once"),
        (lambda: nn.Linear(4, 3, device="meta"), X, {}, r"weight is on the meta device"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(module: Any, example: Any, more: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        module_source(module(), example, **more)
    assert "\n" not in str(caught.value)


def test_axes_of_one_name_have_one_length() -> None:
    with pytest.raises(InvalidInput, match="axis 0 of x has the length 2 in the example, axis 1 of ids has 3"):
        module_source(*models.make_mixed(), dynamic={"x": {0: "n"}, "ids": {0: "n", 1: "n"}, "mask": {0: "n"}})


def test_an_axis_that_another_one_must_follow_is_named() -> None:
    with pytest.raises(InvalidInput, match="or free axis 1 of mask too"):
        module_source(*models.make_encoder(), dynamic={"tokens": [0, 1]})
