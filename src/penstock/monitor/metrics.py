"""Prometheus metrics out of observations. Counting is plain Python; prometheus_client only writes the page."""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from penstock.engine.engine import InferenceEngine
from penstock.engine.observation import Observation

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds of the histograms of times."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_TIMES = {
    "penstock_request_duration_seconds": "From the request in the engine to its answer.",
    "penstock_preprocess_seconds": "From the request to the model's inputs.",
    "penstock_queue_seconds": "Waiting for the model.",
    "penstock_compute_seconds": "The run of the model on the batch.",
    "penstock_postprocess_seconds": "From the model's outputs to the answer.",
}
_REFUSED = ("overloaded", "deadline", "not_ready")
"""The outcomes that count as rejected: asked at the wrong time, not wrongly."""

_BOUNDS_MS = tuple(bound * 1000 for bound in SECONDS)


class _Model:
    """The figures of one model version, as lists that JSON can carry from one process to another."""

    __slots__ = ("batches", "batches_sum", "counts", "flags", "outcomes", "sums")

    def __init__(self) -> None:
        self.counts = [[0] * (len(SECONDS) + 1) for _ in _TIMES]
        self.sums = [0.0] * len(_TIMES)
        self.batches = [0] * (len(ROWS) + 1)
        self.batches_sum = 0
        self.outcomes: Counter[str] = Counter()
        self.flags: Counter[tuple[str, str, str]] = Counter()


class Metrics:
    """Counts observations; `render()` is the page of `/metrics`."""

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine
        self._models: dict[tuple[str, str], _Model] = {}

    def observe(self, observation: Observation) -> None:
        """Count one request: an observer of the engine."""
        model, version, _, outcome, _, batch_rows, pre_ms, queue_ms, run_ms, post_ms, total_ms, *_ = observation
        key = (model, version)
        figures = self._models.get(key)
        if figures is None:
            figures = self._models[key] = _Model()
        figures.outcomes[outcome] += 1
        if observation.flags:
            figures.flags.update(observation.flags)
        if outcome != "ok":
            return
        counts, sums, bounds = figures.counts, figures.sums, _BOUNDS_MS
        counts[0][bisect_left(bounds, total_ms)] += 1
        counts[1][bisect_left(bounds, pre_ms)] += 1
        counts[2][bisect_left(bounds, queue_ms)] += 1
        counts[3][bisect_left(bounds, run_ms)] += 1
        counts[4][bisect_left(bounds, post_ms)] += 1
        sums[0] += total_ms
        sums[1] += pre_ms
        sums[2] += queue_ms
        sums[3] += run_ms
        sums[4] += post_ms
        figures.batches[bisect_left(ROWS, batch_rows)] += 1
        figures.batches_sum += batch_rows

    def snapshot(self) -> dict[str, Any]:
        """Everything counted so far and the gauges of now, as JSON can carry it."""
        models = [
            {
                "model": model,
                "version": version,
                "counts": [counts.copy() for counts in figures.counts],
                "sums": figures.sums.copy(),
                "batches": figures.batches.copy(),
                "batches_sum": figures.batches_sum,
                "outcomes": dict(figures.outcomes),
                "flags": [[*flag, count] for flag, count in figures.flags.items()],
            }
            for (model, version), figures in list(self._models.items())
        ]
        return {
            "models": models,
            "queue_depth": self._engine.queue_rows,
            "inflight": self._engine.inflight,
            "cache": self._engine.cache.figures()._asdict() if self._engine.cache is not None else None,
            "info": [_info(model.info) for model in self._engine.loaded()],
        }

    def render(self, snapshots: Sequence[Mapping[str, Any]] = ()) -> bytes:
        """The page in Prometheus' text format: of this process, or of all those whose snapshots are given.

        Of several there is no memory or CPU time to show: each scrape is answered by another of them.
        """
        from prometheus_client import generate_latest
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Page(merge(snapshots or [self.snapshot()])))
        if not snapshots:
            _process_collectors(registry)
        return generate_latest(registry)


def merge(snapshots: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Several processes' snapshots as one: counts and gauges added up."""
    models: dict[tuple[str, str], dict[str, Any]] = {}
    total: dict[str, Any] = {"models": models, "queue_depth": 0, "inflight": 0, "cache": None, "info": {}}
    for snapshot in snapshots:
        total["queue_depth"] += snapshot["queue_depth"]
        total["inflight"] += snapshot["inflight"]
        if snapshot["cache"] is not None:
            total["cache"] = dict(Counter(total["cache"] or {}) + Counter(snapshot["cache"]))
        total["info"].update({(info["model"], info["version"], info["variant"]): info for info in snapshot["info"]})
        for figures in snapshot["models"]:
            key = (figures["model"], figures["version"])
            models[key] = _added(models[key], figures) if key in models else dict(figures)
    return {**total, "models": list(models.values()), "info": list(total["info"].values())}


def _added(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": a["model"],
        "version": a["version"],
        "counts": [_sum(x, y) for x, y in zip(a["counts"], b["counts"], strict=True)],
        "sums": _sum(a["sums"], b["sums"]),
        "batches": _sum(a["batches"], b["batches"]),
        "batches_sum": a["batches_sum"] + b["batches_sum"],
        "outcomes": dict(Counter(a["outcomes"]) + Counter(b["outcomes"])),
        "flags": [[*flag, count] for flag, count in (_flag_counts(a) + _flag_counts(b)).items()],
    }


def _flag_counts(figures: Mapping[str, Any]) -> Counter[tuple[str, str, str]]:
    return Counter({(side, tensor, kind): count for side, tensor, kind, count in figures["flags"]})


def _sum(a: Iterable[float], b: Iterable[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _info(info: Any) -> dict[str, str]:
    names = ("version", "variant", "format", "device", "dtype", "task")
    return {"model": info.name, **{name: str(getattr(info, name)) for name in names}}


class _Page:
    """One snapshot as prometheus_client's metric families."""

    def __init__(self, snapshot: Mapping[str, Any]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        models = self._snapshot["models"]
        for index, (name, text) in enumerate(_TIMES.items()):
            family = HistogramMetricFamily(name, text, labels=("model", "version"))
            for figures in models:
                if figures["outcomes"].get("ok"):
                    buckets = _buckets(SECONDS, figures["counts"][index])
                    family.add_metric(_labels(figures), buckets, figures["sums"][index] / 1000)
            yield family
        rows = HistogramMetricFamily("penstock_batch_size", "Rows that shared a run.", labels=("model", "version"))
        requests = CounterMetricFamily("penstock_requests", "Requests.", labels=("model", "version", "outcome"))
        rejected = CounterMetricFamily(
            "penstock_rejected", "Requests turned away or given up.", labels=("model", "version", "reason")
        )
        for figures in models:
            if figures["outcomes"].get("ok"):
                rows.add_metric(_labels(figures), _buckets(ROWS, figures["batches"]), figures["batches_sum"])
            for outcome, count in sorted(figures["outcomes"].items()):
                requests.add_metric((*_labels(figures), outcome), count)
                if outcome in _REFUSED:
                    rejected.add_metric((*_labels(figures), outcome), count)
        yield from (rows, requests, rejected, _out_of_range(models))
        yield from _cache(self._snapshot["cache"])
        yield GaugeMetricFamily("penstock_queue_depth", "Rows that wait.", value=self._snapshot["queue_depth"])
        yield GaugeMetricFamily("penstock_inflight", "Requests inside the engine.", value=self._snapshot["inflight"])
        names = ("model", "version", "variant", "format", "device", "dtype", "task")
        info = GaugeMetricFamily("penstock_model_info", "1 for every loaded model.", labels=names)
        for facts in self._snapshot["info"]:
            info.add_metric([facts[name] for name in names], 1)
        yield info


def _out_of_range(models: Iterable[Mapping[str, Any]]) -> Any:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(
        "penstock_out_of_range",
        "Requests with a tensor outside what the model was made for.",
        labels=("model", "version", "side", "tensor", "kind"),
    )
    for figures in models:
        for side, tensor, kind, count in sorted(figures["flags"]):
            family.add_metric((*_labels(figures), side, tensor, kind), count)
    return family


def _cache(figures: Mapping[str, int] | None) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    if figures is None:
        return
    figures = Counter(figures)
    yield CounterMetricFamily("penstock_cache_hits", "Requests answered from memory.", value=figures["hits"])
    yield CounterMetricFamily("penstock_cache_misses", "Requests that were not remembered.", value=figures["misses"])
    yield GaugeMetricFamily("penstock_cache_entries", "Remembered answers.", value=figures["entries"])
    yield GaugeMetricFamily("penstock_cache_bytes", "Memory of remembered answers.", value=figures["bytes"])


def _labels(figures: Mapping[str, Any]) -> tuple[str, str]:
    return figures["model"], figures["version"]


def _buckets(bounds: Iterable[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))


def _process_collectors(registry: Any) -> None:
    """Memory, CPU, open files and garbage collections of this process."""
    from prometheus_client.gc_collector import GCCollector
    from prometheus_client.platform_collector import PlatformCollector
    from prometheus_client.process_collector import ProcessCollector

    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    if hasattr(gc, "get_stats"):
        GCCollector(registry=registry)
