"""What an interrupted run keeps."""

from __future__ import annotations

import os
import time
from pathlib import Path

from penstock.toolchain.tune.capacity import Capacity, Figures
from penstock.toolchain.tune.configuration import Configuration
from penstock.toolchain.tune.state import KEPT_S, State

BEST = Figures(100.0, 2.0, 15.0, 0, 1.0, True)
FOUND = Capacity(BEST, (BEST, Figures(160.0, 40.0, 90.0, 3, 0.9)))


def test_figures_survive_the_process_and_are_gone_when_the_run_is_finished(tmp_path: Path) -> None:
    State(tmp_path / "tune", {"a": 1}).put(Configuration(2, 1), FOUND)
    again = State(tmp_path / "tune", {"a": 1})
    assert again.get(Configuration(2, 1)) == FOUND
    assert again.get(Configuration(2, 2)) is None
    again.forget()
    assert len(State(tmp_path / "tune", {"a": 1})) == 0
    assert list((tmp_path / "tune").iterdir()) == []


def test_figures_of_another_model_machine_or_objective_are_not_used(tmp_path: Path) -> None:
    State(tmp_path, {"p99_ms": 20}).put(Configuration(), FOUND)
    assert len(State(tmp_path, {"p99_ms": 10})) == 0


def test_old_and_damaged_files_are_measured_again(tmp_path: Path) -> None:
    State(tmp_path, {}).put(Configuration(), FOUND)
    (file,) = tmp_path.iterdir()
    yesterday = time.time() - KEPT_S - 60
    os.utime(file, (yesterday, yesterday))
    assert len(State(tmp_path, {})) == 0
    for content in ("{", "[]", '{"x": {"best": [1], "runs": []}}', '{"x": 3}'):
        file.write_text(content)
        assert len(State(tmp_path, {})) == 0


def test_a_directory_that_cannot_be_written_keeps_nothing_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = State(tmp_path / "file" / "tune", {})
    state.put(Configuration(), FOUND)
    assert state.get(Configuration()) == FOUND
    state.forget()
