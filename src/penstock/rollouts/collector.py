"""Counts the evidence of this process for the canaries that run: an observer that costs little per request.

Requests are only noted on the event loop; a thread counts them a few times a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from penstock.engine.observation import AnsweredRequest, AnsweredRun, Observation, Outcome
from penstock.engine.routing import sampled
from penstock.errors import OutOfRange
from penstock.rollouts.evidence import QUANTILES, STEPS, WINDOW_REQUESTS, WINDOWS, ArmEvidence, Shadowed
from penstock.rollouts.shadow.comparison import classes_of
from penstock.rollouts.shadow.copies import Copy
from penstock.tensors import Arrays

FAILURES: frozenset[Outcome] = frozenset({"error", "deadline", "load_error"})
"""The outcomes that are the arm's fault: neither the caller's, nor those of a server that is full or drained."""

MOST_NOTED = 50_000
"""Notes that wait to be counted; beyond it, requests are dropped from the evidence and counted as such."""
PAIR_WITHIN_S = 1.0
"""A request of the canary is compared with one of the stable arm that is at most this old."""
LEAST_SLOWER_MS = 1.0
"""A request of the canary that is slower by less is never slow, whatever the ratio."""
SAMPLE_EVERY_S = 0.25
"""How often the outputs of a run of each arm are looked at."""
_SAMPLE_ROWS = 32
_KEYS_REMEMBERED = 10_000


@dataclass(frozen=True)
class Watched:
    """One step of a canary, as this process counts it. `limits_ms` are those of the canary for each percentile.

    Of a route that is split among several versions, `to` is empty: the `others` are counted like the stable one.
    """

    canary: str
    route: str
    step: int
    stable: str
    to: str
    threshold_ms: tuple[float, ...] | None = None
    ratio: float = 1.0
    warmup_s: float = 0.0
    shadow: float = 0.0
    """The share of the requests of the stable version that the new one answers as well."""
    others: tuple[str, ...] = ()
    keys: bool = False
    """True if the keys, or else the request ids, are those by which the route places its clients."""

    @property
    def limits_ms(self) -> tuple[float, ...]:
        """Above which total time a request of the canary is slow."""
        thresholds = self.threshold_ms or ()
        return tuple(max(self.ratio * each, each + LEAST_SLOWER_MS) for each in thresholds)


class _Note(NamedTuple):
    """Requests of one run, or one request: `outcome` is empty for those that were answered."""

    at: float
    watched: Watched
    arm: str
    totals_ms: Sequence[float]
    outcome: str = ""
    key: str | None = None
    outputs: Arrays | None = None
    keys: Sequence[str] = ()


Key = tuple[str, int, str]
"""A canary, a step and an arm."""


class Collector:
    """An observer of this process. `watch` says what is counted; nothing else is noted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._started = clock()
        self._watched: Mapping[str, Watched] = {}
        self._since: dict[tuple[str, int], float] = {}
        self._notes: deque[_Note] = deque()
        self._noted = 0
        self._dropped: Counter[Key] = Counter()
        self._next_sample: dict[tuple[str, str], float] = {}
        self._evidence: dict[Key, ArmEvidence] = {}
        self._pairing: dict[str, _Pairing] = {}
        self._failed: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self.copy: Callable[[Copy], None] | None = None
        """Takes copies of requests for the new version."""

    def watch(self, watched: Iterable[Watched]) -> None:
        """Count for these canaries from now on, one for each route. Evidence of others is forgotten."""
        now, by_route = self._clock(), {each.route: each for each in watched}
        canaries = {each.canary for each in by_route.values()}
        with self._lock:
            for each in by_route.values():
                self._since.setdefault((each.canary, each.step), now)
            self._evidence = {key: found for key, found in self._evidence.items() if key[0] in canaries}
            self._dropped = Counter({key: count for key, count in self._dropped.items() if key[0] in canaries})
            self._since = {key: at for key, at in self._since.items() if key[0] in canaries}
            self._watched = by_route

    # On the event loop

    def __call__(self, seen: Observation) -> None:
        """Note one request."""
        watched = self._watched.get(seen.route)
        if watched is None or not self._has_room(watched, seen.arm, 1):
            return
        if seen.outcome == "ok":
            if seen.batch_rows:  # else from the cache, which says nothing about the arm
                outputs, keys = self._sample(seen.route, seen.arm, seen.outputs), _keys(watched, (seen,))
                self._notes.append(
                    _Note(self._clock(), watched, seen.arm, (seen.total_ms,), outputs=outputs, keys=keys)
                )
                if watched.shadow and self.copy is not None and seen.arm == watched.stable:
                    self._copy_request(watched, seen)
        elif seen.outcome in FAILURES or _is_bad_output(seen):
            reason = seen.outcome if seen.error is None else type(seen.error).__name__
            keys = _keys(watched, (seen,))
            self._notes.append(_Note(self._clock(), watched, seen.arm, (), reason, seen.key, keys=keys))

    def answered(self, run: AnsweredRun) -> None:
        """Note the requests of one run."""
        watched = self._watched.get(run.route)
        if watched is not None and self._has_room(watched, run.arm, len(run.totals_ms)):
            outputs, keys = self._sample(run.route, run.arm, run.outputs), _keys(watched, run.requests)
            self._notes.append(_Note(self._clock(), watched, run.arm, run.totals_ms, outputs=outputs, keys=keys))
            if watched.shadow and self.copy is not None and run.arm == watched.stable:
                for index, request in enumerate(run.requests):
                    if sampled(request.key or request.request_id, watched.canary, watched.shadow):
                        self._copy_request(watched, run.observation(index), chosen=True)

    def _copy_request(self, watched: Watched, seen: Observation, *, chosen: bool = False) -> None:
        """Pass a copy of a request on if it is among the sampled ones: always the same keys."""
        if chosen or sampled(seen.key or seen.request_id, watched.canary, watched.shadow):
            copy = Copy.of(seen, watched.to, watched.canary, watched.step)
            if copy is not None and self.copy is not None:
                self.copy(copy)

    def add_shadowed(self, copy: Copy, seen: Shadowed) -> None:
        """Count what a copy has shown, in the step in which its request came."""
        with self._lock:
            if any(each.canary == copy.canary for each in self._watched.values()):
                self._of((copy.canary, copy.step, copy.to)).shadow.add(seen)

    def _has_room(self, watched: Watched, arm: str, count: int) -> bool:
        if len(self._notes) < MOST_NOTED:
            return True
        self._dropped[watched.canary, watched.step, arm] += count
        return False

    def _sample(self, route: str, arm: str, outputs: Arrays | None) -> Arrays | None:
        """A copy of a few rows, a few times a second."""
        now = self._clock()
        if outputs is None or now < self._next_sample.get((route, arm), 0.0):
            return None
        self._next_sample[route, arm] = now + SAMPLE_EVERY_S
        return {name: array[:_SAMPLE_ROWS].copy() if array.ndim else array for name, array in outputs.items()}

    # In a thread

    def drain(self) -> None:
        """Count what was noted."""
        with self._lock:
            latencies: dict[Key, list[float]] = {}
            for _ in range(len(self._notes)):
                self._count(self._notes.popleft(), latencies)
            for key, times in latencies.items():
                _add_latencies(self._of(key), times)
            for key, count in list(self._dropped.items()):
                self._of(key).dropped = count

    def evidence(self, canary: str) -> dict[tuple[int, str], ArmEvidence]:
        """What was counted for a canary, by step and arm. The counters are those in use: do not change them."""
        with self._lock:
            return {key[1:]: found for key, found in self._evidence.items() if key[0] == canary}

    def arm(self, canary: str, step: int, arm: str) -> ArmEvidence:
        """The counters of one arm in one step."""
        with self._lock:
            return self._of((canary, step, arm))

    def documents(self, canary: str) -> dict[tuple[int, str], dict[str, object]]:
        """The counters for a canary as JSON, by step and arm."""
        with self._lock:
            return {key[1:]: found.to_document() for key, found in self._evidence.items() if key[0] == canary}

    def _of(self, key: Key) -> ArmEvidence:
        return self._evidence.setdefault(key, ArmEvidence())

    def _count(self, note: _Note, latencies: dict[Key, list[float]]) -> None:
        watched = note.watched
        if note.arm not in (watched.stable, watched.to, *watched.others):
            return
        key = (watched.canary, watched.step, note.arm)
        arm = self._of(key)
        arm.keys.add(note.keys)
        if note.outcome:
            if self._counts(note):
                arm.requests += 1
                arm.failures += 1
                arm.errors[note.outcome] += 1
            return
        arm.requests += len(note.totals_ms)
        if note.outputs is not None:
            _add_classes(arm, note.outputs)
        if note.arm in watched.others:
            latencies.setdefault(key, []).extend(note.totals_ms)
        elif note.arm == watched.stable:
            latencies.setdefault(key, []).extend(note.totals_ms)
            self._pairs_of(watched).stable(note, arm)
        elif self._is_warm(note):
            latencies.setdefault(key, []).extend(note.totals_ms)
            self._pairs_of(watched).canary(note, arm)

    def _is_warm(self, note: _Note) -> bool:
        """False in the first seconds of a step, and of this process, whose latencies say nothing."""
        entered = self._since.get((note.watched.canary, note.watched.step), 0.0)
        return note.at >= max(entered, self._started) + note.watched.warmup_s

    def _counts(self, failure: _Note) -> bool:
        """True for the first failure of a key in a second: a client that tries again is one failure."""
        if failure.key is None:
            return True
        second, who = int(failure.at), (failure.arm, failure.key)
        if self._failed.get(who) == second:
            return False
        if len(self._failed) >= _KEYS_REMEMBERED:
            self._failed = {known: at for known, at in self._failed.items() if at == second}
        self._failed[who] = second
        return True

    def _pairs_of(self, watched: Watched) -> _Pairing:
        found = self._pairing.get(watched.route)
        if found is None or found.watched != watched:
            found = self._pairing[watched.route] = _Pairing(watched)
        return found


class _Pairing:
    """Compares each run of the canary with the newest one of the stable arm that was not compared yet."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._newest: tuple[float, float] | None = None
        self._window: list[float] = []

    def stable(self, note: _Note, arm: ArmEvidence) -> None:
        """Keep the newest request, and the percentiles of each window."""
        self._newest = (note.at, note.totals_ms[0])
        self._window.extend(note.totals_ms)
        while len(self._window) >= WINDOW_REQUESTS:
            found = np.quantile(self._window[:WINDOW_REQUESTS], [each / 100 for each in QUANTILES])
            arm.windows = [*arm.windows, [float(each) for each in found]][-WINDOWS:]
            del self._window[:WINDOW_REQUESTS]

    def canary(self, note: _Note, arm: ArmEvidence) -> None:
        """Compare the first request of a run: those of one run share their time."""
        newest, thresholds = self._newest, self.watched.threshold_ms
        if newest is None or thresholds is None or note.at - newest[0] > PAIR_WITHIN_S:
            return
        self._newest = None
        for quantile, threshold, limit in zip(QUANTILES, thresholds, self.watched.limits_ms, strict=True):
            pairs = arm.pairs[quantile]
            pairs.compared += 1
            slow_canary, slow_stable = note.totals_ms[0] > limit, newest[1] > threshold
            pairs.canary_only += slow_canary and not slow_stable
            pairs.stable_only += slow_stable and not slow_canary


def _keys(watched: Watched, requests: Iterable[Observation | AnsweredRequest]) -> Sequence[str]:
    """What identifies the clients of these requests, where that is counted."""
    return [each.key or each.request_id for each in requests] if watched.keys else ()


def _is_bad_output(seen: Observation) -> bool:
    """True for an answer that was refused, as one that is not a number."""
    return isinstance(seen.error, OutOfRange) and seen.error.side == "output"


def _add_latencies(arm: ArmEvidence, times_ms: Sequence[float]) -> None:
    buckets = (np.log2(np.asarray(times_ms) * 1000 + 1) * STEPS).astype(np.int64)
    found, counts = np.unique(buckets, return_counts=True)
    arm.latencies.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _add_classes(arm: ArmEvidence, outputs: Arrays) -> None:
    found = classes_of(outputs)
    if found is None:
        return
    classes, confidences = found
    arm.classes.update(map(str, classes.tolist()))
    arm.confidences.update(min(19, math.floor(each * 20)) for each in confidences.tolist() if math.isfinite(each))
