from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.text import TextClassification, TextRequest
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (-1, 2)),))


def task(signature=SIGNATURE, **config):
    return TextClassification(config, signature)


def prepared(value, **config):
    made = task(**config)
    return made.preprocess(made.coerce(value))["text"].tolist()


def test_one_text_is_one_row_and_a_list_is_one_row_each():
    assert prepared("a b") == ["a b"]
    assert prepared({"text": ["a", "b"]}) == ["a", "b"]
    assert prepared(np.array(["a", "b"])) == ["a", "b"]
    assert prepared(text for text in ("a", "b")) == ["a", "b"]


def test_the_manifest_defines_the_preprocessing_of_text():
    assert prepared("  Ｇood\n") == ["  Ｇood\n"]
    assert prepared("  Ｇood\n", strip=True, lowercase=True, normalize="NFKC") == ["good"]


def test_an_input_with_a_column_axis_gets_a_column():
    column = Signature((TensorSpec("t", "BYTES", (-1, 1)),), SIGNATURE.outputs)
    made = task(column)
    assert made.preprocess(made.coerce(["a", "b"]))["t"].tolist() == [["a"], ["b"]]


def test_the_response_has_the_class_of_each_text():
    made = task(labels=["bad", "good"], output="probabilities")
    outputs = {"y": np.array([[0.9, 0.1], [0.25, 0.75]], np.float32)}
    answer = made.postprocess(outputs, None)
    assert (answer.predictions, answer.labels) == ([0, 1], ["bad", "good"])
    assert answer.confidence_scores == pytest.approx([0.9, 0.75])
    assert list(answer.model_dump())[:3] == ["predictions", "labels", "confidence_scores"]


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ("", "text", "the text is empty"),
        (" \n", "text", "the text is empty"),
        ("a\0b", "text", "NUL"),
        ("a\ud800", "text", "unpaired surrogate"),
        ("x" * 21, "text", "has 21 characters, the model takes 20"),
        (["a", ""], r"text\[1\]", "the text is empty"),
        (["a", 3], r"text\[1\]", "should be a text"),
        ([], "text", "give at least 1 text"),
        (3, "text", "give a text"),
        (b"abc", "text", "give a text"),
        ({"text": 3}, "text", "valid string"),
        ({"text": []}, "text", "at least 1 item"),
        ({"text": "a", "more": 1}, "more", "not permitted"),
    ],
)
def test_invalid_text_is_refused_by_field(value, field, message):
    with pytest.raises(InvalidInput, match=f"{field}.*{message}"):
        prepared(value, max_chars=20)


def test_every_invalid_text_is_named():
    with pytest.raises(InvalidInput) as caught:
        prepared(["", "a", "b\0"])
    assert [error.field for error in caught.value.errors] == ["text[0]", "text[2]"]


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (Signature((TensorSpec("x", "FP32", (-1,)),), SIGNATURE.outputs), "input of BYTES"),
        (Signature((TensorSpec("x", "BYTES", (-1, 3)),), SIGNATURE.outputs), "input of BYTES"),
        (Signature(SIGNATURE.inputs * 2, SIGNATURE.outputs), "one input"),
        (Signature(SIGNATURE.inputs, (TensorSpec("y", "INT64", (-1,)),)), "output of floats"),
        (Signature(SIGNATURE.inputs, SIGNATURE.outputs * 2), "one output"),
    ],
)
def test_a_model_with_another_signature_is_refused(signature, message):
    with pytest.raises(ModelLoadError, match=message):
        task(signature)


def test_the_setting_scores_selects_the_output():
    outputs = (TensorSpec("label", "INT64", (-1,)), *SIGNATURE.outputs)
    signature = Signature(SIGNATURE.inputs, outputs)
    assert task(signature, scores="y").scores.name == "y"
    with pytest.raises(ModelLoadError, match="no output 'z'; it has label, y"):
        task(signature, scores="z")


@given(st.lists(st.text(max_size=30), max_size=6), st.booleans(), st.booleans())
def test_a_text_is_passed_unchanged_or_refused(texts, strip, lowercase):
    made = task(strip=strip, lowercase=lowercase, normalize="NFC")
    refusal = None
    try:
        rows = made.preprocess(made.coerce(texts))["text"]
    except InvalidInput as error:
        refusal = error
    if refusal is None:
        assert len(rows) == len(texts)
        assert all(row.strip() and row.encode() for row in rows)
    else:
        assert refusal.errors


def test_json_and_python_give_the_same():
    by_json = TextRequest.model_validate_json('{"text": ["a"]}')
    assert task().preprocess(by_json)["text"].tolist() == prepared(["a"])
