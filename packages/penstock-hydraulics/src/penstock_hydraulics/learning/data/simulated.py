"""Simulated machines as additional training data: other circuits, and faults without recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from penstock_hydraulics.learning.data.dataset import UNKNOWN, Machine
from penstock_hydraulics.machine.templates import TEMPLATES
from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.features import STEPS, Float, Row
from penstock_hydraulics.simulator import FAULTS, SimulatedWindow, simulate

CIRCUITS: Final = ("standard_pump_system", "dual_pump_system", "excavator")
"""Templates without recordings."""

_HEALTHY_SHARE: Final = 0.2  # share of windows without a fault
_MAX_FAULTS: Final = 4  # maximum number of simultaneous faults


def simulated_machines(windows: int, seed: int, circuits: Sequence[str] = CIRCUITS) -> list[Machine]:
    """`windows` windows of each circuit, each with its own machine parameters and faults."""
    return [
        _machine(TEMPLATES[name], windows, np.random.default_rng([seed, place])) for place, name in enumerate(circuits)
    ]


def rows_of_window(topology: Topology, window: SimulatedWindow) -> tuple[tuple[Row, ...], Float]:
    """Rows of one window and their values [rows, STEPS]: mean of each second, and extremes of flows."""
    rows: list[Row] = []
    values: list[Float] = []
    for name, samples in window.readings.items():
        place = topology.sensor(name)
        if place is None:
            continue
        seconds = np.asarray(samples, np.float32).reshape(STEPS, -1)
        rows.append(place)
        values.append(seconds.mean(axis=1))
        if place[1] == "flow" and seconds.shape[1] > 1:
            rows += [(place[0], "flow_max"), (place[0], "flow_min")]
            values += [seconds.max(axis=1), seconds.min(axis=1)]
    return tuple(rows), np.stack(values)


def _machine(topology: Topology, count: int, random: np.random.Generator) -> Machine:
    windows = [_window(topology, random) for _ in range(count)]
    rows, _ = rows_of_window(topology, windows[0])
    labels = [window.labels for window in windows]
    levels = [[label.levels.get(part.id, UNKNOWN) for part in topology.components] for label in labels]
    return Machine(
        topology=topology,
        rows=rows,
        readings=np.stack([rows_of_window(topology, window)[1] for window in windows]),
        levels=np.array(levels, np.int64),
        health=np.array([label.component_health for label in labels], np.float32),
        degradation=np.array([1.0 - label.health for label in labels], np.float32),
        anomalies=np.array([label.anomalies for label in labels], np.float32),
        weights=np.ones(count, np.float32),
    )


def _window(topology: Topology, random: np.random.Generator) -> SimulatedWindow:
    seed = int(random.integers(2**31))
    return next(simulate(topology, _faults(topology, random), windows=1, seed=seed))


def _faults(topology: Topology, random: np.random.Generator) -> dict[str, dict[str, float]]:
    """No fault, or some faults of random severity; all kinds of fault are equally likely."""
    faults: dict[str, dict[str, float]] = {}
    if random.random() < _HEALTHY_SHARE:
        return faults
    for _ in range(random.integers(1, _MAX_FAULTS + 1)):
        fault = str(random.choice(list(FAULTS)))
        candidates = topology.of_kind(*FAULTS[fault])
        if candidates:
            component = candidates[random.integers(len(candidates))]
            faults.setdefault(component.id, {})[fault] = float(random.random())
    return faults
