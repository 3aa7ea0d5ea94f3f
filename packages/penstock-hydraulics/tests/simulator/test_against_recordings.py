"""The simulated rig compared with the recorded one, for all settled combinations of the four labelled faults."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from penstock_hydraulics.learning.data.recordings import load
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.simulator.cycle import settled
from penstock_hydraulics.simulator.machine import Machine
from penstock_hydraulics.simulator.ratings import ratings_of
from penstock_hydraulics.simulator.sensors import reading

RIG = TEMPLATES["zema_rig"]
FAULT_OF_LABEL = (
    ("cooler_main", "overheating", (0.0, 0.5, 1.0)),
    ("valve_main", "valve_stiction", (0.0, 1 / 3, 2 / 3, 1.0)),
    ("pump_main", "leakage", (0.0, 0.5, 1.0)),
    ("accumulator_main", "pressure_drop", (0.0, 0.375, 0.75, 1.0)),
)
MEDIAN = {
    "pressure_pump_main": 0.01,
    "flow_pump_main": 0.01,
    "temperature_pump_main": 0.05,
    "vibration_pump_main": 0.05,
    "power_pump_main": 0.02,
    "pressure_valve_main": 0.01,
    "temperature_valve_main": 0.05,
    "pressure_load_valve": 0.05,
    "pressure_accumulator_main": 0.05,
    "temperature_tank": 0.05,
    "flow_circ_pump": 0.03,
    "pressure_filter_main": 0.03,
    "pressure_cooler_main": 0.03,
    "temperature_cooler_main": 0.05,
}
"""Maximum relative error of the mean over a cycle in half of the runs."""


def _recordings() -> Path:
    where = os.environ.get("PENSTOCK_HYDRAULICS_DATA")
    if not where:
        pytest.skip("PENSTOCK_HYDRAULICS_DATA does not say where the recordings are")
    return Path(where)


def _simulated(levels: np.ndarray) -> dict[str, float]:
    faults = {
        part: {fault: severities[level]}
        for (part, fault, severities), level in zip(FAULT_OF_LABEL, levels, strict=True)
    }
    cycle = settled(Machine.of(RIG, ratings_of(RIG), faults))
    return {
        sensor: float(reading(cycle, component, quantity).mean())
        for component in RIG.components
        for quantity, sensor in zip(component.quantities, component.sensors, strict=True)
    }


def test_the_mean_of_every_sensor_matches_the_recorded_run_with_the_same_faults() -> None:
    recordings = load(_recordings())
    off: defaultdict[str, list[float]] = defaultdict(list)
    for run in np.unique(recordings.runs[recordings.in_settled_runs]):
        last = int(np.flatnonzero(recordings.runs == run)[-1])
        simulated = _simulated(recordings.labels[last])
        for sensor, samples in recordings.window(last).items():
            recorded = float(np.mean(samples))
            off[sensor].append(abs(simulated[sensor] - recorded) / max(recorded, 1.0))

    assert len(off["pressure_pump_main"]) > 100
    for sensor, most in MEDIAN.items():
        assert np.median(off[sensor]) < most, sensor
