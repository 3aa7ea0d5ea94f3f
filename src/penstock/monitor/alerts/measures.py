"""What an alert or a panel measures, as PromQL. Every selector names metrics and labels of `/metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Measure(Protocol):
    """A value for each combination of its labels."""

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


@dataclass(frozen=True)
class Level:
    """A gauge, summed over all other labels."""

    metric: str
    by: tuple[str, ...] = ()
    where: Mapping[str, str] | None = None
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        return f"{_sum(self.by)} ({self.metric}{_selector(self.where)})"


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


@dataclass(frozen=True)
class Absent:
    """1 while nothing is scraped."""

    metric: str
    enough: str = ""

    @property
    def promql(self) -> str:
        """The value."""
        return f"absent({self.metric})"


def _sum(by: tuple[str, ...]) -> str:
    return f"sum by ({', '.join((*by, 'instance', 'job'))})"


def _selector(where: Mapping[str, str] | None) -> str:
    return "{" + ",".join(f'{name}=~"{pattern}"' for name, pattern in where.items()) + "}" if where else ""
