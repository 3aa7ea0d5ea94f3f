from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from penstock_digits.measure import score


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 10)).astype(np.float32)
    labels = np.where(rng.random(200) < 0.7, logits.argmax(axis=1), rng.integers(0, 10, 200))
    scores = score(logits, labels)
    predicted = logits.argmax(axis=1)
    assert np.array_equal(scores.confusion, confusion_matrix(labels, predicted))
    assert scores.f1 == pytest.approx(f1_score(labels, predicted, average=None))
    assert scores.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert scores.accuracy == pytest.approx((labels == predicted).mean())


def test_a_digit_that_never_appears_does_not_divide_by_zero():
    scores = score(np.eye(10, dtype=np.float32)[[0, 1]], np.array([0, 1]))
    assert scores.accuracy == 1
    assert scores.f1[9] == 0
