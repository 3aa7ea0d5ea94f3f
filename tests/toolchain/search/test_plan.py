"""The rules that leave candidates out before anything is made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.search.machine import Machine, fingerprint, this_machine
from penstock.toolchain.search.plan import Facts, can_be_milder, exactly, milder, plan, unused_name

MACHINE = Machine(
    flags=frozenset({"avx2", "avx512f"}),
    cores=4,
    formats=frozenset({"onnx", "openvino", "torchscript", "pt2", "aoti", "pytorch"}),
    compiler="/usr/bin/g++",
    packages=frozenset({"nncf", "torchao", "openvino"}),
)
CNN = Facts(
    operators=frozenset({"conv", "linear"}),
    has_module=True,
    forms=frozenset({"onnx", "pytorch"}),
    taken=frozenset({"onnx-fp32", "pytorch-fp32"}),
    machine=MACHINE,
)


def _skipped(facts: Facts) -> dict[str, str]:
    return {one.name: one.skip for one in plan(facts) if one.skip is not None}


def _tried(facts: Facts) -> list[str]:
    return [one.name for one in plan(facts) if one.skip is None]


def test_forms_that_the_model_has_are_not_made_again() -> None:
    names = [one.name for one in plan(CNN)]
    assert "onnx-fp32" not in names
    assert "openvino-fp32" in names


def test_simple_candidates_come_before_complex_ones() -> None:
    ranks = [one.rank for one in plan(CNN)]
    assert ranks == sorted(ranks)
    assert _tried(CNN)[0] == "openvino-fp32"
    assert _tried(CNN)[-1] == "aoti-fp32"


def test_a_format_that_does_not_run_here_is_left_out_with_the_reason() -> None:
    without = replace(MACHINE, formats=MACHINE.formats - {"openvino"})
    assert "cannot run openvino" in _skipped(replace(CNN, machine=without))["openvino-fp32"]


def test_forms_of_pytorch_need_the_module() -> None:
    skipped = _skipped(replace(CNN, has_module=False))
    assert "which the model does not have" in skipped["torchscript-fp32"]
    assert "openvino-fp32" not in skipped


def test_no_lossy_candidate_is_tried_without_data() -> None:
    facts = replace(CNN, lossy_objection="it changes outputs, which takes data")
    lossy = [one for one in plan(facts) if one.recipe.lossy]
    assert lossy
    assert all(one.skip == "it changes outputs, which takes data" for one in lossy if one.recipe.lossy)


def test_dynamic_int8_is_not_tried_on_convolutions() -> None:
    assert "no fast kernel for convolutions" in _skipped(CNN)["onnx-int8-dynamic"]
    assert "onnx-int8-dynamic" not in _skipped(replace(CNN, operators=frozenset({"linear"})))


def test_half_precision_is_computed_only_where_the_cpu_can() -> None:
    assert "does not compute in bf16" in _skipped(CNN)["aoti-bf16"]
    able = replace(MACHINE, flags=MACHINE.flags | {"amx_bf16"})
    assert "aoti-bf16" not in _skipped(replace(CNN, machine=able))


def test_machine_code_needs_a_compiler() -> None:
    assert "C++ compiler" in _skipped(replace(CNN, machine=replace(MACHINE, compiler=None)))["aoti-fp32"]


def test_what_only_saves_bytes_is_tried_for_that_target() -> None:
    assert "saves bytes only" in _skipped(CNN)["onnx-fp16"]
    assert "onnx-fp16" not in _skipped(replace(CNN, target="size"))


def test_a_model_without_products_is_not_quantized() -> None:
    skipped = _skipped(replace(CNN, operators=frozenset()))
    assert "what runs in int8" in skipped["onnx-int8-static"]


def test_int8_that_loses_too_much_is_tried_again_with_the_worst_operators_in_fp32() -> None:
    static = next(one for one in plan(CNN) if one.name == "onnx-int8-static")
    assert can_be_milder(static)
    found = milder(static, [f"layer{number}" for number in range(8)])
    assert [one.name for one in found] == [f"onnx-int8-static-except-{count}" for count in (1, 2, 4)]
    assert found[1].recipe.to_json()["techniques"][0]["exclude"] == ("layer0", "layer1")
    assert not can_be_milder(found[0])
    assert milder(static, ["only"]) == milder(static, []) == []


def test_one_recipe_is_tried_alone() -> None:
    recipe = Recipe(format="openvino")
    (planned,) = exactly(recipe)
    assert planned.recipe == recipe
    assert planned.skip is None


def test_every_row_of_the_plan_is_a_recipe_that_can_be_written_and_read() -> None:
    for planned in plan(CNN):
        assert Recipe.from_json(planned.recipe.to_json()) == planned.recipe


@pytest.mark.parametrize(
    ("taken", "name"),
    [((), "onnx-int8"), (("onnx-int8",), "onnx-int8-2"), (("onnx-int8", "onnx-int8-2"), "onnx-int8-3")],
)
def test_a_name_that_is_taken_gets_a_number(taken: tuple[str, ...], name: str) -> None:
    assert unused_name("onnx-int8", taken) == name


def test_the_fingerprint_of_this_machine_is_the_same_each_time_and_names_versions() -> None:
    one = fingerprint()
    assert one == fingerprint()
    assert one["cores"] == this_machine().cores
    assert {"numpy", "onnxruntime", "python"} <= set(one["versions"])
