from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch.nn import functional

from penstock.errors import InvalidInput
from penstock.toolchain.recipes.training.batches import Batch
from penstock.toolchain.recipes.training.losses import accuracy, cross_entropy, default_loss, loss_of, metric_of
from penstock.toolchain.recipes.training.options import Training

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 4.0]])


def test_integers_are_classes_and_other_numbers_are_values() -> None:
    labels = torch.tensor([0, 1, 1])
    assert default_loss(LOGITS, labels) == pytest.approx(float(functional.cross_entropy(LOGITS, labels)))
    assert default_loss(LOGITS, LOGITS + 2) == 4
    assert default_loss(torch.zeros(3, 1), torch.ones(3)) == 1  # and not the mean over a 3 × 3 matrix


def test_rows_without_a_label_do_not_count() -> None:
    labels = torch.tensor([0, -100, -100])
    assert cross_entropy(LOGITS, labels) == pytest.approx(float(functional.cross_entropy(LOGITS[:1], labels[:1])))
    assert cross_entropy(LOGITS, torch.full((3,), -100)) == 0
    assert accuracy(LOGITS, labels) == 1


def test_classes_may_be_on_the_last_axis() -> None:
    output, labels = torch.randn(2, 5, 3), torch.randint(0, 3, (2, 5))
    expected = functional.cross_entropy(output.transpose(1, 2), labels)
    assert default_loss(output, labels) == pytest.approx(float(expected))
    assert default_loss(output.transpose(1, 2), labels) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1, 3]), "labels: the label 3 is not one of the 3 classes of the output, 0 to 2"),
        (torch.tensor([0, 1, -1]), "labels: the label -1 is not one of the 3 classes"),
        (torch.tensor([[0, 1], [0, 1], [0, 1]]), r"loss: integer targets of the shape \[3, 2\] do not fit"),
        (torch.ones(3), r"loss: the targets have the shape \[3\], the output \[3, 3\]"),
        (None, "data: there are no targets"),
        ((torch.ones(3), torch.ones(3)), "loss: several targets need a loss of yours"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        default_loss(LOGITS, targets)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "loss: own_loss:f returned NoneType, not one number"),
        (LOGITS, r"loss: own_loss:f returned a tensor of the shape \[3, 3\], not one number"),
        (torch.tensor(1.0), "loss: own_loss:f returned a number without a gradient"),
    ],
)
def test_a_users_loss_returns_one_number_with_a_gradient(
    monkeypatch: pytest.MonkeyPatch, returned: Any, message: str
) -> None:
    module = types.ModuleType("own_loss")
    module.f = lambda *_: returned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_loss", module)
    with pytest.raises(InvalidInput, match=message):
        loss_of(Training(loss="own_loss:f"))(LOGITS, Batch({"x": LOGITS}, None))


def test_the_named_output_is_used_and_an_unknown_one_refused() -> None:
    batch = Batch({"x": LOGITS}, torch.tensor([0, 1, 2]))
    result = {"states": torch.zeros(3, 7), "logits": LOGITS}
    assert loss_of(Training(output="logits"))(result, batch) == default_loss(LOGITS, batch.targets)
    metric = metric_of(Training(output="logits", metric="accuracy"))
    assert metric is not None
    assert metric(result, batch) == 1
    with pytest.raises(InvalidInput, match="output: the model has no output 'scores'; it has states, logits"):
        loss_of(Training(output="scores"))(result, batch)
