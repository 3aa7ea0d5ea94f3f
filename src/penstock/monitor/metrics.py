"""The page of `/metrics`, rendered from the engine's statistics at each scrape, at no cost per request.

A new metric is counted in `engine.statistics` first. Exemplars are those of traced requests, and exist only in the
OpenMetrics format.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from penstock.engine.statistics import SECONDS, merge
from penstock.monitor.gpus import Gpus
from penstock.monitor.processes import Processes
from penstock.monitor.traces.exemplars import Exemplar, newest

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

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


_LOADED = {
    "queue_rows": ("penstock_queue_depth", "Rows in the queue of the model."),
    "inflight": ("penstock_model_inflight", "Requests that hold the model."),
    "memory_bytes": ("penstock_model_memory_bytes", "Memory of the model's weights, all processes together."),
}
"""The gauges of a loaded model, by their name in `statistics.GAUGES`."""
STATES = ("serving", "outdated", "failed", "loading")


class Page(NamedTuple):
    """The page of `/metrics`, and its content type."""

    body: bytes
    content_type: str


def prefers_open_metrics(accept: str) -> bool:
    """True if an Accept header asks for OpenMetrics, and not more for the classic format."""
    quality = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        given = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        if kind in quality and re.fullmatch(r"[01](\.\d{0,3})?", given):
            quality[kind] = max(quality[kind], float(given))
    asked, plain = quality.values()
    return asked > 0 and asked >= plain


def metrics_page(everyone: Sequence[Mapping[str, Any]], accept: str = "", more: Iterable[Any] = ()) -> Page:
    """The page in the format that is accepted, from the figures of each process: `statistics`, `process`, and
    `traces`, None where there are none. `more` are collectors of further metric families.
    """
    from prometheus_client import generate_latest
    from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics

    registry = _registry(everyone, more)
    if prefers_open_metrics(accept):
        body: bytes = generate_open_metrics(registry)  # type: ignore[no-untyped-call]
        return Page(body, OPEN_METRICS)
    return Page(generate_latest(registry), PLAIN)


def metrics_samples(everyone: Sequence[Mapping[str, Any]], more: Iterable[Any] = ()) -> list[Any]:
    """The samples of the same page."""
    return [sample for family in _registry(everyone, more).collect() for sample in family.samples]


def _registry(everyone: Sequence[Mapping[str, Any]], more: Iterable[Any]) -> Any:
    """The collectors of the page."""
    from prometheus_client.platform_collector import PlatformCollector
    from prometheus_client.registry import CollectorRegistry

    registry = CollectorRegistry(auto_describe=False)
    traces = [figures["traces"] for figures in everyone if figures["traces"] is not None]
    registry.register(_Families(merge(figures["statistics"] for figures in everyone), traces))
    registry.register(Processes([figures["process"] for figures in everyone]))
    registry.register(Gpus())
    PlatformCollector(registry=registry)
    for collector in more:
        registry.register(collector)
    return registry


class _Families:
    """One snapshot as prometheus_client's metric families."""

    def __init__(self, snapshot: Mapping[str, Any], traces: Sequence[Mapping[str, Any]]) -> None:
        self._snapshot = snapshot
        self._traces = traces

    def collect(self) -> Iterator[Any]:
        return map(_printable, self._families())

    def _families(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        models = self._snapshot["models"]
        exemplars = newest(row for figures in self._traces for row in figures["exemplars"])
        for index, (name, text) in enumerate(_TIMES.items()):
            family = HistogramMetricFamily(name, text, labels=("model", "version"))
            for figures in models:
                if figures["outcomes"].get("ok"):
                    buckets = _buckets(SECONDS, figures["histograms"][index])
                    found = [exemplars.get((*_labels(figures), index, bucket)) for bucket in range(len(buckets))]
                    family.add_metric(_labels(figures), _with(found, buckets), figures["sums"][index] / 1000)
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
        yield from _traces(self._traces)
        yield from _cache(self._snapshot["cache"])
        yield GaugeMetricFamily("penstock_inflight", "Requests in flight.", value=self._snapshot["inflight"])
        yield from _routes(self._snapshot)
        ready = "Server processes that are ready: every model that should be served is, and there is no drain."
        yield GaugeMetricFamily("penstock_ready_processes", ready, value=self._snapshot["ready"])
        yield from _loaded(self._snapshot)
        names = ("model", "version", "variant", "format", "device", "dtype", "task")
        info = GaugeMetricFamily("penstock_model_info", "Always 1; the labels describe a loaded model.", labels=names)
        for facts in self._snapshot["info"]:
            info.add_metric([facts[name] for name in names], 1)
        yield info


def _printable(family: Any) -> Any:
    """The family with labels that UTF-8 can hold: the names of files may have other bytes."""
    for index, sample in enumerate(family.samples):
        labels = {name: value.encode("utf-8", "replace").decode() for name, value in sample.labels.items()}
        family.samples[index] = sample._replace(labels=labels)
    return family


def _loaded(snapshot: Mapping[str, Any]) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily

    for key, (name, text) in _LOADED.items():
        family = GaugeMetricFamily(name, text, labels=("model", "version"))
        for gauges in snapshot["loaded"]:
            family.add_metric(_labels(gauges), gauges[key])
        yield family
    text = "Server processes in which a reference that should be served is in this state."
    family = GaugeMetricFamily("penstock_model_state", text, labels=("ref", "state"))
    for ref, states in sorted(snapshot["states"].items()):
        for state in STATES:
            family.add_metric((ref, state), states.get(state, 0))
    yield family


def _routes(snapshot: Mapping[str, Any]) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily

    stale = "Processes that follow the routes last known, since the registry's database cannot be read."
    yield GaugeMetricFamily("penstock_routes_stale", stale, value=snapshot["stale"])
    text = "Processes in which the fallback of a route answers for a version that keeps failing."
    circuits = GaugeMetricFamily("penstock_circuit_open", text, labels=("model", "version"))
    for ref, count in sorted(snapshot["circuits"].items()):
        name, _, version = ref.partition(":")
        circuits.add_metric((name, version), count)
    yield circuits


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


def _traces(everyone: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily

    if everyone:
        texts = {
            "exported": "Traces that the collector has taken.",
            "dropped": "Traces that were dropped: the collector was not available, or too many waited.",
        }
        for name, text in texts.items():
            total = sum(figures[name] for figures in everyone)
            yield CounterMetricFamily(f"penstock_traces_{name}", text, value=total)


def _labels(figures: Mapping[str, Any]) -> tuple[str, str]:
    return figures["model"], figures["version"]


def _by_bound(sizes: Mapping[int, int]) -> list[int]:
    counts = [0] * (len(ROWS) + 1)
    for size, count in sizes.items():
        counts[bisect_left(ROWS, size)] += count
    return counts


def _with(found: Sequence[Exemplar | None], buckets: Sequence[tuple[str, float]]) -> list[Any]:
    """The buckets with their exemplars."""
    from prometheus_client.samples import Exemplar as Shown

    shown = [None if one is None else Shown({"trace_id": one.trace_id}, one.value, one.at) for one in found]
    return [(*bucket, exemplar) for bucket, exemplar in zip(buckets, shown, strict=True)]


def _buckets(bounds: Iterable[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))
