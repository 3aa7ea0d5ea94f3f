"""Which of the versions that share the requests of a route is better: pure functions of what was counted.

Every version is compared with the one that has the greatest weight, in three rates: failed requests, unsure answers,
and wrong answers among those with a label. The tests hold however often one looks. Latencies are shown and not tested:
requests of one run share their time, which makes any test of single requests alarm without cause.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from penstock.rollouts.evidence import ArmEvidence
from penstock.rollouts.sequential import (
    MIN_MISMATCH_KEYS,
    Interval,
    canary_share_of_failures,
    is_mismatch,
    log_e_mismatch,
    rate_difference,
)

Verdict: TypeAlias = Literal["better", "worse", "open", "no_data", "refused"]

ALPHA = 0.05
"""The chance that any of the verdicts about a route is wrong, over all versions, rates and looks."""
ALPHA_LABELS = 0.01
"""The chance that a verdict about wrong answers is refused although both versions get as many labels."""
LEAST_TRIALS = 20
UNSURE_BELOW = 10
"""The first step of confidence that is not unsure, in steps of 5 %: half."""
MEASURES = ("errors", "unsure", "wrong")
_WORDS = {"errors": "failed", "unsure": "unsure (confidence below 50 %)", "wrong": "wrong of those with a label"}


@dataclass(frozen=True)
class Labels:
    """Logged predictions of one version: how many, how many with a label, with one that fits a class, and right."""

    recorded: int = 0
    labelled: int = 0
    judged: int = 0
    correct: int = 0


@dataclass(frozen=True)
class ArmFigures:
    """What is known about one version: its weight, what the processes have counted, and its labels."""

    version: str
    weight: int
    evidence: ArmEvidence
    labels: Labels = Labels()

    def rate(self, measure: str) -> tuple[int, int]:
        """How many were looked at, and how many of them were bad."""
        if measure == "errors":
            return self.evidence.requests, self.evidence.failures
        if measure == "wrong":
            return self.labels.judged, self.labels.judged - self.labels.correct
        confidences = self.evidence.confidences
        return confidences.total(), sum(count for step, count in confidences.items() if step < UNSURE_BELOW)


@dataclass(frozen=True)
class Comparison:
    """One rate of a version against that of the first one. A difference below 0 is an improvement.

    `low` and `high` bound the difference at any time; None for rates that are too rare for that. `e` is the evidence
    that the rates differ, of which a verdict needs `needed`.
    """

    version: str
    measure: str
    verdict: Verdict
    difference: float | None
    low: float | None
    high: float | None
    ratio: float | None
    e: float
    needed: float
    sentence: str


def compared(arms: Sequence[ArmFigures], *, placed_by_key: bool) -> list[Comparison]:
    """Every version but the first against the first one.

    `placed_by_key` says that the counted keys are those by which clients are placed; without it, nothing can tell
    whether the shares of the clients are those of the weights.
    """
    first, *others = arms
    alpha = ALPHA / (len(MEASURES) * max(1, len(others)))
    return [
        _compared(first, other, measure, alpha, mismatch(first, other) if placed_by_key else "")
        for other in others
        for measure in MEASURES
    ]


def mismatch(first: ArmFigures, other: ArmFigures) -> str:
    """Why the clients of two versions cannot be compared: their numbers are not those of the weights. Else empty."""
    keys = [each.evidence.keys for each in (first, other)]
    halvings = max(each.halvings for each in keys)
    known, taken = (len(each.below(halvings)) for each in keys)
    share = other.weight / (first.weight + other.weight)
    if not is_mismatch(known + taken, taken, share):
        return ""
    return (
        f"{other.version} has {taken / (known + taken):.1%} of the clients of both, not {share:.1%}; look for a rule, "
        "a fallback, or a version that was not ready"
    )


def _compared(first: ArmFigures, other: ArmFigures, measure: str, alpha: float, refused: str) -> Comparison:
    n, s = zip(first.rate(measure), other.rate(measure), strict=True)
    refused = refused or (_labels_differ(first, other) if measure == "wrong" else "")
    rates = [bad / of if of else None for of, bad in zip(n, s, strict=True)]
    interval, log_e = _tested((n[0], n[1]), (s[0], s[1]), alpha)
    verdict = _verdict(min(n), rates, interval, log_e, alpha)
    difference = None if None in rates else (rates[1] or 0.0) - (rates[0] or 0.0)
    return Comparison(
        version=other.version,
        measure=measure,
        verdict="refused" if refused and verdict != "no_data" else verdict,
        difference=difference,
        low=None if interval is None else interval.difference - interval.half_width,
        high=None if interval is None else interval.difference + interval.half_width,
        ratio=rates[1] / rates[0] if rates[0] and rates[1] is not None else None,
        e=math.exp(min(log_e, 13.8)),
        needed=2 / alpha,
        sentence=_sentence(first, other, measure, verdict, interval, refused),
    )


def _tested(n: tuple[int, int], s: tuple[int, int], alpha: float) -> tuple[Interval | None, float]:
    """The interval of the difference where there is one, and the logarithm of the evidence that the rates differ.

    Of the bad ones, those of the second version are its share of the trials if the rates are equal. Each of the two
    tests gets half of alpha.
    """
    if not all(n):
        return None, 0.0
    share = canary_share_of_failures(n[1] / sum(n), 1.0)
    return rate_difference(n, s, alpha / 2), float(log_e_mismatch(sum(s), s[1], share))


def _verdict(
    least: int, rates: Sequence[float | None], interval: Interval | None, log_e: float, alpha: float
) -> Verdict:
    before, now = rates
    if least < LEAST_TRIALS or before is None or now is None:
        return "no_data"
    differs = log_e >= math.log(2 / alpha) or (interval is not None and interval.excludes_zero)
    if not differs or before == now:
        return "open"
    return "worse" if now > before else "better"


def _labels_differ(first: ArmFigures, other: ArmFigures) -> str:
    """Why wrong answers cannot be compared: one version gets more labels for its predictions. Else empty."""
    recorded = [each.labels.recorded for each in (first, other)]
    labelled = [each.labels.labelled for each in (first, other)]
    if not all(recorded) or not sum(labelled):
        return ""
    log_e = log_e_mismatch(sum(labelled), labelled[1], recorded[1] / sum(recorded))
    if log_e < math.log(1 / ALPHA_LABELS):
        return ""
    shares = [f"{part / whole:.1%}" for part, whole in zip(labelled, recorded, strict=True)]
    return (
        f"{shares[1]} of the predictions of {other.version} have a label and {shares[0]} of those of {first.version}, "
        "so the labels are of different cases"
    )


def _sentence(
    first: ArmFigures,
    other: ArmFigures,
    measure: str,
    verdict: Verdict,
    interval: Interval | None,
    refused: str,
) -> str:
    """One line with all figures."""
    parts = [f"{bad:,} of {of:,}{_rate(bad, of)}" for of, bad in (other.rate(measure), first.rate(measure))]
    bounds = ""
    if interval is not None:
        low, high = (100 * (interval.difference + side * interval.half_width) for side in (-1, 1))
        bounds = f", difference {100 * interval.difference:+.2f} points ({low:+.2f} to {high:+.2f})"
    words = f"{_WORDS[measure]}: {other.version} {parts[0]}, {first.version} {parts[1]}{bounds}"
    if verdict == "no_data":
        return f"{words}: {_missing(measure)}"
    return f"{words}: {f'no verdict, {refused}' if refused else verdict}"


def _rate(bad: int, of: int) -> str:
    return f" ({bad / of:.2%})" if of else ""


def _missing(measure: str) -> str:
    if measure == "wrong":
        return f"no data; each version needs {LEAST_TRIALS} predictions with a label (POST /feedback)"
    return f"no data; each version needs {LEAST_TRIALS}"


def notes(arms: Sequence[ArmFigures], *, placed_by_key: bool, rules: bool) -> Iterator[str]:
    """What a reader of the figures should know."""
    if not placed_by_key:
        yield "clients are placed by something that is not counted, so their shares are not compared with the weights"
    elif min(len(each.evidence.keys.hashes) for each in arms) < MIN_MISMATCH_KEYS / 2:
        yield f"the shares of the clients are compared with the weights from about {MIN_MISMATCH_KEYS:,} clients on"
    if rules:
        yield "requests that a rule sends to a version count for it, although they are not drawn"
    if dropped := sum(each.evidence.dropped for each in arms):
        yield f"{dropped:,} requests could not be counted for lack of time"
