"""Rules for faults without recordings: limits and physical ratios, compared with the machine's nominal values.

A rule gives a score from 0 to 1 and fires at 0.5. It needs certain sensors; ratios also need nominal values, the means
of the machine's readings over one healthy work cycle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.machine.topology import QUANTITIES, Component, Topology
from penstock_hydraulics.signals.features import HIGHEST, LOWEST, SEGMENTS

Limits: TypeAlias = Mapping[str, tuple[float | None, float | None]]

OIL_SLOPE: Final = 0.04
"""Per kelvin: the viscosity of mineral oil ISO VG 46 falls as exp(-0.04 T) between 30 and 60 °C (Reynolds 1886; the
drop over the filter in the recordings, 0.117 bar at 39 °C and 0.054 bar at 59 °C, gives 0.038)."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """A piecewise linear score: 0 at `zero`, 0.5 at `half`, 1 at `one`."""

    zero: float
    half: float
    one: float

    def __call__(self, value: float) -> float:
        """The score, 0 to 1."""
        if value <= self.zero:
            return 0.0
        if value < self.half:
            return 0.5 * (value - self.zero) / (self.half - self.zero)
        return min(1.0, 0.5 + 0.5 * (value - self.half) / (self.one - self.half))


TEMPERATURE_LIMIT_C: Final = 70.0
TEMPERATURE_WIDTH_K: Final = 12.0
"""Mineral oil damages most seals and ages fast above 82 °C (B. Casey, Insider Secrets to Hydraulics): score 1."""
VIBRATION_ZONES: Final = (2.3, 4.5, 7.1)
"""mm/s r.m.s.: the borders of zones A/B, B/C and C/D of large machines on rigid ground (ISO 10816-3:2009, group 1, now
ISO 20816-3); the limit or nominal value of a smaller machine is stricter."""
VIBRATION_RISE: Final = 1.125
"""mm/s above a machine's healthy level: a quarter of the border of zone B/C is a significant change (ISO 10816-3)."""
PRESSURE_DROP: Final = Ramp(0.05, 0.15, 0.25)
"""Lost share of the nominal pressure."""
RESTRICTION: Final = Ramp(1.3, 1.7, 2.5)
"""Multiple of the nominal pressure over flow squared: the turbulent resistance of an orifice (Merritt 1967, ch. 3)."""
RESTRICTION_RISE: Final = 1.03
"""Minimum pressure ratio: a restriction raises the pressure before it; a leak lowers flow and pressure."""
CLOGGING: Final = Ramp(2.0, 3.0, 5.0)
"""Multiple of the nominal pressure drop over the filter, at equal flow and viscosity (Darcy 1856)."""
INLET: Final = Ramp(-0.2, 0.0, 0.2)
"""Bar by which the suction pressure is below the minimum that the pump's manufacturer allows."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """Nominal values of one machine (healthy means by sensor) and the lower and upper limit of each sensor."""

    nominal: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = field(default_factory=dict)


NOMINAL: Final[Mapping[str, Mapping[str, float]]] = {
    "zema_rig": {
        "pressure_pump_main": 161.0,
        "flow_pump_main": 6.708,
        "power_pump_main": 2533.8,
        "vibration_pump_main": 0.552,
        "temperature_pump_main": 36.28,
        "pressure_valve_main": 109.62,
        "temperature_valve_main": 41.89,
        "pressure_load_valve": 1.999,
        "temperature_tank": 39.16,
        "flow_circ_pump": 10.163,
        "pressure_filter_main": 9.829,
        "pressure_cooler_main": 9.715,
        "temperature_cooler_main": 31.24,
    }
}
"""Means of the ten settled, fault-free cycles of the recordings. The other templates describe no single machine."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Mean, lowest and highest value of each row of a window."""

    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    @classmethod
    def of(cls, window: NDArray[np.float32]) -> Figures:
        """From `window` [rows, seconds], filled seconds only."""
        mean = np.add.reduce(window, axis=1, dtype=np.float32) / np.float32(window.shape[1])  # half the time of mean()
        low, high = np.minimum.reduce(window, axis=1), np.maximum.reduce(window, axis=1)
        return cls(mean.tolist(), low.tolist(), high.tolist())

    @classmethod
    def of_statistics(cls, statistics: NDArray[np.float32]) -> list[Figures]:
        """The same of whole windows, from `features.statistics_of` [windows, rows, STATISTICS]."""
        means = np.add.reduce(statistics[..., :SEGMENTS], axis=-1) / np.float32(SEGMENTS)
        lows, highs = statistics[..., LOWEST].tolist(), statistics[..., HIGHEST].tolist()
        return [cls(*each) for each in zip(means.tolist(), lows, highs, strict=True)]


Score: TypeAlias = Callable[[Figures], float]


@dataclass(frozen=True, slots=True)
class Rule:
    """One check of one component."""

    anomaly: str
    component: str
    score: Score


@dataclass(frozen=True, slots=True)
class Limit:
    """An operator's limits of a sensor; a reading outside is always a warning."""

    sensor: str
    row: int
    low: float
    high: float
    unit: str

    def violation(self, lowest: float, highest: float) -> str | None:
        """A warning for a row's lowest and highest sample, None within the limits."""
        if highest > self.high:
            return f"{self.sensor} reached {highest:.4g} {self.unit}, its limit is {self.high:g}"
        if lowest < self.low:
            return f"{self.sensor} fell to {lowest:.4g} {self.unit}, its limit is {self.low:g}"
        return None


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules that apply to a machine and its sensors."""

    rules: tuple[Rule, ...]
    limits: tuple[Limit, ...]

    @property
    def anomalies(self) -> frozenset[str]:
        """The faults that have a rule."""
        return frozenset(rule.anomaly for rule in self.rules)

    def evaluate(self, figures: Figures) -> tuple[dict[str, float], dict[str, str]]:
        """The highest score of each fault, and the component that it belongs to."""
        scores: dict[str, float] = {}
        where: dict[str, str] = {}
        for rule in self.rules:
            score = rule.score(figures)
            if score > scores.get(rule.anomaly, -1.0):
                scores[rule.anomaly], where[rule.anomaly] = score, rule.component
        return scores, where


def make_rule_set(
    topology: Topology, sensors: Sequence[str], expectations: Expectations, *, whole: bool = True
) -> RuleSet:
    """`sensors` are the names of the window's first rows. Rules on cycle means apply only to a `whole` cycle."""
    machine = _Machine(topology, {name: row for row, name in enumerate(sensors)}, expectations)
    rules = [*_overheating(machine), *_vibration(machine), *_cavitation(machine)]
    if whole:
        rules += [*_pressure_drop(machine), *_flow_restriction(machine), *_contamination(machine)]
    limits = [
        Limit(name, row, _or(low, -math.inf), _or(high, math.inf), QUANTITIES[name.partition("_")[0]])
        for name, row in machine.rows.items()
        if (found := expectations.limits.get(name)) is not None
        for low, high in (found,)
    ]
    return RuleSet(tuple(rules), tuple(limits))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


@dataclass(frozen=True, slots=True)
class _Machine:
    topology: Topology
    rows: Mapping[str, int]
    expectations: Expectations

    def row(self, quantity: str, component: Component) -> int | None:
        return self.rows.get(f"{quantity}_{component.id}")

    def nominal(self, quantity: str, component: Component) -> float | None:
        value = self.expectations.nominal.get(f"{quantity}_{component.id}")
        return value if value is not None and value > 0 else None

    def highest(self, name: str) -> float | None:
        return self.expectations.limits.get(name, (None, None))[1]

    def measured(self, quantity: str) -> list[tuple[str, int, Component]]:
        """Name, row and component of every sensor of a quantity."""
        named = [(f"{quantity}_{part.id}", part) for part in self.topology.components]
        return [(name, self.rows[name], part) for name, part in named if name in self.rows]

    def adjacent(self, component: Component, *kinds: str) -> list[Component]:
        return [part for part in self.topology.neighbours(component.id) if part.kind in kinds]


@dataclass(frozen=True, slots=True)
class _Highest:
    row: int
    ramp: Ramp

    def __call__(self, figures: Figures) -> float:
        return self.ramp(figures.high[self.row])


@dataclass(frozen=True, slots=True)
class _Mean:
    row: int
    ramp: Ramp

    def __call__(self, figures: Figures) -> float:
        return self.ramp(figures.mean[self.row])


@dataclass(frozen=True, slots=True)
class _PressureLoss:
    row: int
    nominal: float

    def __call__(self, figures: Figures) -> float:
        return PRESSURE_DROP(1.0 - figures.mean[self.row] / self.nominal)


@dataclass(frozen=True, slots=True)
class _InletPressure:
    row: int
    least: float

    def __call__(self, figures: Figures) -> float:
        return INLET(self.least - figures.low[self.row])


def _overheating(machine: _Machine) -> list[Rule]:
    rules = []
    for name, row, part in machine.measured("temperature"):
        limit = _or(machine.highest(name), TEMPERATURE_LIMIT_C)
        ramp = Ramp(limit - TEMPERATURE_WIDTH_K, limit, limit + TEMPERATURE_WIDTH_K)
        rules.append(Rule("overheating", part.id, _Highest(row, ramp)))
    return rules


def _vibration(machine: _Machine) -> list[Rule]:
    rules = []
    for name, row, part in machine.measured("vibration"):
        limit, healthy = machine.highest(name), machine.nominal("vibration", part)
        if limit is None:
            limit = VIBRATION_ZONES[1]
            if healthy is not None and healthy < limit:
                limit = min(limit, healthy + VIBRATION_RISE)
        ramp = Ramp(*(zone * limit / VIBRATION_ZONES[1] for zone in VIBRATION_ZONES))
        rules.append(Rule("vibration_anomaly", part.id, _Mean(row, ramp)))
    return rules


def _pressure_drop(machine: _Machine) -> list[Rule]:
    rules = []
    for _, row, part in machine.measured("pressure"):
        nominal = machine.nominal("pressure", part)
        if part.kind == "pump" and nominal is not None:
            rules.append(Rule("pressure_drop", part.id, _PressureLoss(row, nominal)))
    return rules


def _flow_restriction(machine: _Machine) -> list[Rule]:
    rules = []
    loops = machine.topology.of_kind("circulation_pump")
    pairs = [(part, part) for _, _, part in machine.measured("flow")]
    if len(loops) == 1:
        pairs += [(cooler, loops[0]) for cooler in machine.topology.of_kind("heat_exchanger")]
    for part, meter in pairs:
        pressure, flow = machine.row("pressure", part), machine.row("flow", meter)
        p0, q0 = machine.nominal("pressure", part), machine.nominal("flow", meter)
        if pressure is not None and flow is not None and p0 is not None and q0 is not None:
            rules.append(Rule("flow_restriction", part.id, _Resistance(pressure, flow, p0, q0)))
    return rules


@dataclass(frozen=True, slots=True)
class _Resistance:
    """Pressure over flow squared relative to nominal, if the pressure has risen."""

    pressure: int
    flow: int
    nominal_pressure: float
    nominal_flow: float

    def __call__(self, figures: Figures) -> float:
        rise = figures.mean[self.pressure] / self.nominal_pressure
        share = figures.mean[self.flow] / self.nominal_flow
        if rise < RESTRICTION_RISE:
            return 0.0
        return RESTRICTION(rise / share**2) if share > 0.01 else 1.0


def _contamination(machine: _Machine) -> list[Rule]:
    rules = []
    for _, row, part in machine.measured("pressure"):
        if part.kind != "filter":
            continue
        for behind in machine.adjacent(part, "heat_exchanger", "reservoir"):
            after = machine.row("pressure", behind)
            before_0, after_0 = machine.nominal("pressure", part), machine.nominal("pressure", behind)
            if after is not None and before_0 is not None and after_0 is not None and before_0 > after_0:
                rules.append(Rule("contamination", part.id, _clogging(machine, part, row, after, before_0 - after_0)))
    return rules


@dataclass(frozen=True, slots=True)
class _Clogging:
    """The filter's pressure drop relative to nominal, corrected for flow and viscosity where both are measured."""

    before: int
    after: int
    drop: float
    flow: int | None
    nominal_flow: float
    temperature: int | None
    nominal_temperature: float

    def __call__(self, figures: Figures) -> float:
        ratio = (figures.mean[self.before] - figures.mean[self.after]) / self.drop
        if self.flow is not None:
            ratio /= max(figures.mean[self.flow] / self.nominal_flow, 0.1)
        if self.temperature is not None:
            ratio *= math.exp(OIL_SLOPE * (figures.mean[self.temperature] - self.nominal_temperature))
        return CLOGGING(ratio)


def _clogging(machine: _Machine, part: Component, before: int, after: int, drop: float) -> _Clogging:
    flow, flow_0 = _first_measured(machine, "flow", machine.adjacent(part, "circulation_pump"))
    temperature, temperature_0 = _first_measured(machine, "temperature", machine.topology.of_kind("reservoir"))
    return _Clogging(before, after, drop, flow, flow_0, temperature, temperature_0)


def _first_measured(machine: _Machine, quantity: str, parts: Sequence[Component]) -> tuple[int | None, float]:
    """Row and nominal value of the first component that has both; (None, 1.0) if there is none."""
    for part in parts:
        row, nominal = machine.row(quantity, part), machine.nominal(quantity, part)
        if row is not None and nominal is not None:
            return row, nominal
    return None, 1.0


def _cavitation(machine: _Machine) -> list[Rule]:
    """Suction pressure of a pump below the lower limit, which must be registered."""
    rules = []
    for name, row, part in machine.measured("pressure"):
        least = machine.expectations.limits.get(name, (None, None))[0]
        if part.kind == "reservoir" and least is not None and machine.adjacent(part, "pump"):
            rules.append(Rule("cavitation", part.id, _InletPressure(row, least)))
    return rules
