"""How the answers of two versions differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.monitor.replay.comparing import Comparison, difference, wilson
from penstock.tensors import Arrays, TensorSpec

SPECS = {"y": TensorSpec("y", "FP32", (-1, 3))}


def rows(*values: list[float]) -> Arrays:
    return {"y": np.array(values, np.float32)}


def test_a_row_disagrees_where_its_class_is_another() -> None:
    old, new = rows([3, 2, 1], [0, 1, 0], [0, 0, 1]), rows([9, 2, 1], [1, 0, 0], [0, 0, 2])
    found = difference(old, new, SPECS, "y")
    assert (found.rows, found.disagreeing, found.not_finite, found.max_abs) == (3, 1, 0, 6)
    assert (found.old_class, found.new_class) == (1, 0)


def test_without_classes_a_row_disagrees_where_a_number_differs() -> None:
    found = difference(rows([100, 0, 1], [100, 0, 1]), rows([100.05, 0, 1], [100, 0, 1.2]), SPECS, None)
    assert (found.disagreeing, found.kl) == (1, ())


@pytest.mark.parametrize("scores", ["y", None])
def test_a_row_that_is_finite_in_one_answer_only_disagrees(scores: str | None) -> None:
    nan, inf = math.nan, math.inf
    old = rows([1, 0, 0], [nan, 0, 0], [nan, 1, 0], [1, 0, 0])
    new = rows([nan, 0, 0], [1, 0, 0], [nan, 1, 0], [inf, 0, 0])
    found = difference(old, new, SPECS, scores)
    assert (found.disagreeing, found.not_finite) == (3, 3)
    assert np.isfinite(found.max_abs)
    assert np.isfinite(found.kl).all()


def test_the_divergence_is_that_of_probabilities() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.25, 0.25])
    wanted = float((p * np.log(p / q)).sum())
    as_they_are = difference({"y": p[None]}, {"y": q[None]}, SPECS, "y").kl
    through_softmax = difference({"y": np.log(p)[None] - 5}, {"y": np.log(q)[None] - 9}, SPECS, "y").kl
    assert as_they_are == pytest.approx([wanted])
    assert through_softmax == pytest.approx([wanted])


def test_texts_are_compared_as_they_are() -> None:
    specs = {"t": TensorSpec("t", "BYTES", (-1,))}
    old = {"t": np.array([b"a", "ä".encode()], object)}
    assert difference(old, {"t": np.array(["a", "ä"], object)}, specs, None).disagreeing == 0
    assert difference(old, {"t": np.array(["a", "b"], object)}, specs, None).disagreeing == 1


def test_answers_that_cannot_be_compared_are_an_error() -> None:
    with pytest.raises(ValueError, match="no output in common"):
        difference({"z": np.zeros(1)}, rows([1, 2, 3]), SPECS, "y")
    with pytest.raises(ValueError, match=r"y had the shape \[1, 3\], and has \[2, 3\]"):
        difference(rows([1, 2, 3]), rows([1, 2, 3], [1, 2, 3]), SPECS, "y")


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_holds_the_share_and_stays_between_0_and_1(counts: tuple[int, int]) -> None:
    rate, low, high = wilson(*counts)
    assert 0 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1
    assert high > low


def test_the_interval_is_wilsons() -> None:
    assert wilson(8, 360)[1:] == pytest.approx((0.01130, 0.04322), abs=2e-5)
    assert wilson(0, 0).high == 1


def test_the_worst_come_first_and_are_few() -> None:
    total = Comparison(3)
    for number, gap in enumerate([0.5, 0.1, 0.9, 0.0]):
        total.add(difference(rows([1, 0, 0]), rows([1 + gap, 0, 0]), SPECS, "y"), {"request_id": f"close{number}"})
    total.add(difference(rows([1, 0, 0]), rows([0, 0.01, 0]), SPECS, "y"), {"request_id": "other"})
    total.fail(1, "it failed", {"request_id": "failed"})
    assert [each["request_id"] for each in total.worst] == ["failed", "other", "close2"]
    assert (total.rows, total.disagreeing, total.failed, total.first_failure) == (6, 2, 1, "it failed")
