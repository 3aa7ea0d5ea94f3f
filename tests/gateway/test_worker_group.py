"""Figures of several processes, one file each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import orjson
import pytest

from penstock.engine.deployment.status import Revisions
from penstock.engine.observation import Observation
from penstock.engine.statistics import Statistics
from penstock.gateway.worker_group import WorkerGroup
from penstock.monitor.processes import process_counts


@pytest.mark.parametrize(("pid", "inflight"), [(os.getppid(), 5), (2**22 - 1, 0)])
def test_only_the_counts_of_a_stopped_process_are_kept(tmp_path: Path, pid: int, inflight: int) -> None:
    statistics = Statistics()
    statistics.add(Observation(model="m", version="1", variant="onnx-fp32", outcome="ok", total_ms=1.0))
    figures = {"statistics": statistics.snapshot(inflight=5), "process": process_counts({}), "deployment": [0, 0]}
    (tmp_path / f"{pid}.json").write_text(json.dumps(figures), encoding="utf-8")
    (tmp_path / "half.json").write_text("{", encoding="utf-8")
    (other,) = WorkerGroup(tmp_path).others()
    assert other["statistics"]["inflight"] == inflight
    assert other["statistics"]["models"][0]["outcomes"] == {"ok": 1}
    assert (other["process"]["pid"] is not None) == bool(inflight)


def test_the_name_of_a_file_that_is_not_in_utf8_reaches_the_other_processes(tmp_path: Path) -> None:
    group = WorkerGroup(tmp_path)
    group.publish(lambda: {"states": {"half \udcff": 1, "whole \u00e9": 2}})
    (file,) = tmp_path.glob("*.json")
    assert orjson.loads(file.read_bytes())["states"] == {"half ?": 1, "whole \u00e9": 2}


def test_a_later_process_with_the_number_of_an_ended_one_is_another(tmp_path: Path) -> None:
    ended = tmp_path / f"{os.getpid()}-1.json"
    figures = {"statistics": Statistics().snapshot(inflight=5), "process": process_counts({})}
    ended.write_text(json.dumps(figures), encoding="utf-8")
    (other,) = WorkerGroup(tmp_path).others()
    assert (other["statistics"]["inflight"], other["process"]["pid"]) == (0, None)


def test_a_process_is_behind_until_it_has_followed_both_deployments_and_the_drain(tmp_path: Path) -> None:
    group, figures = WorkerGroup(tmp_path), tmp_path / f"{os.getppid()}.json"
    expected = Revisions(stored=7, local=2)
    for followed, draining, behind in (
        ([7, 2], False, False),
        ([8, 2], False, False),
        ([6, 2], False, True),
        ([7, 1], False, True),
        ([7, 2], True, True),
    ):
        group.set_draining(False)
        figures.write_text(f'{{"deployment": {followed}, "draining": {str(draining).lower()}}}', encoding="utf-8")
        assert group.behind(expected) == ([os.getppid()] if behind else [])


def test_the_processes_of_a_server_share_a_local_deployment(tmp_path: Path) -> None:
    one, other = (WorkerGroup(tmp_path).deployment_store() for _ in range(2))
    assert other.deployment().revision == 0
    one.change_deployment(lambda now: now.unload("m"))
    assert other.deployment().unloads == ("m",)
