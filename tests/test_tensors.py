"""Signatures validate one request and say what is wrong; stacking and splitting are each other's inverse."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.datatypes import (
    DATATYPES,
    datatype_of_onnx,
    float_from_bf16,
    to_json_values,
)
from penstock.errors import InferenceError, InvalidInput, UnsupportedFormat
from penstock.tensors import Arrays, Signature, TensorSpec, cut, measure, named_dims, nbytes, split, stack


def key_of(arrays: Arrays) -> object:
    return measure(arrays)[0]


X = TensorSpec("x", "FP32", (-1, 3))
IDS = TensorSpec("ids", "INT64", (-1, -1))


def test_an_unsupported_type_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFormat, match=r"unsupported tensor type tensor\(complex64\)"):
        datatype_of_onnx("tensor(complex64)")
    with pytest.raises(InvalidInput, match="FLOAT"):
        TensorSpec("x", "FLOAT", (-1,))


def test_a_valid_request_passes_and_an_array_of_the_right_type_is_not_copied() -> None:
    x = np.ones((2, 3), np.float32)
    arrays, rows = Signature((X,), ()).validate({"x": x})
    assert rows == 2
    assert arrays["x"] is x


def test_lists_and_other_widths_are_cast_to_the_datatype_of_the_model() -> None:
    arrays, _ = Signature((X, IDS), ()).validate({"x": [[1, 2, 3.5]], "ids": np.array([[7, 8]], np.int32)})
    assert arrays["x"].dtype == np.float32
    assert arrays["ids"].dtype == np.int64


def test_an_array_that_is_not_contiguous_is_made_so() -> None:
    x = np.ones((3, 2), np.float32).T
    assert X.check(x).flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.ones((2, 4)), r"x: the shape is \[2, 4\], the model takes \[-1, 3\]"),
        (np.ones(3), r"x: the shape is \[3\], the model takes \[-1, 3\]"),
        ([[1, 2, 3], [1, 2]], "x: the rows differ in length"),
        ([["a", "b", "c"]], "x: the model takes numbers of type FP32"),
        ([[True, False, True]], "x: the model takes numbers of type FP32"),
        ([[None, 1, 2]], "x: the model takes numbers of type FP32, not null"),
        ([["a", 1, 2]], "x: the model takes numbers of type FP32, not text"),
        ([[{}, 1, 2]], "x: the model takes numbers of type FP32, not objects"),
        ([[1, 2, [3]]], "x: the rows differ in length"),
        ([[10**400, 1, 2]], "x: a number does not fit into FP32"),
        ([[1e300, 1, 2]], "x: a number does not fit into FP32"),
    ],
)
def test_an_invalid_value_gets_an_error_that_names_the_input(value: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as error:
        Signature((X,), ()).validate({"x": value})
    assert error.value.errors[0].field == "x"


def test_whole_numbers_are_not_made_of_fractions_or_wrapped_around() -> None:
    narrow = TensorSpec("n", "INT8", (-1,))
    assert narrow.check([1, -128]).tolist() == [1, -128]
    for value in ([1.5], [1.0], [200], [True]):
        with pytest.raises(InvalidInput, match="n: "):
            narrow.check(value)


def test_booleans_and_text_are_accepted() -> None:
    assert TensorSpec("b", "BOOL", (-1,)).check([True, False]).tolist() == [True, False]
    with pytest.raises(InvalidInput, match="booleans"):
        TensorSpec("b", "BOOL", (-1,)).check([0, 1])
    assert TensorSpec("s", "BYTES", (-1,)).check(["a", "bc"]).tolist() == ["a", "bc"]
    with pytest.raises(InvalidInput, match="text"):
        TensorSpec("s", "BYTES", (-1,)).check([1])


def test_missing_unknown_and_unequal_inputs_are_named() -> None:
    signature = Signature((X, IDS), ())
    good = {"x": np.ones((2, 3)), "ids": np.ones((2, 5), np.int64)}
    with pytest.raises(InvalidInput, match="ids: this input is missing"):
        signature.validate({"x": good["x"]})
    with pytest.raises(InvalidInput, match="y: the model has no such input; it takes x, ids"):
        signature.validate({**good, "y": np.ones(1)})
    with pytest.raises(InvalidInput, match="ids: 3 rows, other inputs have 2"):
        signature.validate({**good, "ids": np.ones((3, 5), np.int64)})


def test_a_signature_survives_its_json_form() -> None:
    signature = Signature((X, IDS), (TensorSpec("y", "FP16", (-1,)),))
    assert Signature.from_json(signature.to_json()) == signature


@pytest.mark.parametrize(("shape", "elements"), [((-1, 3), 3), ((-1, 2, 4), 8), ((-1,), 1), ((-1, -1, 3), -1)])
def test_the_number_of_values_in_a_row(shape: tuple[int, ...], elements: int) -> None:
    assert TensorSpec("x", "FP32", shape).row_elements == elements


def test_inputs_share_a_group_only_with_equal_names_types_and_row_shapes() -> None:
    base = {"x": np.zeros((1, 3), np.float32)}
    assert key_of(base) == key_of({"x": np.ones((7, 3), np.float32)})
    for other in (
        {"y": np.zeros((1, 3), np.float32)},
        {"x": np.zeros((1, 3), np.float64)},
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 3, 1), np.float32)},
    ):
        assert key_of(base) != key_of(other)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([b"a", b"\xff\x00"], [b"a", b"\xff\x00"]),
        (np.array(["a", "k\u00e4se"]), ["a", "k\u00e4se"]),
        (np.array(["a", b"k\xc3"], object), ["a", b"k\xc3"]),
        ([["a"], ["b"]], [["a"], ["b"]]),
    ],
)
def test_text_and_any_bytes_are_kept_as_given(given: Any, kept: list[Any]) -> None:
    array = TensorSpec("s", "BYTES", (-1, -1) if isinstance(kept[0], list) else (-1,)).check(given)
    assert array.dtype == object
    assert array.tolist() == kept


def test_an_unpaired_surrogate_is_not_text() -> None:
    with pytest.raises(InvalidInput, match=r"^s: a text is not valid UTF-8$"):
        TensorSpec("s", "BYTES", (-1,)).check(np.array(["\udc80"], object))


def test_rows_of_text_have_one_length() -> None:
    with pytest.raises(InvalidInput, match=r"^s: the rows differ in length$"):
        TensorSpec("s", "BYTES", (-1, -1)).check([["a", "b"], ["c"]])


@pytest.mark.parametrize("value", [1, None, float("nan"), {}])
def test_an_object_that_is_not_text_is_refused(value: object) -> None:
    array = np.empty(2, object)
    array[0], array[1] = "a", value
    with pytest.raises(InvalidInput, match=r"^s: the model takes text, not "):
        TensorSpec("s", "BYTES", (-1,)).check(array)


# BF16


def test_bf16_inputs_are_numbers_or_bits() -> None:
    spec = TensorSpec("x", "BF16", (-1,))
    assert spec.kind == "f"
    assert spec.check([1, -2.5]).tolist() == [0x3F80, 0xC020]
    bits = np.array([0x3F80], np.uint16)
    assert spec.check(bits) is bits
    assert spec.check(np.array([1.0], ml_dtypes.bfloat16)).tolist() == [0x3F80]
    assert to_json_values("x", spec.check([1, -2.5]), "BF16") == [1.0, -2.5]
    for value, message in (([True], "takes numbers of type BF16"), (["a"], "takes numbers"), ([1e300], "does not fit")):
        with pytest.raises(InvalidInput, match=f"^x: .*{message}"):
            spec.check(value)


def test_an_array_counts_its_bytes_and_text_its_characters() -> None:
    assert measure({"s": np.array([b"abc", "de"], object)})[1:] == (2, 2 * 8 + 5)
    assert measure({"x": np.zeros((3, 2), np.float32)})[1:] == (3, 24)


@given(st.integers(1, 9), st.integers(1, 4))
def test_parts_of_a_request_have_at_most_so_many_rows_and_stack_to_the_whole(rows: int, most: int) -> None:
    whole = {"x": np.arange(rows), "y": np.arange(2 * rows).reshape(rows, 2)}
    parts = cut(whole, most)
    assert all(1 <= len(part["x"]) <= most for part in parts)
    for name, array in stack(parts).items():
        np.testing.assert_array_equal(array, whole[name])


def test_text_counts_its_characters() -> None:
    assert nbytes({"s": np.array(["a" * 1000, "b"], dtype=object)}) == 2 * 8 + 1001


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), hnp.array_shapes(min_dims=0, max_dims=2, max_side=4))
def test_split_undoes_stack(rows: list[int], row_shape: tuple[int, ...]) -> None:
    items = [
        {"a": np.full((n, *row_shape), i, np.float32), "b": np.full((n,), -i, np.int64)} for i, n in enumerate(rows)
    ]
    together = stack(items)
    assert len(together["a"]) == sum(rows)
    assert nbytes(together) == sum(nbytes(item) for item in items)
    for item, part in zip(items, split(together, items), strict=True):
        for name in item:
            np.testing.assert_array_equal(item[name], part[name])


@pytest.mark.parametrize("output", [np.zeros(5), np.array(1.0), np.zeros((3, 2))])
def test_outputs_that_do_not_match_the_batch_are_an_error(output: np.ndarray) -> None:
    with pytest.raises(InferenceError, match="for a batch of 4"):
        split({"y": output}, [{"x": np.zeros(1)}, {"x": np.zeros(3)}])


@given(
    hnp.arrays(
        dtype=st.sampled_from([row.numpy for row in DATATYPES.values() if row.wire != "BYTES"]),
        shape=hnp.array_shapes(max_dims=3, max_side=3),
    ),
    st.sampled_from([wire for wire in DATATYPES if wire != "BYTES"]),
)
def test_a_cast_never_changes_a_value_or_raises_anything_else(array: np.ndarray, wire: str) -> None:
    spec = TensorSpec("x", wire, (-1,) * array.ndim)
    try:
        result = spec.check(array)
    except InvalidInput:
        return
    assert result.dtype == spec.numpy
    if spec.kind in "iub":
        np.testing.assert_array_equal(result, array)
    elif spec.kind == "f" and array.dtype != np.uint16:
        floats = float_from_bf16(result) if wire == "BF16" else result
        np.testing.assert_array_equal(np.isfinite(floats), np.isfinite(array.astype(np.float64)))


# Names of axes


def named(name: str, *dims: str | None) -> TensorSpec:
    return TensorSpec(name, "FP32", (-1,) * len(dims), dims)


def test_free_axes_of_one_name_have_one_length() -> None:
    signature = Signature((named("a", "batch", "length"), named("b", "batch", None, "length")), ())
    signature.validate({"a": np.ones((2, 5)), "b": np.ones((2, 3, 5))})
    with pytest.raises(
        InvalidInput,
        match=r"b: axis 2 has the length 4, axis 1 of a has 5; the model takes one length \(length\) for both",
    ) as error:
        signature.validate({"a": np.ones((2, 5)), "b": np.ones((2, 3, 4))})
    assert error.value.errors[0].field == "b"


def test_two_axes_of_one_input_may_have_one_name() -> None:
    signature = Signature((named("square", "batch", "side", "side"),), ())
    signature.validate({"square": np.ones((1, 3, 3))})
    with pytest.raises(InvalidInput, match="square: axis 2 has the length 4, axis 1 of square has 3"):
        signature.validate({"square": np.ones((1, 3, 4))})


def test_axes_without_a_name_and_axes_of_fixed_length_are_not_tied() -> None:
    fixed = TensorSpec("b", "FP32", (-1, 7), ("batch", "length"))
    Signature(
        (named("a", "batch", "length"), fixed, named("c", "batch", None), named("d", "batch", None)), ()
    ).validate({"a": np.ones((1, 2)), "b": np.ones((1, 7)), "c": np.ones((1, 4)), "d": np.ones((1, 5))})


def test_names_survive_the_json_form_and_do_not_make_another_signature() -> None:
    plain = Signature((TensorSpec("a", "FP32", (-1, -1)),), ())
    signature = Signature((named("a", "batch", None),), (), batched=False)
    again = Signature.from_json(signature.to_json())
    assert (again.inputs[0].dims, again.batched) == (("batch", None), False)
    assert "dims" not in plain.to_json()["inputs"][0]
    assert "batched" not in plain.to_json()
    assert plain.inputs == signature.inputs
    assert plain != signature  # for its batch axis


def test_every_axis_has_a_name_or_none_has() -> None:
    with pytest.raises(InvalidInput, match="tensor 'a': 1 names for 2 axes"):
        TensorSpec("a", "FP32", (-1, -1), ("batch",))


def test_placeholders_of_exporters_are_not_names() -> None:
    assert named_dims(["batch", "s77", 3, "?", "", None, "unk__12", "-1"]) == ("batch", "s77", *(None,) * 6)
    assert named_dims([None, 3, "?"]) == ()


def test_a_signature_takes_axis_names_from_the_file_for_inputs_without_names() -> None:
    signature = Signature(
        (TensorSpec("a", "FP32", (-1, -1)), named("b", "n", "own"), TensorSpec("c", "FP32", (-1,))), ()
    )
    found = signature.with_dims({"a": ("n", "length"), "b": ("n", "other"), "c": ("n", "too many")})
    assert [spec.dims for spec in found.inputs] == [("n", "length"), ("n", "own"), ()]


def test_the_batch_axis_of_an_unbatched_model_is_added_and_removed() -> None:
    file = Signature(
        (TensorSpec("x", "FP32", ()), named("y", "length")), (TensorSpec("z", "FP32", (3,)),), batched=False
    )
    rows = file.with_rows()
    assert [spec.shape for spec in (*rows.inputs, *rows.outputs)] == [(-1,), (-1, -1), (-1, 3)]
    assert rows.inputs[1].dims == (None, "length")
    assert not rows.batched
    assert rows.without_rows() == file
