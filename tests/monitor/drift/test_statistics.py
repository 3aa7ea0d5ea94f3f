"""The statistics of drift, against exact values and simulated traffic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from penstock.monitor.drift.statistics import CAUTIOUS_PHI, chi2_tail, difference, holm, spread

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("degrees", [1, 2, 9, 30])
@pytest.mark.parametrize("quantile", [0.5, 0.05, 1e-3, 1e-5])
def test_the_tail_is_close_to_the_exact_one(degrees: int, quantile: float) -> None:
    found = chi2_tail(stats.chi2.isf(quantile, degrees), degrees)
    assert np.log(found) == pytest.approx(np.log(quantile), abs=0.35)


def test_chi2_is_that_of_two_samples() -> None:
    window, reference = np.array([30, 50, 20, 40]), np.array([300, 300, 300, 300])
    exact = stats.chi2_contingency([window, reference], correction=False)
    found = difference(window, reference)
    assert (found.chi2, found.degrees) == (pytest.approx(exact.statistic), exact.dof)


COUNTS = st.lists(st.integers(0, 300), min_size=8, max_size=8).map(np.array)


@given(COUNTS, COUNTS, st.floats(1, 20))
def test_any_counts_have_finite_figures(window: np.ndarray, reference: np.ndarray, phi: float) -> None:
    found = difference(window, reference, phi)
    assert np.isfinite([found.chi2, found.psi, found.ks, found.js]).all()
    assert 0 <= found.ks <= 1
    assert 0 <= found.js <= 1
    assert 0 <= chi2_tail(found.chi2 / phi, found.degrees) <= 1


def test_one_odd_row_is_no_drift_but_many_are() -> None:
    reference = np.array([0, 0, 0, 1000])
    assert chi2_tail(*difference(np.array([0, 1, 0, 499]), reference)[:2]) > 1e-3
    assert chi2_tail(*difference(np.array([0, 30, 0, 470]), reference)[:2]) < 1e-9


def test_psi_of_the_same_distribution_is_corrected_to_about_nothing() -> None:
    shares = np.full(10, 0.1)
    raw = [difference(RNG.multinomial(200, shares), RNG.multinomial(1500, shares)).psi for _ in range(300)]
    assert np.mean(raw) < 0.02
    assert np.mean(np.array(raw) > 0.1) < 0.01


@pytest.mark.parametrize("cluster", [1, 2, 5, 20])
def test_the_spread_of_clustered_rows_is_about_the_size_of_a_cluster(cluster: int) -> None:
    def part() -> np.ndarray:
        return np.concatenate([cluster * RNG.multinomial(400 // cluster, np.full(10, 0.1)) for _ in range(8)])

    slices = [slice(10 * n, 10 * n + 10) for n in range(8)]
    phi = np.mean([spread([part() for _ in range(12)], slices) for _ in range(20)])
    assert phi == pytest.approx(cluster, rel=0.1)


def test_few_parts_are_judged_with_caution() -> None:
    part = RNG.multinomial(400, np.full(10, 0.1))
    assert spread([part], [slice(0, 10)]) == CAUTIOUS_PHI
    assert spread([], [slice(0, 10)]) == CAUTIOUS_PHI
    assert spread([part] * 4, [slice(0, 10)]) == 1.0


def test_holm_rejects_in_order_until_one_stands() -> None:
    assert holm([0.001, 0.04, 0.012, 0.5], 0.05) == [True, False, True, False]
    assert holm([], 0.05) == []
