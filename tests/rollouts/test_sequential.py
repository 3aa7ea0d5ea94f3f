"""False alarms and power of the sequential tests, looked at after every request.

The simulations are those of the tables in docs/rollouts.md, smaller. A bound is alpha and three standard errors.
"""

import math

import numpy as np
import pytest

from penstock.monitor.sequential_test import log_e_better, log_e_worse
from penstock.rollouts.sequential import HALF, canary_share_of_failures, half_width, is_mismatch, rate_difference

ALPHA = 0.05
LOOKS = np.arange(1, 20_001)


def bound(runs, alpha=ALPHA):
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def breach_line(limit, looks=LOOKS, alpha=ALPHA, least=3):
    """The fewest bad ones of n that breach the limit, for every n."""
    low, high = np.full(len(looks), least - 1), np.maximum(looks + 1, least)
    while (high - low > 1).any():
        middle = (low + high) // 2
        breached = log_e_worse(looks, np.minimum(middle, looks), limit) >= math.log(1 / alpha)
        high, low = np.where(breached, middle, high), np.where(breached, low, middle)
    return high


def proof_line(limit, looks=LOOKS, alpha=ALPHA):
    """The most bad ones of n that prove that fewer are bad, -1 where not even none does."""
    low, high = np.full(len(looks), -1), looks.copy()
    while (high - low > 1).any():
        middle = (low + high) // 2
        proved = log_e_better(looks, middle, limit) >= math.log(1 / alpha)
        low, high = np.where(proved, middle, low), np.where(proved, high, middle)
    return low


def first_crossings(rate, limit, runs, better=False, seed=1):
    """The number of trials after which each run crosses its line, 0 for those that never do."""
    line = proof_line(limit) if better else breach_line(limit)
    random, found = np.random.default_rng(seed), []
    for _ in range(0, runs, 250):
        bad = np.cumsum(random.random((250, len(LOOKS)), np.float32) < rate, axis=1, dtype=np.int32)
        crossed = bad <= line if better else bad >= line
        found.append(np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, 0))
    return np.concatenate(found)


@pytest.mark.parametrize("limit", [0.001, 0.01, 0.02, 0.05])
def test_a_version_at_its_limit_is_seldom_called_worse_or_better(limit):
    runs = 500
    assert (first_crossings(limit, limit, runs) > 0).mean() <= bound(runs)
    assert (first_crossings(limit, limit, runs, better=True) > 0).mean() <= bound(runs)


def test_the_share_above_a_limit_alarms_nearly_always_where_the_sequential_test_does_not():
    random = np.random.default_rng(2)
    bad = np.cumsum(random.random((200, 20_000)) < 0.01, axis=1)[:, 500:]
    assert (bad > 0.01 * np.arange(501, 20_001)).any(axis=1).mean() > 0.85


@pytest.mark.parametrize(("times", "at_most"), [(2, 1450), (3, 370), (5, 110), (10, 30)])
def test_a_version_that_fails_more_often_than_allowed_is_found(times, at_most):
    found = first_crossings(times * 0.01, 0.01, 250)
    assert (found > 0).all()
    assert np.median(found) <= at_most


@pytest.mark.parametrize(("times", "at_most"), [(0.2, 700), (0.5, 2000)])
def test_a_version_that_fails_less_often_than_allowed_is_proved(times, at_most):
    found = first_crossings(times * 0.01, 0.01, 250, better=True)
    assert (found > 0).all()
    assert np.median(found) <= at_most


@pytest.mark.parametrize(("limit", "n"), [(0.001, 3789), (0.01, 378), (0.02, 188), (0.05, 75)])
def test_trials_without_a_failure_prove_a_limit_and_one_fewer_do_not(limit, n):
    assert log_e_better(n, 0, limit) >= math.log(20) > log_e_better(n - 1, 0, limit)


@pytest.mark.parametrize(
    ("limit", "failures"), [(0.001, (3, 5, 6, 15)), (0.01, (6, 14, 23, 78)), (0.05, (14, 44, 76, 310))]
)
def test_so_many_failures_breach_a_limit(limit, failures):
    assert tuple(breach_line(limit, np.array([100, 500, 1000, 5000]))) == failures


def test_the_evidence_of_disjoint_trials_stays_a_fair_game():
    """The expected factor of one more trial is 1 at the limit: what the bound on false alarms rests on."""
    for limit in (0.001, 0.02, HALF, 0.9):
        for n, s in ((0, 0), (10, 1), (400, 300), (400, 0)):
            for log_e in (log_e_worse, log_e_better):
                bad, good = log_e(n + 1, s + 1, limit), log_e(n + 1, s, limit)
                expected = np.logaddexp(math.log(limit) + bad, math.log(1 - limit) + good)
                assert expected == pytest.approx(float(log_e(n, s, limit)), abs=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_arms_that_fail_equally_often_are_seldom_told_apart(share):
    assert ratio_alarms(share, ratio=1.0, rate=0.01, runs=500)[0] <= bound(500)


@pytest.mark.parametrize(("share", "at_most"), [(0.05, 450), (0.5, 750)])
def test_an_arm_that_fails_three_times_as_often_as_the_other_is_found(share, at_most):
    found, canary_requests = ratio_alarms(share, ratio=3.0, rate=0.01, runs=250)
    assert found >= 0.98
    assert canary_requests <= at_most


def ratio_alarms(share, ratio, rate, runs, total=40_000):
    """How many runs find the canary worse, and its median number of requests until then."""
    random, limit, least = np.random.default_rng(3), canary_share_of_failures(share, 1.0), 5
    found = []
    for _ in range(runs):
        canary = random.random(total) < share
        failed = np.flatnonzero(random.random(total) < np.where(canary, rate * ratio, rate))
        n, s = np.arange(1, len(failed) + 1), np.cumsum(canary[failed])
        breached = (log_e_worse(n, s, limit) >= math.log(1 / ALPHA)) & (n >= least)
        found.append(canary[: failed[breached.argmax()]].sum() if breached.any() else -1)
    where = np.array(found)
    return (where >= 0).mean(), np.median(where[where >= 0]) if (where >= 0).any() else 0


def test_two_models_that_are_equally_right_are_seldom_told_apart_by_pairs():
    assert mcnemar(0.03, 0.03, runs=500)[0] <= bound(500)


def test_a_model_that_loses_more_pairs_is_found():
    found, pairs = mcnemar(0.06, 0.01, runs=250)
    assert found >= 0.99
    assert pairs <= 200


def mcnemar(lost, won, runs, total=5000):
    """Runs that find the candidate worse on pairs where one model is right, and the median number of pairs seen."""
    random, found = np.random.default_rng(4), []
    for _ in range(runs):
        draw = random.random(total)
        discordant = np.flatnonzero(draw < lost + won)
        n, s = np.arange(1, len(discordant) + 1), np.cumsum(draw[discordant] < lost)
        breached = (log_e_worse(n, s, HALF) >= math.log(1 / ALPHA)) & (n >= 5)
        found.append(discordant[breached.argmax()] if breached.any() else 0)
    where = np.array(found)
    return (where > 0).mean(), np.median(where[where > 0]) if (where > 0).any() else 0


def test_accuracies_that_are_equal_are_seldom_told_apart_and_others_are():
    runs, looks = 400, np.arange(200, 20_001, 20)
    equal, different = accuracy_alarms(0.95, 0.95, runs, looks), accuracy_alarms(0.95, 0.90, 100, looks)
    assert (equal > 0).mean() <= bound(runs)
    assert (different > 0).mean() == 1.0
    assert np.median(different) <= 1500


def accuracy_alarms(first, second, runs, looks):
    random, found = np.random.default_rng(5), []
    for _ in range(runs):
        arm = random.random(looks[-1]) < 0.5
        right = random.random(looks[-1]) < np.where(arm, second, first)
        n1, s1 = np.cumsum(arm)[looks - 1], np.cumsum(arm & right)[looks - 1]
        n0, s0 = looks - n1, np.cumsum(~arm & right)[looks - 1]
        enough = np.minimum.reduce([s0, s1, n0 - s0, n1 - s1]) >= 30
        p0, p1 = s0 / n0, s1 / n1
        width = half_width(looks, np.sqrt(p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1))
        crossed = enough & (np.abs(p1 - p0) > width)
        found.append(looks[crossed.argmax()] if crossed.any() else 0)
    return np.array(found)


def test_a_difference_of_rates_of_rare_events_has_no_interval():
    assert rate_difference((19_000, 1000), (190, 10)) is None
    interval = rate_difference((5000, 5000), (4750, 4500))
    assert interval.difference == pytest.approx(-0.05)
    assert interval.excludes_zero


def test_shares_of_keys_that_differ_from_the_weights_are_a_mismatch():
    random, runs = np.random.default_rng(6), 300
    keys = np.cumsum(random.random((runs, 4000)) < 0.1, axis=1)
    alarms = [any(is_mismatch(n, int(row[n - 1]), 0.1) for n in range(1000, 4001, 200)) for row in keys]
    assert np.mean(alarms) <= 0.001 + 3 * math.sqrt(0.001 / runs)
    assert is_mismatch(4000, 560, 0.1)
    assert is_mismatch(4000, 260, 0.1)


def test_few_keys_are_no_mismatch():
    assert not is_mismatch(999, 500, 0.1)
    assert not is_mismatch(0, 0, 0.1)
    assert not is_mismatch(5000, 5000, 1.0)


def test_confidences_below_a_threshold_are_compared_by_the_arm_they_belong_to():
    """Means of saturated confidences give false alarms; how many are low, of which arm, gives none."""
    random, runs, share = np.random.default_rng(7), 300, 0.05
    alarms = 0
    for _ in range(runs):
        canary, confidence = random.random(20_000) < share, random.beta(49, 1, 20_000)
        low = canary[confidence < 0.9]
        n, s = np.arange(1, len(low) + 1), np.cumsum(low)
        alarms += bool((log_e_worse(n, s, canary_share_of_failures(share, 1.0)) >= math.log(20)).any())
    assert alarms / runs <= bound(runs)
