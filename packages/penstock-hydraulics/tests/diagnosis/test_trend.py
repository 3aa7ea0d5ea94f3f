from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock_hydraulics.diagnosis.trend import LONGEST_H, NOTHING, degradation, theil_sen

Float = NDArray[np.float64]
HOUR_S = 3600.0


def _line(
    count: int, loss_per_h: float, *, start: float = 0.95, noise: float = 0.0, seed: int = 0
) -> tuple[Float, Float]:
    """Results every ten minutes."""
    times = np.arange(count) * 600.0
    health = start - loss_per_h * times / HOUR_S
    return times, health + np.random.default_rng(seed).normal(0, noise, count) if noise else health


def test_the_time_to_failure_of_a_straight_decline_is_exact() -> None:
    times, health = _line(40, 0.01)
    found = degradation(times, health, times[-1])
    assert found.basis == "history"
    assert found.rate == pytest.approx(1.0)
    assert found.time_to_failure_hours == pytest.approx((health[-1] - 0.3) / 0.01)


def test_the_failure_health_of_the_machine_counts() -> None:
    times, health = _line(40, 0.01)
    found = degradation(times, health, times[-1], failure_health=0.5)
    assert found.time_to_failure_hours == pytest.approx((health[-1] - 0.5) / 0.01)


@pytest.mark.parametrize("count", [8, 20, 63])
def test_the_interval_covers_the_true_time_to_failure_of_a_noisy_decline(count: int) -> None:
    held = 0
    for seed in range(100):
        times, health = _line(count, 0.05, noise=0.01, seed=seed)
        true = (0.95 - 0.05 * times[-1] / HOUR_S - 0.3) / 0.05
        found = degradation(times, health, times[-1])
        if found.ttf_interval is not None:
            held += found.ttf_interval[0] <= true <= found.ttf_interval[1]
        else:
            held += count == 8  # too few to tell is no wrong answer
    assert held >= 90


def test_the_trend_tolerates_one_outlier_in_four() -> None:
    times, health = _line(40, 0.01, noise=0.003)
    health[::4] = np.random.default_rng(1).uniform(0, 1, 10)
    found = degradation(times, health, times[-1])
    assert found.rate == pytest.approx(1.0, abs=0.25)


def test_constant_health_gives_a_rate_near_zero_and_no_time_to_failure() -> None:
    alarms = 0
    for seed in range(100):
        times, health = _line(40, 0.0, noise=0.02, seed=seed)
        found = degradation(times, health, times[-1])
        assert found.basis == "history"
        alarms += found.time_to_failure_hours is not None
    assert alarms <= 8


def test_autocorrelated_results_give_few_false_alarms() -> None:
    alarms = 0
    for seed in range(100):
        random, health = np.random.default_rng(seed), np.full(63, 0.8)
        for i in range(1, 63):
            health[i] = 0.8 + 0.8 * (health[i - 1] - 0.8) + random.normal(0, 0.01)
        alarms += degradation(np.arange(63) * 60.0, health, 63 * 60.0).time_to_failure_hours is not None
    assert alarms <= 10


def test_improving_health_is_a_rate_of_zero() -> None:
    times, health = _line(20, -0.01, start=0.5)
    found = degradation(times, health, times[-1])
    assert found.rate == 0.0
    assert found.interval == (0.0, 0.0)
    assert found.time_to_failure_hours is None


def test_an_accelerating_decline_shortens_the_time_to_failure() -> None:
    hours = np.linspace(0, 100, 400)
    health = 1.0 - 0.7 * (hours / 100) ** 3  # fails after 100 h
    estimates = []
    for until in (240, 320, 380, 395):
        window = slice(max(0, until - 60), until)
        found = degradation(hours[window] * HOUR_S, health[window], hours[until - 1] * HOUR_S)
        assert found.time_to_failure_hours is not None
        estimates.append(found.time_to_failure_hours)
    assert estimates == sorted(estimates, reverse=True)
    assert estimates[-1] < 3.0


def test_few_results_give_only_the_health_lost_so_far() -> None:
    times, health = _line(7, 0.01)
    found = degradation(times, health, times[-1])
    assert found.basis == "nominal"
    assert found.rate == pytest.approx(1 - health[-1])
    assert found.interval is None
    assert found.time_to_failure_hours is None


def test_results_of_one_moment_give_no_trend() -> None:
    assert degradation(np.full(20, 5.0), np.linspace(1, 0, 20), 5.0).basis == "nominal"


@pytest.mark.parametrize(
    ("apart_s", "window_s", "basis"), [(60, 60, "history"), (59, 60, "nominal"), (30, 30, "history")]
)
def test_eight_windows_must_fit_into_the_time_of_a_trend(apart_s: float, window_s: float, basis: str) -> None:
    times = 1.7e9 + np.arange(8.0) * apart_s
    assert degradation(times, np.linspace(1, 0.9, 8), times[-1], window_s=window_s).basis == basis


def test_of_results_with_the_same_time_the_last_one_counts() -> None:
    times, health = _line(40, 0.01, noise=0.003)
    twice = degradation(np.repeat(times, 2), np.stack([1 - health, health], axis=1).ravel(), times[-1])
    assert twice == degradation(times, health, times[-1])


def test_a_rate_of_zero_is_not_negative() -> None:
    times, health = _line(20, -0.01, start=0.5)
    for found in (degradation(times, health, times[-1]), degradation(times, np.full(20, 0.5), times[-1])):
        assert found.interval is not None
        assert [math.copysign(1, value or 0.0) for value in (found.rate, *found.interval)] == [1, 1, 1]


def test_no_results_give_no_rate() -> None:
    assert degradation(np.empty(0), np.empty(0), 0.0) == NOTHING
    assert degradation(np.array([1.0]), np.array([np.nan]), 2.0) == NOTHING


def test_results_later_than_now_are_ignored() -> None:
    times, health = _line(40, 0.01)
    assert degradation(times, health, times[20]) == degradation(times[:21], health[:21], times[20])


def test_the_order_of_arrival_does_not_matter() -> None:
    times, health = _line(40, 0.01, noise=0.01)
    order = np.random.default_rng(0).permutation(40)
    assert degradation(times[order], health[order], times[-1]) == degradation(times, health, times[-1])


def test_a_repair_starts_a_new_trend() -> None:
    times, health = _line(40, 0.1)
    health[28:] = 0.95
    found = degradation(times, health, times[-1])
    assert found.rate == 0.0
    assert found.time_to_failure_hours is None
    assert degradation(times[:33], health[:33], times[32]).basis == "nominal"


def test_a_single_good_result_is_not_a_repair() -> None:
    times, health = _line(40, 0.05)
    health[30] = 1.0
    assert degradation(times, health, times[-1]).rate == pytest.approx(1.0)


def test_a_machine_below_its_failure_health_has_failed() -> None:
    times, health = _line(20, 0.0, start=0.1)
    assert degradation(times, health, times[-1]).time_to_failure_hours == 0.0


def test_the_time_to_failure_is_capped() -> None:
    times, health = _line(60, 1e-6)
    found = degradation(times, health, times[-1])
    assert found.time_to_failure_hours == LONGEST_H
    assert found.ttf_interval == (LONGEST_H, LONGEST_H)


def test_the_slope_is_the_median_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    x, y = np.sort(random.uniform(0, 10, 21)), random.normal(0, 1, 21)
    slopes = [(y[j] - y[i]) / (x[j] - x[i]) for i in range(21) for j in range(i + 1, 21)]
    assert theil_sen(x, y)[0] == pytest.approx(np.median(slopes))


@given(
    st.lists(
        st.tuples(st.floats(0, 1e7), st.floats(0, 1) | st.just(math.nan)), max_size=70, unique_by=lambda point: point[0]
    )
)
def test_every_answer_is_finite_and_ordered(points: list[tuple[float, float]]) -> None:
    times, health = np.array(points, np.float64).reshape(-1, 2).T
    found = degradation(times, health, 1e7)
    assert found.rate is None or 0 <= found.rate <= 1
    if found.basis == "history":
        assert found.interval is not None
        assert found.interval[0] <= found.rate <= found.interval[1]  # type: ignore[operator]
    if found.time_to_failure_hours is not None:
        assert found.ttf_interval is not None
        assert 0 <= found.ttf_interval[0] <= found.time_to_failure_hours <= found.ttf_interval[1] <= LONGEST_H
