"""Pressure of one pump's line over a work cycle, from lumped elements and continuity of the oil.

Units are bar, l/min, litres and seconds. Sources: Merritt, Hydraulic Control Systems (1967): orifice equation and
continuity (ch. 3), compressibility (ch. 2); Wilson (1950) and Schlösser (1961) for pump losses, as in Manring,
Hydraulic Control Systems (2005), ch. 5; the polytropic gas law for accumulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from math import exp, sqrt

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.simulator.oil import BULK_MODULUS
from penstock_hydraulics.simulator.ratings import PERIOD_S, Phase

Array = NDArray[np.float64]

STEP_S = 0.05
STEPS = round(PERIOD_S / STEP_S)
TIMES = np.arange(1, STEPS + 1) * STEP_S
"""[STEPS] end of each step in seconds."""

POLYTROPIC = 1.4
"""Exponent of the nitrogen: load steps take about a second, too fast for heat exchange (Merritt 1967)."""
OPENING_S, CLOSING_S = 0.06, 0.01
"""First-order lags of a healthy directional valve: the solenoid opens it, a spring closes it."""
LOAD_S = 0.03
"""First-order lag of its load."""
_CLOSED = 0.02


@dataclass(frozen=True, slots=True)
class Pump:
    """Delivery at pressure p: flow - linear·p - bypass·√p."""

    flow: float
    linear: float
    """l/min per bar: speed loss of the drive, and laminar leakage (Wilson), which increases with temperature."""
    bypass: float
    """l/min per √bar: wear gap as an orifice (Schlösser)."""

    def delivery(self, pressure: Array) -> Array:
        """[...] l/min."""
        return self.flow - self.linear * pressure - self.bypass * np.sqrt(pressure)


@dataclass(frozen=True, slots=True)
class Relief:
    """A direct-acting relief valve: closed up to `crack` bar, then proportional flow."""

    crack: float
    rise: float
    """bar per l/min."""

    def flow(self, pressure: Array) -> Array:
        """[...] l/min."""
        return np.maximum(pressure - self.crack, 0.0) / self.rise


@dataclass(frozen=True, slots=True)
class Gas:
    """Accumulators as one gas volume: `volume` litres at `precharge` bar."""

    volume: float
    precharge: float

    def oil(self, pressure: Array) -> Array:
        """[...] litres of stored oil: none below the pre-charge, V0·(1 - (p0/p)^(1/n)) above it."""
        share = (self.precharge / np.maximum(pressure, self.precharge)) ** (1 / POLYTROPIC)
        return self.volume * (1 - share)


@dataclass(frozen=True, slots=True)
class Branch:
    """A consumer over a cycle: back pressure + linear·q + square·q² = line pressure, while the valve is open."""

    opened: Array
    """[STEPS] opening, 0 closed to 1 open."""
    load: Array
    """[STEPS] flow-independent bar: the load, and the valve block's preload."""
    square: Array
    """[STEPS] bar per (l/min)² of valve and restriction (orifice equation)."""
    linear: float
    """bar per l/min of lines and load (laminar)."""

    def flow(self, pressure: Array) -> Array:
        """[STEPS] l/min; a check valve prevents reverse flow."""
        over = np.maximum(pressure - self.load, 0.0)
        flow = 2 * over / (self.linear + np.sqrt(self.linear**2 + 4 * self.square * over))
        return np.where(self.opened > _CLOSED, flow, 0.0)


@dataclass(frozen=True, slots=True)
class Line:
    """The elements of one pump's pressure line."""

    pump: Pump
    relief: Relief
    gas: Gas | None
    volume: float
    """Litres of oil in the line itself."""
    branches: tuple[Branch, ...]

    def oil(self, pressure: Array) -> Array:
        """[...] litres stored in addition to the line at zero pressure."""
        compressed = self.volume * pressure / BULK_MODULUS
        return compressed if self.gas is None else compressed + self.gas.oil(pressure)


def spool(phases: Sequence[Phase], delay_s: float) -> tuple[Array, Array]:
    """Opening of a valve and its load, two lagged arrays [STEPS]; `delay_s` delays the opening.

    The cycle is periodic: it starts with the end of its last phase.
    """
    opened, load = np.empty(STEPS), np.empty(STEPS)
    x, y = phases[-1][1], phases[-1][2]
    events = [(0.0, x, y), *phases, (PERIOD_S, x, y)]
    for (start, target, bars), (end, _, _) in pairwise(events):
        begun = start + (delay_s if target > x else 0.0)
        inside = (start + 1e-9 < TIMES) & (end + 1e-9 >= TIMES)
        lag = OPENING_S if target > x else CLOSING_S
        gone = np.exp(-np.maximum(TIMES[inside] - begun, 0.0) / lag)
        opened[inside] = target + (x - target) * gone
        load[inside] = bars + (y - bars) * np.exp(-(TIMES[inside] - start) / LOAD_S)
        x = target + (x - target) * exp(-max(end - begun, 0.0) / lag)
        y = bars + (y - bars) * exp(-(end - start) / LOAD_S)
    return opened, load


def pressures(line: Line, stride: int = 1) -> Array:
    """[STEPS / stride] bar at the end of each step; a stride above 1 gives a coarse result.

    Continuity: stored oil changes by inflow minus outflow. Implicit Euler steps are stable for a stiff relief valve
    and solved by bracketed Newton iterations, one per step in a steady line. The last five seconds are computed first
    as well, so that the cycle is periodic.
    """
    rows = _rows(line.branches, stride)
    before = len(rows) // 12
    return np.array(_integrate(line, [*rows[-before:], *rows], STEP_S * stride / 60)[before:])


Row = tuple[tuple[float, float, float], ...]
"""Each branch at one step: load (infinite if closed), four times the square and the linear coefficient."""


def _rows(branches: Sequence[Branch], stride: int) -> list[Row]:
    if not branches:
        return [()] * (STEPS // stride)
    columns = []
    for branch in branches:
        load = np.where(branch.opened > _CLOSED, branch.load, np.inf)[stride - 1 :: stride]
        square = 4 * branch.square[stride - 1 :: stride]
        columns.append(zip(load.tolist(), square.tolist(), repeat(branch.linear), strict=False))
    return list(zip(*columns, strict=True))


_TRIALS = 40
_VACUUM = 0.01
"""The minimum pressure of a line, in bar."""
_CLOSE = 0.005
"""Convergence limit of the Newton iteration, in bar."""


def _integrate(line: Line, rows: Sequence[Row], minutes: float) -> list[float]:
    """The pressure after each row; a single loop without calls, since it takes most of the simulation time."""
    flow, slip, bypass = line.pump.flow, line.pump.linear, line.pump.bypass
    crack, over_relief = line.relief.crack, 1 / line.relief.rise
    stiff, power = line.volume / BULK_MODULUS, 1 / POLYTROPIC
    volume, precharge = (0.0, 1.0) if line.gas is None else (line.gas.volume, line.gas.precharge)
    highest = crack + line.relief.rise * flow
    result, pressure, oil = [], 0.8 * crack, float(line.oil(np.asarray(0.8 * crack)))
    for row in rows:
        low, high, before = _VACUUM, highest, oil
        for _ in range(_TRIALS):
            root = sqrt(pressure)
            net = flow - slip * pressure - bypass * root
            slope = slip + 0.5 * bypass / (root + 0.1)
            if pressure > crack:
                net -= (pressure - crack) * over_relief
                slope += over_relief
            for load, square, linear in row:
                if pressure > load:
                    steep = sqrt(linear * linear + square * (pressure - load))
                    net -= 2 * (pressure - load) / (linear + steep)
                    slope += 1 / steep
            oil, capacity = stiff * pressure, stiff
            if pressure > precharge:
                share = (precharge / pressure) ** power
                oil += volume * (1 - share)
                capacity += volume * share * power / pressure
            deficit = before + minutes * net - oil
            if deficit > 0:
                low = pressure
            else:
                high = pressure
            change = deficit / (capacity + minutes * slope)
            oil += capacity * change
            pressure += change
            if -_CLOSE < change < _CLOSE:
                break
            if not low < pressure < high:
                pressure = 0.5 * (low + high)
        result.append(pressure)
    return result
