"""What is decided about canaries: simulated ones, and single situations."""

from dataclasses import replace

import pytest
from simulated_canaries import AT_ITS_LIMITS, PLAN, THRESHOLD_MS, Candidate, outcomes

from penstock.rollouts.analysis import PREPARING, CanaryState, Evidence, Readiness, decide, local_breach
from penstock.rollouts.evidence import ArmEvidence, Pairs, Shadowed, StepEvidence

RUNNING = CanaryState("running", 0, 1000.0, THRESHOLD_MS)
READY = Readiness(2, 2)


def evidence(canary=None, stable=None, step=0, readiness=READY):
    return Evidence({step: StepEvidence(stable or healthy(), canary or healthy())}, readiness)


def healthy(requests=200, failures=0, compared=400, disagreed=8, slow=(3, 8)):
    pairs = {95: Pairs(requests, *slow), 99: Pairs(requests, 1, 2)}
    return ArmEvidence(requests, failures, pairs=pairs, shadow=Shadowed(compared=compared, disagreed=disagreed))


# Simulated canaries: the long version of these figures is in docs/rollouts.md


def test_canaries_exactly_at_all_their_limits_are_seldom_rolled_back():
    shares, _ = outcomes(AT_ITS_LIMITS, 100, tick_s=10.0)
    assert shares.get("rollback", 0) <= 0.05
    assert shares["pause"] > 0.2


@pytest.mark.parametrize("candidate", [Candidate(), Candidate(errors=0.002, disagreement=0.036)])
def test_good_versions_are_promoted_as_soon_as_the_holds_allow(candidate):
    shares, runs = outcomes(candidate, 20, tick_s=5.0)
    assert shares == {"promote": 1.0}
    assert sorted(run.seconds for run in runs)[10] == 240.0


@pytest.mark.parametrize(
    ("candidate", "within_s"),
    [(Candidate(errors=0.05), 200), (Candidate(slow=(0.95, 0.9)), 20), (Candidate(disagreement=0.9), 10)],
)
def test_bad_versions_are_rolled_back_early(candidate, within_s):
    shares, runs = outcomes(candidate, 20, tick_s=2.0)
    assert shares == {"rollback": 1.0}
    assert sorted(run.seconds for run in runs)[10] <= within_s


def test_a_version_a_little_slower_than_allowed_is_not_promoted():
    shares, _ = outcomes(Candidate(slow=(0.12, 0.04)), 20, tick_s=6.0)
    assert "promote" not in shares


# Single situations


def test_a_canary_advances_when_the_hold_is_over_and_both_arms_have_their_requests():
    decision = decide(PLAN, RUNNING, evidence(), 1060.0)
    assert decision.action == "advance"
    assert decision.sentence == (
        "advanced to 5 % after 60 s at 1 %: errors 0 of 200 (0.00%), limit 0.01, E 0.048 of 60: open; "
        "p95 only v2.0 slow in 3 of 11 pairs that differ (of 200), limit 1.1 times 10 ms, E 0.078 of 120: open; "
        "p99 only v2.0 slow in 1 of 3 pairs that differ (of 200), limit 1.1 times 20 ms, E 0.27 of 120: open; "
        "disagreement 8 of 400 (2.00%), limit 0.05, E 0.0095 of 60: proved"
    )


@pytest.mark.parametrize(
    ("canary", "stable", "missing"),
    [
        (healthy(requests=60), healthy(), "40 requests of v2.0"),
        (healthy(), healthy(requests=99), "1 requests of v1.0"),
        (healthy(compared=0, disagreed=0), healthy(), "data for disagreement"),
        (healthy(requests=200, failures=3), healthy(), "an estimate below the limit of errors"),
        (healthy(slow=(20, 8)), healthy(), "an estimate below the limit of p95 latency"),
    ],
)
def test_a_canary_holds_and_says_what_is_missing(canary, stable, missing):
    decision = decide(PLAN, RUNNING, evidence(canary, stable), 1100.0)
    assert decision.action == "hold"
    assert decision.sentence.endswith(f"; missing: {missing}")


def test_strict_waits_for_proof_of_every_limit():
    decision = decide(replace(PLAN, strict=True), RUNNING, evidence(), 1100.0)
    assert decision.action == "hold"
    assert "proof of errors" in decision.sentence
    proven = healthy(requests=2000, slow=(5, 50))
    proven.pairs[99] = Pairs(2000, 1, 30)
    assert decide(replace(PLAN, strict=True), RUNNING, evidence(proven), 1100.0).action == "advance"


@pytest.mark.parametrize("phase", ["running", "paused", "baking"])
def test_a_breach_rolls_back_in_every_phase(phase):
    state = replace(RUNNING, phase=phase)
    decision = decide(PLAN, state, evidence(healthy(failures=20)), 1001.0)
    assert decision.action == "rollback"
    assert "errors 20 of 200 (10.00%), limit 0.01" in decision.sentence


def test_one_failed_request_of_the_first_ones_is_no_breach():
    assert decide(PLAN, RUNNING, evidence(healthy(requests=1, failures=1)), 1001.0).action == "hold"
    assert decide(PLAN, RUNNING, evidence(healthy(requests=25, failures=2)), 1001.0).action == "hold"


@pytest.mark.parametrize("choice", ["pause", "rollback", "advance"])
@pytest.mark.parametrize("phase_step", [0, 2])
def test_without_traffic_a_canary_is_paused_after_the_longest_hold_whatever_was_chosen(choice, phase_step):
    spec, state = replace(PLAN, on_inconclusive=choice), replace(RUNNING, step=phase_step)
    nothing = Evidence({}, READY)
    assert decide(spec, state, nothing, 1000.0 + PLAN.max_hold_s).action == "hold"
    decision = decide(spec, state, nothing, 1001.0 + PLAN.max_hold_s)
    assert decision.action == "pause"
    assert "its longest hold is over" in decision.sentence
    assert "100 requests of v2.0" in decision.sentence


@pytest.mark.parametrize(("choice", "action"), [("pause", "pause"), ("rollback", "rollback"), ("advance", "advance")])
def test_too_little_evidence_after_the_longest_hold_does_what_the_plan_says(choice, action):
    little = evidence(healthy(), healthy(requests=99))
    assert decide(replace(PLAN, on_inconclusive=choice), RUNNING, little, 9999.0).action == action


def test_an_estimate_above_its_limit_is_never_advanced_as_inconclusive():
    above = evidence(healthy(failures=3))
    assert decide(replace(PLAN, on_inconclusive="advance"), RUNNING, above, 9999.0).action == "pause"


def test_a_paused_canary_stays_until_it_is_resumed():
    decision = decide(PLAN, replace(RUNNING, phase="paused"), evidence(), 99_999.0)
    assert decision.action == "hold"
    assert "until it is resumed" in decision.sentence


def test_the_step_before_the_last_leads_to_the_promotion():
    decision = decide(PLAN, replace(RUNNING, step=3), evidence(step=3), 1060.0)
    assert decision.action == "promote"
    assert decision.sentence.startswith("promoted after 60 s at 50 %")


def test_the_old_version_stays_loaded_until_the_bake_time_is_over():
    state = replace(RUNNING, phase="baking", step=4)
    assert decide(PLAN, state, evidence(step=3), 1599.0).action == "hold"
    assert decide(PLAN, state, evidence(step=3), 1600.0).action == "advance"


def test_nothing_is_decided_about_a_canary_that_has_ended():
    for phase in ("promoted", "rolled_back"):
        assert decide(PLAN, replace(RUNNING, phase=phase), evidence(healthy(failures=200)), 9999.0).action == "hold"


# Before the first request

WAITING = CanaryState("preparing", PREPARING, 1000.0)
WARM = replace(PLAN, warmup_s=6.0)


def test_no_request_goes_to_a_version_before_every_process_has_proven_it():
    decision = decide(PLAN, WAITING, evidence(step=PREPARING, readiness=Readiness(1, 2)), 1010.0)
    assert (decision.action, decision.sentence) == (
        "hold",
        "holds 10 s at 0 %: v2.0 is loaded and proven in 1 of 2 processes",
    )
    assert decide(PLAN, WAITING, evidence(step=PREPARING, readiness=Readiness(0, 0)), 1010.0).action == "hold"
    assert decide(PLAN, WAITING, evidence(step=PREPARING), 1010.0).action == "advance"


def test_a_version_that_fails_its_golden_samples_is_rolled_back_before_its_first_request():
    failed = Readiness(1, 2, "v2.0 disagrees with its golden samples")
    decision = decide(PLAN, WAITING, evidence(step=PREPARING, readiness=failed), 1001.0)
    assert decision.action == "rollback"
    assert decision.sentence == "rolled back before its first request: v2.0 disagrees with its golden samples"


def test_a_version_that_no_process_loads_pauses_the_canary_in_the_end():
    late = decide(PLAN, WAITING, evidence(step=PREPARING, readiness=Readiness(0, 2)), 1001.0 + PLAN.max_hold_s)
    assert late.action == "pause"
    assert decide(PLAN, replace(WAITING, phase="paused"), evidence(readiness=READY), 99_999.0).action == "hold"


def test_the_latencies_of_the_stable_version_are_measured_before_the_first_step():
    stable = healthy()
    assert decide(WARM, WAITING, evidence(stable=stable, step=PREPARING), 1005.0).action == "hold"
    stable.windows = [[10.0, 20.0], [11.0, 21.0], [90.0, 99.0]]
    decision = decide(WARM, WAITING, evidence(stable=stable, step=PREPARING), 1005.0)
    assert (decision.action, decision.threshold_ms) == ("advance", (11.0, 21.0))


def test_latencies_not_known_before_the_first_step_are_taken_as_soon_as_they_are():
    stable = healthy(requests=10)
    stable.windows = [[10.0, 20.0]] * 3
    decision = decide(PLAN, replace(RUNNING, threshold_ms=None), evidence(stable=stable), 1005.0)
    assert (decision.action, decision.threshold_ms) == ("hold", (10.0, 20.0))


def test_one_process_alone_sees_that_a_version_fails():
    assert local_breach(PLAN, ArmEvidence(requests=200)) == ""
    assert "errors 20 of 200" in local_breach(PLAN, ArmEvidence(requests=200, failures=20))
    assert local_breach(replace(PLAN, max_error_rate=None), ArmEvidence(requests=200, failures=20)) == ""


def test_failures_against_the_stable_version_are_compared_by_step():
    spec = replace(PLAN, max_error_rate=None, max_error_ratio=1.5, max_p99_ratio=None, max_disagreement=None)
    steps = {step: StepEvidence(healthy(2000, 20), healthy(200 * (step + 1), 2 * (step + 1))) for step in range(3)}
    calm = decide(spec, replace(RUNNING, step=2), Evidence(steps, READY), 1060.0)
    assert calm.action == "advance"
    assert "errors against v1.0 12 of 1,200 to 60 of 6,000, limit 1.5 times" in calm.sentence
    steps[2].canary.failures = 60
    assert decide(spec, replace(RUNNING, step=2), Evidence(steps, READY), 1060.0).action == "rollback"
