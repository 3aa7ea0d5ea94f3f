"""Write recordings as an npz file that `penstock_hydraulics.load` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from penstock_hydraulics.learning.data.recordings import ROWS, SENSORS, Recordings
from penstock_hydraulics.machine.states import HEADS

_PROFILE = ("cooler", "valve", "pump_leak", "accumulator")


def write_npz(path: Path, recordings: Recordings) -> Path:
    """Write `recordings`; flows are written as means."""
    means = [place for place, (_, channel) in enumerate(ROWS) if not channel.startswith("flow_")]
    columns = {name: recordings.readings[:, place] for name, place in zip(SENSORS, means, strict=True)}
    labels = {
        f"y_{name}": np.array(head.levels)[recordings.labels[:, place]]
        for place, (name, head) in enumerate(zip(_PROFILE, HEADS, strict=True))
    }
    np.savez(path, **columns, **labels, y_stable=~recordings.settled)
    return path
