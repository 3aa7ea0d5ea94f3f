"""The figures of several processes as one's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from penstock.gateway.process.worker_group import WorkerGroup, merge_stats


def stats(requests: int, throughput: float, p50: float | None, **more: Any) -> dict[str, Any]:
    model = {
        "requests": requests,
        "errors": 1,
        "error_rate": 1 / requests,
        "outcomes": {"ok": requests - 1, "error": 1},
        **dict.fromkeys(("avg_ms", "p50_ms", "p95_ms", "p99_ms"), p50),
        "throughput": throughput,
        "batch_size_histogram": {"1": requests - 2, "10": 1},
        "uptime_s": float(requests),
    }
    return {"model_path": "m", "queue_size": 2, "processing": 3, "models": {"m:1": model}, **more}


def test_counts_add_up_and_latencies_are_weighted_by_throughput() -> None:
    merged = merge_stats([stats(10, 30.0, 1.0), stats(40, 10.0, 5.0)])
    model = merged["models"]["m:1"]
    assert (merged["queue_size"], merged["processing"]) == (4, 6)
    assert (model["requests"], model["errors"], model["error_rate"]) == (50, 2, 0.04)
    assert model["outcomes"] == {"ok": 48, "error": 2}
    assert model["batch_size_histogram"] == {"1": 46, "10": 2}
    assert model["p50_ms"] == 2.0
    assert (model["throughput"], model["uptime_s"]) == (40.0, 40.0)


def test_a_process_without_answers_changes_no_latency() -> None:
    model = merge_stats([stats(10, 30.0, 1.5), stats(2, 0.0, None)])["models"]["m:1"]
    assert model["p99_ms"] == 1.5


def test_a_model_of_one_process_only_is_shown() -> None:
    other = stats(5, 1.0, 1.0)
    other["models"] = {"n:2": other["models"]["m:1"]}
    assert set(merge_stats([stats(5, 1.0, 1.0), other])["models"]) == {"m:1", "n:2"}


def figures() -> dict[str, Any]:
    metrics = {"models": [], "queue_depth": 4, "inflight": 5, "info": [{"model": "m"}]}
    return {"metrics": metrics, "stats": stats(10, 30.0, 1.0)}


@pytest.mark.parametrize(("pid", "depth", "throughput"), [(os.getppid(), 4, 30.0), (2**22 - 1, 0, 0.0)])
def test_of_an_ended_process_only_the_counts_stay(tmp_path: Path, pid: int, depth: int, throughput: float) -> None:
    (tmp_path / f"{pid}.json").write_text(json.dumps(figures()), encoding="utf-8")
    (tmp_path / "half.json").write_text("{", encoding="utf-8")
    (other,) = WorkerGroup(tmp_path).others()
    assert other["metrics"]["queue_depth"] == depth
    assert other["stats"]["models"]["m:1"]["throughput"] == throughput
    assert other["stats"]["models"]["m:1"]["requests"] == 10
