"""What `/metrics` has shown lately, and how much a counter has risen in it. Counted as PromQL counts."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""

_SLACK_S = 1.0
"""Points are kept a little longer than the window, since pages do not come to the millisecond."""


class Sample(NamedTuple):
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float


class Series(NamedTuple):
    """The points of one line: times in seconds, ascending, and values."""

    times: array[float]
    values: array[float]


class History:
    """The last pages, only of the metrics that are named, each for as long as its window in seconds.

    16 bytes a point: 50 models with 100 lines each take 5 MB at 15 s and a window of 15 minutes.
    """

    def __init__(self, windows: Mapping[str, float]) -> None:
        self._windows = windows
        self._series: dict[str, dict[Labels, Series]] = {}
        self.at = 0.0
        """The time of the newest page."""

    def add(self, at: float, samples: Iterable[Sample]) -> None:
        """Add a page, later than all before it."""
        self.at = at
        for name, labels, value in samples:
            if name in self._windows:
                key = tuple(sorted((label, text) for label, text in labels.items() if text))
                series = self._series.setdefault(name, {}).setdefault(key, Series(array("d"), array("d")))
                series.times.append(at)
                series.values.append(value)
        for name, found in self._series.items():
            self._forget(found, at - self._windows[name] - _SLACK_S)

    @staticmethod
    def _forget(found: dict[Labels, Series], before: float) -> None:
        for labels, series in list(found.items()):
            old = bisect_left(series.times, before)
            if old == len(series.times):
                del found[labels]
            elif old:
                del series.times[:old], series.values[:old]

    def latest(self, name: str) -> Iterator[tuple[Labels, float]]:
        """The lines of a metric on the newest page."""
        for labels, series in self._series.get(name, {}).items():
            if series.times[-1] == self.at:
                yield labels, series.values[-1]

    def increases(self, name: str, window_s: float) -> Iterator[tuple[Labels, float]]:
        """How much each line of a counter has risen in the window; lines with fewer than two points are left out."""
        for labels, series in self._series.get(name, {}).items():
            risen = increase(series, self.at, window_s)
            if risen is not None:
                yield labels, risen


def increase(series: Series, at: float, window_s: float) -> float | None:
    """PromQL's `increase` of a counter: a fall is a restart from 0, and the ends of the window are extrapolated."""
    first = bisect_left(series.times, at - window_s)
    times, values = series.times[first:], series.values[first:]
    if len(times) < 2:
        return None
    risen = values[-1] - values[0]
    risen += sum(before for before, after in pairwise(values) if after < before)
    seen_s = times[-1] - times[0]
    mean_s = seen_s / (len(times) - 1)
    to_start, to_end = times[0] - (at - window_s), at - times[-1]
    if risen > 0 and values[0] >= 0:  # it was not below 0 before
        to_start = min(to_start, seen_s * values[0] / risen)
    covered = seen_s + sum(gap if gap < mean_s * 1.1 else mean_s / 2 for gap in (to_start, to_end))
    return risen * covered / seen_s
