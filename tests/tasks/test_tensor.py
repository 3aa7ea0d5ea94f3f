from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.tensor import TensorRequest, TensorTask
from penstock.tensors import Signature, TensorSpec


def task(*inputs: TensorSpec) -> TensorTask:
    return TensorTask({}, Signature(inputs, (TensorSpec("y", "FP32", (-1, 2)),)))


FLOATS = task(TensorSpec("x", "FP32", (-1, 2)))
PAIR = task(TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "BOOL", (-1,)))
TEXT = task(TensorSpec("words", "BYTES", (-1, 2)))


def fields(call, *arguments) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return [error.field for error in caught.value.errors]


def test_nested_lists_become_arrays_of_the_signature():
    arrays = PAIR.preprocess(TensorRequest(inputs={"mask": [True, False], "ids": [[1, 2, 3], [4, 5, 6]]}))
    assert list(arrays) == ["ids", "mask"]
    assert arrays["ids"].dtype == np.int64
    assert arrays["mask"].tolist() == [True, False]


def test_integers_and_floats_can_be_mixed_in_a_float_input():
    arrays = FLOATS.preprocess(TensorRequest(inputs={"x": [[1, 2.5]]}))
    assert arrays["x"].tolist() == [[1.0, 2.5]]
    assert arrays["x"].dtype == np.float32


def test_text_is_passed_through():
    assert TEXT.preprocess(TensorRequest(inputs={"words": [["a", "b"]]}))["words"].tolist() == [["a", "b"]]


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3]],
        [[1, [2]]],
        [1, 2],
        [[1, 2, 3]],
        [],
        [[]],
        [["1", "2"]],
        [[True, False]],
        [[True, 1.5]],
        [[None, 1.0]],
        [[{"a": 1}, 2]],
        [[math.nan, 1]],
        [[1e39, 1]],
        [[10**400, 1]],
        "text",
        3,
        None,
        {"a": [1]},
        np.zeros((0, 2), dtype=np.float32),
    ],
)
def test_a_value_that_does_not_fit_names_its_input(value):
    assert fields(FLOATS.preprocess, TensorRequest(inputs={"x": value})) == ["inputs.x"]


def test_infinity_is_a_value_in_python_and_not_in_json():
    for value in ([[-math.inf, 1]], np.array([[-np.inf, 1]], np.float32)):
        assert FLOATS.preprocess(FLOATS.coerce({"x": value}))["x"].tolist() == [[-math.inf, 1]]
    masks = task(TensorSpec("x", "BF16", (-1, 2)))
    assert masks.preprocess(TensorRequest(inputs={"x": [[-math.inf, 1]]}))["x"].tolist() == [[0xFF80, 0x3F80]]
    for text in ("1e400", "-1e400"):
        request = TensorRequest.model_validate_json(f'{{"inputs": {{"x": [[{text}, 1]]}}}}')
        assert fields(FLOATS.preprocess, request) == ["inputs.x"]


@pytest.mark.parametrize("value", [[[1.5]], [[True]], [[2**70]], [[1, None]], [["1"]]])
def test_integers_are_not_guessed(value):
    request = TensorRequest(inputs={"ids": value, "mask": [True]})
    assert fields(PAIR.preprocess, request) == ["inputs.ids"]


@pytest.mark.parametrize("value", [[["a", 1]], [["a", None]], [[1, 2]]])
def test_text_is_not_guessed(value):
    assert fields(TEXT.preprocess, TensorRequest(inputs={"words": value})) == ["inputs.words"]


def test_deeply_nested_lists_are_refused():
    value: list = [1.0]
    for _ in range(500):
        value = [value]
    assert fields(FLOATS.preprocess, TensorRequest(inputs={"x": value})) == ["inputs.x"]


def test_missing_and_unknown_inputs_are_named():
    assert fields(PAIR.preprocess, TensorRequest(inputs={"ids": [[1]]})) == ["inputs.mask"]
    assert fields(FLOATS.preprocess, TensorRequest(inputs={"x": [[1, 2]], "z": [1]})) == ["inputs.z"]


@pytest.mark.parametrize("body", ['{"inputs": {}}', '{"inputs": [1]}', "{}", '{"inputs": {"x": [1]}, "more": 1}'])
def test_an_invalid_body_is_refused(body):
    with pytest.raises(ValidationError):
        TensorRequest.model_validate_json(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=10,
    ),
    st.sampled_from([FLOATS, PAIR, TEXT]),
)
def test_arbitrary_input_is_refused_or_fits_the_signature(value, model):
    request = TensorRequest(inputs={spec.name: value for spec in model.signature.inputs})
    try:
        arrays = model.preprocess(request)
    except InvalidInput as error:
        refused = error.errors
    else:
        refused = ()
        model.signature.validate(arrays)
    assert all(error.field.startswith("inputs.") for error in refused)


def test_outputs_are_nested_lists_with_null_for_nan_and_infinity():
    outputs = {"y": np.array([[1.5, math.nan], [math.inf, -math.inf]], dtype=np.float32)}
    response = FLOATS.postprocess(outputs, None)
    assert json.loads(response.model_dump_json())["outputs"] == {"y": [[1.5, None], [None, None]]}
    assert next(iter(json.loads(response.model_dump_json()))) == "outputs"


@pytest.mark.parametrize(
    ("dtype", "array", "listed"),
    [
        ("BOOL", np.array([[True]]), [[True]]),
        ("UINT64", np.array([2**63], dtype=np.uint64), [2**63]),
        ("FP16", np.array([0.5], dtype=np.float16), [0.5]),
        ("BF16", np.array([0x3F80, 0xC020], dtype=np.uint16), [1.0, -2.5]),
        ("BYTES", np.array([["a", "é".encode()]], dtype=object), [["a", "é"]]),
        ("BYTES", np.zeros((0, 2), dtype=object), []),
    ],
)
def test_outputs_of_every_type_are_valid_json(dtype, array, listed):
    model = TensorTask({}, Signature(FLOATS.signature.inputs, (TensorSpec("y", dtype, (-1,) * array.ndim),)))
    assert json.loads(model.postprocess({"y": array}, None).model_dump_json())["outputs"] == {"y": listed}


def test_bytes_that_are_not_utf8_are_an_error_that_names_the_output():
    model = TensorTask({}, Signature(FLOATS.signature.inputs, (TensorSpec("y", "BYTES", (-1, 2)),)))
    assert fields(model.postprocess, {"y": np.array([["a", b"\xff"]], dtype=object)}, None) == ["outputs.y"]


def test_numbers_are_converted_to_bf16_for_a_bf16_input():
    model = task(TensorSpec("x", "BF16", (-1, 2)))
    assert model.preprocess(TensorRequest(inputs={"x": [[1, -2.5]]}))["x"].tolist() == [[0x3F80, 0xC020]]
    for value in ([[1e39, 0]], [["1", "2"]], [[True, False]]):
        assert fields(model.preprocess, TensorRequest(inputs={"x": value})) == ["inputs.x"]


@pytest.mark.parametrize(
    "value",
    [
        {"inputs": {"x": [[1, 2]]}},
        {"x": [[1, 2]]},
        {"x": np.array([[1, 2]])},
        np.array([[1, 2]]),
        [[1, 2]],
        TensorRequest(inputs={"x": [[1, 2]]}),
    ],
)
def test_python_accepts_a_request_a_mapping_or_an_array(value):
    assert FLOATS.preprocess(FLOATS.coerce(value))["x"].tolist() == [[1.0, 2.0]]


def test_one_array_for_a_model_with_two_inputs_is_refused():
    assert fields(PAIR.coerce, np.zeros((1, 2))) == ["inputs"]


def test_settings_are_refused():
    with pytest.raises(ModelLoadError, match="labels"):
        TensorTask({"labels": []}, FLOATS.signature)
