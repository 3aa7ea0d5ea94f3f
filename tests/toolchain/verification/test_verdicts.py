from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

from penstock.backends.base import Backend
from penstock.errors import InferenceError, InvalidInput
from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.export.source import ModuleSource
from penstock.toolchain.verification.trials import Trial, trials
from penstock.toolchain.verification.verdicts import Verdict, judge

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),))
EXAMPLE = {"x": np.random.default_rng(0).uniform(0, 1, (5, 4)).astype(np.float32)}


class Function(nn.Module):
    """A linear layer, and a function of its output and of the input."""

    def __init__(self, change: Callable[[Tensor, Tensor], object] = lambda y, _: y) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.linear = nn.Linear(4, 3)
        self.change = change

    def forward(self, x: Tensor) -> object:
        return self.change(self.linear(x), x)


def opened(change: Callable[[Tensor, Tensor], object], signature: Signature = SIGNATURE) -> Backend:
    return ModuleSource("model", Function(change).eval(), signature, EXAMPLE).reference()


def verdict(change: Callable[[Tensor, Tensor], object], model: Callable = lambda y, _: y, **options) -> Verdict:
    return judge(opened(change), opened(model), trials(SIGNATURE, EXAMPLE), **options)


def test_the_same_model_agrees_exactly():
    found = verdict(lambda y, _: y)
    assert found.ok
    assert found.why == ""
    assert found.batch_invariant
    assert (found.errors.max_abs, found.errors.max_rel, found.errors.top1) == (0.0, 0.0, 1.0)
    assert found.errors.cosine == pytest.approx(1.0)
    assert found.skipped == ()


def test_rounding_is_within_the_tolerance():
    found = verdict(lambda y, _: y * (1 + 1e-6))
    assert found.ok
    assert 0 < found.errors.max_abs < 1e-4


def test_a_wrong_value_is_named_with_its_output_sample_and_distance():
    found = verdict(lambda y, _: y + torch.tensor([0.0, 0.25, 0.0]))
    assert not found.ok
    assert found.why.startswith("output 'y', sample ")
    assert "value [1] of the example" in found.why
    assert "differs by 0.25, allowed are 0.00" in found.why
    assert found.errors.max_abs == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("change", "trial"),
    [
        (lambda y, x: y if len(x) < 30 else y + 1, "32 rows"),
        (lambda y, x: y if len(x) > 1 else y + 1, "1 row"),
        (lambda y, x: y if x.min() >= 0 else y + 1, "negated values"),
        (lambda y, x: y if x.any() else y + 1, "zeros"),
        (lambda y, x: y if x.abs().max() < 50 else y + 1, "values 100 times as large"),
        (lambda y, _: y.clamp(-3, 3), "values 100 times as large"),
    ],
)
def test_what_is_right_for_the_example_only_is_found(change, trial):
    found = verdict(change)
    assert not found.ok
    assert trial in found.why


def test_inputs_for_another_branch_are_compared():
    other = {"x": np.full((5, 4), 7, np.float32)}
    every = trials(SIGNATURE, EXAMPLE, more=[other])
    found = judge(opened(lambda y, x: y if x[0, 0] != 7 else -y), opened(lambda y, _: y), every)
    assert "inputs for another branch (1)" in found.why


def test_values_far_from_the_example_are_not_counted_in_the_errors():
    found = verdict(lambda y, x: y + 1e-5 * (x.abs().amax() > 50))
    assert found.ok
    assert found.errors.max_abs == 0.0


def test_a_tolerance_of_zero_accepts_only_equal_values():
    assert verdict(lambda y, _: y, atol=0.0, rtol=0.0).ok
    found = verdict(lambda y, _: y * (1 + 1e-6), atol=0.0, rtol=0.0)
    assert not found.ok
    assert "allowed are 0" in found.why


def test_an_infinite_tolerance_still_requires_finite_values_of_the_same_shape():
    assert verdict(lambda y, _: y.round(), atol=math.inf).ok
    assert "nan instead of" in verdict(lambda y, _: y * float("nan"), atol=math.inf).why
    assert "inf instead of" in verdict(lambda y, _: y / 0, atol=math.inf).why
    assert "has the shape" in verdict(lambda y, _: y[:, None], atol=math.inf).why


def test_one_value_that_is_not_a_number_is_refused():
    found = verdict(lambda y, x: torch.where(x[:, :3] > 0.9, torch.nan, y))
    assert "nan instead of" in found.why
    assert math.isinf(found.errors.max_abs)


def test_another_type_is_refused():
    doubles = Signature(SIGNATURE.inputs, (TensorSpec("y", "FP64", (-1, 3)),))
    found = judge(opened(lambda y, _: y.double(), doubles), opened(lambda y, _: y), trials(SIGNATURE, EXAMPLE))
    assert found.why == "output 'y' is of the type float64, that of the model float32"


def test_other_output_names_are_refused():
    renamed = Signature(SIGNATURE.inputs, (TensorSpec("z", "FP32", (-1, 3)),))
    found = judge(opened(lambda y, _: y, renamed), opened(lambda y, _: y), trials(SIGNATURE, EXAMPLE))
    assert found.why == "its outputs are z, those of the model y"


def test_a_candidate_that_fails_where_the_model_runs_is_refused():
    def only_five(y: Tensor, x: Tensor) -> Tensor:
        return y.reshape(5, 3) if len(x) else y

    found = verdict(only_five)
    assert found.why.startswith("it does not run with 1 row of the example, with which the model runs: ")


def test_what_the_model_itself_does_not_run_with_is_skipped():
    def at_most_seven(y: Tensor, x: Tensor) -> Tensor:
        if len(x) > 7:
            raise ValueError("too many rows")
        return y

    found = verdict(at_most_seven, at_most_seven)
    assert "32 rows of the example" in found.skipped
    assert found.compared > 5


def test_an_example_that_the_model_does_not_run_with_is_an_error():
    def never(_y: Tensor, _x: Tensor) -> Tensor:
        raise ValueError("no")

    with pytest.raises(InferenceError, match="the model does not run with the example"):
        verdict(lambda y, _: y, never)


def test_an_example_without_a_finite_answer_is_an_error():
    with pytest.raises(InvalidInput, match="answers the example with NaN or infinity"):
        verdict(lambda y, _: y, lambda y, _: y * float("nan"))


def test_answers_that_are_not_finite_elsewhere_are_skipped():
    def log(y: Tensor, x: Tensor) -> Tensor:
        return y + x.sum(dim=1, keepdim=True).log()

    found = verdict(log, log)
    assert found.ok
    assert {"negated values", "zeros"} <= {*found.skipped}


def test_a_candidate_that_answers_differently_each_time_is_refused():
    found = verdict(lambda y, _: y + torch.rand_like(y))
    assert not found.ok
    assert found.why == "output 'y' is another one each time for the same input"


def test_a_candidate_whose_rows_change_each_other_is_refused():
    found = verdict(lambda y, x: y + 1e-4 * x.abs().amax().clamp(max=1e6) * y.abs().amin(), atol=math.inf)
    assert not found.ok
    assert not found.batch_invariant
    assert found.why.startswith("requests could not share a run: other rows in the run change a row's answer")


def test_a_model_whose_rows_change_each_other_is_ok_when_its_answers_are_right():
    def centred(y: Tensor, _x: Tensor) -> Tensor:
        return y - y.mean(dim=0)

    found = verdict(centred, centred)
    assert found.ok
    assert not found.batch_invariant


def test_what_is_known_of_the_rows_is_not_measured_again():
    def centred(y: Tensor, _x: Tensor) -> Tensor:
        return y - y.mean(dim=0)

    assert not verdict(centred, centred, batchable=True).ok
    assert verdict(centred, centred, batchable=False).ok


def test_the_tolerance_follows_the_range_of_each_output():
    two = Signature(SIGNATURE.inputs, (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "FP32", (-1, 3))))

    def pair(error: float) -> Callable[[Tensor, Tensor], object]:
        return lambda y, _: {"a": y * 1000, "b": y + error}

    reference, candidate = opened(pair(0.0), two), opened(pair(0.01), two)
    found = judge(candidate, reference, trials(SIGNATURE, EXAMPLE))
    assert found.why.startswith("output 'b'")


def test_whole_numbers_must_be_equal_for_the_example():
    classes = Signature(SIGNATURE.inputs, (TensorSpec("y", "INT64", (-1,)),))
    reference = opened(lambda y, _: y.argmax(dim=1), classes)
    found = judge(opened(lambda y, _: y.argmin(dim=1), classes), reference, trials(SIGNATURE, EXAMPLE))
    assert found.why.startswith("output 'y', sample 0 of the example is ")


def test_a_class_may_differ_where_rounding_decides_but_not_in_general():
    classes = Signature(SIGNATURE.inputs, (TensorSpec("y", "INT64", (-1,)),))
    reference = opened(lambda y, _: y.argmax(dim=1), classes)

    def wrong_in(rows: int) -> Callable[[Tensor, Tensor], object]:
        def change(y: Tensor, x: Tensor) -> Tensor:
            label = y.argmax(dim=1)
            if len(x) == 32:
                label[:rows] = (label[:rows] + 1) % 3
            return label

        return change

    every = [Trial("the example", EXAMPLE, "given"), Trial("32 rows", {"x": np.repeat(EXAMPLE["x"], 7, 0)[:32]})]
    for rows, ok in ((1, True), (5, False)):
        found = judge(opened(wrong_in(rows), classes), reference, every, batchable=False)
        assert found.ok == ok, found.why
    assert found.why == "output 'y': 5 of 37 values are others than those of the model"


@pytest.mark.parametrize("model", [zoo.ENCODER, zoo.DETECTOR], ids=lambda model: model.name)
def test_an_onnx_file_of_the_model_is_ok(model):
    from penstock.backends.base import ModelFile
    from penstock.backends.catalog import open_backend
    from penstock.options import BackendOptions

    example = model.inputs(2)
    reference = ModuleSource(model.name, model.make(), model.signature, example).reference()
    file = ModelFile(model.onnx(), model.signature)
    candidate = open_backend("onnx", file, BackendOptions(device="cpu"))
    found = judge(candidate, reference, trials(model.signature, example))
    assert found.ok, found.why
    assert found.batch_invariant
    assert found.compared > 8
