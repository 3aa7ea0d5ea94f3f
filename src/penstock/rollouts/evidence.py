"""What was counted for one arm of a route during one step, by one process or, merged, by all of them.

The counters only grow. Processes store them as they are, never differences: a write that is repeated or lost changes
nothing, and the sum over the processes is what happened.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Self

from penstock.monitor.key_sample import KeySample

STEPS = 32
"""Buckets of latency for each doubling: 2.2 % wide, fine enough to show a ratio of 1.1."""
QUANTILES = (95, 99)
"""The percentiles of the stable arm that latencies of both arms are compared with."""
WINDOW_REQUESTS = 100
"""Requests of the stable arm in one window, whose percentiles are kept."""
WINDOWS = 9
"""Windows kept by each process: the median of several is not misled by a stall in one."""
LEAST_WINDOWS = 3
EXAMPLES = 5
"""The worst disagreements kept."""


def bucket_of(ms: float) -> int:
    """The bucket of a latency in milliseconds."""
    return int(math.log2(ms * 1000 + 1) * STEPS)


def middle_of(bucket: int) -> float:
    """The latency in milliseconds in the middle of a bucket."""
    return float((2 ** ((bucket + 0.5) / STEPS) - 1) / 1000)


@dataclass
class Pairs:
    """Latencies compared in pairs, one of each arm at nearly the same time, by percentile of the stable arm.

    `canary_only` counts the pairs in which only the canary was slow, `stable_only` those in which only the stable arm
    was.
    """

    compared: int = 0
    canary_only: int = 0
    stable_only: int = 0

    def add(self, other: Pairs) -> None:
        """Add the counts of another one."""
        self.compared += other.compared
        self.canary_only += other.canary_only
        self.stable_only += other.stable_only

    @property
    def discordant(self) -> int:
        """The pairs that say something: those in which one arm was slow."""
        return self.canary_only + self.stable_only


@dataclass
class Shadowed:
    """Answers of both versions to the same requests.

    `kl` is the sum of the Kullback-Leibler divergences in nats, where the outputs are probabilities; `failures` are
    requests that the new version did not answer, `skipped` those that it was not asked for lack of room.
    """

    compared: int = 0
    disagreed: int = 0
    failures: int = 0
    skipped: int = 0
    max_abs: float = 0.0
    kl: float = 0.0
    kl_count: int = 0
    differences: Counter[int] = field(default_factory=Counter)
    """The largest absolute difference of each request, by its decimal exponent."""
    worst: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: Shadowed) -> None:
        """Add the counts of another one, and keep the worst examples of both."""
        for name in ("compared", "disagreed", "failures", "skipped", "kl", "kl_count"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_abs = max(self.max_abs, other.max_abs)
        self.differences.update(other.differences)
        self.worst = sorted([*self.worst, *other.worst], key=lambda each: -each["max_abs"])[:EXAMPLES]

    def to_document(self) -> dict[str, Any]:
        """The counters as JSON can carry them."""
        return vars(self) | {"differences": {str(key): count for key, count in self.differences.items()}}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The counters of a document."""
        differences = {int(key): count for key, count in document.get("differences", {}).items()}
        return cls(**{**document, "differences": Counter(differences)})


@dataclass
class ArmEvidence:
    """One arm in one step. Answers from the cache, faults of callers and repeated failures of a key do not count."""

    requests: int = 0
    failures: int = 0
    latencies: Counter[int] = field(default_factory=Counter)
    """Answered requests by bucket of their total time."""
    pairs: dict[int, Pairs] = field(default_factory=lambda: {quantile: Pairs() for quantile in QUANTILES})
    windows: list[list[float]] = field(default_factory=list)
    """The percentiles of the newest windows, in milliseconds, oldest first."""
    classes: Counter[str] = field(default_factory=Counter)
    confidences: Counter[int] = field(default_factory=Counter)
    """Sampled answers by their class, and by their confidence in steps of 5 %."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failures by what went wrong."""
    shadow: Shadowed = field(default_factory=Shadowed)
    keys: KeySample = field(default_factory=KeySample)
    """Of a route that is split: a sample of the clients."""
    dropped: int = 0
    """Answers that could not be looked at for lack of time."""

    def add(self, other: ArmEvidence) -> None:
        """Add the counts of another one."""
        self.requests += other.requests
        self.failures += other.failures
        self.dropped += other.dropped
        for name in ("latencies", "classes", "confidences", "errors"):
            getattr(self, name).update(getattr(other, name))
        for quantile, pairs in other.pairs.items():
            self.pairs[quantile].add(pairs)
        self.windows = [*self.windows, *other.windows]
        self.keys.merge(other.keys)
        self.shadow.add(other.shadow)

    @property
    def error_rate(self) -> float | None:
        """Failures by requests, None without a request."""
        return self.failures / self.requests if self.requests else None

    def percentile(self, percent: float) -> float | None:
        """A percentile of the latencies in milliseconds, off by 1.1 % at most; None without an answer."""
        left = sum(self.latencies.values()) * percent / 100
        for bucket in sorted(self.latencies):
            left -= self.latencies[bucket]
            if left <= 0:
                return middle_of(bucket)
        return None

    def thresholds(self) -> tuple[float, ...] | None:
        """The medians over the windows of each percentile, None before there are enough windows."""
        if len(self.windows) < LEAST_WINDOWS:
            return None
        return tuple(median(column) for column in zip(*self.windows, strict=True))

    def to_document(self) -> dict[str, Any]:
        """The counters as JSON can carry them."""
        counters = ("latencies", "classes", "confidences", "errors")
        return {
            "requests": self.requests,
            "failures": self.failures,
            "dropped": self.dropped,
            **{name: {str(key): count for key, count in getattr(self, name).items()} for name in counters},
            "pairs": {str(quantile): vars(pairs).copy() for quantile, pairs in self.pairs.items()},
            "windows": self.windows,
            "keys": self.keys.to_document(),
            "shadow": self.shadow.to_document(),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The counters of a document, those that this release knows."""
        found = cls(**{name: document.get(name, 0) for name in ("requests", "failures", "dropped")})
        found.windows = [list(window) for window in document.get("windows", ())]
        for name in ("classes", "errors"):
            getattr(found, name).update(document.get(name, {}))
        for name in ("latencies", "confidences"):
            getattr(found, name).update({int(key): count for key, count in document.get(name, {}).items()})
        for quantile, counts in document.get("pairs", {}).items():
            found.pairs[int(quantile)] = Pairs(**counts)
        found.keys = KeySample.of(document.get("keys", {}))
        found.shadow = Shadowed.of(document.get("shadow", {}))
        return found


def merge(parts: Iterable[ArmEvidence]) -> ArmEvidence:
    """The sum of what several processes counted. Changes none of them."""
    total = ArmEvidence()
    for part in parts:
        total.add(part)
    return total


@dataclass
class StepEvidence:
    """Both arms during one step."""

    stable: ArmEvidence = field(default_factory=ArmEvidence)
    canary: ArmEvidence = field(default_factory=ArmEvidence)
