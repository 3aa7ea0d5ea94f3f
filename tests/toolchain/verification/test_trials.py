from __future__ import annotations

import numpy as np
import pytest
import zoo

from penstock.tensors import Signature, TensorSpec
from penstock.toolchain.verification.trials import Trial, trials

VECTOR = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 2)),))


def named(signature: Signature, example: dict, **options) -> dict[str, Trial]:
    every = list(trials(signature, example, **options))
    assert len({trial.name for trial in every}) == len(every)
    return {trial.name: trial for trial in every}


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 3, shape).astype(np.float32)


def test_the_example_comes_first_as_it_is():
    x = numbers(3, 4)
    first = next(iter(trials(VECTOR, {"x": x}, name="the golden samples")))
    assert (first.name, first.kind) == ("the golden samples", "given")
    assert np.array_equal(first.inputs["x"], x)


def test_there_are_batches_of_1_2_7_and_the_maximum():
    sizes = {len(trial.inputs["x"]) for trial in trials(VECTOR, {"x": numbers(3, 4)}, max_rows=20)}
    assert sizes == {1, 2, 3, 7, 20}


def test_a_maximum_below_seven_is_the_largest_batch():
    assert max(len(trial.inputs["x"]) for trial in trials(VECTOR, {"x": numbers(2, 4)}, max_rows=4)) == 4


def test_every_trial_fits_the_signature():
    for model in (zoo.MLP, zoo.TOKENS, zoo.FLAGS, zoo.ENCODER, zoo.GRU, zoo.CNN):
        for trial in trials(model.signature, model.inputs(2)):
            checked, _ = model.signature.validate(trial.inputs)
            assert all(checked[name].dtype == array.dtype for name, array in trial.inputs.items())


def test_the_trials_of_an_example_are_the_same_each_time():
    one, other = (list(trials(zoo.ENCODER.signature, zoo.ENCODER.inputs(2))) for _ in range(2))
    assert [trial.name for trial in one] == [trial.name for trial in other]
    for first, second in zip(one, other, strict=True):
        assert all(np.array_equal(array, second.inputs[name]) for name, array in first.inputs.items())


def test_random_numbers_lie_in_the_range_of_the_example():
    x = numbers(5, 4)
    made = named(VECTOR, {"x": x})["32 rows of random numbers"].inputs["x"]
    assert x.min() <= made.min() < made.max() <= x.max()
    assert made.std() > 0.5


def test_an_example_of_one_value_still_gives_different_random_numbers():
    made = named(VECTOR, {"x": np.zeros((2, 4), np.float32)})["7 rows of random numbers"].inputs["x"]
    assert len(np.unique(made)) == made.size


def test_whole_numbers_stay_within_those_of_the_example():
    signature = Signature((TensorSpec("ids", "INT64", (-1, 6)),), VECTOR.outputs)
    ids = np.array([[3, 9, 4, 4, 8, 3]], np.int64)
    for trial in trials(signature, {"ids": ids}):
        assert trial.inputs["ids"].min() >= 3
        assert trial.inputs["ids"].max() <= 9


def test_masks_keep_their_values():
    example = zoo.ENCODER.inputs(2)
    mask = zoo.ENCODER.mask or ""
    for trial in trials(zoo.ENCODER.signature, example):
        assert trial.inputs[mask].any(axis=1).all(), trial.name


def test_free_axes_get_other_lengths_together_when_they_have_one_name():
    spec = ("batch", "steps")
    signature = Signature(
        (TensorSpec("a", "FP32", (-1, -1), spec), TensorSpec("b", "FP32", (-1, -1), spec)), VECTOR.outputs
    )
    lengths = [
        (trial.inputs["a"].shape[1], trial.inputs["b"].shape[1])
        for trial in trials(signature, {"a": numbers(2, 6), "b": numbers(2, 6)})
        if "length" in trial.name
    ]
    assert lengths == [(3, 3), (7, 7), (12, 12)]


def test_axes_without_names_get_other_lengths_one_by_one():
    signature = Signature((TensorSpec("image", "FP32", (-1, 3, -1, -1)),), VECTOR.outputs)
    shapes = {trial.inputs["image"].shape[2:] for trial in trials(signature, {"image": numbers(2, 3, 8, 10)})}
    assert shapes == {(8, 10), (4, 10), (9, 10), (16, 10), (8, 5), (8, 11), (8, 20)}


def test_axes_without_names_that_are_equally_long_are_tried_together_as_well():
    lengths = {
        (trial.inputs["tokens"].shape[1], trial.inputs["mask"].shape[1])
        for trial in trials(zoo.ENCODER.signature, zoo.ENCODER.inputs(2))
    }
    assert {(6, 6), (3, 3), (7, 7), (12, 12), (3, 6), (6, 3)} <= lengths


def test_a_batch_on_another_axis_is_what_grows():
    signature = Signature(
        (TensorSpec("x", "FP32", (-1, -1, 4)), TensorSpec("h", "FP32", (2, -1, 3))),
        (TensorSpec("y", "FP32", (-1, -1, 4)),),
        batch_axes={"x": 1, "h": 1, "y": 1},
    )
    example = {"x": numbers(5, 2, 4), "h": numbers(2, 2, 3)}
    shapes = {(trial.inputs["x"].shape[:2], trial.inputs["h"].shape[1]) for trial in trials(signature, example)}
    assert {((5, 1), 1), ((5, 7), 7), ((5, 32), 32)} <= shapes
    assert {((2, 2), 2), ((6, 2), 2), ((10, 2), 2)} <= shapes


def test_a_fixed_number_of_rows_is_kept():
    signature = Signature((TensorSpec("x", "FP32", (3, 4)),), (TensorSpec("y", "FP32", (3, 2)),))
    every = list(trials(signature, {"x": numbers(3, 4)}))
    assert {trial.inputs["x"].shape for trial in every} == {(3, 4)}
    assert len(every) > 4


def test_a_model_without_a_batch_axis_keeps_its_shapes():
    signature = Signature((TensorSpec("x", "FP32", ()),), (TensorSpec("y", "FP32", ()),))
    every = list(trials(signature, {"x": np.array(2.0, np.float32)}))
    assert {trial.inputs["x"].shape for trial in every} == {()}
    assert {float(trial.inputs["x"]) for trial in every} > {2.0, -2.0, 0.0, 200.0}


def test_values_are_negated_zeroed_enlarged_and_shuffled():
    x = numbers(7, 4)
    every = named(VECTOR, {"x": x})
    assert np.array_equal(every["negated values"].inputs["x"], -x)
    assert not every["zeros"].inputs["x"].any()
    assert np.array_equal(every["values 100 times as large"].inputs["x"], x * 100)
    mixed = every["shuffled values"].inputs["x"]
    assert not np.array_equal(mixed, x)
    assert np.array_equal(np.sort(mixed, axis=None), np.sort(x, axis=None))


def test_inputs_for_other_branches_are_tried_as_they_are():
    other = {"x": numbers(2, 4, seed=1)}
    assert named(VECTOR, {"x": numbers(2, 4)}, more=[other])["inputs for another branch (1)"].inputs is other


@pytest.mark.parametrize("dtype", ["FP16", "FP64", "BF16", "BOOL", "UINT8", "INT32"])
def test_every_datatype_keeps_its_type(dtype):
    spec = TensorSpec("x", dtype, (-1, 4))
    example = {"x": numbers(2, 4).astype(spec.numpy)}
    for trial in trials(Signature((spec,), VECTOR.outputs), example):
        assert trial.inputs["x"].dtype == spec.numpy
