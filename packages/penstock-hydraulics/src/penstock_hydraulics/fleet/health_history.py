"""Recent health of machines in memory: at most 63 points each, logarithmically denser towards the present."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.diagnosis.trend import MAX_RESULTS

Float = NDArray[np.float64]
Key: TypeAlias = tuple[str, str, str]
"""A machine, a model `name:version`, and its evidence: a change of model or sensors must look like no wear."""

POINTS: Final = MAX_RESULTS - 1
"""Together with the present result, as many as a trend uses."""
MAX_HISTORIES: Final = 10_000
_THINNED_TO: Final = 40
"""Number of points that a full history is thinned to."""
_EVEN_S: Final = 60.0
"""Points are spread evenly over the last minute, and logarithmically before that."""

_LATEST_KEPT: Final = 3
"""The latest points are never merged: one from a clock that is ahead would make all others look old."""


class HealthHistory(NamedTuple):
    """`times_s` [n] seconds since 1970, ascending, and `health` [n] in 0..1, n at most 63."""

    times_s: Float
    health: Float


EMPTY: Final = HealthHistory(np.empty(0), np.empty(0))


class _Points:
    """The mutable history of one machine. When it is full, neighbouring points are merged into their mean."""

    __slots__ = ("count", "health", "times_s", "weights")

    def __init__(self) -> None:
        self.times_s, self.health, self.weights = np.empty(POINTS), np.empty(POINTS), np.empty(POINTS)
        self.count = 0

    def add(self, at_s: float, health: float) -> None:
        """Add a result; it replaces one of the same moment, unless that was merged."""
        place = self._place(at_s)
        if place and self.times_s[place - 1] == at_s and self.weights[place - 1] == 1.0:
            self.health[place - 1] = health
            return
        if self.count == POINTS:
            self._put(*_thinned(self.times_s, self.health, self.weights, _THINNED_TO))
            place = self._place(at_s)
        n = self.count
        if place < n:  # out of order
            for array in (self.times_s, self.health, self.weights):
                array[place + 1 : n + 1] = array[place:n].copy()
        self.times_s[place], self.health[place], self.weights[place] = at_s, health, 1.0
        self.count += 1

    def _place(self, at_s: float) -> int:
        """Number of points until then."""
        n = self.count
        if not n or self.times_s[n - 1] <= at_s:
            return n
        return int(self.times_s[:n].searchsorted(at_s, "right"))

    def merge(self, times_s: Float, health: Float, weights: Float) -> None:
        """Merge stored points, any number of them, with the present ones, some of which may be stored already."""
        n = self.count
        own_times = self.times_s[:n]
        if n:  # merged points can no longer be compared
            single = (self.weights[:n] == 1).all()
            new = ~np.isin(times_s, own_times) if single else times_s < own_times[0]
            times_s, health, weights = times_s[new], health[new], weights[new]
        pairs = ((times_s, self.times_s), (health, self.health), (weights, self.weights))
        order = np.concatenate((times_s, own_times)).argsort(kind="stable")
        joined = [np.concatenate((stored, own[:n]))[order] for stored, own in pairs]
        if len(joined[0]) > POINTS:
            joined = [*_thinned(joined[0], joined[1], joined[2], _THINNED_TO)]
        self._put(*joined)

    def snapshot(self) -> HealthHistory:
        return HealthHistory(self.times_s[: self.count].copy(), self.health[: self.count].copy())

    def _put(self, times_s: Float, health: Float, weights: Float) -> None:
        n = self.count = len(times_s)
        self.times_s[:n], self.health[:n], self.weights[:n] = times_s, health, weights


def _thinned(times_s: Float, health: Float, weights: Float, most: int) -> tuple[Float, Float, Float]:
    """At most `most` points plus the latest: means over intervals of equal length on a logarithmic scale of age."""
    last = len(times_s) - _LATEST_KEPT
    depth = np.log(times_s[last - 1] - times_s[:last] + _EVEN_S)
    span = depth[0] - depth[-1]
    if span <= 0:  # all at the same time
        interval = np.zeros(last, np.intp)
    else:
        interval = np.minimum((depth[0] - depth) / span * most, most - 1).astype(np.intp)
    starts = np.concatenate(([0], np.diff(interval).nonzero()[0] + 1, np.arange(last, len(times_s))))
    total = np.add.reduceat(weights, starts)
    merged_times, merged_health = (np.add.reduceat(array * weights, starts) / total for array in (times_s, health))
    return merged_times, merged_health, total


class HealthHistories:
    """LRU cache of health histories. Thread-safe; no method blocks on the database."""

    def __init__(self, most: int = MAX_HISTORIES) -> None:
        self._points: OrderedDict[Key, _Points] = OrderedDict()
        self._unread: dict[Key, None] = {}
        self._lock = threading.Lock()
        self._most = most

    def __contains__(self, key: Key) -> bool:
        return key in self._points

    def __len__(self) -> int:
        return len(self._points)

    def recent(self, key: Key) -> HealthHistory:
        """A copy of the history; empty for a new key until its stored results are read."""
        with self._lock:
            points = self._points.get(key)
            if points is None:
                points = self._begin(key)
            return points.snapshot() if points.count else EMPTY

    def add(self, key: Key, at_s: float, health: float) -> None:
        """Add a point."""
        with self._lock:
            points = self._points.get(key)
            if points is None:
                points = self._begin(key)
            else:
                self._points.move_to_end(key)
            points.add(at_s, health)

    def follow(self, rows: Iterable[tuple[Key, float, float]]) -> None:
        """Add points of other processes to the histories that are cached here."""
        for key, at_s, health in rows:
            with self._lock:
                points = self._points.get(key)
                if points is not None and key not in self._unread:
                    points.add(at_s, health)

    def unread(self) -> list[Key]:
        """Keys whose stored results are not read yet."""
        with self._lock:
            return list(self._unread)

    def merge_stored(self, key: Key, times_s: Float, health: Float, weights: Float) -> None:
        """Merge stored points with the present ones; `weights` [n] are the numbers of results behind each."""
        with self._lock:
            self._unread.pop(key, None)
            points = self._points.get(key)
            if points is not None and len(times_s):
                points.merge(times_s, health, weights)

    def forget(self, equipment_id: str) -> None:
        """Drop the histories of a machine; they are read again on the next access."""
        with self._lock:
            for key in [key for key in self._points if key[0] == equipment_id]:
                del self._points[key]
                self._unread.pop(key, None)

    def _begin(self, key: Key) -> _Points:
        points = self._points[key] = _Points()
        self._unread[key] = None
        while len(self._points) > self._most:
            evicted, _ = self._points.popitem(last=False)
            self._unread.pop(evicted, None)
        return points
