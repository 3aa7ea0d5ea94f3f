"""The e-process: valid at every look, and sensitive to worse rates."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from penstock.monitor.sequential_test import log_e_better, log_e_worse

NEEDED = log(20)


@pytest.mark.parametrize(("limit", "failures"), [(0.01, [6, 14, 23]), (0.02, [8, 23, 37]), (0.05, [14, 44, 76])])
def test_so_many_failures_are_a_breach_as_in_the_table(limit: float, failures: list[int]) -> None:
    for trials, bad in zip((100, 500, 1000), failures, strict=True):
        assert log_e_worse(trials, bad, limit) >= NEEDED > log_e_worse(trials, bad - 1, limit)


@pytest.mark.parametrize(("limit", "trials"), [(0.001, 3789), (0.01, 378), (0.02, 188), (0.05, 75)])
def test_so_many_trials_without_failure_prove_a_better_rate_as_in_the_table(limit: float, trials: int) -> None:
    assert log_e_better(trials, 0, limit) >= NEEDED > log_e_better(trials - 2, 0, limit)


def test_a_rate_at_the_limit_is_seldom_called_worse_at_any_of_many_looks() -> None:
    rng, limit, alarms, runs = np.random.default_rng(0), 0.02, 0, 200
    for _ in range(runs):
        bad = np.cumsum(rng.random(2000) < limit)
        alarms += any(log_e_worse(n, int(bad[n - 1]), limit) >= NEEDED for n in range(10, 2001, 40))
    assert alarms <= runs * 0.05 + 3 * (runs * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("limit", [1e-6, 0.5, 0.97, 0.999])
def test_any_limit_and_any_counts_give_a_number(limit: float) -> None:
    for trials, bad in ((0, 0), (1, 1), (1, 0), (10**6, 10**6), (10**6, 3)):
        assert np.isfinite([log_e_worse(trials, bad, limit), log_e_better(trials, 0, limit)]).all()
    assert log_e_better(10, 10, limit) < 0
