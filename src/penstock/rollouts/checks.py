"""The checks of a canary: each limit against the evidence of all its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from penstock.monitor.sequential_test import log_e_better, log_e_worse
from penstock.rollouts.evidence import QUANTILES, ArmEvidence, Pairs, Shadowed, StepEvidence, merge
from penstock.rollouts.sequential import HALF, canary_share_of_failures
from penstock.rollouts.spec import CanarySpec

Verdict: TypeAlias = Literal["breach", "proved", "open", "no_data"]

LEAST_TRIALS = 20
LEAST_BAD = 3
LEAST_DISCORDANT = 5
"""What a breach needs at least: the first request of all may fail by chance."""
BETA = 0.05
"""The chance that a check calls proved what is exactly at its limit."""
_SHOWN_E = 1e6


@dataclass(frozen=True)
class Check:
    """One limit and what the evidence says about it: n trials, s bad ones, their evidence E against the limit.

    `needed` is the E of a breach. `above` is True where the estimate is above the limit, `figures` says it in words.
    """

    name: str
    verdict: Verdict
    n: int
    s: int
    e: float
    needed: float
    above: bool
    figures: str

    def to_document(self) -> dict[str, Any]:
        """The check as JSON."""
        return vars(self) | {"e": min(self.e, _SHOWN_E)}

    def __str__(self) -> str:
        e = f"{_SHOWN_E:.0e} or more" if self.e >= _SHOWN_E else f"{self.e:.2g}"
        return f"{self.figures}, E {e} of {self.needed:.0f}: {self.verdict.replace('_', ' ')}"


def run_checks(
    spec: CanarySpec, steps: Mapping[int, StepEvidence], threshold_ms: Sequence[float] | None
) -> list[Check]:
    """Every limit of the plan against the evidence of all steps."""
    canary = merge(step.canary for step in steps.values())
    checks: list[Check] = []
    if spec.max_error_rate is not None:
        checks.append(error_check(spec, canary))
    if spec.max_error_ratio is not None:
        checks.append(_ratio_check(spec, spec.max_error_ratio, steps.values()))
    if spec.max_p99_ratio is not None:
        checks.extend(_latency_checks(spec, spec.max_p99_ratio, canary, threshold_ms))
    if spec.max_disagreement is not None:
        checks.append(_disagreement_check(spec, spec.max_disagreement, canary.shadow))
    return checks


def error_check(spec: CanarySpec, canary: ArmEvidence) -> Check:
    """Failures of the canary against the highest rate allowed."""
    limit = spec.max_error_rate or 0.0
    n, s = canary.requests, canary.failures
    rate = f" ({s / n:.2%})" if n else ""
    figures = f"errors {s:,} of {n:,}{rate}, limit {limit:.3g}{_commonest(canary)}"
    return _check("errors", n, s, limit, spec, figures)


def _commonest(arm: ArmEvidence) -> str:
    found = arm.errors.most_common(1)
    return f" (mostly {found[0][0]})" if found else ""


def _disagreement_check(spec: CanarySpec, limit: float, shadow: Shadowed) -> Check:
    """Shadowed requests that the new version answered otherwise, or not at all."""
    n, s = shadow.compared + shadow.failures, shadow.disagreed + shadow.failures
    rate = f" ({s / n:.2%})" if n else ""
    return _check("disagreement", n, s, limit, spec, f"disagreement {s:,} of {n:,}{rate}, limit {limit:.3g}")


def _check(name: str, n: int, s: int, limit: float, spec: CanarySpec, figures: str) -> Check:
    log_worse = float(log_e_worse(n, s, limit))
    breached = n >= LEAST_TRIALS and s >= LEAST_BAD
    verdict = _verdict(n, breached, log_worse, float(log_e_better(n, s, limit)), spec.alpha_each, spec)
    return Check(name, verdict, n, s, _exp(log_worse), 1 / spec.alpha_each, n > 0 and s / n > limit, figures)


def _verdict(
    n: int, breach_counts: bool, log_worse: float, log_better: float, alpha: float, spec: CanarySpec
) -> Verdict:
    if breach_counts and log_worse >= math.log(1 / alpha):
        return "breach"
    if n < min(LEAST_TRIALS, spec.min_requests):
        return "no_data"
    return "proved" if log_better >= math.log(1 / BETA) else "open"


def _ratio_check(spec: CanarySpec, ratio: float, steps: Iterable[StepEvidence]) -> Check:
    """Failures of both arms; the evidence of steps multiplies, since the canary's share differs in each."""
    worse = better = 0.0
    trials = failures = requests = of_canary = 0
    for step in steps:
        total = step.canary.requests + step.stable.requests
        if not step.canary.requests or not step.stable.requests:
            continue
        limit = canary_share_of_failures(step.canary.requests / total, ratio)
        n, s = step.canary.failures + step.stable.failures, step.canary.failures
        worse += float(log_e_worse(n, s, limit))
        better += float(log_e_better(n, s, limit))
        trials, failures, requests = trials + n, failures + s, requests + total
        of_canary += step.canary.requests
    figures = (
        f"errors against {spec.stable} {failures:,} of {of_canary:,} to {trials - failures:,} of "
        f"{requests - of_canary:,}, limit {ratio:g} times"
    )
    breached = trials >= LEAST_DISCORDANT and failures >= LEAST_BAD
    verdict = _verdict(min(of_canary, requests - of_canary), breached, worse, better, spec.alpha_each, spec)
    above = bool(trials > failures) and failures * (requests - of_canary) > ratio * (trials - failures) * of_canary
    return Check("error ratio", verdict, trials, failures, _exp(worse), 1 / spec.alpha_each, above, figures)


def _latency_checks(
    spec: CanarySpec, ratio: float, canary: ArmEvidence, threshold_ms: Sequence[float] | None
) -> Iterator[Check]:
    shown = canary.percentile(99)
    for index, quantile in enumerate(QUANTILES):
        known = f"{threshold_ms[index]:.3g} ms" if threshold_ms else "not yet known"
        seen = f", p99 {shown:.3g} ms" if shown is not None and quantile == QUANTILES[-1] else ""
        yield _pairs_check(spec, quantile, canary.pairs[quantile], f"limit {ratio:g} times {known}{seen}")


def _pairs_check(spec: CanarySpec, quantile: int, pairs: Pairs, limit: str) -> Check:
    n, s, alpha = pairs.discordant, pairs.canary_only, spec.alpha_each / len(QUANTILES)
    worse = float(log_e_worse(n, s, HALF))
    verdict = _verdict(pairs.compared, n >= LEAST_DISCORDANT, worse, float(log_e_better(n, s, HALF)), alpha, spec)
    above = n >= LEAST_DISCORDANT and s - pairs.stable_only > math.sqrt(n)
    figures = f"p{quantile} only {spec.to} slow in {s:,} of {n:,} pairs that differ (of {pairs.compared:,}), {limit}"
    return Check(f"p{quantile} latency", verdict, n, s, _exp(worse), 1 / alpha, above, figures)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
