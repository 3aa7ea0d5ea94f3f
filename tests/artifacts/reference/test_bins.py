"""Bins of one feature."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.artifacts.reference.bins import SPECIAL, Feature

ANY = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=60)


def named(feature: Feature, counts: np.ndarray) -> dict[str, int]:
    return {name: int(count) for name, count in zip(feature.bin_names(), counts, strict=True) if count}


@given(ANY, ANY)
def test_every_value_is_in_exactly_one_bin(reference: list[float], others: list[float]) -> None:
    feature = Feature.of("x", np.array(reference))
    assert sum(feature.counts) == len(reference)
    assert feature.count(np.array(others)).sum() == len(others)
    assert feature.counts[2:5] == (0, 0, 0), "no reference value is outside the reference"


@given(ANY, ANY, ANY)
def test_counts_add_up_however_the_rows_are_divided(reference: list[float], a: list[float], b: list[float]) -> None:
    feature = Feature.of("x", np.array(reference))
    together = feature.count(np.array(a + b))
    np.testing.assert_array_equal(feature.count(np.array(a)) + feature.count(np.array(b)), together)


def test_ranges_hold_about_as_many_rows_each() -> None:
    feature = Feature.of("x", np.random.default_rng(0).standard_normal(2000))
    assert len(feature.counts) == len(SPECIAL) + 10
    assert max(feature.counts[5:]) - min(feature.counts[5:]) <= 2


def test_a_frequent_number_has_a_bin_of_its_own() -> None:
    values = np.concatenate([np.zeros(500), np.random.default_rng(0).random(500) + 0.1])
    feature = Feature.of("x", values)
    assert feature.atoms == (0.0,)
    assert feature.counts[len(SPECIAL)] == 500
    assert max(feature.counts[len(SPECIAL) + 1 :]) <= 52


@pytest.mark.parametrize("value", [3.0, 0.0, -1e300])
def test_a_constant_column_sees_every_other_value(value: float) -> None:
    feature = Feature.of("x", np.full(200, value))
    others = np.array([value, np.nextafter(value, math.inf), np.nextafter(value, -math.inf), math.nan, math.inf])
    found = named(feature, feature.count(others))
    assert found == {f"{value:g}": 1, "above": 1, "below": 1, "missing": 1, "not_finite": 1}


def test_a_column_of_nothing_but_nan_is_a_feature_too() -> None:
    feature = Feature.of("x", np.full(200, math.nan))
    assert feature.counts[0] == 200
    assert named(feature, feature.count(np.array([math.nan, 1.0]))) == {"missing": 1, "above": 1}


def test_a_new_category_is_unseen() -> None:
    feature = Feature.of("city", np.array([0.0, 1.0, 1.0]), categories=range(3), labels=("Bern", "Rome", "Oslo"))
    assert named(feature, feature.count(np.array([1.0, 2.0, 3.0, math.nan]))) == {
        "Rome": 1, "Oslo": 1, "unseen": 1, "missing": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"counts": (1, 2)},
        {"edges": (1.0, 0.0, 2.0)},
        {"atoms": (2.0, 1.0)},
        {"edges": ()},
        {"labels": ("a",)},
        {"counts": (-1, *[0] * 14)},
        {"edges": (0.0, math.nan)},
    ],
)
def test_bins_that_do_not_fit_together_are_refused(change: dict) -> None:
    good = Feature.of("x", np.random.default_rng(0).standard_normal(500)).model_dump()
    with pytest.raises(ValidationError):
        Feature.model_validate({**good, **change})
