"""The tasks of a bare file: what was said of it, else what shows in the file, else tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from penstock.errors import InferenceError, InvalidInput
from penstock.file_description import FileDescription
from penstock.tasks.classification import softmax
from penstock.tasks.guessing import CLASS_METADATA, VECTOR, TaskGuess, guess_task
from penstock.tensors import Arrays, Signature, TensorSpec

W = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
ROWS = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 3)),))
PICTURES = Signature((TensorSpec("x", "FP32", (-1, 1, 2, 2)),), (TensorSpec("y", "FP32", (-1, 3)),))
ONE_NUMBER = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 1)),))
NOTHING = FileDescription()

Run = Callable[[Arrays], Arrays]


def model(answer: Callable[[np.ndarray], np.ndarray]) -> Run:
    return lambda inputs: {"y": answer(inputs["x"].reshape(len(inputs["x"]), -1) @ W)}


def plain(values: np.ndarray) -> np.ndarray:
    return values


def failing(inputs: Arrays) -> Arrays:
    raise InferenceError("no input fits")


def guess(
    signature: Signature = ROWS, about: FileDescription = NOTHING, run: Run = failing, **metadata: str
) -> TaskGuess:
    return guess_task(signature, about, metadata, run)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (softmax, "each row sums to 1"),
        (lambda values: np.log(softmax(values)), "logarithms of probabilities"),
        (lambda values: np.eye(3, dtype=np.float32)[values.argmax(axis=1)], "each row sums to 1"),
    ],
)
def test_outputs_that_are_probabilities_make_a_classifier(answer: Any, why: str) -> None:
    found = guess(run=model(answer))
    assert (found.kind, found.more) == (VECTOR, ())
    assert why in found.assumed
    assert 'task="tensor"' in found.assumed


@pytest.mark.parametrize("key", [*CLASS_METADATA, "Classes"])
def test_names_of_classes_in_the_metadata_make_a_classifier(key: str) -> None:
    found = guess(run=model(plain), **{key: "a,b,c"})
    assert found.kind == VECTOR
    assert repr(key) in found.assumed


NO_EVIDENCE = {
    "numbers": plain,
    "numbers above 0": np.exp,
    "independent shares": lambda values: 1 / (1 + np.exp(-values)),
    "rows of length 1": lambda values: values / np.linalg.norm(values, axis=1, keepdims=True),
    "constants": np.zeros_like,
    "not finite": lambda values: values * np.nan,
}


@pytest.mark.parametrize("answer", NO_EVIDENCE.values(), ids=NO_EVIDENCE)
def test_without_evidence_a_model_answers_tensors_and_classes_only_on_request(answer: Any) -> None:
    found = guess(run=model(answer), author="me")
    assert (found.kind, found.config, found.more) == ("tensor", {}, (VECTOR,))
    for way in (f'task="{VECTOR}"', "labels=[…]", "/inference/predict"):
        assert way in found.assumed


def test_a_model_that_does_not_run_shows_nothing() -> None:
    assert guess().kind == "tensor"


def test_a_model_of_pictures_answers_tensors_and_classes_on_request() -> None:
    assert guess(PICTURES, run=model(softmax))[:3] == ("tensor", {}, (VECTOR,))


def test_where_no_classification_fits_nothing_is_assumed() -> None:
    assert guess(ONE_NUMBER) == TaskGuess("tensor", {})


@pytest.mark.parametrize(
    ("about", "signature", "expected"),
    [
        (FileDescription(task="tensor"), ROWS, TaskGuess("tensor", {})),
        (FileDescription(labels=("a", "b", "c")), ROWS, TaskGuess(VECTOR, {"labels": ["a", "b", "c"]})),
        (FileDescription(preprocess={"preprocess": []}), ROWS, TaskGuess(VECTOR, {"preprocess": []})),
        (
            FileDescription(labels=("a",), preprocess={"resize": [[2, 2, "box"]]}),
            PICTURES,
            TaskGuess("image-classification", {"resize": [[2, 2, "box"]], "labels": ["a"]}),
        ),
        (FileDescription(preprocess={"columns": []}), ROWS, TaskGuess("tabular", {"columns": []})),
    ],
)
def test_what_the_user_says_holds(about: FileDescription, signature: Signature, expected: TaskGuess) -> None:
    assert guess(signature, about, model(softmax)) == expected


def test_labels_of_a_model_that_takes_no_vector_need_the_task() -> None:
    with pytest.raises(InvalidInput, match=r"labels: .* name the task"):
        guess(ONE_NUMBER, FileDescription(labels=("a", "b")))
