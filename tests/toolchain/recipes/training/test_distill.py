from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_subjects as subjects
from torch import nn
from torch.nn import functional

from penstock.errors import InvalidInput
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.recipes.training.distill import Distill, soft_loss
from penstock.toolchain.recipes.training.options import Training

STUDENT = "trained_subjects:Narrow"
TRAINING = Training(learning_rate=2e-2)


def module_of(subject: Any) -> nn.Module:
    return subject.module.module  # type: ignore[no-any-return]


def test_a_student_learns_from_its_teacher(tmp_path: Path) -> None:
    teacher = subjects.trained()
    made = Distill(STUDENT, epochs=15, training=TRAINING).apply(teacher, subjects.materials(tmp_path))
    assert made.signature == teacher.signature
    assert made.module is not None
    assert made.module.architecture == STUDENT
    assert subjects.accuracy(module_of(made)) > 0.9
    facts = made.facts["distill"]
    assert facts["student_parameters"] < 0.15 * facts["teacher_parameters"]
    assert "trained_subjects:Narrow with 124 parameters learned from 1,476 (8%)" in made.notes[0]


def test_a_factory_with_arguments_makes_the_student(tmp_path: Path) -> None:
    technique = Distill("trained_subjects:narrow", student_args={"width": 5}, epochs=1)
    made = technique.apply(subjects.trained(), subjects.materials(tmp_path))
    assert module_of(made).get_parameter("first.weight").shape[0] == 5
    assert made.module is not None
    assert made.module.architecture is None  # a function is no class that weights fill


def test_rows_without_labels_teach_too(tmp_path: Path) -> None:
    few = subjects.materials(tmp_path)
    assert few.labels is not None
    labels = np.where(np.arange(len(few.labels)) < 8, few.labels, -100)
    made = Distill(STUDENT, epochs=15, training=TRAINING).apply(subjects.trained(), replace(few, labels=labels))
    assert subjects.accuracy(module_of(made)) > 0.9
    alone = Distill(STUDENT, alpha=1, epochs=15, training=TRAINING)
    made = alone.apply(subjects.trained(), subjects.materials(tmp_path, labelled=False))
    assert subjects.accuracy(module_of(made)) > 0.9


def test_the_soft_loss_is_that_of_hinton() -> None:
    student, teacher, temperature = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4), 3.0
    p, q = torch.softmax(teacher / temperature, 1), torch.softmax(student / temperature, 1)
    expected = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
    assert float(soft_loss(student, teacher, temperature).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(soft_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)
    one, other = student[:, :1], teacher[:, :1]
    assert float(soft_loss(one, other, temperature).detach()) == float(functional.mse_loss(one, other).detach())
    # the gradients have the same size at any temperature
    sizes = []
    for hot in (10.0, 40.0):
        (gradient,) = torch.autograd.grad(soft_loss(student, teacher, hot), student)
        sizes.append(float(gradient.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize(
    ("technique", "labelled", "message"),
    [
        (
            Distill("trained_subjects:OtherName"),
            True,
            "student: trained_subjects:OtherName gives scores (float32 [2, 4]),",
        ),
        (Distill("trained_subjects:rows"), True, "student: trained_subjects:rows returned a ndarray, not a torch.nn"),
        (Distill(STUDENT, {"depth": 3}), True, "student: trained_subjects:Narrow raised TypeError"),
        (
            Distill("torch.nn:Linear", {"in_features": 3, "out_features": 4}),
            True,
            "student: torch.nn:Linear does not run",
        ),
        (Distill(STUDENT), False, "distill: alpha is 0.7, and the data has no labels for the hard loss"),
        (Distill(STUDENT, alpha=2), True, "distill: alpha: Input should be less than or equal to 1"),
        (Distill(STUDENT, temperature=0), True, "distill: temperature: Input should be greater than 0"),
        (Distill(STUDENT, training=Training(output="scores")), True, "output: the model has no output 'scores'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, technique: Distill, labelled: bool, message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        technique.apply(subjects.trained(), subjects.materials(tmp_path, labelled=labelled))
    assert str(raised.value).startswith(message)


def test_a_recipe_needs_a_student() -> None:
    with pytest.raises(InvalidInput, match=r"recipe: techniques.0 \(distill\): student"):
        Recipe.from_json({"techniques": [{"kind": "distill"}]})


def test_the_same_recipe_gives_the_same_student(tmp_path: Path) -> None:
    recipe = Recipe.from_json({"techniques": [{"kind": "distill", "student": STUDENT, "epochs": 1}]})
    one, other = (
        recipe.techniques[0].apply(subjects.trained(), subjects.materials(tmp_path)).facts["distill"] for _ in range(2)
    )
    assert one == other
