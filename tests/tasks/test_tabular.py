from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, ModelLoadError, OutOfRange
from penstock.tasks.tabular import TabularRequest, TabularTask
from penstock.tensors import Signature, TensorSpec

AGE = {"type": "number", "name": "age", "mean": 40, "std": 10, "missing": 40}
CITY = {"type": "category", "name": "city", "categories": ["Bern", "Rome"], "encoding": "one_hot"}
KIDS = {"type": "integer", "name": "kids"}
MEMBER = {"type": "boolean", "name": "member", "missing": False}
COLUMNS = [AGE, CITY, KIDS, MEMBER]
CLASSES = (TensorSpec("y", "FP32", (-1, 3)),)
NUMBER = (TensorSpec("y", "FP32", (-1, 1)),)
ROW = {"age": 50, "city": "Rome", "kids": 2, "member": True}


def one_input(width=5, dtype="FP32", outputs=CLASSES):
    return Signature((TensorSpec("x", dtype, (-1, width)),), outputs)


def task(columns=COLUMNS, signature=None, **config):
    return TabularTask({"columns": columns, **config}, signature or one_input())


def prepared(value, made=None):
    made = made or task()
    arrays, _ = made.signature.validate(made.preprocess(made.coerce(value)))
    return arrays


def test_columns_are_concatenated_in_the_order_of_the_manifest():
    assert prepared(ROW)["x"].tolist() == [[1, 0, 1, 2, 1]]
    assert prepared([ROW, {**ROW, "age": 30.0, "city": "Bern"}])["x"].tolist() == [[1, 0, 1, 2, 1], [-1, 1, 0, 2, 1]]


def test_the_order_of_the_request_does_not_matter():
    assert prepared(dict(reversed(ROW.items())))["x"].tolist() == prepared(ROW)["x"].tolist()


@pytest.mark.parametrize("missing", [{"age": None}, {"age": float("nan")}, {"age": np.float32("nan")}])
def test_a_missing_value_gets_the_default_of_its_column(missing):
    assert prepared({**ROW, **missing})["x"][0, 0] == 0
    without = {name: value for name, value in ROW.items() if name not in ("age", "member")}
    assert prepared(without)["x"].tolist() == [[0, 0, 1, 2, 0]]


def test_every_invalid_value_is_named_by_row_and_column():
    rows = [
        {**ROW, "age": "old", "kids": 1.5},
        {**ROW, "city": "Oslo", "member": 1, "iq": 7},
        {"age": 1, "city": "Bern"},
    ]
    with pytest.raises(InvalidInput) as caught:
        prepared(rows)
    assert {(error.field, error.message) for error in caught.value.errors} == {
        ("rows[0].age", "should be a number"),
        ("rows[0].kids", "should be a whole number"),
        ("rows[1].city", "should be one of Bern, Rome"),
        ("rows[1].member", "should be true or false"),
        ("rows[1].iq", "the model has no such column"),
        ("rows[2].kids", "a value is missing"),
    }


def test_at_most_twenty_errors_are_reported():
    with pytest.raises(InvalidInput) as caught:
        prepared([{}] * 300)
    assert len(caught.value.errors) == 20


@pytest.mark.parametrize(
    ("column", "value", "good"),
    [
        ("age", True, False),
        ("age", 10**400, False),
        ("age", float("inf"), False),
        ("age", np.int64(3), True),
        ("kids", 3.0, True),
        ("kids", True, False),
        ("kids", 2**63, False),
        ("kids", np.int32(3), True),
        ("kids", "3", False),
        ("member", np.bool_(True), True),
        ("member", "true", False),
        ("city", 0, False),
        ("city", ["Bern"], False),
        ("city", {"a": 1}, False),
    ],
)
def test_a_value_of_another_type_than_its_column_is_refused(column, value, good):
    if good:
        prepared({**ROW, column: value})
        return
    with pytest.raises(InvalidInput, match=rf"rows\[0\]\.{column}"):
        prepared({**ROW, column: value})


def test_a_number_too_large_for_the_models_type_is_refused():
    columns = [{"type": "number", "name": "age"}]
    with pytest.raises(InvalidInput, match="age: a number does not fit into FP32"):
        prepared({"age": 1e39}, task(columns, one_input(1)))
    whole = [{"type": "integer", "name": "n"}]
    for value in (300, -1):
        with pytest.raises(InvalidInput, match="n: a number does not fit into UINT8"):
            prepared({"n": value}, task(whole, one_input(1, "UINT8")))


def test_a_category_is_encoded_as_index_one_hot_or_text():
    index = [{**CITY, "encoding": "index"}]
    assert prepared({"city": "Rome"}, task(index, one_input(1, "INT64")))["x"].tolist() == [[1]]
    text = [{**CITY, "encoding": "text"}]
    assert prepared({"city": "Rome"}, task(text, one_input(1, "BYTES")))["x"].tolist() == [["Rome"]]


def test_an_unknown_category_gets_the_category_for_unknown_words():
    columns = [{**CITY, "unknown": "Bern"}]
    assert prepared({"city": "Oslo"}, task(columns, one_input(2)))["x"].tolist() == [[1, 0]]


def test_columns_go_to_the_input_of_their_name_or_the_configured_one():
    inputs = (
        TensorSpec("age", "FP32", (-1, 1)),
        TensorSpec("city", "BYTES", (-1,)),
        TensorSpec("rest", "INT64", (-1, 2)),
    )
    columns = [
        AGE,
        {"type": "text", "name": "city"},
        {**KIDS, "input": "rest"},
        {"type": "integer", "name": "cars", "input": "rest"},
    ]
    made = task(columns, Signature(inputs, NUMBER))
    arrays = prepared({"age": 50, "city": "Oslo", "kids": 2, "cars": 1}, made)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "age": [[1.0]],
        "city": ["Oslo"],
        "rest": [[2, 1]],
    }


def test_unknown_columns_can_be_ignored():
    assert prepared({**ROW, "iq": 7}, task(extra="ignore"))["x"].shape == (1, 5)


class Frame:
    """The part of a pandas DataFrame that is used."""

    def to_dict(self, orient):
        assert orient == "records"
        return [ROW, {**ROW, "age": float("nan")}]


class Polars:
    def to_dicts(self):
        return [ROW]


def test_a_data_frame_is_a_list_of_rows():
    assert prepared(Frame())["x"].tolist() == [[1, 0, 1, 2, 1], [0, 0, 1, 2, 1]]
    assert prepared(Polars())["x"].shape == (1, 5)


@pytest.mark.parametrize("value", ["text", 3, [], [3], {"rows": []}, {"rows": [3]}, {"rows": [{}], "more": 1}])
def test_an_invalid_table_is_refused_by_field(value):
    with pytest.raises(InvalidInput) as caught:
        prepared(value)
    assert caught.value.errors[0].field.startswith(("rows", "more"))


def test_a_class_has_label_and_confidence_and_a_number_has_neither():
    outputs = {"y": np.array([[0.1, 0.2, 0.7]], np.float32)}
    by_class = task(labels=["a", "b", "c"]).postprocess(outputs, None)
    assert (by_class.predictions, by_class.labels) == ([2], ["c"])
    made = task(signature=one_input(outputs=NUMBER))
    by_number = made.postprocess({"y": np.array([[1.5], [2.5]], np.float32)}, None)
    assert json.loads(by_number.model_dump_json()).keys() & {"predictions", "labels", "confidence_scores"} == {
        "predictions"
    }
    assert by_number.predictions == [1.5, 2.5]


def test_a_number_that_is_not_finite_is_refused():
    made = task(signature=one_input(outputs=NUMBER))
    with pytest.raises(OutOfRange, match="not finite") as caught:
        made.postprocess({"y": np.array([[np.nan]], np.float32)}, None)
    assert (caught.value.side, caught.value.tensor) == ("output", "y")


def test_the_setting_scores_selects_one_of_several_outputs():
    outputs = (TensorSpec("label", "INT64", (-1,)), *CLASSES)
    assert task(signature=one_input(outputs=outputs), scores="y").scores.name == "y"
    made = task(signature=one_input(outputs=outputs), scores="label")
    assert made.postprocess({"label": np.array([2])}, None).predictions == [2]
    with pytest.raises(ModelLoadError, match=r"several outputs \(label, y\)"):
        task(signature=one_input(outputs=outputs))


@pytest.mark.parametrize(
    ("columns", "signature", "message"),
    [
        ([], None, "columns"),
        ([{**AGE, "type": "colour"}], None, "columns"),
        ([{**AGE, "std": 0}], None, "std"),
        ([{**CITY, "missing": "Oslo"}], None, "'Oslo' is not among the categories of 'city'"),
        ([{**CITY, "categories": ["a", "a"]}], None, "lists a category twice"),
        ([AGE, AGE], one_input(2), "the column 'age' is listed twice"),
        (COLUMNS, one_input(4), "the columns make 5 numbers per row, the input 'x' takes 4"),
        ([KIDS], one_input(1, "BYTES"), r"'kids' \(integer\) does not fit the input 'x': BYTES"),
        ([AGE], one_input(1, "INT64"), "does not fit the input 'x': INT64"),
        ([{**AGE, "input": "z"}], one_input(1), "no column belongs to the input 'x'"),
        ([AGE, {**KIDS, "input": "z"}], one_input(1), "'kids' belongs to no input of the model, which has x"),
    ],
)
def test_a_manifest_that_does_not_match_is_refused_by_name(columns, signature, message):
    with pytest.raises(ModelLoadError, match=message):
        task(columns, signature)


def test_an_answer_that_is_not_a_number_is_refused_if_it_should_be_one():
    with pytest.raises(ModelLoadError, match="is not one number per row"):
        task(answer="number")


values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)


@given(st.lists(st.dictionaries(st.sampled_from([*ROW, "iq"]), values), min_size=1, max_size=5))
def test_any_table_is_accepted_or_refused_by_field(rows):
    refusal = None
    try:
        arrays = prepared(rows)
    except InvalidInput as error:
        refusal = error
    if refusal is None:
        assert arrays["x"].shape == (len(rows), 5)
        assert np.isfinite(arrays["x"]).all()
    else:
        assert {fault.field.partition("[")[0] for fault in refusal.errors} == {"rows"}


def test_json_and_python_give_the_same():
    request = TabularRequest.model_validate_json(json.dumps({"rows": [ROW]}))
    assert task().preprocess(request)["x"].tolist() == prepared(ROW)["x"].tolist()
