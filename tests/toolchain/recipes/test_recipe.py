from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import InvalidInput
from penstock.libraries import import_attribute
from penstock.toolchain.recipes.graph import OptimizeGraph
from penstock.toolchain.recipes.recipe import TECHNIQUES, Recipe, Technique


def refusal(document: object) -> str:
    with pytest.raises(InvalidInput) as caught:
        Recipe.from_json(document)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_from_toml_and_from_json_is_the_same(tmp_path: Path) -> None:
    toml, json = tmp_path / "recipe.toml", tmp_path / "recipe.json"
    toml.write_text('format = "onnx"\n[[techniques]]\nkind = "optimize-graph"\nlevel = "basic"\n')
    json.write_text('{"format": "onnx", "techniques": [{"kind": "optimize-graph", "level": "basic"}]}')
    recipe = Recipe.from_file(toml)
    assert recipe == Recipe.from_file(json) == Recipe((OptimizeGraph("basic"),))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_file(toml).digest == Recipe.from_file(json).digest
    assert recipe.digest != Recipe((OptimizeGraph(),)).digest
    assert not recipe.lossy


def test_every_technique_is_a_frozen_dataclass_under_its_own_kind() -> None:
    for kind, target in TECHNIQUES.items():
        technique = import_attribute(target)
        assert issubclass(technique, Technique)
        assert technique.kind == kind
        assert technique.__dataclass_params__.frozen
        assert technique.__doc__


def test_an_unknown_technique_is_refused_with_the_known_ones() -> None:
    text = refusal({"techniques": [{"kind": "distil"}]})
    assert text == f"recipe: techniques.0: kind: 'distil' is no technique; known are {', '.join(TECHNIQUES)}"


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("optimize-graph", "recipe: techniques.0: it is no object with a `kind`"),
        ({"kind": ["optimize-graph"]}, "recipe: techniques.0: kind: \"['optimize-graph']\" is no technique"),
        (
            {"kind": "optimize-graph", "depth": 3},
            "recipe: techniques.0 (optimize-graph): depth: there is no such setting; its settings are level",
        ),
        (
            {"kind": "optimize-graph", "level": 1},
            "recipe: techniques.0 (optimize-graph): level: input should be 'basic' or 'extended'",
        ),
        (
            {"kind": "optimize-graph", "level": float("nan")},
            "recipe: techniques.0 (optimize-graph): Out of range float values are not JSON compliant",
        ),
    ],
)
def test_a_faulty_step_is_refused_by_its_place_and_setting(step: object, expected: str) -> None:
    assert refusal({"techniques": [step]}).startswith(expected)


def test_a_faulty_document_is_refused() -> None:
    assert refusal([]) == "recipe: it is no object with `format` and `techniques`"
    assert refusal({"format": "tflite"}).startswith("recipe: format: 'tflite' is not one of onnx, openvino")
    assert refusal({"format": ["onnx"]}).startswith("recipe: format: ['onnx'] is not one of onnx")
    assert refusal({"techniques": {"kind": "optimize-graph"}}) == "recipe: techniques: it is no list"
    assert refusal({"steps": []}).startswith("recipe: there is no field 'steps'")


def test_a_faulty_file_is_named(tmp_path: Path) -> None:
    for name, text in (("r.toml", "format = onnx"), ("r.json", "{"), ("s.json", '{"format": 1}')):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(InvalidInput, match=str(path)) as caught:
            Recipe.from_file(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput, match=r"cannot be read: .*No such file"):
        Recipe.from_file(tmp_path / "none.toml")
