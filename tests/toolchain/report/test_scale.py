"""Scales: the labels that a reader sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.toolchain.report.scale import Axis, scale


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 10], ["0", "2.5", "5.0", "7.5", "10.0"]),
        ([0.91, 0.98], ["0.92", "0.94", "0.96", "0.98"]),
        ([1000, 21000], ["0", "5,000", "10,000", "15,000", "20,000"]),
        ([0, 4e9], ["0", "1e9", "2e9", "3e9", "4e9"]),
        ([0.1, 100], ["0.1", "0.3", "1", "3", "10", "30", "100"]),
        ([1e-9, 1], ["1e-9", "1e-8", "1e-7", "1e-6", "1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]),
    ],
)
def test_ticks_are_round_numbers_with_as_many_digits_as_tell_them_apart(values: list[float], labels: list[str]) -> None:
    assert scale(values, Axis("x"), 0, 100).labels() == labels


def test_a_single_value_has_room_on_both_sides() -> None:
    made = scale([5.0], Axis("x"), 0, 100)
    assert made.low < 5 < made.high
    assert made.at(5.0) == pytest.approx(50)


def test_an_axis_of_shares_ends_at_its_largest_value() -> None:
    made = scale([98.2], Axis("accuracy", "%", most=100), 0, 100)
    assert max(made.ticks) == 100
    assert made.high < 101


def test_an_axis_from_zero_begins_there() -> None:
    assert scale([3.0, 5.0], Axis("x", zero=True), 0, 100).low == 0


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_ticks_are_few_and_within_the_scale(values: list[float]) -> None:
    made = scale(values, Axis("x"), 0, 100)
    assert made.low < made.high
    assert len(made.ticks) <= 16
    assert all(made.low <= tick <= made.high for tick in made.ticks)
    assert len(made.labels()) == len(made.ticks)
    assert len(set(made.labels())) == len(made.ticks)
