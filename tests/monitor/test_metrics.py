"""The page of `/metrics`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from penstock.engine.cache import PredictionCache
from penstock.engine.observation import Observation
from penstock.engine.statistics import SECONDS, Statistics
from penstock.engine.tasks.ranges import Flag
from penstock.monitor import gpus
from penstock.monitor.metrics import OPEN_METRICS, PLAIN, STATES, metrics_page, prefers_open_metrics
from penstock.monitor.processes import counts_of_ended, process_counts


class Figures:
    """The statistics of an idle engine."""

    def __init__(self, cache: PredictionCache | None = None) -> None:
        self.statistics = Statistics()
        self._cache = cache

    def snapshot(self) -> dict[str, Any]:
        facts = {"model": "m", "version": "1", "variant": "onnx-fp32", "format": "onnx", "device": "cpu"}
        info = [{**facts, "dtype": "FP32", "task": "tensor"}]
        loaded = [{"model": "m", "version": "1", "queue_rows": 3, "inflight": 2, "memory_bytes": 4096}]
        states = {"m": "serving", "broken": "failed"}
        snapshot = self.statistics.snapshot(inflight=2, cache=self._cache, states=states)
        return {**snapshot, "queue_rows": 3, "info": info, "loaded": loaded}


def observation(outcome: Any = "ok", *, model: str = "m", total_ms: float = 3.0, batch_rows: int = 4) -> Observation:
    return Observation(
        model=model,
        version="1",
        variant="onnx-fp32",
        outcome=outcome,
        total_ms=total_ms,
        batch_rows=batch_rows,
        pre_ms=0.05,
        queue_ms=1.0,
        run_ms=1.5,
        post_ms=0.02,
    )


@pytest.fixture
def figures() -> Figures:
    return Figures()


def of_process(figures: Figures, process: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"statistics": figures.snapshot(), "process": process or process_counts({}), "traces": None}


def page_of(figures: Figures, accept: str = "") -> bytes:
    return metrics_page([of_process(figures)], accept).body


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(page.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(page: bytes, name: str, /, **labels: str) -> float:
    return samples(page)[name, frozenset(labels.items())]


def test_times_become_histograms_in_seconds(figures: Figures) -> None:
    for total_ms in (3.0, 3.0, 700.0):
        figures.statistics.add(observation(total_ms=total_ms))
    page = page_of(figures)
    of = {"model": "m", "version": "1"}
    name = "penstock_request_duration_seconds"
    assert value(page, f"{name}_count", **of) == 3
    assert value(page, f"{name}_sum", **of) == pytest.approx(0.706)
    assert value(page, f"{name}_bucket", le="0.0025", **of) == 0
    assert value(page, f"{name}_bucket", le="0.005", **of) == 2
    assert value(page, f"{name}_bucket", le="+Inf", **of) == 3
    for phase, seconds in (("preprocess", 5e-5), ("queue", 1e-3), ("compute", 1.5e-3), ("postprocess", 2e-5)):
        assert value(page, f"penstock_{phase}_seconds_sum", **of) == pytest.approx(3 * seconds)
    assert value(page, "penstock_batch_size_sum", **of) == 12


def test_a_time_on_a_bound_falls_into_its_bucket(figures: Figures) -> None:
    for bound in SECONDS:
        figures.statistics.add(observation(total_ms=bound * 1000))
    page = page_of(figures)
    counts = [
        value(page, "penstock_request_duration_seconds_bucket", le=str(float(b)), model="m", version="1")
        for b in SECONDS
    ]
    assert counts == list(range(1, len(SECONDS) + 1))


@pytest.mark.parametrize(
    ("outcome", "rejected"),
    [("overloaded", True), ("deadline", True), ("not_ready", True), ("invalid", False), ("cancelled", False)],
)
def test_outcomes_are_counted_and_refusals_also_as_rejected(figures: Figures, outcome: str, rejected: bool) -> None:
    figures.statistics.add(observation(outcome))
    page = samples(page_of(figures))
    of = frozenset({("model", "m"), ("version", "1")})
    assert page["penstock_requests_total", of | {("outcome", outcome)}] == 1
    assert (("penstock_rejected_total", of | {("reason", outcome)}) in page) == rejected
    assert ("penstock_request_duration_seconds_count", of) not in page


def test_gauges_are_read_at_each_scrape(figures: Figures) -> None:
    page = page_of(figures)
    of = {"model": "m", "version": "1"}
    assert value(page, "penstock_queue_depth", **of) == 3
    assert value(page, "penstock_model_inflight", **of) == 2
    assert value(page, "penstock_model_memory_bytes", **of) == 4096
    assert value(page, "penstock_inflight") == 2
    assert value(page, "penstock_ready_processes") == 1
    states = {state: value(page, "penstock_model_state", ref="broken", state=state) for state in STATES}
    assert states == {"serving": 0, "outdated": 0, "failed": 1, "loading": 0}
    (info,) = [key for key in samples(page) if key[0] == "penstock_model_info"]
    assert dict(info[1]) == {
        "model": "m",
        "version": "1",
        "variant": "onnx-fp32",
        "format": "onnx",
        "device": "cpu",
        "dtype": "FP32",
        "task": "tensor",
    }


def test_the_page_has_figures_of_the_process(figures: Figures) -> None:
    page = page_of(figures)
    names = {name for name, _ in samples(page)}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_gc_collections_total"} <= names
    assert {"process_open_fds", "process_max_fds", "process_start_time_seconds", "python_info"} <= names
    assert value(page, "penstock_processes") == 1


def test_figures_of_several_processes_are_summed_and_counters_outlive_them(figures: Figures) -> None:
    own = process_counts({})
    alone = metrics_page([of_process(figures, own)]).body
    with subprocess.Popen(["sleep", "60"]) as other:
        everyone = [own, {**own, "pid": other.pid, "cpu_s": 7.5}]
        both = metrics_page([of_process(figures, each) for each in everyone]).body
        other.kill()
    after = metrics_page([of_process(figures, own), of_process(figures, counts_of_ended(everyone[1]))]).body
    assert (value(both, "penstock_processes"), value(after, "penstock_processes")) == (2, 1)
    for name in ("process_max_fds", "process_virtual_memory_bytes"):
        assert value(both, name) > value(after, name) > 0
    for page in (both, after):
        assert value(page, "process_cpu_seconds_total") == pytest.approx(own["cpu_s"] + 7.5)
        collections = "python_gc_collections_total"
        assert value(page, collections, generation="0") == 2 * value(alone, collections, generation="0")


def test_every_metric_is_described_once_with_a_kind(figures: Figures) -> None:
    families = list(text_string_to_metric_families(page_of(figures).decode()))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type != "untyped" for family in families)


def flagged(*flags: Flag, outcome: Any = "ok") -> Observation:
    return replace(observation(outcome), flags=flags)


def test_out_of_range_values_are_counted_by_tensor_if_answered_or_refused(figures: Figures) -> None:
    above, nan = Flag("input", "x", "above"), Flag("output", "y", "not_finite")
    for each in (flagged(above, nan), flagged(above, outcome="out_of_range"), flagged()):
        figures.statistics.add(each)
    labels = 'kind="above",model="m",side="input",tensor="x",version="1"'
    assert f"penstock_out_of_range_total{{{labels}}} 2.0" in page_of(figures).decode()


def test_figures_of_several_caches_are_summed_and_absent_without_a_cache() -> None:
    cache = PredictionCache(10)
    cache.get(b"unknown")
    caching, plain = Figures(cache), Figures()
    page = metrics_page([of_process(each) for each in (caching, caching, plain)]).body.decode()
    assert "penstock_cache_misses_total 2.0" in page
    assert "penstock_cache_hits_total 0.0" in page
    assert "penstock_cache" not in page_of(plain).decode()


def test_batch_sizes_are_counted_in_their_bucket(figures: Figures) -> None:
    for rows in (0, 1, 2, 3, 512, 513):
        figures.statistics.add(observation(batch_rows=rows))
    page = page_of(figures)
    of = {"model": "m", "version": "1"}
    counts = {
        le: value(page, "penstock_batch_size_bucket", le=le, **of) for le in ("1.0", "2.0", "4.0", "512.0", "+Inf")
    }
    assert counts == {"1.0": 2, "2.0": 3, "4.0": 4, "512.0": 5, "+Inf": 6}


# Formats

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "asked"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("application/openmetrics-text", True),
        (" Application/OpenMetrics-Text ; version=99 ", True),
        ("text/plain;version=0.0.4", False),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.3", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-textual", False),
        ("*/*", False),
        ("", False),
        (";,;q=1,,", False),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(figures: Figures, accept: str, asked: bool) -> None:
    assert prefers_open_metrics(accept) == asked
    page = metrics_page([of_process(figures)], accept)
    assert page.content_type == (OPEN_METRICS if asked else PLAIN)
    assert page.body.endswith(b"# EOF\n") == asked


def test_both_formats_hold_the_same_figures(figures: Figures) -> None:
    for outcome in ("ok", "overloaded", "error"):
        figures.statistics.add(observation(outcome))
    families = open_metrics(page_of(figures, PROMETHEUS_2).decode())
    open_samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    plain = samples(page_of(figures))
    assert set(open_samples) == set(plain)
    ours = {key: value for key, value in plain.items() if key[0].startswith("penstock_")}
    assert {key: open_samples[key] for key in ours} == ours


@pytest.mark.parametrize("accept", ["", PROMETHEUS_2])
def test_names_with_quotes_line_breaks_and_broken_characters_come_out_as_labels(figures: Figures, accept: str) -> None:
    name = 'a"b\\c\nd\u00e9\u2028 e'
    figures.statistics.add(observation(model=name))
    figures.statistics.add(observation(model="half \udcff"))
    parse = open_metrics if accept else text_string_to_metric_families
    page = page_of(figures, accept).decode()
    models = {s.labels.get("model") for family in parse(page) for s in family.samples}
    assert {name, "half ?"} <= models


# GPUs


class Driver:
    """What `pynvml` offers, with two GPUs, of which the second one reports no use."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, index: int) -> bytes:
        return b"H200"

    def nvmlDeviceGetMemoryInfo(self, index: int) -> Any:
        return SimpleNamespace(used=1e9 * (index + 1), total=4e9)

    def nvmlDeviceGetUtilizationRates(self, index: int) -> Any:
        if index:
            raise self.NVMLError
        return SimpleNamespace(gpu=37)


@pytest.fixture
def no_driver_yet() -> Iterator[None]:
    gpus._driver.cache_clear()
    yield
    gpus._driver.cache_clear()


@pytest.mark.usefixtures("no_driver_yet")
def test_use_and_memory_of_gpus_are_on_the_page(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    page = page_of(figures)
    assert value(page, "penstock_gpu_utilization_ratio", gpu="0", name="H200") == pytest.approx(0.37)
    assert value(page, "penstock_gpu_memory_used_bytes", gpu="1", name="H200") == 2e9
    assert value(page, "penstock_gpu_memory_total_bytes", gpu="1", name="H200") == 4e9
    assert ("penstock_gpu_utilization_ratio", frozenset({("gpu", "1"), ("name", "H200")})) not in samples(page)


@pytest.mark.usefixtures("no_driver_yet")
def test_a_machine_without_gpus_has_no_figures_of_them(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert b"penstock_gpu" not in page_of(figures)
