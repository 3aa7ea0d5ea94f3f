"""The page of `/metrics`, rendered from the engine's statistics at each scrape, at no cost per request.

A new metric is counted in `engine.statistics` first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from penstock.engine.engine import InferenceEngine
from penstock.engine.statistics import SECONDS, merge
from penstock.monitor.processes import Counts, Processes, process_counts

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Bucket bounds of the histogram of rows per run."""

_TIMES = {
    "penstock_request_duration_seconds": "Time a request spends in the engine.",
    "penstock_preprocess_seconds": "Preprocessing time, from the request to the model's inputs.",
    "penstock_queue_seconds": "Time in the queue of the model.",
    "penstock_compute_seconds": "Time of the model's run on the batch.",
    "penstock_postprocess_seconds": "Postprocessing time, from the model's outputs to the response.",
}
"""The histograms of times, in the order of `statistics.PHASES`."""
_REFUSED = ("overloaded", "deadline", "not_ready")
"""The outcomes that count as rejected: refused because of the server's state, not the request's content."""


class Metrics:
    """Renders the page of `/metrics`."""

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine

    def render(self, snapshots: Sequence[Mapping[str, Any]] = (), processes: Sequence[Counts] = ()) -> bytes:
        """The page in Prometheus' text format, for this process or for all whose snapshots and counts are given."""
        from prometheus_client import generate_latest
        from prometheus_client.platform_collector import PlatformCollector
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Page(merge(snapshots or [self._engine.snapshot()])))
        registry.register(Processes(processes or [process_counts()]))
        PlatformCollector(registry=registry)
        return generate_latest(registry)


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
                    buckets = _buckets(SECONDS, figures["histograms"][index])
                    family.add_metric(_labels(figures), buckets, figures["sums"][index] / 1000)
            yield family
        rows = HistogramMetricFamily("penstock_batch_size", "Rows per run.", labels=("model", "version"))
        requests = CounterMetricFamily("penstock_requests", "Requests.", labels=("model", "version", "outcome"))
        rejected = CounterMetricFamily(
            "penstock_rejected",
            "Requests refused or timed out.",
            labels=("model", "version", "reason"),
        )
        for figures in models:
            if figures["outcomes"].get("ok"):
                sizes = {int(size): count for size, count in figures["batches"].items()}
                total = sum(size * count for size, count in sizes.items())
                rows.add_metric(_labels(figures), _buckets(ROWS, _by_bound(sizes)), total)
            for outcome, count in sorted(figures["outcomes"].items()):
                requests.add_metric((*_labels(figures), outcome), count)
                if outcome in _REFUSED:
                    rejected.add_metric((*_labels(figures), outcome), count)
        yield from (rows, requests, rejected, _out_of_range(models))
        yield from _cache(self._snapshot["cache"])
        yield GaugeMetricFamily("penstock_queue_depth", "Rows in the queues.", value=self._snapshot["queue_rows"])
        yield GaugeMetricFamily("penstock_inflight", "Requests in flight.", value=self._snapshot["inflight"])
        names = ("model", "version", "variant", "format", "device", "dtype", "task")
        info = GaugeMetricFamily("penstock_model_info", "Always 1; the labels describe a loaded model.", labels=names)
        for facts in self._snapshot["info"]:
            info.add_metric([facts[name] for name in names], 1)
        yield info


def _out_of_range(models: Iterable[Mapping[str, Any]]) -> Any:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(
        "penstock_out_of_range",
        "Requests with a tensor outside the model's expected range.",
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
    yield CounterMetricFamily("penstock_cache_hits", "Requests answered from the cache.", value=figures["hits"])
    yield CounterMetricFamily("penstock_cache_misses", "Requests not found in the cache.", value=figures["misses"])
    yield GaugeMetricFamily("penstock_cache_entries", "Cached answers.", value=figures["entries"])
    yield GaugeMetricFamily("penstock_cache_bytes", "Memory of cached answers.", value=figures["bytes"])


def _labels(figures: Mapping[str, Any]) -> tuple[str, str]:
    return figures["model"], figures["version"]


def _by_bound(sizes: Mapping[int, int]) -> list[int]:
    counts = [0] * (len(ROWS) + 1)
    for size, count in sizes.items():
        counts[bisect_left(ROWS, size)] += count
    return counts


def _buckets(bounds: Iterable[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))
