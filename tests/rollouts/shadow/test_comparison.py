"""How far two answers are apart."""

import math

import numpy as np
import pytest

from penstock.rollouts.shadow.comparison import classes_of, compare

SCORES = {"logits": np.array([[2.0, 1.0, 0.0]], np.float32)}


def test_answers_with_the_same_class_agree_however_their_scores_differ():
    found = compare(SCORES, {"logits": np.array([[1.5, 1.0, 0.0]], np.float32)})
    assert found.agrees
    assert found.max_abs == pytest.approx(0.5)
    assert found.kl is not None
    assert found.kl > 0


def test_another_class_does_not_agree():
    assert not compare(SCORES, {"logits": np.array([[0.0, 1.0, 2.0]], np.float32)}).agrees


def test_probabilities_are_compared_as_they_are():
    first, second = np.array([[0.9, 0.1]]), np.array([[0.6, 0.4]])
    found = compare({"p": first}, {"p": second})
    assert found.kl == pytest.approx(0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4))


def test_numbers_without_classes_agree_within_a_hundredth():
    assert compare({"y": np.array([100.0])}, {"y": np.array([100.5])}).agrees
    assert not compare({"y": np.array([100.0])}, {"y": np.array([103.0])}).agrees
    assert compare({"y": np.array([3])}, {"y": np.array([3])}).agrees
    assert not compare({"y": np.array([3])}, {"y": np.array([4])}).agrees


def test_not_a_number_agrees_with_itself_only():
    nan = {"logits": np.array([[np.nan, np.nan, np.nan]], np.float32)}
    assert compare(nan, nan).agrees
    assert compare(nan, nan).kl is None
    assert not compare(SCORES, nan).agrees
    assert compare(SCORES, nan).max_abs == math.inf
    assert not compare({"y": np.array([1.0])}, {"y": np.array([np.nan])}).agrees


def test_outputs_of_another_name_or_shape_do_not_agree():
    assert not compare(SCORES, {"scores": SCORES["logits"]}).agrees
    assert not compare(SCORES, {"logits": np.zeros((1, 4), np.float32)}).agrees


def test_texts_agree_if_they_are_equal():
    assert compare({"t": np.array(["a"])}, {"t": np.array(["a"])}).agrees
    assert not compare({"t": np.array(["a"])}, {"t": np.array(["b"])}).agrees


def test_classes_come_with_their_confidence():
    found = classes_of(SCORES)
    assert found is not None
    assert found[0].tolist() == [0]
    assert found[1].tolist() == pytest.approx([0.665], abs=0.001)
    assert classes_of({"y": np.zeros((4,))}) is None
    assert classes_of({"y": np.zeros((0, 3))}) is None
