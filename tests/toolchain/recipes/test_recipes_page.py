"""The examples of docs/recipes.md: every one is read, and every quick one is carried out on the starter model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recipe_models import digits_artifact, digits_rows

from penstock.toolchain.recipes.making import make
from penstock.toolchain.recipes.opening import subject_of
from penstock.toolchain.recipes.recipe import TECHNIQUES, Recipe
from penstock.toolchain.recipes.subject import Materials

PAGE = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
TRAINED = ("prune", "distill", "quantize-aware")
"""They take longer, or need functions of a user."""


def recipe_of(example: str, directory: Path) -> Recipe:
    path = directory / "recipe.toml"
    path.write_text(example, encoding="utf-8")
    return Recipe.from_file(path)


def test_every_technique_has_a_section_with_an_example(tmp_path: Path) -> None:
    shown = {one.kind for example in EXAMPLES for one in recipe_of(example, tmp_path).techniques}
    assert shown == set(TECHNIQUES)
    assert {kind for kind in shown if f"## `{kind}`" not in PAGE} == set()


QUICK = [one for one in EXAMPLES if "pt2e" not in one and not any(f'kind = "{trained}"' in one for trained in TRAINED)]


@pytest.mark.parametrize("example", QUICK, ids=lambda one: re.findall(r'kind = "([\w-]+)"', one)[0])
def test_an_example_can_be_carried_out(tmp_path: Path, example: str) -> None:
    recipe = recipe_of(example, tmp_path)
    materials = Materials(tmp_path, {"input": digits_rows("train").features})
    made = make(recipe, subject_of(digits_artifact()), materials)
    assert made.exported.path.stat().st_size > 10_000
    assert made.exported.format == recipe.format
