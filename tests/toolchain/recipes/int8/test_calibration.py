from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import zoo

from penstock.errors import InvalidInput
from penstock.tensors import Array, Signature, TensorSpec
from penstock.toolchain.recipes.int8.calibration import checked_rows, feeds, picked

X = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),))


def rows(count: int = 40) -> Array:
    return np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)


def with_value(value: float) -> Array:
    array = rows()
    array[7, 1] = value
    return array


def refusal(data: Mapping[str, Array] | None, signature: Signature = X) -> str:
    with pytest.raises(InvalidInput) as caught:
        checked_rows(data, signature, needed_by="quantize-static")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, "calibration data: data: quantize-static needs calibration data: real rows of x"),
        ({}, "calibration data: x: there is no array of this name; the data has nothing, and the model takes x"),
        ({"image": rows()}, "calibration data: x: there is no array of this name; the data has image"),
        (
            {"x": rows(), "y": rows()},
            "calibration data: y: the model has no such input; it takes x; leave",
        ),
        ({"x": rows()[:, :2]}, "calibration data: x: the shape is [40, 2], rows for the model are [-1, 3]; axis 0 is"),
        (
            {"x": rows()[0]},
            "calibration data: x: the shape is [3], rows for the model are [-1, 3]; axis 0",
        ),
        ({"x": np.array([["a"] * 3] * 40)}, "calibration data: x: "),
        ({"x": rows(0)}, "calibration data: x: it has no rows; give at least 32"),
        ({"x": rows(31)}, "calibration data: x: it has 31 rows, too few to know the range of values; give at least 32"),
        ({"x": with_value(np.nan)}, "calibration data: x: row 7 holds NaN; leave such rows out (1 of 40)"),
        ({"x": with_value(-np.inf)}, "calibration data: x: row 7 holds infinity; leave such rows out (1 of 40)"),
        (
            {"x": np.zeros((40, 3), np.float32)},
            "calibration data: x: every value is 0, which says nothing of",
        ),
        ({"x": np.full((40, 3), 0.5)}, "calibration data: x: every value is 0.5, which says nothing of"),
        ({"x": np.tile(rows(1), (40, 1))}, "calibration data: x: all 40 rows are the same; give different samples"),
    ],
)
def test_bad_data_is_refused_in_one_sentence_that_names_the_array(
    data: Mapping[str, Array] | None, expected: str
) -> None:
    assert refusal(data).startswith(expected)


def test_inputs_must_have_the_same_samples() -> None:
    data = zoo.TWO_INPUTS.inputs(40)
    data["right"] = data["right"][:39]
    assert refusal(data, zoo.TWO_INPUTS.signature) == (
        "calibration data: right: it has 39 rows, and left has 40; give the same samples in each"
    )


def test_axes_of_one_name_must_have_one_length() -> None:
    tokens = TensorSpec("tokens", "INT64", (-1, -1), (None, "length"))
    mask = TensorSpec("mask", "BOOL", (-1, -1), (None, "length"))
    signature = Signature((tokens, mask), zoo.ENCODER.signature.outputs)
    data = zoo.ENCODER.inputs(32)
    assert checked_rows(data, signature, needed_by="it").keys() == {"tokens", "mask"}
    data["mask"] = data["mask"][:, :-1]
    assert refusal(data, signature).startswith("calibration data: mask: axis 1 has the length 5, axis 1 of tokens")


def test_a_mask_that_is_always_true_is_no_fault() -> None:
    data = zoo.ENCODER.inputs(32)
    data["mask"][:] = True
    assert checked_rows(data, zoo.ENCODER.signature, needed_by="it")["mask"].all()


def test_numbers_of_another_type_are_converted() -> None:
    checked = checked_rows({"x": rows().astype(np.float64)}, X, needed_by="it")
    assert checked["x"].dtype == np.float32


def test_the_rows_that_are_used_come_from_all_parts_of_the_data() -> None:
    chosen = picked({"x": np.arange(1000)[:, None]}, 11)["x"]
    assert chosen[:, 0].tolist() == [0, 99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    assert picked({"x": rows()}, 100)["x"].shape == (40, 3)


def test_batches_have_the_shapes_of_the_file() -> None:
    data = {"x": rows()}
    assert [len(batch["x"]) for batch in feeds(data, X)] == [32, 8]
    fixed = Signature((TensorSpec("x", "FP32", (6, 3)),), (TensorSpec("y", "FP32", (6, 2)),))
    batches = list(feeds(data, fixed))
    assert [batch["x"].shape for batch in batches] == [(6, 3)] * 7
    assert (batches[-1]["x"][3:] == data["x"][-1]).all()
    alone = Signature(X.inputs, X.outputs, batched=False)
    assert [batch["x"].shape for batch in feeds(data, alone)] == [(3,)] * 40
    along_one = Signature(
        (TensorSpec("x", "FP32", (5, -1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),), batch_axes={"x": 1}
    )
    sequences = checked_rows({"x": np.random.default_rng(0).random((40, 5, 3))}, along_one, needed_by="it")
    first, _ = feeds(sequences, along_one)
    assert first["x"].shape == (5, 32, 3)
    assert (first["x"][:, 4] == sequences["x"][4]).all()
