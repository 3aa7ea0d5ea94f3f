"""Small simulated recordings of the rig, for training tests without the real ones; an answer for one."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock_hydraulics.diagnosis.schemas import AnomalyAnswer, DegradationAnswer, Health, PredictionResponse
from penstock_hydraulics.learning.data.recordings import RIG, ROWS, Recordings
from penstock_hydraulics.learning.data.simulated import rows_of_window
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.simulator import simulate

FAULTS = ("overheating", "valve_stiction", "leakage", "pressure_drop")  # the fault of each of HEADS
PARTS = ("cooler_main", "valve_main", "pump_main", "accumulator_main")


def simulated_recordings(runs: int, cycles: int = 4, seed: int = 0) -> Recordings:
    """`runs` runs of `cycles` settled cycles, each in its own state; the first is healthy."""
    random = np.random.default_rng(seed)
    readings, labels = [], []
    for run in range(runs):
        levels = [0 if run == 0 else int(random.integers(len(head.levels))) for head in HEADS]
        faults = {
            part: {fault: float(head.severities[level])}
            for part, fault, head, level in zip(PARTS, FAULTS, HEADS, levels, strict=True)
        }
        for window in simulate(RIG, faults, cycles, seed=seed + run):
            rows, values = rows_of_window(RIG, window)
            readings.append(values[[rows.index(row) for row in ROWS]])
            labels.append(levels)
    return Recordings(
        np.stack(readings).astype(np.float32),
        np.array(labels, np.int64),
        np.repeat(np.arange(runs), cycles),
        np.ones(runs * cycles, bool),
    )


def diagnosis_of(equipment_id: str, status: Any = "unknown") -> PredictionResponse:
    """An answer that says nothing of a machine."""
    return PredictionResponse(
        equipment_id=equipment_id,
        health=Health(score=None, status=status, basis="unavailable"),
        degradation=DegradationAnswer(rate=None, time_to_failure_hours=None, basis="none"),
        anomaly=AnomalyAnswer(predictions={}, detected_anomalies=[], basis={}, thresholds={}),
        components=[],
        coverage=0.0,
        warnings=[],
        unknown_sensors=[],
        topology="zema_rig",
        model_version="1.0",
        inference_time_ms=0.0,
        preprocessing_time_ms=0.0,
        postprocessing_time_ms=0.0,
    )
