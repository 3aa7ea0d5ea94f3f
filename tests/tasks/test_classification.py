from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.errors import InvalidInput, ModelLoadError
from penstock.tasks.classification import ClassScores, softmax
from penstock.tensors import Signature, TensorSpec

floats32 = st.floats(-1e4, 1e4, width=32)


def scores(kind: str = "logits", labels: tuple[str, ...] | None = None, classes: int = -1) -> ClassScores:
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, classes)),))
    return ClassScores(signature, kind, labels, "input_data")  # type: ignore[arg-type]


def rows(*values: object) -> dict[str, np.ndarray]:
    return {"y": np.array(values, dtype=np.float32)}


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=floats32))
def test_softmax_gives_distributions_that_keep_the_order(logits):
    result = softmax(logits)
    assert np.allclose(result.sum(axis=1), 1)
    assert (np.diff(np.take_along_axis(result, logits.argsort(axis=1), axis=1), axis=1) >= 0).all()


def test_softmax_of_huge_logits_does_not_overflow():
    assert softmax(np.array([[1e30, 0.0, -1e30]])).tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", ["logits", "auto", "probabilities"])
@given(hnp.arrays(np.float32, st.tuples(st.just(1), st.integers(2, 12)), elements=floats32))
def test_the_fast_path_for_one_row_equals_numpy(kind, logits):
    reader = scores(kind)
    both = np.concatenate([logits, logits])
    (quick,), (confidence,) = reader.best({"y": logits})
    indices, confidences = reader.best({"y": both})
    assert indices == [quick, quick]
    assert confidences == pytest.approx([confidence, confidence], rel=1e-6)


def test_logits_go_through_softmax_once():
    indices, confidences = scores("logits").best(rows([0.0, math.log(3.0)]))
    assert indices == [1]
    assert confidences == pytest.approx([0.75], rel=1e-6)


@pytest.mark.parametrize("kind", ["probabilities", "auto"])
def test_probabilities_get_no_softmax(kind):
    for outputs in (rows([0.1, 0.7, 0.2]), rows([0.1, 0.7, 0.2], [0.1, 0.7, 0.2])):
        indices, confidences = scores(kind).best(outputs)
        assert set(indices) == {1}
        assert confidences == pytest.approx([0.7] * len(indices), rel=1e-6)


def test_auto_checks_each_row_separately():
    indices, confidences = scores("auto").best(rows([0.25, 0.75], [0.0, math.log(3.0)]))
    assert indices == [1, 1]
    assert confidences == pytest.approx([0.75, 0.75], rel=1e-6)


@pytest.mark.parametrize("kind", ["logits", "auto", "probabilities"])
@pytest.mark.parametrize("bad", [[math.nan, 1.0], [0.5, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
@pytest.mark.parametrize("count", [1, 3])
def test_an_output_that_is_not_finite_is_refused_with_the_field(kind, bad, count):
    with pytest.raises(InvalidInput) as caught:
        scores(kind).best(rows(*[bad] * count))
    assert [error.field for error in caught.value.errors] == ["input_data"]


def test_a_class_with_a_logit_of_minus_infinity_is_valid():
    assert scores("logits").best(rows([-math.inf, 2.0])) == ([1], [1.0])


def test_top_sorts_by_score_and_breaks_ties_by_class():
    assert [index for index, _ in scores().top(rows([1.0, 3.0, 3.0, 0.0]), 3)] == [1, 2, 0]
    assert len(scores().top(rows([1.0, 3.0]), 99)) == 2


def test_labels_name_the_classes_and_the_default_is_their_number():
    assert scores(labels=("cat", "dog"), classes=2).label(1) == "dog"
    assert scores().label(1) == "1"


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ((), None, "one output"),
        ((TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "FP32", (-1, 2))), None, "y, z"),
        ((TensorSpec("y", "FP32", (-1,)),), None, "[batch, classes]"),
        ((TensorSpec("y", "FP32", (-1, 1)),), None, "2 classes or more"),
        ((TensorSpec("y", "INT64", (-1, 3)),), None, "INT64"),
        ((TensorSpec("y", "FP32", (-1, 3)),), ("a", "b"), "labels holds 2 names"),
    ],
)
def test_outputs_that_are_not_class_scores_are_refused_at_load(outputs, labels, message):
    with pytest.raises(ModelLoadError, match=message.replace("[", r"\[")):
        ClassScores(Signature((), outputs), "logits", labels, "input_data")
