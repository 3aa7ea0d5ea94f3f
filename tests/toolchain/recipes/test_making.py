from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zoo
from recipe_models import answers, furthest, materials, subject

from penstock.backends import catalog
from penstock.backends.base import ModelFile
from penstock.backends.catalog import open_backend
from penstock.errors import InvalidInput, UnsupportedFormat
from penstock.options import BackendOptions
from penstock.toolchain.recipes.casting import Cast
from penstock.toolchain.recipes.graph import OptimizeGraph
from penstock.toolchain.recipes.layout import ChannelsLast
from penstock.toolchain.recipes.making import make
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.repeating import circumstances, why_other
from penstock.toolchain.recipes.subject import Materials, Subject


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_recipe_without_techniques_writes_the_model_in_its_format(tmp_path: Path, format: str) -> None:
    made = make(Recipe(format=format), subject(zoo.CNN), materials(tmp_path))
    inputs = zoo.CNN.inputs(3)
    assert furthest(answers(made.exported, inputs), zoo.CNN.expected(inputs)) < 1e-5
    assert made.exported.name == f"{format}-fp32"
    assert made.exported.precision == "fp32"
    assert made.exported.path.is_relative_to(tmp_path)
    assert [path.name for path in made.exported.companions.values()] == (["model.bin"] if format == "openvino" else [])


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_same_recipe_gives_the_same_digest(tmp_path: Path, format: str) -> None:
    recipe = Recipe((OptimizeGraph("basic"),), format)
    digests = {make(recipe, subject(zoo.CNN), materials(tmp_path / str(n))).digest for n in range(2)}
    assert len(digests) == 1


def test_a_module_is_exported_where_there_is_no_onnx_file(tmp_path: Path) -> None:
    made = make(Recipe((OptimizeGraph(),)), subject(zoo.HEADS, onnx=False, module=True), materials(tmp_path))
    inputs = zoo.HEADS.inputs(3)
    assert furthest(answers(made.exported, inputs), zoo.HEADS.expected(inputs)) < 1e-5
    assert made.exported.exporter.startswith("torch.onnx.export")
    assert "onnxruntime" in made.exported.exporter


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_a_changed_module_is_written_in_the_formats_of_pytorch(tmp_path: Path, format: str) -> None:
    recipe = Recipe((ChannelsLast(),), format)
    made, again = (make(recipe, subject(zoo.CNN, module=True), materials(tmp_path)) for _ in range(2))
    inputs = zoo.CNN.inputs(3)
    backend = open_backend(format, ModelFile(made.exported.path, zoo.CNN.signature), BackendOptions(trust="code"))
    assert furthest(backend.run(inputs), zoo.CNN.expected(inputs)) < 1e-5
    backend.close()
    assert made.exported.name == f"{format}-fp32-channels-last"
    assert format == "torchscript" or made.digest == again.digest  # its classes are counted per process
    assert "channels-last" in made.exported.exporter


def test_the_precision_of_a_cast_module_is_that_of_its_weights(tmp_path: Path) -> None:
    made = make(Recipe((Cast("bf16", engine="torch"),), "pt2"), subject(zoo.MLP, module=True), materials(tmp_path))
    assert (made.exported.name, made.exported.precision) == ("pt2-bf16", "bf16")


def test_a_format_of_pytorch_needs_the_module(tmp_path: Path) -> None:
    recipe = Recipe((OptimizeGraph(),), "pt2")
    with pytest.raises(InvalidInput, match="recipe: the format pt2 changes the PyTorch module, and mlp has none here"):
        make(recipe, subject(zoo.MLP, module=True), materials(tmp_path))


def test_another_file_of_the_same_recipe_is_explained(tmp_path: Path) -> None:
    recipe, model = Recipe((OptimizeGraph(),)), subject(zoo.MLP)
    first, data = make(recipe, model, materials(tmp_path)), materials(tmp_path, zoo.MLP)
    before = circumstances(recipe, model, materials(tmp_path))
    assert why_other(first, first.digest, before, before) is None
    other = subject(zoo.CNN)
    made, now = make(recipe, other, data), circumstances(recipe, other, replace(data, seed=3))
    assert why_other(made, first.digest, before, now) == (
        "the file is another one, since the model is another and seed was 0 and is 3 and there are now data"
    )
    newer = {**before, "onnxruntime": "9.9"}
    assert "since onnxruntime was 9.9 and is 1." in str(why_other(made, first.digest, newer, before))
    assert "gave other bytes" in str(why_other(made, first.digest, before, before))


def test_progress_rises_to_one(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    make(Recipe((OptimizeGraph(),)), subject(zoo.MLP), Materials(tmp_path, progress=lambda *told: seen.append(told)))
    assert [step for step, _ in seen] == ["optimize-graph", "onnx", "onnx"]
    assert [share for _, share in seen] == sorted(share for _, share in seen)
    assert seen[-1][1] == 1.0


def test_the_state_of_random_numbers_is_kept(tmp_path: Path) -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    make(Recipe((OptimizeGraph(),)), subject(zoo.MLP), materials(tmp_path))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_a_setting_made_in_python_is_checked_as_well(tmp_path: Path) -> None:
    faulty = OptimizeGraph("most")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="level: input should be 'basic' or 'extended'"):
        make(Recipe((faulty,)), subject(zoo.MLP), materials(tmp_path))


def test_a_model_without_any_form_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="recipe: optimize-graph works on the ONNX file"):
        make(Recipe((OptimizeGraph(),)), Subject("m", zoo.MLP.signature), materials(tmp_path))


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedFormat, match=r"the format openvino needs openvino; pip install 'penstock\[openvino"):
        make(Recipe(format="openvino"), subject(zoo.MLP), materials(tmp_path))
