from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_hydraulics.fleet.health_history import POINTS, HealthHistories

A, B, C = ("a", "rig:1", "s"), ("b", "rig:1", "s"), ("c", "rig:1", "s")


def test_a_new_machine_has_an_empty_history_to_be_loaded() -> None:
    histories = HealthHistories()
    assert len(histories.recent(A).times_s) == 0
    assert histories.unread() == [A]
    histories.merge_stored(A, np.array([1.0, 2.0]), np.array([0.9, 0.8]), np.ones(2))
    assert histories.recent(A).health.tolist() == [0.9, 0.8]
    assert histories.unread() == []


def test_thousands_of_results_give_a_bounded_history_over_their_full_span() -> None:
    histories = HealthHistories()
    for number in range(5_000):
        histories.add(A, 1e9 + number * 60.0, 1.0 - number / 5_000)
    times, health = histories.recent(A)
    assert 32 <= len(times) <= POINTS
    assert times[-1] == 1e9 + 4_999 * 60.0
    assert times[0] < 1e9 + 1_000 * 60.0
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(health, 1.0 - (times - 1e9) / 60.0 / 5_000, atol=1e-9)


def test_points_are_denser_towards_the_present() -> None:
    histories = HealthHistories()
    for number in range(2_000):
        histories.add(A, number * 60.0, 0.9)
    gaps = np.diff(histories.recent(A).times_s)
    assert gaps[0] > 10 * gaps[-1]


def test_a_burst_does_not_evict_older_points() -> None:
    histories = HealthHistories()
    for number in range(50):
        histories.add(A, number * 3600.0, 0.9)
    for number in range(3_000):
        histories.add(A, 50 * 3600.0 + number * 0.001, 0.5)
    times, health = histories.recent(A)
    assert (times < 49.5 * 3600.0).sum() >= 15
    assert health[0] == pytest.approx(0.9)


def test_a_late_point_is_inserted_in_order() -> None:
    histories = HealthHistories()
    for at_s in (10.0, 30.0, 20.0):
        histories.add(A, at_s, at_s / 100)
    times, health = histories.recent(A)
    assert times.tolist() == [10.0, 20.0, 30.0]
    assert health.tolist() == [0.1, 0.2, 0.3]


def test_of_results_of_one_moment_the_last_one_counts() -> None:
    histories = HealthHistories()
    for at_s, health in ((5.0, 0.1), (9.0, 0.9), (5.0, 0.2), (7.0, 0.7), (5.0, 0.3), (9.0, 0.8)):
        histories.add(A, at_s, health)
    times, health = histories.recent(A)
    assert times.tolist() == [5.0, 7.0, 9.0]
    assert health.tolist() == [0.3, 0.7, 0.8]


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), max_size=60))
def test_a_history_holds_every_moment_once_in_order(points: list[tuple[int, float]]) -> None:
    histories, last = HealthHistories(), dict[float, float]()
    for at_s, health in points:
        histories.add(A, float(at_s), health)
        last[float(at_s)] = health
    times, health = histories.recent(A)
    assert dict(zip(times.tolist(), health.tolist(), strict=True)) == last
    assert times.tolist() == sorted(last)


def test_stored_points_are_merged_before_newer_ones() -> None:
    histories = HealthHistories()
    histories.add(A, 100.0, 0.5)
    histories.merge_stored(A, np.array([50.0, 100.0]), np.array([0.9, 0.5]), np.ones(2))
    times, health = histories.recent(A)
    assert times.tolist() == [50.0, 100.0]
    assert health.tolist() == [0.9, 0.5]


def test_thinning_weights_points_by_their_number_of_results() -> None:
    histories = HealthHistories()
    histories.recent(A)
    histories.merge_stored(A, np.arange(4_000) * 3600.0, np.full(4_000, 0.7), np.full(4_000, 60.0))
    times, health = histories.recent(A)
    assert len(times) <= POINTS
    np.testing.assert_allclose(health, 0.7)


def test_recent_returns_a_copy() -> None:
    histories = HealthHistories()
    histories.add(A, 1.0, 0.5)
    histories.recent(A).health[0] = 0.0
    assert histories.recent(A).health[0] == 0.5


def test_the_least_recently_used_histories_are_evicted() -> None:
    histories = HealthHistories(most=2)
    for name in (A, B, C):
        histories.add(name, 1.0, 0.5)
    assert A not in histories
    assert len(histories) == 2
    assert histories.unread() == [B, C]


def test_results_of_other_processes_reach_cached_machines_only() -> None:
    histories = HealthHistories()
    histories.add(A, 1.0, 0.5)
    histories.merge_stored(A, np.empty(0), np.empty(0), np.empty(0))
    histories.follow([(A, 2.0, 0.4), (B, 2.0, 0.4)])
    assert histories.recent(A).health.tolist() == [0.5, 0.4]
    assert B not in histories


def test_a_result_from_a_clock_ahead_does_not_merge_the_others() -> None:
    histories, plain = HealthHistories(), HealthHistories()
    for number in range(500):
        for each in (histories, plain):
            each.add(A, 600.0 * number, 0.9)
        if number == 450:
            histories.add(A, 600.0 * number + 86_400, 0.9)
    assert len(histories.recent(A).times_s) > len(plain.recent(A).times_s) - 10


def test_each_model_has_its_own_history_and_forgetting_a_machine_drops_all() -> None:
    histories = HealthHistories()
    histories.add(A, 1.0, 0.9)
    histories.add(("a", "rig:2", "s"), 2.0, 0.4)
    histories.add(B, 3.0, 0.5)
    assert histories.recent(A).health.tolist() == [0.9]
    histories.forget("a")
    assert len(histories) == 1
    assert histories.unread() == [B]
