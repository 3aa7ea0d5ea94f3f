"""Align the readings of a request to one window: every row at 1 Hz over the 60 s of a work cycle.

`plan_window` computes what depends only on the names, lengths and rates of a request; the caller caches it.
`fill_windows` runs for every request, for several at once where they have the same plan.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput, printable
from penstock_hydraulics.machine.topology import QUANTITIES, Topology
from penstock_hydraulics.signals.evidence import MEANS
from penstock_hydraulics.signals.features import FeatureConfig, Row

Float: TypeAlias = NDArray[np.float32]
Rates: TypeAlias = float | Mapping[str, float]

DEFAULT_RATE_HZ: Final = 1.0
EXTREMES_HZ: Final = 10
"""From this rate on, a flow also yields the highest and lowest tenth of every second, as in the recordings (10 Hz).
Extremes of single samples would depend on the sampling rate."""
MAX_LISTED: Final = 20
"""Maximum number of names in a message."""
MIN_CONSTANT_SAMPLES: Final = 5
"""Minimum number of equal samples from which on a constant sensor is reported as possibly stuck."""

PLAUSIBLE: Final[Mapping[str, tuple[float, float]]] = {
    "pressure": (0.0, 2000.0),
    "flow": (-20_000.0, 20_000.0),
    "temperature": (-60.0, 200.0),
    "vibration": (0.0, 1000.0),
    "power": (-10_000_000.0, 10_000_000.0),
}
"""Values outside these bounds are in another unit (pascal, kelvin, m/s²) or from a broken sensor."""
DRIFT: Final = 0.2
"""Zero drift of a transducer in bar or mm/s: negative values down to this are read as 0."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sensors of equal length and rate, and how they are resampled."""

    names: tuple[str, ...]
    rows: slice
    length: int
    seconds: int
    per_second: int
    """Samples per second if that is a whole number and fills every second, else 0."""
    edges: NDArray[np.intp]
    """[seconds + 1] index of the first sample of each second, and one past the last sample used."""
    held: bool
    """Sampled below 1 Hz: each value is held until the next."""
    extremes: tuple[tuple[int, int, int], ...]
    """Index of the sensor in the group, and the rows of its highest and lowest values."""
    tenths: NDArray[np.intp]
    """[10 * seconds + 1] like `edges`, for every tenth of a second."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowPlan:
    """The window layout of requests with equal names, lengths and rates."""

    sensors: tuple[str, ...]
    """The sensors in use, one for each of the first rows."""
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    rest: NDArray[np.float64]
    """[2, sensors] lowest and highest value at which it is usual that the sensor is constant; NaN for no value."""
    least: NDArray[np.float64]
    """[sensors] lowest plausible value; lower values beyond `DRIFT` are refused."""
    most: NDArray[np.float64]
    seconds: float
    """Length of the window."""
    steps: int
    """Number of the 60 steps that hold readings."""
    unknown: tuple[str, ...]
    warnings: tuple[str, ...]
    idle: tuple[str, ...]
    """Names with a sampling rate but without readings."""
    slow: tuple[str, ...]
    """Sensors sampled below 1 Hz whose quantity changes within a cycle (all but temperatures)."""


def rows_of(plan: WindowPlan, topology: Topology, sensors: Collection[str]) -> list[int]:
    """The indices of the rows of `sensors`, with the extremes of their flows."""
    places = {topology.sensor(name) for name in sensors}
    bases = [(node, channel.removesuffix("_max").removesuffix("_min")) for node, channel in plan.rows]
    return [row for row, place in enumerate(bases) if place in places]


def kept_readings(windows: Float, plan: WindowPlan) -> Float:
    """A copy [requests, sensors, seconds] of the readings, without extremes and before the window is completed."""
    return windows[:, : len(plan.sensors), : plan.steps].copy()


def measured_names(plan: WindowPlan, topology: Topology, sensors: Collection[str]) -> list[str]:
    """The names of `sensors` in a table of evidence, where a flow without extremes has another name."""
    extremes = {node for node, channel in plan.rows if channel == "flow_max"}
    places = {name: topology.sensor(name) for name in sensors}
    slow = {name for name, place in places.items() if place and place[1] == "flow" and place[0] not in extremes}
    return [name + MEANS if name in slow else name for name in sensors]


class Filled(NamedTuple):
    """Windows [requests, rows, steps], and of each request the warnings about its readings.

    `low` and `high` [requests, sensors] are the lowest and highest samples.
    """

    windows: Float
    warnings: list[list[str]]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def plan_window(
    data: Mapping[str, Sequence[float]],
    rates: Rates,
    topology: Topology,
    config: FeatureConfig,
    rests: Mapping[str, tuple[float, float]] | None = None,
) -> WindowPlan:
    """Raises InvalidInput, naming the sensor, when a length does not match its sampling rate.

    `rests` are the values at which a sensor may be constant.
    """
    found = {name: place for name in data if (place := topology.sensor(name)) is not None}
    unknown = tuple(name for name in data if name not in found)
    if not found:
        raise _no_known_sensor(unknown, topology)
    spans = {name: (len(data[name]), _rate_of(name, rates)) for name in found}
    seconds = _common_span(spans, config)
    order = sorted(found, key=lambda name: spans[name])
    rows: list[Row] = [found[name] for name in order]
    groups, begin = [], 0
    while begin < len(order):
        span = spans[order[begin]]
        names = tuple(name for name in order[begin:] if spans[name] == span)
        groups.append(_group(names, begin, span, found, rows, config.steps))
        begin += len(names)
    idle = tuple(name for name in rates if name not in data) if isinstance(rates, Mapping) else ()
    bounds = np.array([PLAUSIBLE[found[name][1]] for name in order])
    rest = np.array([(rests or {}).get(name, (np.nan, np.nan)) for name in order]).T
    return WindowPlan(
        tuple(order),
        tuple(rows),
        tuple(groups),
        rest,
        bounds[:, 0],
        bounds[:, 1],
        seconds,
        min(config.steps, max(group.seconds for group in groups)),
        unknown,
        tuple(_static_warnings(unknown, idle, topology)),
        idle,
        tuple(name for name in order if spans[name][1] < 1 and found[name][1] != "temperature"),
    )


def fill_windows(data: Sequence[Mapping[str, Sequence[float]]], plan: WindowPlan, steps: int) -> Filled:
    """The windows of `steps` values of requests with the same plan; values after `plan.steps` are not filled.

    Raises InvalidInput, naming the sensor and the sample, for an implausible value.
    """
    count = len(data)
    windows = np.empty((count, len(plan.rows), steps), np.float32)
    low, high = extremes = np.empty((2, count, len(plan.sensors)))
    read = []
    for group in plan.groups:
        values = _read([each[name] for each in data for name in group.names]).reshape(count, len(group.names), -1)
        np.minimum.reduce(values, axis=2, out=low[:, group.rows])
        np.maximum.reduce(values, axis=2, out=high[:, group.rows])
        read.append(values)
    warnings: list[list[str]] = [[] for _ in data]
    plausible = (low >= plan.least) & (high <= plan.most)  # also false for NaN
    if not np.logical_and.reduce(plausible, axis=None):
        for each in np.flatnonzero(~plausible.all(axis=1)):
            warnings[each] += _reject_or_correct([values[each] for values in read], plan, low[each])
        np.maximum(extremes, plan.least, out=extremes)
    for values, group in zip(read, plan.groups, strict=True):
        _resample(values, group, windows, plan.steps)
    constant = (low == high) & ~((low >= plan.rest[0]) & (high <= plan.rest[1]))
    if np.logical_or.reduce(constant, axis=None):
        for each in np.flatnonzero(constant.any(axis=1)):
            warnings[each] += _constant_sensor_warnings(plan, constant[each], low[each])
    return Filled(windows, warnings, low, high)


def _read(samples: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """[sensors, samples] of equal length; arrays and lists of floats take a fast path."""
    if all(type(each) is array for each in samples):
        return np.frombuffer(bytearray().join(samples)).reshape(len(samples), -1)  # type: ignore[arg-type]
    flat = array("d")
    try:
        for each in samples:
            flat.fromlist(each)  # type: ignore[arg-type]
    except TypeError:
        return np.array(samples, np.float64)
    return np.frombuffer(flat).reshape(len(samples), -1)


def complete(windows: Float, steps: int, usual: Float | None) -> None:
    """Fill the missing seconds at the end of short windows with the `usual` course [rows, steps] of a healthy cycle.

    The course is shifted by the mean offset of the readings before, over twice as many seconds as are missing, since a
    jump would look like a fault, of temperatures in particular. Without a usual course the window is continued with
    the mean.
    """
    missing = windows.shape[-1] - steps
    if missing <= 0:
        return
    before = slice(max(0, steps - 2 * missing), steps)
    if usual is None:
        windows[..., steps:] = windows[..., before].mean(axis=-1, keepdims=True)
    else:
        shift = (windows[..., before] - usual[:, before]).mean(axis=-1, keepdims=True)
        windows[..., steps:] = usual[:, steps:] + shift


# Planning


def _rate_of(name: str, rates: Rates) -> float:
    return float(rates.get(name, DEFAULT_RATE_HZ) if isinstance(rates, Mapping) else rates)


def _common_span(spans: Mapping[str, tuple[int, float]], config: FeatureConfig) -> float:
    """The common time span of all sensors. Raises InvalidInput for a different span, or one longer than a window."""
    longest = max(spans, key=lambda name: spans[name][0] / spans[name][1])
    count, rate = spans[longest]
    seconds, slowest = count / rate, 1 / rate
    if seconds > config.window_s + slowest + 1e-9:
        raise _invalid(
            longest,
            f"{count} samples at {rate:g} Hz are {seconds:g} s, but a window is one work cycle of at most"
            f" {config.window_s:g} s; set its sampling_rate_hz or send each cycle on its own",
        )
    for name, (count, rate) in spans.items():
        if seconds - count / rate > max(slowest, 1 / rate) + 1e-9:
            raise _invalid(
                name,
                f"{count} samples at {rate:g} Hz are {count / rate:g} s, but {longest} spans {seconds:g} s;"
                " all sensors of a request must span the same time; set the sampling_rate_hz of each",
            )
    return min(seconds, config.window_s)


def _group(
    names: tuple[str, ...],
    place: int,
    span: tuple[int, float],
    found: Mapping[str, Row],
    rows: list[Row],
    steps: int,
) -> Group:
    length, rate = span
    seconds = min(steps, max(1, int(np.ceil(length / rate - 1e-9))))
    held = rate < 1
    if held:
        edges = np.minimum((np.arange(seconds + 1) * rate + 1e-9).astype(np.intp), length - 1)
    else:
        edges = _edges(seconds, rate, length)
    tenths = _edges(seconds * EXTREMES_HZ, rate / EXTREMES_HZ, length)
    even = rate.is_integer() and length >= seconds * rate
    extremes = []
    for k, name in enumerate(names):
        node, quantity = found[name]
        if quantity == "flow" and rate >= EXTREMES_HZ:
            extremes.append((k, len(rows), len(rows) + 1))
            rows += [(node, "flow_max"), (node, "flow_min")]
    per_second = int(rate) if even else 0
    own = slice(place, place + len(names))
    return Group(names, own, length, seconds, per_second, edges, held, tuple(extremes), tenths)


def _edges(parts: int, each: float, length: int) -> NDArray[np.intp]:
    """[parts + 1] index of the first sample of each part, and one past the last sample used."""
    edges: NDArray[np.intp] = np.minimum(np.ceil(np.arange(parts + 1) * each - 1e-9).astype(np.intp), length)
    edges[:-1] = np.minimum(edges[:-1], length - 1)  # the last part may begin between two samples
    return edges


def _static_warnings(unknown: tuple[str, ...], idle: tuple[str, ...], topology: Topology) -> list[str]:
    warnings = []
    if unknown:
        warnings.append(f"ignored, not in the topology {topology.name}: {_join_names(unknown)}")
    if idle:
        warnings.append(f"sampling_rate_hz names sensors without readings: {_join_names(idle)}")
    return warnings


def _no_known_sensor(unknown: tuple[str, ...], topology: Topology) -> InvalidInput:
    known = _join_names(topology.expected_sensors or tuple(f"<quantity>_{part.id}" for part in topology.components))
    return InvalidInput(
        f"sensor_data: the topology {topology.name} has no sensor {_join_names(unknown)}; known sensors: {known}",
        field="sensor_data",
    )


def _join_names(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable, names[:MAX_LISTED]))
    return shown if len(names) <= MAX_LISTED else f"{shown} and {len(names) - MAX_LISTED} more"


def _invalid(name: str, why: str, sample: int | None = None) -> InvalidInput:
    field = f"sensor_data.{name}" if sample is None else f"sensor_data.{name}[{sample}]"
    return InvalidInput(f"{field}: {why}", field=field)


# Filling


def _resample(values: NDArray[np.float64], group: Group, windows: Float, steps: int) -> None:
    """Mean of each second, and the extremes of fast flows; a missing last second repeats the one before.

    `values` are [requests, sensors, samples].
    """
    seconds = group.seconds
    target = windows[:, group.rows]
    if group.per_second == 1:
        target[..., :seconds] = values[..., :seconds]
    elif group.per_second:
        blocks = values[..., : seconds * group.per_second].reshape(*values.shape[:2], seconds, group.per_second)
        target[..., :seconds] = blocks.mean(axis=3)
    elif group.held:
        target[..., :seconds] = values[..., group.edges[:-1]]
    else:
        sums = np.add.reduceat(values[..., : group.edges[-1]], group.edges[:-1], axis=2)
        target[..., :seconds] = sums / np.maximum(np.diff(group.edges), 1)
    for k, highest, lowest in group.extremes:
        sums = np.add.reduceat(values[:, k, : group.tenths[-1]], group.tenths[:-1], axis=1)
        means = (sums / np.maximum(np.diff(group.tenths), 1)).reshape(len(values), seconds, EXTREMES_HZ)
        windows[:, highest, :seconds] = np.maximum.reduce(means, axis=2)
        windows[:, lowest, :seconds] = np.minimum.reduce(means, axis=2)
        windows[:, [highest, lowest], seconds:steps] = windows[:, [highest, lowest], seconds - 1 : seconds]
    if seconds < steps:
        target[..., seconds:steps] = target[..., seconds - 1 : seconds]


def _reject_or_correct(read: list[NDArray[np.float64]], plan: WindowPlan, low: NDArray[np.float64]) -> list[str]:
    """Raises InvalidInput for implausible values; small negative ones are set to zero with a warning."""
    warnings = []
    for values, group in zip(read, plan.groups, strict=True):
        for k, name in enumerate(group.names, group.rows.start):
            own, quantity = values[k - group.rows.start], plan.rows[k][1]
            least, most = PLAUSIBLE[quantity]
            wrong = np.flatnonzero(~((own >= (least or -DRIFT)) & (own <= most)))
            if wrong.size:
                raise _invalid(name, _implausible(quantity, float(own[wrong[0]])), int(wrong[0]))
            if low[k] < least:
                np.maximum(own, least, out=own)
                unit = QUANTITIES[quantity]
                warnings.append(f"{name} has values down to {low[k]:.3g} {unit}, read as 0; check its zero point")
    return warnings


def _implausible(quantity: str, value: float) -> str:
    least, most = PLAUSIBLE[quantity]
    unit = QUANTITIES[quantity]
    if math.isnan(value):
        return "NaN is not a reading; send finite numbers"
    if value < least == 0.0:
        return f"{value:g} {unit} is a negative {quantity}; check the sensor's sign and zero, and its unit"
    return f"{value:g} {unit} is not a plausible {quantity} ({least:g} to {most:g} {unit}); check its unit"


def _constant_sensor_warnings(plan: WindowPlan, constant: NDArray[np.bool_], low: NDArray[np.float64]) -> list[str]:
    lengths = {name: group.length for group in plan.groups for name in group.names}
    return [
        f"{name} is constant at {low[k]:g}; it may be stuck or disconnected"
        for k, name in enumerate(plan.sensors)
        if constant[k] and lengths[name] >= MIN_CONSTANT_SAMPLES
    ]
