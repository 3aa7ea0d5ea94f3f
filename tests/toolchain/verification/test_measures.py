from __future__ import annotations

import math

import numpy as np
import pytest

from penstock.toolchain.verification.measures import Errors, compare, worst_of

REFERENCE = np.array([[1.0, 2.0, -4.0], [0.5, 0.25, 0.0]], np.float32)


def changed(**places: float) -> np.ndarray:
    got = REFERENCE.copy()
    got[1, 1] += places.get("by", 0.0)
    return got


def test_equal_outputs_have_no_errors():
    found = compare({"y": REFERENCE}, {"y": REFERENCE.copy()})
    assert (found.max_abs, found.max_rel, found.top1, found.samples) == (0.0, 0.0, 1.0, 2)
    assert found.cosine == pytest.approx(1.0)


def test_the_largest_difference_is_found_with_its_output_and_sample():
    found = compare({"x": REFERENCE, "y": REFERENCE}, {"x": REFERENCE, "y": changed(by=0.5)})
    assert (found.output, found.sample, found.max_abs) == ("y", 1, 0.5)
    assert found.max_rel == pytest.approx(0.5 / 4)
    assert found.top1 == pytest.approx(3 / 4)
    assert found.cosine is not None
    assert found.cosine < 0.95


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_on_one_side_is_an_infinite_difference(value):
    assert math.isinf(compare({"y": REFERENCE}, {"y": changed(by=value)}).max_abs)
    assert math.isinf(compare({"y": changed(by=value)}, {"y": REFERENCE}).max_abs)
    assert compare({"y": changed(by=value)}, {"y": changed(by=value)}).max_abs == 0.0


def test_whole_numbers_agree_by_the_share_of_equal_values():
    found = compare({"y": np.array([1, 2, 3, 4])}, {"y": np.array([1, 2, 3, 5])})
    assert (found.max_abs, found.top1) == (1.0, 0.75)


def test_texts_agree_or_not():
    one, other = np.array(["a", "b"], object), np.array(["a", "c"], object)
    assert compare({"y": one}, {"y": one}).max_abs == 0.0
    assert math.isinf(compare({"y": one}, {"y": other}).max_abs)


def test_a_missing_output_and_another_shape_are_named():
    with pytest.raises(ValueError, match="there is no output 'y'"):
        compare({"y": REFERENCE}, {})
    with pytest.raises(ValueError, match=r"output 'y' has the shape \[1, 3\], not \[2, 3\]"):
        compare({"y": REFERENCE}, {"y": REFERENCE[:1]})


def test_the_worst_of_several_keeps_the_place_and_weighs_the_agreement():
    one, other = Errors(0.1, 0.5, 0.9, 1.0, 3, "a", 2), Errors(0.2, 0.1, None, 0.5, 1, "b", 0)
    assert worst_of([one, other]) == Errors(0.2, 0.5, 0.9, (3 + 0.5) / 4, 3, "b", 0)
    assert worst_of([]) == Errors(0.0, 0.0, None, None, 0)
