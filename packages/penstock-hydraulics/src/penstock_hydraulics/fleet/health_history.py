"""The recent health of machines, in memory: as many points for a week as for a minute, denser towards the present."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.diagnosis.trend import MAX_RESULTS

Float = NDArray[np.float64]
Key: TypeAlias = tuple[str, str]
"""A machine and the model that judged it, `name:version`: to change the model is no wear."""

POINTS: Final = MAX_RESULTS - 1
"""With the present result there are as many as a trend looks at."""
MAX_HISTORIES: Final = 10_000
_THINNED_TO: Final = 40
"""Points that a full trail is thinned to."""
_EVEN_S: Final = 60.0
"""Over the last minute points are spread evenly, before that the sparser the older they are."""

_LATEST_KEPT: Final = 3
"""The latest points stay as they are: one of a clock that was ahead would make all the others old."""


class HealthHistory(NamedTuple):
    """`times_s` [n] seconds since 1970, rising, and `health` [n] in 0..1, n at most 63."""

    times_s: Float
    health: Float


EMPTY: Final = HealthHistory(np.empty(0), np.empty(0))


class _Points:
    """One machine's trail. Neighbours are merged into their mean when it is full."""

    __slots__ = ("count", "health", "times_s", "weights")

    def __init__(self) -> None:
        self.times_s, self.health, self.weights = np.empty(POINTS), np.empty(POINTS), np.empty(POINTS)
        self.count = 0

    def add(self, at_s: float, health: float) -> None:
        n = self.count
        if n == POINTS:
            self._put(*_thinned(self.times_s, self.health, self.weights, _THINNED_TO))
            n = self.count
        if n and at_s < self.times_s[n - 1]:  # it comes late
            place = int(self.times_s[:n].searchsorted(at_s, "right"))
            for array in (self.times_s, self.health, self.weights):
                array[place + 1 : n + 1] = array[place:n].copy()
            n = place
        self.times_s[n], self.health[n], self.weights[n] = at_s, health, 1.0
        self.count += 1

    def merge(self, times_s: Float, health: Float, weights: Float) -> None:
        """Put stored points, any number of them, among those there are, which may have been stored meanwhile."""
        n = self.count
        mine = self.times_s[:n]
        if n:  # of merged points one cannot tell which they were
            single = (self.weights[:n] == 1).all()
            new = ~np.isin(times_s, mine) if single else times_s < mine[0]
            times_s, health, weights = times_s[new], health[new], weights[new]
        pairs = ((times_s, self.times_s), (health, self.health), (weights, self.weights))
        order = np.concatenate((times_s, mine)).argsort(kind="stable")
        joined = [np.concatenate((stored, own[:n]))[order] for stored, own in pairs]
        if len(joined[0]) > POINTS:
            joined = [*_thinned(joined[0], joined[1], joined[2], _THINNED_TO)]
        self._put(*joined)

    def trail(self) -> HealthHistory:
        return HealthHistory(self.times_s[: self.count].copy(), self.health[: self.count].copy())

    def _put(self, times_s: Float, health: Float, weights: Float) -> None:
        n = self.count = len(times_s)
        self.times_s[:n], self.health[:n], self.weights[:n] = times_s, health, weights


def _thinned(times_s: Float, health: Float, weights: Float, most: int) -> tuple[Float, Float, Float]:
    """At most so many points and the latest: means over stretches of equal length on a logarithmic scale of age."""
    last = len(times_s) - _LATEST_KEPT
    depth = np.log(times_s[last - 1] - times_s[:last] + _EVEN_S)
    span = depth[0] - depth[-1]
    if span <= 0:  # all of one moment
        stretch = np.zeros(last, np.intp)
    else:
        stretch = np.minimum((depth[0] - depth) / span * most, most - 1).astype(np.intp)
    starts = np.concatenate(([0], np.diff(stretch).nonzero()[0] + 1, np.arange(last, len(times_s))))
    total = np.add.reduceat(weights, starts)
    merged_times, merged_health = (np.add.reduceat(array * weights, starts) / total for array in (times_s, health))
    return merged_times, merged_health, total


class HealthHistories:
    """The trails that were asked for last. Thread-safe, and nothing here waits."""

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
        """A copy of the trail; that of a machine which is asked about first is empty until its history was read."""
        with self._lock:
            points = self._points.get(key)
            if points is None:
                points = self._begin(key)
            return points.trail() if points.count else EMPTY

    def add(self, key: Key, at_s: float, health: float) -> None:
        """One more point."""
        with self._lock:
            points = self._points.get(key)
            if points is None:
                points = self._begin(key)
            else:
                self._points.move_to_end(key)
            points.add(at_s, health)

    def follow(self, rows: Iterable[tuple[Key, float, float]]) -> None:
        """Points that other processes made, of the trails that are known here."""
        for key, at_s, health in rows:
            with self._lock:
                points = self._points.get(key)
                if points is not None and key not in self._unread:
                    points.add(at_s, health)

    def unread(self) -> list[Key]:
        """Those whose history is still to be read."""
        with self._lock:
            return list(self._unread)

    def merge_stored(self, key: Key, times_s: Float, health: Float, weights: Float) -> None:
        """What the history says beside the points there are; `weights` [n] are the results behind each."""
        with self._lock:
            self._unread.pop(key, None)
            points = self._points.get(key)
            if points is not None and len(times_s):
                points.merge(times_s, health, weights)

    def forget(self, equipment_id: str) -> None:
        """Drop a machine's trails; they are read again when they are asked for."""
        with self._lock:
            for key in [key for key in self._points if key[0] == equipment_id]:
                del self._points[key]
                self._unread.pop(key, None)

    def _begin(self, key: Key) -> _Points:
        points = self._points[key] = _Points()
        self._unread[key] = None
        while len(self._points) > self._most:
            left, _ = self._points.popitem(last=False)
            self._unread.pop(left, None)
        return points
