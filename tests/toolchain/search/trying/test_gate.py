"""What passes the accuracy gate, and the reason that each refusal gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.backends.base import Backend, BackendOptions, ModelFile
from penstock.errors import InvalidInput
from penstock.tensors import Array, Arrays, Signature, TensorSpec
from penstock.toolchain.search.data import Data, read_data
from penstock.toolchain.search.trying.gate import Budget, answers, budget_of, pass_gate

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 6)),), (TensorSpec("logits", "FP32", (-1, 4)),))
WEIGHTS = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
ROWS = np.random.default_rng(2).standard_normal((400, 6)).astype(np.float32)


class Linear(Backend):
    """x @ WEIGHTS, and then whatever `change` makes of inputs and outputs."""

    format = "onnx"
    device = "cpu"
    num_parameters = 24

    def __init__(self, change: Any = None, signature: Signature = SIGNATURE) -> None:
        self.signature = signature
        self._change = change

    @classmethod
    def open(cls, file: ModelFile, options: BackendOptions) -> Backend:
        raise NotImplementedError

    def run(self, inputs: Arrays) -> Arrays:
        outputs = {"logits": inputs["x"] @ WEIGHTS}
        return outputs if self._change is None else self._change(inputs["x"], outputs)


def _some_wrong(share: float) -> Any:
    """Another class than the model's for about this share of the rows, decided by each row itself."""

    def change(x: Array, outputs: Arrays) -> Arrays:
        wrong = np.abs(np.sin(x[:, 0] * 1000)) < share * 1.5
        logits = outputs["logits"].copy()
        logits[wrong] = -logits[wrong]
        return {"logits": logits}

    return change


def _data(labels: Array | None = None) -> Data:
    return read_data({"x": ROWS}, SIGNATURE, labels)


def _budget(labels: Array | None = None, max_drop: float = 0.01) -> Budget:
    return budget_of(Linear(), _data(labels), SIGNATURE, max_drop=max_drop)


def test_the_model_itself_passes_both_gates() -> None:
    budget = _budget((ROWS @ WEIGHTS).argmax(axis=1))
    assert budget.accuracy == 1.0
    for lossy in (False, True):
        found = pass_gate(Linear(), Linear(), budget, lossy=lossy)
        assert found.why is None
        assert (found.accuracy, found.agreement, found.max_abs, found.batch_invariant) == (1.0, 1.0, 0.0, True)
        assert found.kl == pytest.approx(0.0)


def test_a_lossy_one_is_judged_by_its_classes_and_not_by_its_numbers() -> None:
    shifted = Linear(lambda _x, outputs: {"logits": outputs["logits"] * 1.5 + 3})
    assert pass_gate(shifted, Linear(), _budget(), lossy=True).why is None
    found = pass_gate(shifted, Linear(), _budget(), lossy=False)
    assert found.why is not None
    assert "allowed are" in found.why


def test_an_agreement_below_the_budget_is_refused_with_both_figures() -> None:
    found = pass_gate(Linear(_some_wrong(0.1)), Linear(), _budget(), lossy=True)
    assert found.over_budget
    assert found.why is not None
    assert "of the rows get another answer than from the reference; allowed are 1.00%" in found.why


def test_an_accuracy_below_the_budget_is_refused_even_if_labels_were_wrong_before() -> None:
    labels = (ROWS @ WEIGHTS).argmax(axis=1)
    found = pass_gate(Linear(_some_wrong(0.1)), Linear(), _budget(labels), lossy=True)
    assert found.over_budget
    assert found.why is not None
    assert "below the 1.0000 of the reference; allowed are 0.01" in found.why
    better = budget_of(Linear(_some_wrong(0.1)), _data(labels), SIGNATURE, max_drop=0.0)
    assert pass_gate(Linear(), Linear(_some_wrong(0.1)), better, lossy=True).why is None


def test_rows_that_influence_each_other_are_refused_unless_those_of_the_model_do() -> None:
    mixed = Linear(lambda x, outputs: {"logits": outputs["logits"] / np.abs(x).max()})
    found = pass_gate(mixed, Linear(), _budget(max_drop=1.0), lossy=True)
    assert found.why is not None
    assert found.why.startswith("rows would influence each other")
    assert not found.over_budget
    alike = replace(_budget(max_drop=1.0), batchable=False)
    assert pass_gate(mixed, Linear(), alike, lossy=True).why is None


def test_nan_other_names_and_other_shapes_are_refused() -> None:
    nan = Linear(lambda x, outputs: {"logits": np.where(x[:, :1] > 2, np.nan, outputs["logits"])})
    assert (
        pass_gate(nan, Linear(), _budget(), lossy=True).why == "it answers NaN or infinity where the reference does not"
    )
    renamed = Linear(lambda _x, outputs: {"other": outputs["logits"]})
    found = pass_gate(renamed, Linear(), _budget(), lossy=True)
    assert found.why == "there is no output 'logits', which the reference gives"
    narrow = Linear(lambda _x, outputs: {"logits": outputs["logits"][:, :3]})
    assert "has the shape [200, 3]" in str(pass_gate(narrow, Linear(), _budget(), lossy=True).why)


def test_an_output_without_classes_agrees_where_it_is_close() -> None:
    signature = Signature(SIGNATURE.inputs, (TensorSpec("logits", "FP32", (-1,)),))

    def first(scale: float) -> Linear:
        return Linear(lambda _x, outputs: {"logits": outputs["logits"][:, 0] * scale}, signature)

    budget = budget_of(first(1.0), read_data({"x": ROWS}, signature), signature, max_drop=0.01)
    assert budget.output is None
    assert pass_gate(first(1.005), first(1.0), budget, lossy=True).why is None
    far = pass_gate(first(1.5), first(1.0), budget, lossy=True)
    assert far.over_budget
    assert far.kl is None


def test_labels_that_the_output_has_no_place_for_are_refused() -> None:
    with pytest.raises(InvalidInput, match="labels: 9 is no class of the output 'logits', which has 4"):
        _budget(np.full(400, 9))
    with pytest.raises(InvalidInput, match=r"labels: their shape is \[200, 2\]"):
        _budget(np.zeros((400, 2), np.int64))


def test_a_model_of_a_fixed_number_of_rows_is_run_so() -> None:
    fixed = Signature((TensorSpec("x", "FP32", (8, 6)),), (TensorSpec("logits", "FP32", (8, 4)),))
    seen: list[int] = []

    def note(x: Array, outputs: Arrays) -> Arrays:
        seen.append(len(x))
        return outputs

    got = answers(Linear(note, fixed), {"x": ROWS[:21]}, fixed)
    assert seen == [8, 8]
    assert len(got["logits"]) == 16
