"""Comparisons in turn: noise decides nothing, and a real difference under shared noise is found."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidInput
from penstock.toolchain.bench.turns import Ratio, drift_of, in_turn, ratio_of, take_turns, values_outside

positive = st.floats(1e-6, 1e3)


class Machine:
    """A machine whose speed wanders by a factor of two and jumps at times, as seen by what runs on it in turn."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._slowness = 1.0

    def side(self, cost: float) -> Callable[[], float]:
        def measure() -> float:
            self._slowness = min(2.0, max(0.5, self._slowness * math.exp(self._random.gauss(0, 0.05))))
            outlier = 3.0 if self._random.random() < 0.03 else 1.0
            return cost * self._slowness * outlier * math.exp(self._random.gauss(0, 0.03))

        return measure


def _compared(seed: int, cost: float, rounds: int = 15) -> Ratio:
    machine = Machine(seed)
    return in_turn(machine.side(1.0), machine.side(cost), rounds=rounds)


def test_two_equal_sides_differ_no_more_often_than_the_confidence_allows() -> None:
    found = sum(_compared(seed, 1.0).differs for seed in range(1000))
    assert found <= 65  # 3.5 % are expected of 15 rounds; 6.5 % has a chance below one in a million


def test_a_difference_of_a_fifth_is_found_under_shared_noise() -> None:
    results = [_compared(seed, 1 / 1.2) for seed in range(200)]
    assert sum(result.faster for result in results) >= 198
    assert all(1.1 < result.median < 1.3 for result in results)


def test_the_slower_side_is_never_called_faster() -> None:
    assert not any(_compared(seed, 1.2).faster for seed in range(200))


def test_fifteen_rounds_leave_out_three_values_at_each_end() -> None:
    # P(Bin(15, 1/2) <= 3) = 0.0176, and of 4: 0.059
    assert values_outside(15, 0.95) == 3
    assert values_outside(6, 0.95) == 0
    assert values_outside(5, 0.95) is None


@given(st.integers(1, 200), st.floats(0.5, 0.999))
def test_the_values_within_hold_the_median_with_the_confidence(count: int, confidence: float) -> None:
    outside = values_outside(count, confidence)
    if outside is None:
        assert 1 - 2 / 2**count < confidence + 1e-12
        return
    covered = 1 - 2 * sum(math.comb(count, k) for k in range(outside + 1)) / 2**count
    assert covered >= confidence - 1e-12


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=40))
def test_swapped_sides_give_the_inverse(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    one, other = ratio_of(a, b), ratio_of(b, a)
    assert one.low <= one.median * (1 + 1e-9)
    assert one.median <= one.high * (1 + 1e-9)
    assert one.low == pytest.approx(1 / other.high if other.high < math.inf else 0.0)
    assert one.differs == other.differs or pytest.approx(one.low) == 1.0 or pytest.approx(one.high) == 1.0


def test_too_few_rounds_show_nothing() -> None:
    ratio = ratio_of([2.0] * 5, [1.0] * 5)
    assert not ratio.differs
    assert ratio.to_json()["low"] is None
    assert ratio.median == 2.0


def test_the_order_alternates() -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], float]:
        return lambda: float(order.append(name) or 1.0)  # type: ignore[func-returns-value]

    taken = take_turns({name: side(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abccbaabc"
    assert taken == {"a": [1.0] * 3, "b": [1.0] * 3, "c": [1.0] * 3}


def test_no_round_begins_after_the_time_is_up() -> None:
    ratio = in_turn(lambda: 1.0, lambda: 1.0, rounds=1000, seconds=0.0, least=7)
    assert ratio.rounds == 7


def test_a_baseline_that_becomes_slower_is_warned_of() -> None:
    steady = ratio_of([1.0, 1.01, 0.99] * 5, [1.0] * 15)
    slower = ratio_of([1.0] * 5 + [1.1] * 5 + [1.3] * 5, [1.0] * 15)
    assert steady.warning is None
    assert slower.warning is not None
    assert "30%" in slower.warning
    assert drift_of([1.0, 2.0]) == 0.0


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [math.nan])])
def test_what_has_no_ratio_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(InvalidInput, match=r"^rounds: "):
        ratio_of(a, b)


def test_no_rounds_at_all_are_refused() -> None:
    with pytest.raises(InvalidInput, match="rounds: 0"):
        in_turn(lambda: 1.0, lambda: 1.0, rounds=0)
