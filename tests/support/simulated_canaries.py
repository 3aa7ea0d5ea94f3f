"""Canaries whose traffic is drawn at random and whose decisions are those of the product."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from penstock.rollouts.analysis import CanaryState, Evidence, Readiness, decide
from penstock.rollouts.evidence import Pairs, StepEvidence
from penstock.rollouts.spec import CanarySpec

PLAN = CanarySpec(
    stable="v1.0",
    to="v2.0",
    steps=(1, 5, 25, 50, 100),
    hold_s=60.0,
    max_hold_s=360.0,
    warmup_s=0.0,
    max_error_rate=0.01,
    max_p99_ratio=1.1,
    max_disagreement=0.05,
)
THRESHOLD_MS = (10.0, 20.0)


@dataclass(frozen=True)
class Candidate:
    """The chances per request: to fail, to disagree, to be slower than the limit times the stable arm's p95 and p99."""

    errors: float = 0.0
    disagreement: float = 0.022
    slow: tuple[float, float] = (0.03, 0.006)


STABLE = Candidate(errors=0.0, slow=(0.05, 0.01))
AT_ITS_LIMITS = Candidate(errors=0.01, disagreement=0.05, slow=STABLE.slow)


@dataclass(frozen=True)
class Outcome:
    """How a simulated canary ended, after how many seconds and requests of the canary."""

    action: str
    seconds: float
    requests: int
    share: int


def run(candidate: Candidate, seed: int, spec: CanarySpec = PLAN, rate: float = 200.0, tick_s: float = 1.0) -> Outcome:
    """One canary from its first request until it is promoted, rolled back or paused."""
    random, now, steps = np.random.default_rng(seed), 0.0, {}
    state = CanaryState("running", 0, 0.0, THRESHOLD_MS)
    while True:
        now += tick_s
        step = steps.setdefault(state.step, StepEvidence())
        _traffic(random, candidate, step, spec.steps[state.step] / 100, rate * tick_s, spec.shadow)
        decision = decide(spec, state, Evidence(steps, Readiness(1, 1)), now)
        if decision.action == "advance":
            state = replace(state, step=state.step + 1, entered_at=now)
        elif decision.action != "hold":
            requests = sum(step.canary.requests for step in steps.values())
            return Outcome(decision.action, now, requests, spec.steps[state.step])


def _traffic(random, candidate, step, share, expected, shadowed):
    total = random.poisson(expected)
    canary = random.binomial(total, share)
    for arm, n, version in ((step.canary, canary, candidate), (step.stable, total - canary, STABLE)):
        arm.requests += n
        arm.failures += random.binomial(n, version.errors)
    for index, quantile in enumerate((95, 99)):
        slow_canary, slow_stable = candidate.slow[index], STABLE.slow[index]
        only_canary = slow_canary * (1 - slow_stable)
        only_stable = slow_stable * (1 - slow_canary)
        pairs = min(canary, total - canary)
        drawn = random.multinomial(pairs, [only_canary, only_stable, 1 - only_canary - only_stable])
        step.canary.pairs[quantile].add(Pairs(pairs, int(drawn[0]), int(drawn[1])))
    compared = random.binomial(total - canary, shadowed)
    step.canary.shadow.compared += compared
    step.canary.shadow.disagreed += random.binomial(compared, candidate.disagreement)


def outcomes(candidate: Candidate, runs: int, **options: float) -> tuple[dict[str, float], list[Outcome]]:
    """The share of runs by how they ended, and the runs."""
    found = [run(candidate, seed, **options) for seed in range(runs)]
    counts = Counter(outcome.action for outcome in found)
    return {action: count / runs for action, count in counts.items()}, found
