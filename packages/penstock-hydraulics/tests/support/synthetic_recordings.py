"""Synthetic recordings: each state shifts one row of the readings, so that small models learn them quickly."""

from __future__ import annotations

import numpy as np

from penstock_hydraulics.learning.data.recordings import ROWS, Recordings
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.signals.features import STEPS


def synthetic_recordings(runs: int = 24, cycles: int = 10, noise: float = 0.1, seed: int = 0) -> Recordings:
    """`runs` of `cycles` each; state h shifts row 2h by its level. The first run is not settled.

    The labels are the same for every seed.
    """
    rng = np.random.default_rng(0)
    of_run = np.stack([rng.permutation(np.arange(runs) % len(head.levels)) for head in HEADS], axis=1)
    labels = np.repeat(of_run, cycles, axis=0)
    rng = np.random.default_rng(seed)
    readings = 50 + rng.normal(0, noise, (runs * cycles, len(ROWS), STEPS))
    for place in range(len(HEADS)):
        readings[:, 2 * place] += labels[:, place, None]
    settled = np.repeat(np.arange(runs) > 0, cycles)
    return Recordings(readings.astype(np.float32), labels, np.repeat(np.arange(runs), cycles), settled)
