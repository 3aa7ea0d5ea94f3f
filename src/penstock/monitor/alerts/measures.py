"""What an alert or a panel measures: as PromQL, and read from a history of pages, with the same result.

Every selector names metrics and labels of `/metrics`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from penstock.monitor.alerts.history import History, Labels
from penstock.option_types import parse_duration

Values: TypeAlias = dict[Labels, float]


class Reading(NamedTuple):
    """Values by labels; NaN where there is too little to judge by.

    `lacking` is the value of a combination that is not among them, None if that says nothing.
    """

    values: Values
    lacking: float | None = None


class Measure(Protocol):
    """A value for each combination of its labels."""

    def read(self, history: History) -> Reading:
        """The value now, with the condition applied."""

    @property
    def needs(self) -> Mapping[str, float]:
        """The metrics that it reads, and for how many seconds back."""

    @property
    def promql(self) -> str:
        """The value."""

    @property
    def enough(self) -> str:
        """The condition under which it says something; empty if it always does."""


@dataclass(frozen=True)
class Counter:
    """A counter, with the regular expressions that its labels have to match."""

    metric: str
    where: Mapping[str, str] | None = None

    def over(self, function: str, window: str, by: tuple[str, ...]) -> str:
        """Its `rate` or `increase`, summed over all other labels."""
        return f"{_sum(by)} ({function}({self.metric}{_selector(self.where)}[{window}]))"

    def increase(self, history: History, window: str, by: tuple[str, ...]) -> Values:
        """How much it has risen in the window, summed over all other labels."""
        return _summed(history.increases(self.metric, parse_duration(window)), by, self.where)


@dataclass(frozen=True)
class Rate:
    """Events a second."""

    of: Counter
    by: tuple[str, ...] = ()
    window: str = "5m"
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        return self.of.over("rate", self.window, self.by)

    def read(self, history: History) -> Reading:
        """The value now."""
        seconds = parse_duration(self.window)
        risen = self.of.increase(history, self.window, self.by)
        return Reading({labels: value / seconds for labels, value in risen.items()})

    @property
    def needs(self) -> Mapping[str, float]:
        """The counter."""
        return {self.of.metric: parse_duration(self.window)}


@dataclass(frozen=True)
class Increase:
    """Events in the window."""

    of: Counter
    by: tuple[str, ...] = ()
    window: str = "15m"
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        return self.of.over("increase", self.window, self.by)

    def read(self, history: History) -> Reading:
        """The value now."""
        return Reading(self.of.increase(history, self.window, self.by))

    @property
    def needs(self) -> Mapping[str, float]:
        """The counter."""
        return {self.of.metric: parse_duration(self.window)}


@dataclass(frozen=True)
class Share:
    """The share of events in others, of which the window must hold `least`."""

    part: Counter
    whole: Counter
    by: tuple[str, ...] = ("model", "version")
    window: str = "5m"
    least: int = 20

    @property
    def promql(self) -> str:
        """The value."""
        return f"{self.part.over('rate', self.window, self.by)} / {self.whole.over('rate', self.window, self.by)}"

    @property
    def enough(self) -> str:
        """A few requests make no share."""
        return f"{self.whole.over('increase', self.window, self.by)} >= {self.least}"

    def read(self, history: History) -> Reading:
        """The value now. A part that was never counted is none."""
        part, whole = (each.increase(history, self.window, self.by) for each in (self.part, self.whole))
        return Reading({key: _ratio(part.get(key, 0.0), all_, self.least) for key, all_ in whole.items()})

    @property
    def needs(self) -> Mapping[str, float]:
        """Both counters."""
        return dict.fromkeys((self.part.metric, self.whole.metric), parse_duration(self.window))


@dataclass(frozen=True)
class Quantile:
    """A quantile of a histogram of times, of which the window must hold `least`; its buckets are wide."""

    share: float
    metric: str
    by: tuple[str, ...] = ("model", "version")
    window: str = "5m"
    least: int = 20

    @property
    def promql(self) -> str:
        """The value."""
        buckets = Counter(f"{self.metric}_bucket").over("rate", self.window, (*self.by, "le"))
        return f"histogram_quantile({self.share:g}, {buckets})"

    @property
    def enough(self) -> str:
        """A few requests make no quantile."""
        return f"{Counter(f'{self.metric}_count').over('increase', self.window, self.by)} >= {self.least}"

    def read(self, history: History) -> Reading:
        """The value now."""
        count = Counter(f"{self.metric}_count").increase(history, self.window, self.by)
        buckets: dict[Labels, list[tuple[float, float]]] = {}
        found = Counter(f"{self.metric}_bucket").increase(history, self.window, (*self.by, "le"))
        for labels, risen in found.items():
            rest = tuple(pair for pair in labels if pair[0] != "le")
            buckets.setdefault(rest, []).append((float(dict(labels)["le"]), risen))
        return Reading(
            {
                labels: quantile(self.share, buckets[labels]) if total >= self.least else math.nan
                for labels, total in count.items()
                if labels in buckets
            }
        )

    @property
    def needs(self) -> Mapping[str, float]:
        """The buckets and their sum."""
        return dict.fromkeys((f"{self.metric}_bucket", f"{self.metric}_count"), parse_duration(self.window))


@dataclass(frozen=True)
class Mean:
    """The mean of a histogram."""

    metric: str
    by: tuple[str, ...] = ("model", "version")
    window: str = "5m"
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        total = Counter(f"{self.metric}_sum").over("rate", self.window, self.by)
        return f"{total} / {Counter(f'{self.metric}_count').over('rate', self.window, self.by)}"

    def read(self, history: History) -> Reading:
        """The value now."""
        total, count = (
            Counter(f"{self.metric}_{part}").increase(history, self.window, self.by) for part in ("sum", "count")
        )
        return Reading({key: _ratio(total[key], number) for key, number in count.items() if key in total})

    @property
    def needs(self) -> Mapping[str, float]:
        """Sum and count."""
        return dict.fromkeys((f"{self.metric}_sum", f"{self.metric}_count"), parse_duration(self.window))


@dataclass(frozen=True)
class Level:
    """A gauge, summed over all other labels. If it `counts` things, a combination that is not shown has none."""

    metric: str
    by: tuple[str, ...] = ()
    where: Mapping[str, str] | None = None
    counts: bool = False
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        return f"{_sum(self.by)} ({self.metric}{_selector(self.where)})"

    def read(self, history: History) -> Reading:
        """The value now."""
        return Reading(_summed(history.latest(self.metric), self.by, self.where), 0.0 if self.counts else None)

    @property
    def needs(self) -> Mapping[str, float]:
        """The gauge."""
        return {self.metric: 0.0}


@dataclass(frozen=True)
class Missing:
    """How much of a gauge another one lacks."""

    whole: Level
    part: Level
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        return f"{self.whole.promql} - {self.part.promql}"

    def read(self, history: History) -> Reading:
        """The value now."""
        return _joined(history, self.whole, self.part, lambda whole, part: whole - part)

    @property
    def needs(self) -> Mapping[str, float]:
        """Both gauges."""
        return {**self.whole.needs, **self.part.needs}


@dataclass(frozen=True)
class Full:
    """The share of a gauge in another one."""

    part: Level
    whole: Level
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        return f"{self.part.promql} / {self.whole.promql}"

    def read(self, history: History) -> Reading:
        """The value now."""
        return _joined(history, self.part, self.whole, _ratio)

    @property
    def needs(self) -> Mapping[str, float]:
        """Both gauges."""
        return {**self.whole.needs, **self.part.needs}


@dataclass(frozen=True)
class Absent:
    """1 while nothing is scraped."""

    metric: str
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        return f"absent({self.metric})"

    def read(self, history: History) -> Reading:
        """The value now; 0 on a server, which sees itself."""
        return Reading({} if any(history.latest(self.metric)) else {(): 1.0}, 0.0)

    @property
    def needs(self) -> Mapping[str, float]:
        """The gauge."""
        return {self.metric: 0.0}


def _sum(by: tuple[str, ...]) -> str:
    return f"sum by ({', '.join((*by, 'instance', 'job'))})"


def _selector(where: Mapping[str, str] | None) -> str:
    return "{" + ",".join(f'{name}=~"{pattern}"' for name, pattern in where.items()) + "}" if where else ""


def quantile(share: float, buckets: Iterable[tuple[float, float]]) -> float:
    """PromQL's `histogram_quantile` of cumulative counts by upper bound; NaN without any."""
    below, counted, highest = 0.0, 0.0, 0.0
    ordered = sorted(buckets)
    if not ordered or not math.isinf(ordered[-1][0]):
        return math.nan
    wanted = share * max(count for _, count in ordered)
    if not wanted:
        return math.nan
    for bound, count in ordered:
        highest = max(highest, count)  # float errors of the sums
        if highest >= wanted:
            if math.isinf(bound):
                return below if len(ordered) > 1 else math.nan
            if below == 0.0 and bound <= 0:
                return bound
            return below + (bound - below) * (wanted - counted) / (highest - counted)
        below, counted = bound, highest
    return math.nan


def _joined(history: History, a: Level, b: Level, made: Callable[[float, float], float]) -> Reading:
    """A value from two gauges where both are shown."""
    left, right = a.read(history).values, b.read(history).values
    return Reading({labels: made(value, right[labels]) for labels, value in left.items() if labels in right})


def _ratio(part: float, whole: float, least: float = 0.0) -> float:
    return part / whole if whole and whole >= least else math.nan


def _summed(found: Iterable[tuple[Labels, float]], by: tuple[str, ...], where: Mapping[str, str] | None) -> Values:
    """Sums over all labels but those of `by`."""
    sums: Values = {}
    for labels, value in found:
        if where:
            named = dict(labels)
            if not all(re.fullmatch(pattern, named.get(name, "")) for name, pattern in where.items()):
                continue
        key = tuple(pair for pair in labels if pair[0] in by)
        sums[key] = sums.get(key, 0.0) + value
    return sums
