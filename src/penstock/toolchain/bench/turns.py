"""Comparisons in turn: which of two things is faster on a machine whose speed changes while they are measured."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from penstock.errors import InvalidInput

Side = Callable[[], float]
"""Measures once, and returns seconds (or any figure above zero of which less is better)."""

DRIFT = 0.10
"""A baseline that moves by more than this share makes a figure doubtful."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast the second of two sides is as the first: the median, with a confidence interval.

    Above 1 the second is faster. With too few rounds for an interval at `confidence`, it reaches from 0 to infinity.
    `drift` is by which share the first side's own figures moved while it was measured.
    """

    median: float
    low: float
    high: float
    rounds: int
    confidence: float
    drift: float = 0.0

    @property
    def differs(self) -> bool:
        """True when the interval does not hold 1: the difference is more than noise."""
        return self.low > 1.0 or self.high < 1.0

    @property
    def faster(self) -> bool:
        """True when the second side is shown to be faster."""
        return self.low > 1.0

    @property
    def warning(self) -> str | None:
        """A sentence when the baseline moved by more than 10 %, else None."""
        if self.drift <= DRIFT:
            return None
        return f"the baseline moved by {self.drift:.0%} while it was measured: other work runs on this machine"

    def to_json(self) -> dict[str, float | int | bool | None]:
        """As in reports; an end of the interval that is not known is null."""
        low, high = (end if 0 < end < math.inf else None for end in (self.low, self.high))
        return {
            "median": self.median,
            "low": low,
            "high": high,
            "confidence": self.confidence,
            "rounds": self.rounds,
            "differs": self.differs,
            "baseline_drift": self.drift,
        }


def in_turn(
    a: Side, b: Side, *, rounds: int = 15, confidence: float = 0.95, seconds: float | None = None, least: int = 6
) -> Ratio:
    """How many times as fast `b` is as `a`, the baseline, each measured once a round.

    The order alternates, and each round gives one ratio of two measurements that lie next to each other in time, so
    that a machine which becomes slower for a while changes both. The interval is that of the sign test for the median
    of the ratios (Conover, Practical Nonparametric Statistics, 3rd edition, 3.2): it assumes nothing of how they are
    distributed, and two equal sides differ significantly in at most `1 - confidence` of all comparisons. Beyond
    `seconds` no round begins, once there were `least`.
    """
    taken = take_turns({"a": a, "b": b}, rounds=rounds, seconds=seconds, least=least)
    return ratio_of(taken["a"], taken["b"], confidence=confidence)


def take_turns(
    sides: Mapping[str, Side], *, rounds: int, seconds: float | None = None, least: int = 6
) -> dict[str, list[float]]:
    """What each side measured, once a round; every second round goes through them in the opposite order."""
    if rounds < 1:
        raise InvalidInput(f"rounds: {rounds} is not a number of rounds; use 1 or more", field="rounds")
    taken: dict[str, list[float]] = {name: [] for name in sides}
    ends = math.inf if seconds is None else time.monotonic() + seconds
    for number in range(rounds):
        if number >= least and time.monotonic() > ends:
            break
        for name in list(sides)[:: -1 if number % 2 else 1]:
            taken[name].append(sides[name]())
    return taken


def ratio_of(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Ratio:
    """The ratio of `a` to `b`, round by round, with its interval; see `in_turn`.

    Raises InvalidInput for another number of rounds in `b`, for none, and for figures that are not above zero.
    """
    if len(a) != len(b) or not a:
        raise InvalidInput(f"rounds: {len(a)} of one side and {len(b)} of the other cannot be compared", field="rounds")
    if not all(0 < figure < math.inf for figure in (*a, *b)):
        raise InvalidInput("rounds: a figure is not above zero, so that it has no ratio", field="rounds")
    ratios = sorted(one / other for one, other in zip(a, b, strict=True))
    outside = values_outside(len(ratios), confidence)
    low, high = (ratios[outside], ratios[-1 - outside]) if outside is not None else (0.0, math.inf)
    return Ratio(statistics.median(ratios), low, high, len(ratios), confidence, drift_of(a))


def values_outside(count: int, confidence: float) -> int | None:
    """How many of `count` sorted values to leave out at each end so that the rest holds the median with `confidence`.

    The number of values below the median is binomial with one half. None when even all of them do not suffice.
    """
    tail, outside = 0.0, None
    for below in range((count + 1) // 2):
        tail += math.comb(count, below) / 2**count
        if 2 * tail > 1 - confidence:
            break
        outside = below
    return outside


def drift_of(figures: Sequence[float]) -> float:
    """By which share the medians of the first, the middle and the last third of the figures differ."""
    third = len(figures) // 3
    if not third:
        return 0.0
    parts = (figures[:third], figures[third:-third], figures[-third:])
    medians = [statistics.median(part) for part in parts]
    return max(medians) / min(medians) - 1
