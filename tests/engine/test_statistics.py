"""Figures are counted once, and those of several processes merge into those of one process with all requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.cache import PredictionCache
from penstock.engine.observation import Observation
from penstock.engine.statistics import SLICE_S, SLICES, Snapshot, Statistics, counts_of, merge
from penstock.engine.stats_page import to_stats
from penstock.engine.tasks.ranges import Flag

FLAG = Flag("input", "x", "above")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def seen(outcome: Any = "ok", **more: Any) -> Observation:
    facts = {"model": "m", "version": "1", "variant": "onnx-fp32", "total_ms": 3.0, "pre_ms": 0.05, "queue_ms": 1.0}
    return Observation(outcome=outcome, **{**facts, "run_ms": 1.5, "post_ms": 0.02, "batch_rows": 4, **more})


def one_of(snapshot: Snapshot) -> dict[str, Any]:
    (stats,) = to_stats(merge([snapshot])).values()
    return stats


def test_latencies_and_throughput_are_those_of_the_last_minute() -> None:
    clock = Clock()
    statistics = Statistics(clock=clock)
    for number in range(100):
        statistics.add(seen(total_ms=1.0 + number))
        clock.now += 0.1
    stats = one_of(statistics.snapshot())
    assert stats["avg_ms"] == pytest.approx(50.5)
    assert stats["throughput"] == pytest.approx(10.0)
    for percent in (50, 95, 99):
        assert stats[f"p{percent}_ms"] == pytest.approx(percent, rel=0.025)
    clock.now += (SLICES + 1) * SLICE_S
    later = one_of(statistics.snapshot())
    assert (later["requests"], later["p50_ms"], later["throughput"]) == (100, None, 0.0)
    assert later["uptime_s"] == pytest.approx(10 + (SLICES + 1) * SLICE_S)


def test_latencies_of_more_than_a_minute_ago_are_not_kept() -> None:
    clock = Clock()
    statistics = Statistics(clock=clock)
    for _ in range(5 * SLICES):
        statistics.add(seen())
        clock.now += SLICE_S
    assert len(statistics.snapshot()["models"][0]["recent"]) == SLICES


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_a_percentile_is_off_by_little(times: list[float]) -> None:
    statistics = Statistics(clock=Clock())
    for ms in times:
        statistics.add(seen(total_ms=ms))
    stats = one_of(statistics.snapshot())
    for percent in (50, 95, 99):
        exact = float(np.percentile(times, percent, method="inverted_cdf"))
        assert stats[f"p{percent}_ms"] == pytest.approx(exact, rel=0.0115, abs=2e-5)
    assert stats["p50_ms"] <= stats["p95_ms"] <= stats["p99_ms"]


def test_only_server_errors_count_as_errors() -> None:
    statistics = Statistics(clock=Clock())
    for outcome in ("ok", "ok", "invalid", "cancelled", "overloaded", "error"):
        statistics.add(seen(outcome))
    stats = one_of(statistics.snapshot())
    assert (stats["requests"], stats["errors"], stats["error_rate"]) == (6, 2, 2 / 6)
    assert stats["batch_size_histogram"] == {"4": 2}


def test_a_refusal_without_a_model_is_counted_and_not_shown_as_a_model() -> None:
    statistics = Statistics(clock=Clock())
    statistics.add(seen("not_found", model="", version=""))
    assert statistics.snapshot()["models"][0]["outcomes"] == {"not_found": 1}
    assert to_stats(merge([statistics.snapshot()])) == {}


def test_a_stopped_process_leaves_its_counts_and_no_gauges() -> None:
    cache = PredictionCache(10)
    cache.get(b"unknown")
    cache.put(b"known", {"y": np.zeros(3)})
    statistics = Statistics(clock=Clock())
    statistics.add(seen())
    snapshot = statistics.snapshot(inflight=3, cache=cache, states={"m": "failed"})
    snapshot |= {"queue_rows": 5, "info": [{"model": "m"}], "loaded": [1]}
    kept = counts_of(snapshot)
    assert [kept[name] for name in ("queue_rows", "inflight", "ready", "info", "loaded")] == [0, 0, 0, [], []]
    assert kept["states"] == {}
    assert kept["cache"] == {"entries": 0, "bytes": 0, "hits": 0, "misses": 1}
    assert kept["models"] == snapshot["models"]
    assert snapshot["queue_rows"] == 5


def test_the_gauges_of_several_processes_add_up() -> None:
    statistics = Statistics(clock=Clock())
    gauges = {"model": "m", "version": "1", "queue_rows": 2, "inflight": 1, "memory_bytes": 100}
    one = {**statistics.snapshot(states={"m": "serving", "n": "loading"}), "loaded": [gauges]}
    two = {**statistics.snapshot(states={"m": "failed"}, ready=False), "loaded": [gauges]}
    together = merge([one, two, two])
    assert together["states"] == {"m": {"serving": 1, "failed": 2}, "n": {"loading": 1}}
    assert together["loaded"] == [{**gauges, "queue_rows": 6, "inflight": 3, "memory_bytes": 300}]
    assert together["ready"] == 1
    assert one["states"] == {"m": {"serving": 1}, "n": {"loading": 1}}


def test_an_observer_that_fails_hides_nothing_from_the_others() -> None:
    def broken(_: Observation) -> None:
        raise RuntimeError("boom")

    found: list[Observation] = []
    statistics = Statistics([broken, found.append], clock=Clock())
    statistics.observe(seen())
    assert len(found) == 1
    assert statistics.snapshot()["models"][0]["outcomes"] == {"ok": 1}


# Several processes

observations = st.builds(
    seen,
    st.sampled_from(["ok", "ok", "ok", "overloaded", "error"]),
    model=st.sampled_from(["a", "b"]),
    total_ms=st.floats(0, 1e5),
    batch_rows=st.integers(1, 600),
    flags=st.sampled_from([(), (FLAG,), (FLAG, Flag("output", "y", "not_finite"))]),
)
moments = st.integers(0, 200)
"""Seconds after the start."""
events = st.lists(st.tuples(observations, moments, st.integers(0, 2)), max_size=40).map(
    lambda found: sorted(found, key=lambda event: event[1])
)


def counted(seen: list[tuple[Observation, int, int]], *, several: bool) -> list[Snapshot]:
    """The serialized snapshots of one process with all requests, or of three with a part each."""
    clock = Clock()
    processes = [Statistics(clock=clock) for _ in range(3 if several else 1)]
    for process in processes:
        for model in ("a", "b"):
            process.of(model, "1")
    for observation, at, index in seen:
        clock.now = Clock.now + at
        processes[index if several else 0].add(observation)
    clock.now = Clock.now + 200
    return [json.loads(json.dumps(process.snapshot(inflight=1))) for process in processes]


def recent(snapshot: Snapshot) -> Snapshot:
    """Without expired slices, which each process drops only when it begins another."""
    oldest = int(snapshot["at"] / SLICE_S) - SLICES + 1
    models = [
        {**model, "recent": {at: part for at, part in model["recent"].items() if int(at) >= oldest}}
        for model in snapshot["models"]
    ]
    return {**snapshot, "models": models}


def about(value: Any) -> Any:
    """Equal but for the last digits of sums, which depend on the order of the additions."""
    if isinstance(value, dict):
        return {name: about(each) for name, each in value.items()}
    if isinstance(value, list):
        return [about(each) for each in value]
    return pytest.approx(value) if isinstance(value, float) else value


@given(events)
def test_several_processes_count_like_one(found: list[tuple[Observation, int, int]]) -> None:
    merged, (whole,) = merge(counted(found, several=True)), counted(found, several=False)
    assert recent(merged)["models"] == about(recent(merge([whole]))["models"])
    assert to_stats(merged) == about(to_stats(whole))
    assert merged["inflight"] == 3


@given(events)
def test_the_order_of_merging_does_not_matter(found: list[tuple[Observation, int, int]]) -> None:
    a, b, c = counted(found, several=True)
    before = json.dumps([a, b, c])
    assert merge([a, b]) == about(merge([b, a]))
    assert merge([merge([a, b]), c]) == about(merge([a, merge([b, c])]))
    assert json.dumps([a, b, c]) == before
