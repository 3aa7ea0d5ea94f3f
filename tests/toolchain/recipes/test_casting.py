from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import zoo
from recipe_models import answers, furthest, materials, onnx_of, subject

from penstock.errors import InvalidInput
from penstock.tensors import Arrays
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.recipes.casting import Cast, MixedPrecision
from penstock.toolchain.recipes.layout import ChannelsLast
from penstock.toolchain.recipes.making import make
from penstock.toolchain.recipes.recipe import Recipe, Technique
from penstock.toolchain.recipes.subject import Subject


def module_of(changed: Subject) -> ModuleSource:
    assert changed.module is not None
    return changed.module


def applied(technique: Technique, model: zoo.TorchModel, scratch: Path) -> Subject:
    return technique.apply(subject(model, module=True), materials(scratch))


def deviation(source: ModuleSource, model: zoo.TorchModel) -> float:
    inputs = model.inputs(5, seed=3)
    backend = source.reference()
    got: Arrays = backend.run(inputs)
    backend.close()
    assert {name: array.dtype for name, array in got.items()} == {
        spec.name: spec.numpy for spec in model.signature.outputs
    }
    return furthest(got, model.expected(inputs))


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_weights_in_half_precision_are_half_the_size(tmp_path: Path, format: str, dtype: str) -> None:
    recipe = Recipe.from_json({"format": format, "techniques": [{"kind": "cast", "dtype": dtype}]})
    made, again = (make(recipe, subject(zoo.DIGITS), materials(tmp_path)) for _ in range(2))
    inputs = zoo.DIGITS.inputs(5)
    assert (
        0 < furthest(answers(made.exported, inputs), zoo.DIGITS.expected(inputs)) < (1e-3 if dtype == "fp16" else 1e-2)
    )
    assert made.exported.name == f"{format}-{dtype}"
    assert made.digest == again.digest
    weights = made.exported.path if format == "onnx" else made.exported.companions["model.bin"]
    assert weights.stat().st_size < 0.55 * onnx_of(zoo.DIGITS).stat().st_size
    assert made.exported.notes[0].endswith(f"weights are stored as {dtype} and restored to fp32 at load")


@pytest.mark.parametrize("model", [zoo.CNN, zoo.TWO_INPUTS, zoo.HEADS, zoo.ENCODER], ids=lambda one: one.name)
@pytest.mark.parametrize(
    "technique",
    [Cast(engine="torch"), Cast("bf16", engine="torch"), MixedPrecision(), MixedPrecision("fp16")],
    ids=lambda one: f"{one.kind}-{one.dtype}",
)
def test_a_module_computes_in_half_precision_behind_its_own_signature(
    tmp_path: Path, model: zoo.TorchModel, technique: Cast | MixedPrecision
) -> None:
    if model is zoo.ENCODER and technique.dtype == "fp16":
        with pytest.raises(InvalidInput, match=r"encoder does not run so: .*overflow; .*use dtype = .bf16"):
            applied(technique, model, tmp_path)  # its mask is -1e9
        return
    changed = applied(technique, model, tmp_path)
    assert changed.onnx is None
    assert 0 < deviation(module_of(changed), model) < (0.01 if technique.dtype == "fp16" else 0.05)
    assert changed.precision == (technique.dtype if technique.kind == "cast" else "fp32")
    (note,) = changed.notes
    assert f"instructions for {technique.dtype}" in note


def test_the_module_of_the_subject_is_not_changed(tmp_path: Path) -> None:
    before = subject(zoo.CNN, module=True)
    for technique in (Cast(engine="torch"), MixedPrecision(), ChannelsLast()):
        technique.apply(before, materials(tmp_path))
    assert module_of(before).module.get_parameter("out.weight").dtype == torch.float32
    assert module_of(before).module.get_parameter("first.weight").is_contiguous()


def test_a_weight_beyond_fp16_is_named(tmp_path: Path) -> None:
    source = subject(zoo.MLP, onnx=False, module=True)
    with torch.no_grad():
        module_of(source).module.get_parameter("hidden.weight")[0, 0] = 1e6
    with pytest.raises(InvalidInput, match=r"cast: mlp: hidden.weight has values beyond 65504, the largest of fp16"):
        Cast(engine="torch").apply(source, materials(tmp_path))
    model = onnx.load(onnx_of(zoo.MLP))
    weight = next(one for one in model.graph.initializer if one.name == "hidden.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full((16, 12), 1e6, np.float32), weight.name))
    onnx.save(model, tmp_path / "large.onnx")
    large = Subject("large", zoo.MLP.signature, onnx=tmp_path / "large.onnx")
    with pytest.raises(InvalidInput, match=r'cast: large: hidden.weight has values beyond .*use dtype = "bf16"'):
        Cast().apply(large, materials(tmp_path))
    assert Cast("bf16").apply(large, materials(tmp_path)).precision == "bf16"


def test_the_graph_itself_runs_in_fp16_but_for_what_is_kept(tmp_path: Path) -> None:
    technique = MixedPrecision("fp16", engine="onnxruntime", keep=("Gemm",))
    made = make(Recipe((technique,)), subject(zoo.CNN), materials(tmp_path))
    inputs = zoo.CNN.inputs(4)
    assert 0 < furthest(answers(made.exported, inputs), zoo.CNN.expected(inputs)) < 0.01
    types = {one.name: one.data_type for one in onnx.load(made.exported.path).graph.initializer}
    assert types["out.weight"] == onnx.TensorProto.FLOAT
    assert types["second.weight"] == onnx.TensorProto.FLOAT16
    assert made.digest == make(Recipe((technique,)), subject(zoo.CNN), materials(tmp_path)).digest


@pytest.mark.parametrize(
    ("technique", "expected"),
    [
        (MixedPrecision("fp16", engine="onnxruntime", keep=("Softmax",)), "keep: the graph has no 'Softmax'; it has"),
        (MixedPrecision("bf16", engine="onnxruntime"), 'ONNX Runtime has no bf16 here; use dtype = "fp16"'),
        (MixedPrecision(keep=("Gemm",)), "keep: autocast has its own list; leave it out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, technique: MixedPrecision, expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        applied(technique, zoo.CNN, tmp_path)
    assert expected in str(caught.value)


def test_a_technique_for_modules_needs_one(tmp_path: Path) -> None:
    for technique in (Cast(engine="torch"), MixedPrecision(), ChannelsLast()):
        with pytest.raises(InvalidInput, match=f"{technique.kind} changes the PyTorch module, and cnn has none"):
            technique.apply(subject(zoo.CNN), materials(tmp_path))


@pytest.mark.parametrize("model", [zoo.CNN, zoo.DETECTOR], ids=lambda one: one.name)
def test_channels_last_changes_the_layout_and_nothing_else(tmp_path: Path, model: zoo.TorchModel) -> None:
    changed = applied(ChannelsLast(), model, tmp_path)
    assert deviation(module_of(changed), model) < 1e-5
    weights = [one for one in module_of(changed).module.parameters() if one.ndim == 4 and one.shape[1] > 1]
    assert weights
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in weights)


def test_channels_last_needs_convolutions(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="channels-last: mlp has no 2-d convolution"):
        applied(ChannelsLast(), zoo.MLP, tmp_path)


class Views(torch.nn.Module):
    """Uses `view` after a convolution, which only the usual layout allows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.out = torch.nn.Linear(512, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.body(image)
        logits: torch.Tensor = self.out(maps.view(len(maps), -1))
        return logits


def test_a_model_that_relies_on_its_layout_is_refused(tmp_path: Path) -> None:
    model = zoo.TorchModel("views", zoo.CNN.signature, network=Views)
    with pytest.raises(InvalidInput, match=r"channels-last: views does not run so: .*use `reshape`"):
        applied(ChannelsLast(), model, tmp_path)
