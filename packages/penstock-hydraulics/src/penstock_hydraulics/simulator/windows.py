"""Simulated windows with labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.states import HEAD_OF_KIND, SUPERVISED, Supervised, equipment_health
from penstock_hydraulics.machine.topology import QUANTITIES, Component, Topology
from penstock_hydraulics.simulator.cycle import Cycle, settled
from penstock_hydraulics.simulator.faults import FAULTS, Faults, check_faults, severities
from penstock_hydraulics.simulator.machine import Machine
from penstock_hydraulics.simulator.ratings import PERIOD_S, individual_ratings, ratings_of
from penstock_hydraulics.simulator.sensors import reading
from penstock_hydraulics.simulator.supply import STEPS, Array

RATES: Mapping[str, float] = {quantity: 10.0 if quantity == "flow" else 1.0 for quantity in QUANTITIES}
"""Sampling rates in Hz, as in the recordings."""

_NOISE: Mapping[str, tuple[float, float]] = {
    "pressure": (0.02, 1.5e-4),
    "flow": (0.004, 0.009),
    "temperature": (0.03, 0.0),
    "vibration": (0.002, 0.008),
    "power": (0.5, 4e-4),
}
"""Standard deviation of a sample: a fixed part in the quantity's unit, and a share of the value (settled cycles of the
recordings, 10 Hz for flow and 1 s means for the rest)."""
_DRIFT_K = 0.15
"""Standard deviation of the ambient temperature between windows, in °C."""
_PRESENT = 0.25
"""Severity from which on a fault without a labelled state counts as an anomaly."""
_FOAM = 0.03
"""Relative ripple of pressure and flow of a cavitating pump at severity 1, in samples of one second."""


@dataclass(frozen=True)
class Labels:
    """Labels of a simulated window; arrays over components are in the order of the topology."""

    severities: Mapping[str, Mapping[str, float]]
    """Component id → fault → 0..1."""
    levels: Mapping[str, int]
    """Component id → index of its state's level, best first; components without a state have none."""
    component_health: Array
    """[N] 1 - the worst severity."""
    health: float
    """Half the worst and half the mean over the components with a state or a fault."""
    anomalies: Array
    """[9] 1 where the fault is present, in the order of the API."""


@dataclass(frozen=True)
class SimulatedWindow:
    """One work cycle: `readings` are sensor → samples, `rates_hz` sensor → samples per second."""

    readings: Mapping[str, Array]
    rates_hz: Mapping[str, float]
    labels: Labels


def simulate(topology: Topology, faults: Faults, windows: int, seed: int = 0) -> Iterator[SimulatedWindow]:
    """Settled work cycles of one machine, 60 s each, with all expected sensors of the topology.

    The seed sets the individual machine (its ratings vary by tenths of a percent) and the noise. A severity is a
    number, or a pair that changes linearly over the windows. Raises InvalidInput, before the first window, for
    faults that are impossible in the circuit.
    """
    if windows < 1:
        raise InvalidInput(f"The number of windows is {windows}; it must be at least 1.", field="windows")
    check_faults(topology, faults)
    return _windows(topology, faults, windows, np.random.default_rng(seed))


def _windows(topology: Topology, faults: Faults, windows: int, rng: np.random.Generator) -> Iterator[SimulatedWindow]:
    ratings = individual_ratings(ratings_of(topology), rng)
    machine = Machine.of(topology, ratings, {})
    tank_c = 45.0
    for window in range(windows):
        now = severities(faults, window, windows)
        room = replace(ratings, ambient=ratings.ambient + _DRIFT_K * float(rng.standard_normal()))
        cycle = settled(replace(machine, ratings=room, severities=now), tank_c)
        tank_c = cycle.tank_c
        yield _window(cycle, rng)


def _window(cycle: Cycle, rng: np.random.Generator) -> SimulatedWindow:
    topology = cycle.machine.topology
    readings: dict[str, Array] = {}
    for component in topology.components:
        for quantity, sensor in zip(component.quantities, component.sensors, strict=True):
            readings[sensor] = _samples(cycle, component, quantity, rng)
    rates = {name: RATES[name.partition("_")[0]] for name in readings}
    return SimulatedWindow(readings, rates, labels_of(topology, cycle.machine.severities))


def _samples(cycle: Cycle, component: Component, quantity: str, rng: np.random.Generator) -> Array:
    """Block means of the exact readings plus noise, not below zero."""
    exact = reading(cycle, component, quantity)
    count = round(PERIOD_S * RATES[quantity])
    means = exact.reshape(count, STEPS // count).mean(1)
    fixed, share = _NOISE[quantity]
    share += _foam(cycle, component, quantity)
    noisy = means + rng.standard_normal(count) * (fixed + share * means)
    return np.where(means > 0, np.maximum(noisy, 0.0), 0.0)


def _foam(cycle: Cycle, component: Component, quantity: str) -> float:
    """Additional relative noise of a cavitating pump."""
    if component.kind != "pump" or quantity not in ("pressure", "flow"):
        return 0.0
    return _FOAM * cycle.machine.severity(component.id, "cavitation")


def labels_of(topology: Topology, now: Mapping[str, Mapping[str, float]]) -> Labels:
    """The labels for these severities."""
    worst = np.array([max(now.get(part.id, {}).values(), default=0.0) for part in topology.components])
    stated = np.array([part.kind in HEAD_OF_KIND for part in topology.components])
    judged = (1 - worst)[stated | (worst > 0)]
    health = equipment_health(judged.astype(np.float32))
    levels = {part.id: _level(part, now) for part in topology.components if part.kind in HEAD_OF_KIND}
    anomalies = np.array([float(_present(topology, fault, now)) for fault in FAULTS])
    return Labels({key: dict(value) for key, value in now.items()}, levels, 1 - worst, health, anomalies)


_STATES: Mapping[str, Supervised] = {state.head.kind: state for state in SUPERVISED}
"""Kind → the fault of its labelled state, and the level from which on it counts as an anomaly."""


def _level(component: Component, now: Mapping[str, Mapping[str, float]]) -> int:
    severity = now.get(component.id, {}).get(_STATES[component.kind].anomaly, 0.0)
    steps = len(HEAD_OF_KIND[component.kind].levels) - 1
    return int(severity * steps + 0.5)


def _present(topology: Topology, fault: str, now: Mapping[str, Mapping[str, float]]) -> bool:
    for part in topology.components:
        severity = now.get(part.id, {}).get(fault, 0.0)
        state = _STATES.get(part.kind)
        if state is not None and state.anomaly == fault:
            if _level(part, now) >= state.first:
                return True
        elif severity >= _PRESENT:
            return True
    return False
