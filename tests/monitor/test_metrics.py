"""What is counted, and the page that Prometheus reads."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock.engine.cache import PredictionCache
from penstock.engine.observation import Observation
from penstock.engine.tasks.ranges import Flag
from penstock.monitor.metrics import ROWS, SECONDS, Metrics, merge


class Engine:
    """An engine's gauges, at rest."""

    queue_rows = 3
    inflight = 2
    cache: PredictionCache | None = None

    @staticmethod
    def loaded() -> list[Any]:
        facts = {"name": "m", "version": "1", "variant": "onnx-fp32", "format": "onnx", "device": "cpu"}
        return [SimpleNamespace(info=SimpleNamespace(**facts, dtype="FP32", task="tensor"))]


def observation(outcome: Any = "ok", *, model: str = "m", total_ms: float = 3.0, batch_rows: int = 4) -> Observation:
    return Observation(model, "1", "onnx-fp32", outcome, 1, batch_rows, 0.05, 1.0, 1.5, 0.02, total_ms, "id")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(Engine())  # type: ignore[arg-type]


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(page.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(page: bytes, name: str, **labels: str) -> float:
    return samples(page)[name, frozenset(labels.items())]


def test_times_become_histograms_in_seconds(metrics: Metrics) -> None:
    for total_ms in (3.0, 3.0, 700.0):
        metrics.observe(observation(total_ms=total_ms))
    page = metrics.render()
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


def test_a_time_on_a_bound_falls_into_its_bucket(metrics: Metrics) -> None:
    for bound in SECONDS:
        metrics.observe(observation(total_ms=bound * 1000))
    page = metrics.render()
    counts = [
        value(page, "penstock_request_duration_seconds_bucket", le=str(float(b)), model="m", version="1")
        for b in SECONDS
    ]
    assert counts == list(range(1, len(SECONDS) + 1))


@pytest.mark.parametrize(
    ("outcome", "rejected"),
    [("overloaded", True), ("deadline", True), ("not_ready", True), ("invalid", False), ("cancelled", False)],
)
def test_outcomes_are_counted_and_refusals_once_more(metrics: Metrics, outcome: str, rejected: bool) -> None:
    metrics.observe(observation(outcome))
    page = samples(metrics.render())
    of = frozenset({("model", "m"), ("version", "1")})
    assert page["penstock_requests_total", of | {("outcome", outcome)}] == 1
    assert (("penstock_rejected_total", of | {("reason", outcome)}) in page) == rejected
    assert ("penstock_request_duration_seconds_count", of) not in page


def test_gauges_are_read_when_the_page_is_written(metrics: Metrics) -> None:
    page = metrics.render()
    assert value(page, "penstock_queue_depth") == 3
    assert value(page, "penstock_inflight") == 2
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


def test_the_page_tells_about_the_process(metrics: Metrics) -> None:
    names = {name for name, _ in samples(metrics.render())}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "python_gc_collections_total"} <= names


observations = st.builds(
    observation,
    st.sampled_from(["ok", "ok", "ok", "overloaded", "error"]),
    model=st.sampled_from(["a", "b"]),
    total_ms=st.floats(0, 1e5),
    batch_rows=st.integers(1, 2 * ROWS[-1]),
)


@given(st.lists(observations, max_size=40), st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_several_processes_count_what_one_would(seen: list[Observation], where: list[int]) -> None:
    one, several = Metrics(Engine()), [Metrics(Engine()) for _ in range(3)]  # type: ignore[arg-type]
    for each, index in zip(seen, where, strict=False):
        one.observe(each)
        several[index].observe(each)
    merged = merge(json.loads(json.dumps(metrics.snapshot())) for metrics in several)
    whole = one.snapshot()
    assert merged["queue_depth"] == 9
    assert merged["info"] == whole["info"]
    assert by_model(merged) == by_model(whole)


def by_model(snapshot: dict[str, Any]) -> dict[str, Any]:
    return {
        model["model"]: {**model, "sums": [pytest.approx(total) for total in model["sums"]]}
        for model in snapshot["models"]
    }


def flagged(*flags: Flag, outcome: Any = "ok") -> Observation:
    return observation(outcome)._replace(flags=flags)


def test_what_is_out_of_range_is_counted_by_tensor_whether_it_was_answered_or_refused(metrics: Metrics) -> None:
    above, nan = Flag("input", "x", "above"), Flag("output", "y", "not_finite")
    for each in (flagged(above, nan), flagged(above, outcome="out_of_range"), flagged()):
        metrics.observe(each)
    merged = merge([metrics.snapshot(), json.loads(json.dumps(metrics.snapshot()))])
    assert sorted(merged["models"][0]["flags"]) == [["input", "x", "above", 4], ["output", "y", "not_finite", 2]]
    labels = 'kind="above",model="m",side="input",tensor="x",version="1"'
    assert f"penstock_out_of_range_total{{{labels}}} 2.0" in metrics.render().decode()


def test_the_figures_of_several_caches_are_added_up_and_without_one_there_are_none() -> None:
    class Caching(Engine):
        cache = PredictionCache(10)

    Caching.cache.get(b"unknown")
    caching, plain = Metrics(Caching()), Metrics(Engine())  # type: ignore[arg-type]
    page = plain.render([caching.snapshot(), caching.snapshot(), plain.snapshot()]).decode()
    assert "penstock_cache_misses_total 2.0" in page
    assert "penstock_cache_hits_total 0.0" in page
    assert "penstock_cache" not in plain.render().decode()


def test_merging_changes_no_snapshot(metrics: Metrics) -> None:
    metrics.observe(observation())
    before = json.dumps(metrics.snapshot())
    merge([metrics.snapshot(), metrics.snapshot()])
    assert json.dumps(metrics.snapshot()) == before
