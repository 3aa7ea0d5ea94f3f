"""The model's inputs from a window of readings; numpy only, since it runs for every request.

A machine is a graph. Every node is a component with seven channels of 60 values at 1 Hz. `Scales` holds the mean and
deviation of each channel, `Layout` is computed once per topology and set of sensors, `encode` runs once per window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.topology import KINDS, MAX_COMPONENTS, Component, Topology

Float = NDArray[np.float32]
Row = tuple[int, str]  # (index of the component, channel)

CHANNELS: Final = ("pressure", "flow", "temperature", "vibration", "power", "flow_max", "flow_min")
STEPS: Final = 60
NODES: Final = (8, 16, 32, 64)  # the sizes a graph is padded to
SEGMENTS: Final = 12
STATISTICS: Final = 2 * SEGMENTS + 5  # mean and deviation of each segment; five of the whole window
HIGHEST, LOWEST = -2, -1  # the columns of the highest and the lowest value
LIMIT: Final = 8.0  # standardised values are clamped to ±LIMIT, so that one broken sensor does not dominate
SCALES: Final = "penstock_hydraulics.scales"  # the key under which an ONNX file carries its scales
INPUTS: Final = ("signals", "statistics", "present", "adjacency", "kinds")

_MEANS: Final = np.hstack(
    [
        np.repeat(np.eye(SEGMENTS), STEPS // SEGMENTS, axis=0) / (STEPS // SEGMENTS),
        np.full((STEPS, 1), 1 / STEPS),
    ]
)
"""[STEPS, SEGMENTS + 1] readings @ _MEANS are the means of the segments and of the whole window."""
_CHANNEL: Final = {name: index for index, name in enumerate(CHANNELS)}
# Default mean and deviation of channels without recordings: pressures of mobile and industrial hydraulics up to 350 bar
# and oil at 50 °C (ISO 4413), vibration zones A and B of ISO 10816-3. The deviations are wide on purpose.
_USUAL: Final[Mapping[str, tuple[float, float]]] = {
    "pressure": (100.0, 80.0),
    "flow": (30.0, 30.0),
    "temperature": (45.0, 12.0),
    "vibration": (1.5, 1.5),
    "power": (3000.0, 2500.0),
    "flow_max": (30.0, 30.0),
    "flow_min": (30.0, 30.0),
}


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """Window parameters. The shipped models require 60 values at 1 Hz; `min_window_s` is their shortest window."""

    window_s: float = 60.0
    rate_hz: float = 1.0
    min_window_s: float = 30.0

    def __post_init__(self) -> None:
        if self.window_s != STEPS or self.rate_hz != 1.0:
            raise InvalidInput(
                f"unsupported window of {self.window_s:g} s at {self.rate_hz:g} Hz; it must be {STEPS} s at 1 Hz",
                field="window_s",
            )
        if not 0 < self.min_window_s <= self.window_s:
            raise InvalidInput(
                f"min_window_s must lie in (0, {self.window_s:g}] s, not {self.min_window_s:g}", field="min_window_s"
            )

    @property
    def steps(self) -> int:
        """Values of one channel in a window."""
        return round(self.window_s * self.rate_hz)


@dataclass(frozen=True, slots=True)
class Scale:
    """Standardisation of one row: mean and deviation of its values `[STEPS]` and of its statistics `[STATISTICS]`."""

    mean: Float
    deviation: Float
    statistics_mean: Float
    statistics_deviation: Float

    @classmethod
    def of(cls, windows: Float) -> Self:
        """Computed from `windows` [windows, STEPS] for each step, so that the work cycle does not mask transients.

        Deviations are at least 2 % of the channel's own, so that a constant channel is not amplified.
        """
        floor = 0.02 * max(float(windows.std()), 1e-3)
        found = statistics_of(windows)
        small = 0.02 * np.maximum(found.std(axis=0).mean(), floor)
        return cls(
            _rounded(windows.mean(axis=0)),
            _rounded(np.maximum(windows.std(axis=0), floor)),
            _rounded(found.mean(axis=0)),
            _rounded(np.maximum(found.std(axis=0), small)),
        )

    @classmethod
    def flat(cls, windows: Float) -> Self:
        """Computed from `windows` [windows, STEPS], equal for all steps: for cycles of unknown phase."""
        mean, deviation = float(windows.mean()), max(float(windows.std()), 1e-3)
        return cls.usual(mean, deviation)

    @classmethod
    def usual(cls, mean: float, deviation: float) -> Self:
        """From one mean and one deviation for all values and statistics."""
        levels = np.array([mean] * SEGMENTS + [0.0] * SEGMENTS + [0.0, 0.0, 0.0, mean, mean])
        return cls(
            _rounded(np.full(STEPS, mean)),
            _rounded(np.full(STEPS, deviation)),
            _rounded(levels),
            _rounded(np.full(STATISTICS, deviation)),
        )

    @classmethod
    def from_mapping(cls, document: Mapping[str, str | Sequence[float]]) -> Self:
        """Inverse of `to_mapping`; also takes lists of numbers. A single number applies to every step."""
        return cls(
            _spread(document["mean"], STEPS),
            _spread(document["deviation"], STEPS),
            _spread(document["statistics_mean"], STATISTICS),
            _spread(document["statistics_deviation"], STATISTICS),
        )

    def to_mapping(self) -> dict[str, str]:
        """Space-separated numbers, a third of the size of JSON lists; a constant is written once."""
        return {
            name: _plain(getattr(self, name))
            for name in ("mean", "deviation", "statistics_mean", "statistics_deviation")
        }


@dataclass(frozen=True)
class Scales:
    """Scales by machine (topology name, then `<component>.<channel>`) and by kind (`<kind>.<channel>`).

    A machine's table applies to a topology of the same name with the same components. Everything else is scaled by the
    component's kind, with a fixed table of defaults as the fallback.
    """

    machines: Mapping[str, Mapping[str, Scale]]
    kinds: Mapping[str, Scale]

    @classmethod
    def from_mapping(cls, document: Mapping[str, Any]) -> Self:
        """From a manifest; raises `InvalidInput` for invalid scales."""
        try:
            machines = {name: _scales(table) for name, table in document["machines"].items()}
            return cls(machines, _scales(document["kinds"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(
                f"scales: the manifest's table of scales cannot be read ({error!r}); publish the model again",
                field="scales",
            ) from error

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able, for the manifest."""
        return {
            "machines": {name: _documents(table) for name, table in self.machines.items()},
            "kinds": _documents(self.kinds),
        }

    def of_kinds(self) -> Scales:
        """Only the scales by kind: for machines without recordings."""
        return Scales({}, self.kinds)

    def covers(self, topology: Topology) -> bool:
        """Whether the machine table of this topology's name exists and all its components are in the topology."""
        table = self.machines.get(topology.name)
        return table is not None and all(key.partition(".")[0] in topology.index for key in table)

    def of(self, topology: Topology, row: Row) -> Scale:
        """The scale of one row of `topology`."""
        component, channel = topology.components[row[0]], row[1]
        if self.covers(topology) and (found := self.machines[topology.name].get(f"{component.id}.{channel}")):
            return found
        return self.kinds.get(f"{component.kind}.{channel}") or _usual(channel)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Positions and scales of the rows of a window, computed once per topology and set of sensors.

    P is the number of components padded to the next of `NODES`; R the number of rows. Arrays are read-only.
    """

    rows: tuple[Row, ...]
    slots: NDArray[np.intp]  # [R] row → node * channels + channel
    mean: Float  # [R, STEPS]
    inverse: Float  # [R, STEPS] 1 / deviation
    statistics_mean: Float  # [R, STATISTICS]
    statistics_inverse: Float
    present: Float  # [1, P, channels] 1 where a row exists
    adjacency: Float  # [1, P, P] symmetric, with self loops; 0 for padding
    kinds: NDArray[np.int64]  # [1, P] index in KINDS + 1; 0 for padding

    @classmethod
    def make(cls, topology: Topology, rows: Iterable[Row], scales: Scales) -> Self:
        """For windows with `rows` in this order; every row is a different channel of a component."""
        rows = tuple(rows)
        count, size = len(topology.components), padded(len(topology.components))
        slots = np.array([node * len(CHANNELS) + _CHANNEL[channel] for node, channel in rows], np.intp)
        found = [scales.of(topology, row) for row in rows]
        present = np.zeros((1, size, len(CHANNELS)), np.float32)
        present.reshape(-1)[slots] = 1.0
        adjacency = np.zeros((1, size, size), np.float32)
        adjacency[0, :count, :count] = topology.adjacency()
        kinds = np.zeros((1, size), np.int64)
        kinds[0, :count] = [KINDS.index(component.kind) + 1 for component in topology.components]
        arrays = (
            slots,
            _stacked([scale.mean for scale in found], STEPS),
            1.0 / _stacked([scale.deviation for scale in found], STEPS),
            _stacked([scale.statistics_mean for scale in found], STATISTICS),
            1.0 / _stacked([scale.statistics_deviation for scale in found], STATISTICS),
            present,
            adjacency,
            kinds,
        )
        for array in arrays:
            array.flags.writeable = False
        return cls(rows, *arrays)

    @property
    def size(self) -> int:
        """P, the number of nodes including padding."""
        return int(self.kinds.shape[1])


def padded(components: int) -> int:
    """The number of nodes that a graph of this many components is padded to."""
    if not 1 <= components <= MAX_COMPONENTS:
        raise InvalidInput(
            f"topology: a machine must have 1 to {MAX_COMPONENTS} components, not {components}; split it",
            field="topology",
        )
    return next(size for size in NODES if size >= components)


def statistics_of(readings: Float) -> Float:
    """[…, rows, STATISTICS] of readings […, rows, STEPS].

    Mean and deviation of each of 12 segments of 5 s; then, over the whole window, the largest rise and fall between
    consecutive seconds, the deviation, the highest and the lowest value.
    """
    # Few calls on large arrays: for one window the call overhead exceeds the arithmetic. Squares need float64.
    # Each window is a matrix product of its own, so that its figures do not depend on those computed with it.
    shape = readings.shape
    powers = np.empty((2, *shape))
    powers[0] = readings
    np.multiply(powers[0], powers[0], out=powers[1])
    means, squares = powers @ _MEANS
    squares -= means * means
    deviations = np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares)
    moves = np.subtract(readings[..., 1:], readings[..., :-1], dtype=np.float32)
    found = np.empty((*shape[:-1], STATISTICS), np.float32)
    found[..., :SEGMENTS] = means[..., :SEGMENTS]
    found[..., SEGMENTS : 2 * SEGMENTS] = deviations[..., :SEGMENTS]
    np.maximum.reduce(moves, axis=-1, out=found[..., -5])
    np.minimum.reduce(moves, axis=-1, out=found[..., -4])
    found[..., -3] = deviations[..., -1]
    np.maximum.reduce(readings, axis=-1, out=found[..., HIGHEST])
    np.minimum.reduce(readings, axis=-1, out=found[..., LOWEST])
    return found


def encode(readings: Float, layout: Layout) -> dict[str, NDArray[Any]]:
    """The model's inputs for one window `readings` [rows, STEPS], finite, in the units of `topology.QUANTITIES`.

    Each has a leading axis of 1. Arrays that depend only on the layout are shared and read-only.
    """
    return encode_all(readings[None], layout)


def encode_all(readings: Float, layout: Layout, statistics: Float | None = None) -> dict[str, NDArray[Any]]:
    """The inputs of many windows of one layout, `readings` [windows, rows, STEPS].

    `present`, `adjacency` and `kinds` are the same for all windows: their leading axis is 1. `statistics` are
    precomputed statistics of the readings.
    """
    return _inputs(readings, statistics_of(readings) if statistics is None else statistics, layout)


def repeated(arrays: dict[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
    """The arrays with a leading axis of `count`, where it is 1."""
    if count == 1:
        return arrays
    return {name: np.repeat(value, count, axis=0) if len(value) == 1 else value for name, value in arrays.items()}


def _inputs(readings: Float, found: Float, layout: Layout) -> dict[str, NDArray[Any]]:
    count = len(readings)
    signals = np.zeros((count, layout.size, len(CHANNELS), STEPS), np.float32)
    statistics = np.zeros((count, layout.size, len(CHANNELS), STATISTICS), np.float32)
    signals.reshape(count, -1, STEPS)[:, layout.slots] = _standard(readings, layout.mean, layout.inverse)
    statistics.reshape(count, -1, STATISTICS)[:, layout.slots] = _standard(
        found, layout.statistics_mean, layout.statistics_inverse
    )
    return {
        "signals": signals,
        "statistics": statistics,
        "present": layout.present,
        "adjacency": layout.adjacency,
        "kinds": layout.kinds,
    }


def _standard(values: Float, mean: Float, inverse: Float) -> Float:
    standard = np.subtract(values, mean, dtype=np.float32)
    standard *= inverse
    np.minimum(standard, LIMIT, out=standard)
    return np.maximum(standard, -LIMIT, out=standard)


@cache
def _usual(channel: str) -> Scale:
    return Scale.usual(*_USUAL[channel])


def _rounded(values: NDArray[Any]) -> Float:
    """Five significant digits, so that training uses exactly the values that the manifest stores."""
    return np.array([float(f"{value:.5g}") for value in values], np.float32)


def _plain(values: Float) -> str:
    plain = [f"{value:.5g}" for value in values]
    return plain[0] if len(set(plain)) == 1 else " ".join(plain)


def _spread(values: str | Sequence[float], size: int) -> Float:
    array = np.array(values.split() if isinstance(values, str) else values, np.float32)
    if array.shape not in ((1,), (size,)) or not np.isfinite(array).all():
        raise ValueError(f"{size} finite numbers expected")
    return np.ascontiguousarray(np.broadcast_to(array, (size,)))


def _stacked(rows: list[Float], width: int) -> Float:
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)


def _scales(document: Mapping[str, Any]) -> dict[str, Scale]:
    return {key: Scale.from_mapping(value) for key, value in document.items()}


def _documents(table: Mapping[str, Scale]) -> dict[str, Any]:
    return {key: scale.to_mapping() for key, scale in table.items()}


def empty_machine(scales: Scales) -> dict[str, NDArray[Any]]:
    """Model inputs of a machine with one component and no sensors."""
    layout = Layout.make(Topology("none", (Component("none", "other"),), ()), ((0, "pressure"),), scales)
    arrays = encode_all(np.zeros((1, 1, STEPS), np.float32), layout)
    return arrays | {name: np.zeros_like(arrays[name]) for name in ("signals", "statistics", "present")}
