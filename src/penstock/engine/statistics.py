"""The statistics of the served models, kept once: `/stats`, `/metrics` and other processes read them from here.

A snapshot is plain data that JSON can carry. Snapshots of several processes merge into one that equals the snapshot of
a single process that saw all requests: counts add up, and percentiles come from merged histograms.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log2
from types import MappingProxyType
from typing import Any, TypeAlias

from penstock.engine.cache import PredictionCache
from penstock.engine.loading.loaded_model import LoadedModel, ModelInfo
from penstock.engine.observation import FEW, Answered, AnsweredRun, Observation, Observer, Outcome, few_numbers

log = logging.getLogger(__name__)

Snapshot: TypeAlias = dict[str, Any]

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds of the histograms of times."""
PHASES = ("total", "pre", "queue", "run", "post")
"""The times of a request, in the order of the histograms in a snapshot."""

GAUGES = ("queue_rows", "inflight", "memory_bytes")
"""The gauges of a loaded model; those of several processes add up."""

SLICE_S = 2.0
SLICES = 30
"""Latencies are kept for the last minute, in slices of this length: the oldest leaves when a new one begins."""
STEPS = 32
"""Buckets of latency for each doubling: a percentile is off by 1.1 % at most."""

_BOUNDS_MS = tuple(bound * 1000 for bound in SECONDS)
_SUMS = ("queue_rows", "inflight", "ready", "stale")
"""The gauges of a snapshot without labels."""
_FAILED = "an observer failed; the request was answered all the same"


class ModelFigures:
    """One model version: counts since it was loaded, and the latencies of the last minute."""

    __slots__ = ("batches", "flags", "histograms", "outcomes", "recent", "started", "sums")

    def __init__(self, started: float) -> None:
        self.started = started
        self.outcomes: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        self.flags: Counter[tuple[str, str, str]] = Counter()
        self.histograms = [[0] * (len(SECONDS) + 1) for _ in PHASES]
        self.sums = [0.0] * len(PHASES)
        self.recent: dict[int, _Slice] = {}

    def add(self, seen: Observation, now: float) -> None:
        """Count one request."""
        self.outcomes[seen.outcome] += 1
        if seen.flags:
            self.flags.update(seen.flags)
        if seen.outcome != "ok":
            return
        total, pre, queue, run, post = seen.total_ms, seen.pre_ms, seen.queue_ms, seen.run_ms, seen.post_ms
        histograms, sums, bounds = self.histograms, self.sums, _BOUNDS_MS
        histograms[0][bisect_left(bounds, total)] += 1
        histograms[1][bisect_left(bounds, pre)] += 1
        histograms[2][bisect_left(bounds, queue)] += 1
        histograms[3][bisect_left(bounds, run)] += 1
        histograms[4][bisect_left(bounds, post)] += 1
        sums[0] += total
        sums[1] += pre
        sums[2] += queue
        sums[3] += run
        sums[4] += post
        self.batches[seen.batch_rows] += 1
        part = self.recent.get(int(now / SLICE_S)) or self._begin_slice(int(now / SLICE_S))
        part.count += 1
        part.sum_ms += total
        bucket = int(log2(total * 1000 + 1) * STEPS)
        part.buckets[bucket] = part.buckets.get(bucket, 0) + 1

    def add_run(self, run: AnsweredRun, now: float) -> None:
        """Count requests that one run has answered."""
        totals, queues = run.totals_ms, run.queues_ms
        count, total_ms = len(totals), sum(totals)
        histograms, sums, bounds = self.histograms, self.sums, _BOUNDS_MS
        _count_all(histograms[0], totals)
        _count_all(histograms[2], queues)
        for phase, ms in ((1, run.pre_ms), (3, run.run_ms), (4, run.post_ms)):
            histograms[phase][bisect_left(bounds, ms)] += count
            sums[phase] += count * ms
        sums[0] += total_ms
        sums[2] += sum(queues)
        self.outcomes["ok"] += count
        self.batches[run.batch_rows] += count
        part = self.recent.get(int(now / SLICE_S)) or self._begin_slice(int(now / SLICE_S))
        part.count += count
        part.sum_ms += total_ms
        buckets = part.buckets
        for total in totals:
            bucket = int(log2(total * 1000 + 1) * STEPS)
            buckets[bucket] = buckets.get(bucket, 0) + 1

    def _begin_slice(self, index: int) -> _Slice:
        for old in [known for known in self.recent if known <= index - SLICES]:
            del self.recent[old]
        part = self.recent[index] = _Slice()
        return part

    def snapshot(self, model: str, version: str) -> Snapshot:
        """The figures as JSON can carry them."""
        return {
            "model": model,
            "version": version,
            "started": self.started,
            "outcomes": dict(self.outcomes),
            "batches": {str(rows): count for rows, count in list(self.batches.items())},
            "flags": sorted([*flag, count] for flag, count in list(self.flags.items())),
            "histograms": [counts.copy() for counts in self.histograms],
            "sums": self.sums.copy(),
            "recent": {str(index): part.snapshot() for index, part in list(self.recent.items())},
        }


def _count_all(histogram: list[int], times_ms: Sequence[float]) -> None:
    """Count times of one run in the histogram: mostly they lie so close together that one bucket holds all."""
    low, high = bisect_left(_BOUNDS_MS, min(times_ms)), bisect_left(_BOUNDS_MS, max(times_ms))
    if low == high:
        histogram[low] += len(times_ms)
        return
    for ms in times_ms:
        histogram[bisect_left(_BOUNDS_MS, ms, low, high)] += 1


class _Slice:
    __slots__ = ("buckets", "count", "sum_ms")

    def __init__(self) -> None:
        self.count = 0
        self.sum_ms = 0.0
        self.buckets: dict[int, int] = {}

    def snapshot(self) -> Snapshot:
        buckets = {str(bucket): count for bucket, count in list(self.buckets.items())}
        return {"count": self.count, "sum_ms": self.sum_ms, "buckets": buckets}


class Statistics:
    """Counts the requests of this process by model and version, and shows each to the observers."""

    def __init__(self, observers: Iterable[Observer] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that all processes of this machine share."""
        self.observers = list(observers)
        self._clock = clock
        self._models: dict[tuple[str, str], ModelFigures] = {}

    def observe(self, seen: Observation) -> None:
        """Count one finished request and show it to the observers."""
        self.add(seen)
        self.show(seen, self.observers)

    def show(self, seen: Observation, observers: Iterable[Observer]) -> None:
        """Show one finished request to some observers; an observer that fails is logged."""
        for observer in observers:
            try:
                observer(seen)
            except Exception:
                log.exception(_FAILED)

    @property
    def shows_failures(self) -> bool:
        """True if an observer looks at requests without an answer."""
        return not all(getattr(observer, "answers_only", False) for observer in self.observers)

    def request_observers(self) -> list[Observer]:
        """The observers that `add_run` does not reach: those that take requests one by one."""
        return [observer for observer in self.observers if not hasattr(observer, "answered")]

    def add(self, seen: Observation) -> None:
        """Count one request."""
        now = self._clock()
        figures = self._models.get((seen.model, seen.version)) or self.of(seen.model, seen.version)
        figures.add(seen, now)

    def add_refused(self, model: str, version: str, outcome: Outcome, count: int) -> None:
        """Count requests that were refused together, while `shows_failures` is false."""
        self.of(model, version).outcomes[outcome] += count

    def add_run(self, run: AnsweredRun) -> None:
        """Count requests that one run has answered, and show them to the observers that take a run at once."""
        figures = self._models.get((run.model, run.version)) or self.of(run.model, run.version)
        figures.add_run(run, self._clock())
        for observer in self.observers:
            answered = getattr(observer, "answered", None)
            if answered is not None:
                try:
                    answered(run)
                except Exception:
                    log.exception(_FAILED)

    def of(self, model: str, version: str) -> ModelFigures:
        """The figures of one model version, which begin now if there are none."""
        return self._models.get((model, version)) or self._models.setdefault(
            (model, version), ModelFigures(self._clock())
        )

    def snapshot(
        self,
        loaded: Iterable[LoadedModel] = (),
        *,
        inflight: int = 0,
        cache: PredictionCache | None = None,
        states: Mapping[str, str] = MappingProxyType({}),
        ready: bool = True,
        stale: bool = False,
        circuits: Mapping[str, bool] = MappingProxyType({}),
    ) -> Snapshot:
        """Everything counted so far, and the current gauges: queued rows, in-flight requests, cache, `loaded`.

        `states` are those of the references that should be served. `stale`: the routes cannot be read. `circuits` are
        those of versions by `name:version`, True while one is open.
        """
        loaded = list(loaded)
        for model in loaded:
            self.of(model.name, model.version)
        return {
            "at": self._clock(),
            "models": [figures.snapshot(*key) for key, figures in list(self._models.items())],
            "queue_rows": sum(model.batcher.queued_rows for model in loaded),
            "inflight": inflight,
            "ready": int(ready),
            "stale": int(stale),
            "circuits": {ref: int(is_open) for ref, is_open in circuits.items()},
            "states": {ref: {state: 1} for ref, state in states.items()},
            "loaded": [_gauges(model) for model in loaded],
            "cache": None if cache is None else cache.figures()._asdict(),
            "info": [_facts(model.info) for model in loaded],
        }


def _facts(info: ModelInfo) -> dict[str, str]:
    names = ("version", "variant", "format", "device", "dtype", "task")
    return {"model": info.name, **{name: str(getattr(info, name)) for name in names}}


def _gauges(model: LoadedModel) -> Snapshot:
    """Of one loaded model, as `GAUGES` names them."""
    values = (model.batcher.queued_rows, model.leases, model.info.memory_bytes)
    return {"model": model.name, "version": model.version, **dict(zip(GAUGES, values, strict=True))}


class Sampling:
    """Which requests of a model version are sampled: one of `every`, after `left` more, while there is `room`."""

    __slots__ = ("every", "left", "room")

    def __init__(self, every: int = 1, room: float = 400.0) -> None:
        self.every = self.left = every
        self.room = room


class AnswerQueue:
    """An observer that lets a thread see what was answered: a bounded queue of outputs, and of sampled requests."""

    answers_only = True

    # in this module, since every further file on the path of a request costs time

    MOST_BYTES = 32 << 20
    LARGE = 1 << 18
    """Outputs of more bytes wait as few of their numbers, unless their version is in `whole`."""

    def __init__(self, *, outputs: bool = True) -> None:
        """Without `outputs`, only samples are taken."""
        self.items: deque[Answered] = deque()
        self.sampling: dict[tuple[str, str], Sampling] = {}
        self.whole: set[tuple[str, str]] = set()
        self.held = self.left_out = 0
        self._outputs = outputs

    def __call__(self, seen: Observation) -> None:
        """Take one request."""
        if seen.outputs is None or seen.outcome != "ok":
            return
        if self._outputs:
            self._put(Answered(seen.model, seen.version, seen.outputs, seen.rows))
        sampling = self.sampling.get((seen.model, seen.version)) if self.sampling else None
        if sampling is not None and seen.inputs is not None:
            sampling.left -= 1
            if sampling.left <= 0:
                sampling.left = sampling.every
                self._sample(sampling, Answered(seen.model, seen.version, seen.outputs, seen.rows, seen.inputs))

    def answered(self, run: AnsweredRun) -> None:
        """Take the requests that one run has answered."""
        count = len(run.totals_ms)
        single = count == len(next(iter(run.outputs.values())))  # else requests of several rows, or without an answer
        if self._outputs and single:
            self._put(Answered(run.model, run.version, run.outputs, count))
        elif self._outputs:
            self._put(run.rows_of(run.requests)._replace(inputs=None))
        sampling = self.sampling.get((run.model, run.version)) if self.sampling else None
        if sampling is not None:
            first, sampling.left = sampling.left - 1, sampling.left - count
            if first < count:
                sampling.left = sampling.every - (count - 1 - first) % sampling.every
                self._sample(sampling, run.rows_of(run.requests[first :: sampling.every]))

    def _sample(self, sampling: Sampling, one: Answered) -> None:
        if sampling.room > 0:
            sampling.room -= min(one.rows, FEW)  # of a large request few rows are counted
            self._put(one)

    def _put(self, one: Answered) -> None:
        size = 0
        for array in one.outputs.values():
            size += array.nbytes
        for array in (one.inputs or {}).values():
            size += array.nbytes
        if self.held + size > self.MOST_BYTES and self.held:
            self.left_out += 1
            return
        if size > self.LARGE and one.inputs is None and (one.model, one.version) not in self.whole:
            one = one._replace(outputs={name: few_numbers(array, one.rows) for name, array in one.outputs.items()})
            size = one.rows * FEW * 8
        self.held += size
        self.items.append(one)

    def take(self, most_rows: int) -> list[Answered]:
        """Remove the oldest items, up to so many rows."""
        taken, rows = [], 0
        while self.items and rows < most_rows:
            taken.append(self.items.popleft())
            rows += taken[-1].rows
        if not self.items:
            self.held = 0
        return taken


# Several processes


def merge(snapshots: Iterable[Mapping[str, Any]]) -> Snapshot:
    """The snapshots of several processes as one; counts and gauges add up. Changes none of them."""
    models: dict[tuple[str, str], Snapshot] = {}
    info: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
    loaded: dict[tuple[str, str], Snapshot] = {}
    total: Snapshot = {"at": 0.0, "cache": None, "states": {}, "circuits": {}, **dict.fromkeys(_SUMS, 0)}
    for snapshot in snapshots:
        total["at"] = max(total["at"], snapshot["at"])
        for name in _SUMS:
            total[name] += snapshot[name]
        total["circuits"] = _sum_of(total["circuits"], snapshot["circuits"])
        for ref, states in snapshot["states"].items():
            total["states"][ref] = _sum_of(total["states"].get(ref, {}), states)
        for gauges in snapshot["loaded"]:
            key = (gauges["model"], gauges["version"])
            before = loaded.get(key, {})
            loaded[key] = {**gauges, **{name: before.get(name, 0) + gauges[name] for name in GAUGES}}
        if snapshot["cache"] is not None:
            total["cache"] = _sum_of(total["cache"] or {}, snapshot["cache"])
        info |= {tuple(sorted(facts.items())): facts for facts in snapshot["info"]}
        for figures in snapshot["models"]:
            key = (figures["model"], figures["version"])
            models[key] = _merged(models[key], figures) if key in models else dict(figures)
    return {
        **total,
        "models": [models[key] for key in sorted(models)],
        "loaded": [loaded[key] for key in sorted(loaded)],
        "info": [info[key] for key in sorted(info)],
    }


def counts_of(snapshot: Mapping[str, Any]) -> Snapshot:
    """What remains of a process that has ended: its counts, without its gauges."""
    cache = snapshot["cache"]
    kept = None if cache is None else {**cache, "entries": 0, "bytes": 0}
    gone = {**dict.fromkeys(_SUMS, 0), "states": {}, "circuits": {}, "loaded": [], "info": []}
    return {**snapshot, **gone, "cache": kept}


def _merged(a: Mapping[str, Any], b: Mapping[str, Any]) -> Snapshot:
    flags = Counter({tuple(flag): count for *flag, count in a["flags"]})
    flags.update({tuple(flag): count for *flag, count in b["flags"]})
    slices = {**a["recent"]}
    for index, part in b["recent"].items():
        slices[index] = _merged_slice(slices[index], part) if index in slices else part
    return {
        "model": a["model"],
        "version": a["version"],
        "started": min(a["started"], b["started"]),
        "outcomes": _sum_of(a["outcomes"], b["outcomes"]),
        "batches": _sum_of(a["batches"], b["batches"]),
        "flags": sorted([*flag, count] for flag, count in flags.items()),
        "histograms": [_sums(x, y) for x, y in zip(a["histograms"], b["histograms"], strict=True)],
        "sums": _sums(a["sums"], b["sums"]),
        "recent": slices,
    }


def _merged_slice(a: Mapping[str, Any], b: Mapping[str, Any]) -> Snapshot:
    return {
        "count": a["count"] + b["count"],
        "sum_ms": a["sum_ms"] + b["sum_ms"],
        "buckets": _sum_of(a["buckets"], b["buckets"]),
    }


def _sum_of(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


def _sums(a: Iterable[float], b: Iterable[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]
