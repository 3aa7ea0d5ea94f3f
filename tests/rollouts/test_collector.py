"""What a process counts for its canaries."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from penstock.engine.observation import AnsweredRun, Observation
from penstock.errors import InferenceError, OutOfRange
from penstock.monitor.sequential_test import log_e_worse
from penstock.rollouts.analysis import PREPARING
from penstock.rollouts.collector import MOST_NOTED, Collector, Watched
from penstock.rollouts.evidence import ArmEvidence, merge
from penstock.rollouts.sequential import HALF

STEP = Watched(canary="c1", route="m", step=0, stable="v1.0", to="v2.0", threshold_ms=(10.0, 20.0), ratio=1.1)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def collector(clock):
    made = Collector(clock)
    made.watch([STEP])
    return made


def seen(arm="v2.0", outcome="ok", total_ms=5.0, route="m", batch_rows=1, **rest):
    return Observation(
        model="m", version=arm, variant="", outcome=outcome, total_ms=total_ms, route=route, arm=arm,
        batch_rows=batch_rows, **rest,
    )  # fmt: skip


@dataclass
class Request:
    request_id: str = ""
    key: str | None = None
    rows: int = 1
    start: int = 0


def run(arm, *totals_ms, outputs=None):
    return AnsweredRun(
        model="m", version=arm, variant="", task="", protocol="", route="m", arm=arm, batch_rows=len(totals_ms),
        pre_ms=0.0, run_ms=1.0, post_ms=0.0, requests=[Request() for _ in totals_ms], totals_ms=totals_ms,
        queues_ms=[0.0] * len(totals_ms), inputs={}, outputs=outputs or {},
    )  # fmt: skip


def counted(collector, arm="v2.0", step=0):
    collector.drain()
    return collector.arm("c1", step, arm)


def test_answers_and_faults_of_the_arm_count_and_nothing_else(collector):
    for outcome in ("ok", "error", "deadline", "invalid", "not_found", "cancelled", "overloaded", "not_ready"):
        collector(seen(outcome=outcome))
    collector(seen(batch_rows=0))  # from the cache
    collector(seen(route="other"))
    collector(seen(route=""))
    collector(seen(arm="v9.0"))  # by a rule
    arm = counted(collector)
    assert (arm.requests, arm.failures) == (3, 2)
    assert (counted(collector, "v1.0").requests, counted(collector, "v9.0").requests) == (0, 0)


def test_of_a_split_every_version_is_counted_with_its_clients(collector):
    collector.watch([Watched("c1", "m", 0, stable="v1.0", to="", others=("v2.0", "v3.0"), keys=True)])
    for arm in ("v1.0", "v2.0", "v3.0", "v9.0"):
        for key in ("anna", "anna", None):
            collector(seen(arm, key=key, request_id="r1"))
        collector(seen(arm, outcome="error", key="ben"))
        collector.answered(run(arm, 5.0, 6.0))
    for arm in ("v1.0", "v2.0", "v3.0"):
        found = counted(collector, arm)
        assert (found.requests, found.failures, found.keys.count) == (6, 1, 4)
        assert sum(found.latencies.values()) == 5
    assert counted(collector, "v9.0").requests == 0


def test_failures_are_counted_by_what_went_wrong(collector):
    collector(seen(outcome="error", error=InferenceError("NaN")))
    assert counted(collector).errors == {"InferenceError": 1}


def test_an_answer_out_of_range_is_a_fault_of_the_arm_and_an_input_out_of_range_is_not(collector):
    for side in ("input", "output"):
        collector(seen(outcome="out_of_range", error=OutOfRange("NaN", side=side)))
    assert (counted(collector).requests, counted(collector).failures) == (1, 1)


def test_a_key_that_tries_again_is_one_failure_a_second(collector, clock):
    for _ in range(100):
        collector(seen(outcome="error", key="user-1"))
    collector(seen(outcome="error", key="user-2"))
    collector(seen(arm="v1.0", outcome="error", key="user-1"))
    clock.now += 1
    collector(seen(outcome="error", key="user-1"))
    assert (counted(collector).requests, counted(collector).failures) == (3, 3)
    assert counted(collector, "v1.0").failures == 1


def test_requests_without_a_key_are_failures_each(collector):
    for _ in range(5):
        collector(seen(outcome="error"))
    assert counted(collector).failures == 5


def test_a_run_counts_each_of_its_requests(collector):
    collector.answered(run("v2.0", 4.0, 5.0, 6.0))
    arm = counted(collector)
    assert arm.requests == 3
    assert arm.percentile(50) == pytest.approx(5.0, rel=0.02)


def test_latencies_are_compared_in_pairs_of_neighbours(collector, clock):
    def pair(stable_ms, canary_ms):
        collector.answered(run("v1.0", stable_ms))
        collector.answered(run("v2.0", canary_ms))

    pair(5.0, 5.0)
    pair(5.0, 12.0)  # above 1.1 times 10
    pair(11.0, 11.5)  # both slow
    pair(5.0, 10.5)  # the limit of the canary is higher
    pair(15.0, 5.0)
    found = counted(collector).pairs[95]
    assert (found.compared, found.canary_only, found.stable_only) == (5, 1, 1)
    assert counted(collector).pairs[99].discordant == 0


def test_each_request_is_in_one_pair_and_only_with_a_recent_one(collector, clock):
    collector.answered(run("v2.0", 5.0))  # nothing to compare with yet
    collector.answered(run("v1.0", 5.0))
    collector.answered(run("v2.0", 5.0))
    collector.answered(run("v2.0", 5.0))  # that one was used
    collector.answered(run("v1.0", 5.0))
    clock.now += 1.5
    collector.answered(run("v2.0", 5.0))  # too old
    assert counted(collector).pairs[95].compared == 1


def test_a_run_is_one_pair_however_many_requests_it_answered(collector):
    for _ in range(3):
        collector.answered(run("v1.0", 5.0))
    collector.answered(run("v2.0", *[50.0] * 32))
    assert counted(collector).pairs[95].compared == 1


def test_less_than_a_millisecond_is_not_slower(clock):
    collector = Collector(clock)
    collector.watch([Watched(canary="c1", route="m", step=0, stable="v1.0", to="v2.0", threshold_ms=(0.5, 0.6))])
    for canary_ms in (1.4, 1.7):
        collector.answered(run("v1.0", 0.4))
        collector.answered(run("v2.0", canary_ms))
    assert counted(collector).pairs[95].canary_only == 1


def test_the_first_seconds_of_a_step_and_of_a_process_do_not_count_for_latencies(clock):
    collector = Collector(clock)
    collector.watch([Watched(**{**vars(STEP), "warmup_s": 5.0})])
    collector.answered(run("v1.0", 5.0))
    collector.answered(run("v2.0", 900.0))
    collector(seen(outcome="error"))
    early = counted(collector)
    assert (early.requests, early.failures, early.pairs[95].compared, early.percentile(99)) == (2, 1, 0, None)
    clock.now += 5
    collector.answered(run("v1.0", 5.0))
    collector.answered(run("v2.0", 5.0))
    assert counted(collector).pairs[95].compared == 1


def test_percentiles_of_the_stable_version_are_medians_over_windows(collector):
    random = np.random.default_rng(1)
    for window in range(5):
        slow = 80.0 if window == 2 else 0.0  # a stall in one of them misleads nobody
        for _ in range(100):
            collector.answered(run("v1.0", float(random.uniform(0, 10)) + slow))
    thresholds = counted(collector, "v1.0").thresholds()
    assert thresholds is not None
    assert 9.0 < thresholds[0] < 10.0
    assert thresholds[1] < 10.5
    assert counted(collector).thresholds() is None


def test_another_step_is_counted_apart(collector):
    collector.answered(run("v2.0", 5.0))
    collector.watch([Watched(**{**vars(STEP), "step": 1})])
    collector.answered(run("v2.0", 5.0))
    collector.answered(run("v2.0", 5.0))
    assert (counted(collector).requests, counted(collector, step=1).requests) == (1, 2)
    collector.watch([Watched(**{**vars(STEP), "canary": "c2", "step": PREPARING})])
    assert collector.evidence("c1") == {}


def test_classes_and_confidences_are_sampled(collector, clock):
    outputs = {"scores": np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)}
    collector.answered(run("v2.0", 1.0, 1.0, 1.0, outputs=outputs))
    collector.answered(run("v2.0", 1.0, 1.0, 1.0, outputs=outputs))  # too soon
    arm = counted(collector)
    assert arm.classes == {"0": 2, "1": 1}
    assert arm.confidences == {12: 1, 16: 1, 18: 1} or sum(arm.confidences.values()) == 3


def test_what_cannot_be_noted_is_counted_as_dropped(collector):
    for _ in range(MOST_NOTED + 7):
        collector(seen())
    arm = counted(collector)
    assert (arm.requests, arm.dropped) == (MOST_NOTED, 7)


def test_evidence_survives_the_store_and_adds_up():
    arm = ArmEvidence(requests=5, failures=2, windows=[[1.0, 2.0]])
    arm.latencies.update({300: 4})
    arm.classes.update({"7": 3})
    arm.errors.update({"InferenceError": 2})
    arm.pairs[95].compared = 9
    arm.shadow.compared, arm.shadow.max_abs = 4, 0.25
    arm.shadow.worst = [{"max_abs": 0.25, "request_id": "a"}]
    arm.shadow.differences.update({-3: 4})
    again = ArmEvidence.of(arm.to_document())
    assert again == arm
    both = merge([arm, again])
    assert (both.requests, both.failures, both.latencies[300], both.pairs[95].compared) == (10, 4, 8, 18)
    assert (both.shadow.compared, len(both.shadow.worst), both.shadow.differences[-3]) == (8, 2, 8)
    assert arm.requests == 5


@pytest.mark.parametrize(
    ("share", "ratio", "least", "most"), [(0.5, 1.0, 0, 0.1), (0.5, 1.1, 0, 0.13), (0.5, 3.0, 0.9, 1)]
)
def test_latencies_that_runs_share_and_stalls_give_no_false_alarm(share, ratio, least, most):
    """A comparison of single requests would alarm at a third of these."""
    alarms = sum(alarmed(seed, share, ratio) for seed in range(30))
    assert least <= alarms / 30 <= most


def alarmed(seed, share, ratio, runs=1500):
    """Whether the pairs of one simulated canary, looked at after each, ever say that it is slower than 1.1 times."""
    random, clock = np.random.default_rng(seed), Clock()
    collector = Collector(clock)
    base = Watched(canary="c1", route="m", step=0, stable="v1.0", to="v2.0", ratio=1.1)
    collector.watch([base])
    stalled = {"v1.0": 0.0, "v2.0": 0.0, "both": 0.0}
    alarm, limit = False, math.log(2 / 0.05)
    for number in range(runs):
        clock.now += float(random.exponential(0.02))
        arm = "v2.0" if random.random() < share else "v1.0"
        for where, chance in (("v1.0", 0.001), ("v2.0", 0.001), ("both", 0.0005)):
            if random.random() < chance:
                stalled[where] = clock.now + 0.4
        slow = 4.0 if clock.now < max(stalled[arm], stalled["both"]) else 1.0
        time_ms = 20 * float(random.lognormal(0, 0.3)) * slow * (ratio if arm == "v2.0" else 1.0)
        collector.answered(run(arm, *[time_ms] * int(random.integers(1, 9))))
        if number == runs // 5:
            collector.drain()
            thresholds = collector.arm("c1", 0, "v1.0").thresholds()
            collector.watch([Watched(**{**vars(base), "threshold_ms": thresholds})])
        elif number > runs // 5 and number % 40 == 0:
            collector.drain()
            pairs = collector.arm("c1", 0, "v2.0").pairs[95]
            alarm |= pairs.discordant >= 5 and float(log_e_worse(pairs.discordant, pairs.canary_only, HALF)) >= limit
    return alarm
