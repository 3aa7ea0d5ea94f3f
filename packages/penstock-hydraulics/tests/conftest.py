"""Shared fixtures: one small training by the command, since every ONNX export takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import hypothesis_profile
import numpy as np
import pytest
import quick_files
from databases import database, postgres
from rig import simulated_recordings
from typer.testing import CliRunner

from penstock_hydraulics.cli.main import app
from penstock_hydraulics.learning.data.recordings import ROWS, SENSORS
from penstock_hydraulics.machine.states import HEADS

__all__ = ["database", "postgres"]

hypothesis_profile.load()
quick_files.load()


class Training(NamedTuple):
    """Output directory, data file and printed text of `train`."""

    out: Path
    data: Path
    printed: str


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Two epochs on a few simulated cycles."""
    place = tmp_path_factory.mktemp("hydraulics")
    data, out = place / "recordings.npz", place / "trained"
    _write(data)
    arguments = ["train", "--data", str(data), "--out", str(out), "--epochs", "2", "--simulated", "2"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Training(out, data, result.output)


def _write(path: Path) -> None:
    """Simulated recordings in the format of the real ones."""
    recordings = simulated_recordings(8, cycles=2)
    means = [place for place, row in enumerate(ROWS) if not row[1].startswith("flow_")]
    columns = {name: recordings.readings[:, place] for name, place in zip(SENSORS, means, strict=True)}
    names = ("y_cooler", "y_valve", "y_pump_leak", "y_accumulator")
    labels = {
        name: np.array(head.levels)[recordings.labels[:, place]]
        for place, (name, head) in enumerate(zip(names, HEADS, strict=True))
    }
    np.savez(path, **columns, **labels, y_stable=np.zeros(len(recordings)))
