from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.vector import VectorClassification, VectorRequest
from penstock.tensors import Signature, TensorSpec


def make(features=(4,), config=None, dtype="FP32", classes=3) -> VectorClassification:
    inputs = (TensorSpec("x", dtype, (-1, *features)),)
    return VectorClassification(config or {}, Signature(inputs, (TensorSpec("y", dtype, (-1, classes)),)))


TASK = make()


def refusal(call, *arguments, **fields) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        call(*arguments, **fields)
    assert "\n" not in str(caught.value)
    return caught.value


# --- the request


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"input_data": []}', "input_data"),
        ('{"input_data": "1,2"}', "input_data"),
        ('{"input_data": {"0": 1}}', "input_data"),
        ('{"input_data": [1, true]}', "input_data"),
        ('{"input_data": [1, "2"]}', "input_data"),
        ('{"input_data": [1, null]}', "input_data"),
        ('{"input_data": [[1], 2]}', "input_data"),
        ('{"input_data": [NaN]}', "input_data"),
        ('{"input_data": [-Infinity]}', "input_data"),
        ('{"input_data": [1e999]}', "input_data"),
        ('{"input_data": [' + "9" * 400 + "]}", "input_data"),
        ("{}", "input_data"),
        ('{"input_data": [1], "batch_size": 0}', "batch_size"),
        ('{"input_data": [1], "batch_size": 129}', "batch_size"),
        ('{"input_data": [1], "batch_size": 1.5}', "batch_size"),
        ('{"input_data": [1], "batch_size": "1"}', "batch_size"),
        ('{"input_data": [1], "batch_size": true}', "batch_size"),
        ('{"input_data": [1], "model_version": 1}', "model_version"),
        ('{"input_data": [1], "extra": 1}', "extra"),
    ],
)
def test_an_invalid_request_names_the_field(body, field):
    with pytest.raises(ValidationError) as caught:
        VectorRequest.model_validate_json(body)
    assert caught.value.errors()[0]["loc"][0] == field


def test_a_million_errors_are_reported_as_one():
    with pytest.raises(ValidationError) as caught:
        VectorRequest.model_validate({"input_data": ["x"] * 1_000_000})
    assert caught.value.error_count() == 1


def test_integers_are_accepted_as_numbers():
    assert VectorRequest.model_validate_json('{"input_data": [1, 2.5]}').input_data == [1.0, 2.5]


def test_an_array_is_passed_through_and_serialized_as_a_list():
    array = np.array([1.0, 2.0])
    request = VectorRequest(input_data=array)
    assert request.input_data is array
    assert json.loads(request.model_dump_json())["input_data"] == [1.0, 2.0]


def test_arrays_of_other_types_are_converted_to_float64():
    assert VectorRequest(input_data=np.arange(3, dtype=np.int8)).input_data.dtype == np.float64


@pytest.mark.parametrize("array", [np.array([]), np.array(["a"]), np.array([True]), np.array([None])])
def test_arrays_without_numbers_are_refused(array):
    with pytest.raises(ValidationError):
        VectorRequest(input_data=array)


def test_the_schema_shows_an_array_of_numbers_and_the_limits():
    schema = VectorRequest.model_json_schema()
    assert schema["properties"]["input_data"]["items"] == {"type": "number"}
    assert schema["properties"]["input_data"]["minItems"] == 1
    assert (schema["properties"]["batch_size"]["minimum"], schema["properties"]["batch_size"]["maximum"]) == (1, 128)
    assert schema["additionalProperties"] is False


# --- before the model


def test_flattened_rows_become_the_models_input():
    arrays = TASK.preprocess(VectorRequest(input_data=list(range(8)), batch_size=2))
    assert list(arrays) == ["x"]
    assert arrays["x"].dtype == np.float32
    assert arrays["x"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_list_and_an_array_give_the_same():
    values = [0.1, -2.0, 3e10, 4.0]
    from_list = TASK.preprocess(VectorRequest(input_data=values))["x"]
    assert np.array_equal(from_list, TASK.preprocess(VectorRequest(input_data=np.array(values)))["x"])


def test_the_model_gets_its_own_copy():
    array = np.ones(4)
    arrays = make(dtype="FP64").preprocess(VectorRequest(input_data=array))
    array[:] = 7
    assert arrays["x"].tolist() == [[1, 1, 1, 1]]


def test_rows_take_the_shape_of_the_signature():
    arrays = make((1, 2, 2)).preprocess(VectorRequest(input_data=[1, 2, 3, 4]))
    assert arrays["x"].shape == (1, 1, 2, 2)


@pytest.mark.parametrize(
    ("count", "batch", "message"),
    [
        (3, 1, "input_data: 3 numbers given, the model takes 4"),
        (8, 1, "input_data: 8 numbers given, the model takes 4"),
        (4, 2, "input_data: 4 numbers given, 2 rows of 4 are 8"),
    ],
)
def test_a_wrong_length_is_reported_with_the_expected_one(count, batch, message):
    error = refusal(TASK.preprocess, VectorRequest(input_data=[1.0] * count, batch_size=batch))
    assert str(error) == message
    assert [e.field for e in error.errors] == ["input_data"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39, -1e39, 1e300])
@pytest.mark.parametrize("size", [4, 10_000])
def test_an_invalid_number_is_named_by_its_index(bad, size):
    values = np.zeros(size)
    values[2] = bad
    error = refusal(make((size,)).preprocess, VectorRequest(input_data=values))
    assert [e.field for e in error.errors] == ["input_data[2]"]


@given(st.lists(st.floats(), min_size=4, max_size=4), st.sampled_from(["FP16", "FP32", "FP64"]))
def test_exactly_the_numbers_that_fit_are_accepted(values, dtype):
    with np.errstate(over="ignore"):
        fits = np.isfinite(np.array(values).astype(make(dtype=dtype)._dtype)).all()
    try:
        taken = make(dtype=dtype).preprocess(VectorRequest(input_data=np.array(values)))["x"]
    except InvalidInput:
        assert not fits
    else:
        assert fits
        assert np.isfinite(taken).all()


def test_preprocessing_comes_from_the_settings():
    task = make(config={"preprocess": {"kind": "mean_std", "mean": [0, 1, 2, 3], "std": 2}})
    arrays = task.preprocess(VectorRequest(input_data=[0, 1, 2, 5]))
    assert arrays["x"].tolist() == [[0, 0, 0, 1]]
    assert arrays["x"].dtype == np.float32


def test_each_row_is_standardised_separately():
    task = make(config={"preprocess": {"kind": "standardise"}})
    alone = task.preprocess(VectorRequest(input_data=[1, 2, 3, 4]))["x"]
    together = task.preprocess(VectorRequest(input_data=[1, 2, 3, 4, 1e9, 0, 0, -1e9], batch_size=2))["x"]
    assert np.array_equal(alone[0], together[0])


# --- after the model


def test_the_response_has_the_fields_of_the_contract_in_order():
    outputs = {"y": np.array([[0, 1, 0]], dtype=np.float32)}
    response = TASK.postprocess(outputs, None)
    response.model_version = "v1"
    assert list(json.loads(response.model_dump_json())) == [
        "predictions",
        "confidence_scores",
        "model_version",
        "inference_time_ms",
        "preprocessing_time_ms",
        "postprocessing_time_ms",
    ]
    assert response.predictions == [1]


def test_each_of_many_rows_gets_a_prediction():
    outputs = {"y": np.eye(3, dtype=np.float32)[[2, 0, 1]] * 9}
    response = make(config={"output": "logits"}).postprocess(outputs, None)
    assert response.predictions == [2, 0, 1]
    assert len(response.confidence_scores) == 3


# --- from Python


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ([1, 2, 3, 4], 1),
        (np.arange(4), 1),
        (np.arange(4).reshape(2, 2), 1),
        (np.arange(4).reshape(1, 4), 1),
        (np.zeros((3, 4)), 3),
        (np.zeros((3, 2, 2)), 3),
        (np.zeros((500, 4)), 500),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], 2),
    ],
)
def test_python_accepts_one_row_or_many(value, rows):
    request = TASK.coerce(value)
    assert request.batch_size == rows
    assert TASK.preprocess(request)["x"].shape == (rows, 4)


def test_python_accepts_a_request_and_a_mapping():
    request = VectorRequest(input_data=[1, 2, 3, 4])
    assert TASK.coerce(request) is request
    assert TASK.coerce({"input_data": [1, 2, 3, 4], "batch_size": 1}) == request


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3],
        np.zeros((2, 3)),
        np.zeros((0, 4)),
        [],
        "text",
        b"1234",
        None,
        7,
        [[1, 2], [3]],
        {"input_data": [1]} | {"x": 2},
        [True, False, True, False],
        object(),
    ],
)
def test_values_that_are_not_rows_of_numbers_are_refused(value):
    error = refusal(TASK.coerce, value)
    assert error.errors


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_arbitrary_values_from_python_are_refused_or_converted(value):
    try:
        columns = TASK.preprocess(TASK.coerce(value))["x"].shape[1]
    except InvalidInput as error:
        columns = 4 if error.errors else 0
    assert columns == 4


# --- at load


@pytest.mark.parametrize(
    ("inputs", "config", "message"),
    [
        ((), {}, "one input"),
        ((TensorSpec("x", "FP32", (-1, -1)),), {}, "features"),
        ((TensorSpec("x", "FP32", (-1,)),), {}, "features"),
        ((TensorSpec("x", "INT64", (-1, 4)),), {}, "INT64"),
        ((TensorSpec("x", "FP32", (-1, 4)),), {"labels": ["a"]}, "labels holds 1"),
        ((TensorSpec("x", "FP32", (-1, 4)),), {"output": "logit"}, "output"),
        ((TensorSpec("x", "FP32", (-1, 4)),), {"preproces": {"kind": "none"}}, "preproces"),
        ((TensorSpec("x", "FP32", (-1, 4)),), {"preprocess": {"kind": "mean_std", "mean": [1], "std": 1}}, "mean"),
    ],
)
def test_mismatched_settings_and_signatures_are_refused_at_load(inputs, config, message):
    with pytest.raises(ModelLoadError, match=message) as caught:
        VectorClassification(config, Signature(inputs, (TensorSpec("y", "FP32", (-1, 3)),)))
    assert "\n" not in str(caught.value)


class NeedsGradient:
    """Behaves like a PyTorch tensor that requires a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


def test_an_error_explains_why_a_value_is_not_an_array(signature):
    with pytest.raises(InvalidInput, match=r"input_data: it cannot be read as an array: .* requires grad$"):
        VectorClassification({}, signature((-1, 4))).coerce(NeedsGradient())
