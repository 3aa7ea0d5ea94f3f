"""The figures of several processes, one file each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from penstock.engine.observation import Observation
from penstock.engine.statistics import Statistics
from penstock.gateway.process.worker_group import WorkerGroup


@pytest.mark.parametrize(("pid", "inflight"), [(os.getppid(), 5), (2**22 - 1, 0)])
def test_of_an_ended_process_only_the_counts_stay(tmp_path: Path, pid: int, inflight: int) -> None:
    statistics = Statistics()
    statistics.add(Observation(model="m", version="1", variant="onnx-fp32", outcome="ok", total_ms=1.0))
    figures = {"statistics": statistics.snapshot(inflight=5), "orders": 0}
    (tmp_path / f"{pid}.json").write_text(json.dumps(figures), encoding="utf-8")
    (tmp_path / "half.json").write_text("{", encoding="utf-8")
    (other,) = WorkerGroup(tmp_path).others()
    assert other["statistics"]["inflight"] == inflight
    assert other["statistics"]["models"][0]["outcomes"] == {"ok": 1}
