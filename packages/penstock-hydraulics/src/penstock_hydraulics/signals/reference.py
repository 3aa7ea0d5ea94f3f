"""Reference ranges: level, texture and relations of the readings that a model was trained on.

They are computed at publishing and stored in the artifact. A `ReferenceCheck` compares windows with them, for one set
of sensors; it runs for every request.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from penstock_hydraulics.signals.features import SEGMENTS, STEPS, Float

Numbers: TypeAlias = NDArray[np.float64]

_SEGMENT: Final = STEPS // SEGMENTS
_INF: Final = float("inf")
_ANY: Final = (-_INF, _INF)
_LEAST: Final = 1e-30
_ONES: Final = np.ones(STEPS, np.float32)
_MEANS: Final = np.hstack(
    [np.repeat(np.eye(SEGMENTS), _SEGMENT, axis=0) / _SEGMENT, np.full((STEPS, 1), 1 / STEPS)]
).astype(np.float32)
"""[STEPS, SEGMENTS + 1] windows @ _MEANS are the means of the segments and of the whole cycle."""
TEXTURE: Final = ("repeats", "roughness", "highest", "lowest")
"""Of each row: seconds equal to the one before; the median bend from second to second; seconds at the extremes."""


def _split(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


class Range(NamedTuple):
    """Lowest and highest usual value."""

    low: float
    high: float


class RowReference(BaseModel):
    """The usual readings of one row. Numbers may be one string with spaces between, as in a manifest."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    low: Annotated[tuple[float, ...], BeforeValidator(_split), Field(min_length=SEGMENTS, max_length=SEGMENTS)]
    """The lowest mean of each segment of the work cycle."""
    high: Annotated[tuple[float, ...], BeforeValidator(_split), Field(min_length=SEGMENTS, max_length=SEGMENTS)]
    repeats: float
    roughness: Annotated[Range, BeforeValidator(_split)]
    highest: float
    lowest: float
    spread: Annotated[Range, BeforeValidator(_split)] | None = None
    """Of a flow: the median distance of its extremes within a second."""
    rest: Annotated[Range, BeforeValidator(_split)] | None = None
    """The values at which the sensor is constant in usual cycles."""


class Relation(NamedTuple):
    """Two rows whose means over a cycle agree: `other` - `slope` * `one` lies between `low` and `high`."""

    one: str
    other: str
    slope: float
    low: float
    high: float


class ReferenceTable(BaseModel):
    """The reference of one circuit, by row `<channel>_<component>`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rows: dict[str, RowReference]
    relations: tuple[Annotated[Relation, BeforeValidator(_split)], ...] = ()

    def rests(self) -> dict[str, tuple[float, float]]:
        """By sensor: the values at which it may be constant."""
        return {name: (row.rest.low, row.rest.high) for name, row in self.rows.items() if row.rest is not None}


class Measures(NamedTuple):
    """Of each of n windows: `levels` [n, rows, SEGMENTS], `texture` [n, TEXTURE, rows], `spread` [n, flows]."""

    levels: Numbers
    texture: Numbers
    spread: Numbers


def measure(windows: Float, spreads: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None) -> Measures:
    """The measures of `windows` [n, rows, STEPS]; `spreads` are the rows of the highest and lowest values of flows."""
    count, rows, _ = windows.shape
    levels = np.add.reduce(windows.reshape(count, rows, SEGMENTS, _SEGMENT), axis=3, dtype=np.float64)
    levels *= 1 / _SEGMENT
    moves = windows[..., 1:] - windows[..., :-1]
    bends = np.abs(moves[..., 1:] - moves[..., :-1])
    bends.partition(bends.shape[-1] // 2, axis=-1)
    texture = np.empty((count, len(TEXTURE), rows))
    texture[:, 0] = moves.shape[-1] - np.count_nonzero(moves, axis=-1)
    texture[:, 1] = bends[..., bends.shape[-1] // 2]
    for place, extreme in ((2, np.maximum), (3, np.minimum)):
        texture[:, place] = np.count_nonzero(windows == extreme.reduce(windows, axis=-1, keepdims=True), axis=-1)
    if spreads is None:
        return Measures(levels, texture, np.empty((count, 0)))
    apart = windows[:, spreads[0]] - windows[:, spreads[1]]
    apart.partition(STEPS // 2, axis=-1)
    return Measures(levels, texture, apart[..., STEPS // 2].astype(np.float64))


class Odd(NamedTuple):
    """What is odd in one window: masks like `Measures`, and the relations that do not hold."""

    levels: NDArray[np.bool_]
    texture: NDArray[np.bool_]
    spread: NDArray[np.bool_]
    relations: NDArray[np.bool_]
    measures: Measures
    """Of this window alone."""

    @property
    def any(self) -> bool:
        """Whether anything is odd."""
        return any(part.any() for part in self[:4])


class ReferenceCheck:
    """Compares windows with a reference, for the rows of one set of sensors. Immutable."""

    def __init__(self, table: ReferenceTable, rows: Sequence[str], steps: int, held: Collection[str]) -> None:
        """`rows` are those of the windows, of which the first `steps` hold readings; `held` are sampled below 1 Hz."""
        known = [(place, name) for place, name in enumerate(rows) if name in table.rows]
        self.names = tuple(name for _, name in known)
        self.references = tuple(table.rows[name] for name in self.names)
        self._rows = None if len(known) == len(rows) else np.array([place for place, _ in known], np.intp)
        self._steps = steps
        self.filled = steps // _SEGMENT
        """Number of segments that hold readings."""
        at, whole = {name: place for place, name in enumerate(self.names)}, steps == STEPS
        flows = [name for name in self.names if table.rows[name].spread and _high(name) in at and _low(name) in at]
        self.flows = tuple(flows)
        self._spreads = tuple(np.array([at[of(name)] for name in flows], np.intp) for of in (_high, _low))
        self.relations = tuple(each for each in table.relations if whole and each.one in at and each.other in at)
        self._weights = np.zeros((len(known), len(self.relations)), np.float32)
        for place, each in enumerate(self.relations):
            self._weights[at[each.other], place], self._weights[at[each.one], place] = 1.0, -each.slope
        usual = [
            row if whole and name not in held else None for name, row in zip(self.names, self.references, strict=True)
        ]
        self._limits = self._limits_of(usual, steps, [table.rows[name].spread if whole else None for name in flows])
        self._fast = _FastLimits.of(self._limits, len(known))

    @classmethod
    def of(
        cls, table: ReferenceTable | None, rows: Sequence[str], steps: int, held: Collection[str] = ()
    ) -> Self | None:
        """None if there is nothing to compare with."""
        return cls(table, rows, steps, held) if table is not None and any(row in table.rows for row in rows) else None

    def __call__(self, windows: Float) -> dict[int, Odd]:
        """What is odd, by the index of the window in `windows` [n, rows, STEPS]; usual windows are left out."""
        windows = self.known(windows)
        odd = self._fast.odd(self._values(windows))
        if not np.logical_or.reduce(odd, axis=None):
            return {}
        found = {int(each): self.explain(windows[each]) for each in np.flatnonzero(odd.any(axis=1))}
        return {each: one for each, one in found.items() if one.any}

    def known(self, windows: Float) -> Float:
        """The rows of `windows` that have a reference; seconds without readings repeat the last one."""
        windows = windows if self._rows is None else windows[:, self._rows]
        if self._steps == STEPS:
            return windows
        last = windows[..., self._steps - 1 : self._steps]
        return np.concatenate((windows[..., : self._steps], np.repeat(last, STEPS - self._steps, axis=-1)), axis=-1)

    def explain(self, window: Float) -> Odd:
        """What is odd in `window` [known rows, STEPS]."""
        measures = measure(window[None], (self._spreads[0], self._spreads[1]))
        levels, relations = self.compare(measures.levels[0])
        texture, spread = (_beyond(part[0], self._limits[place]) for place, part in enumerate(measures[1:], 1))
        return Odd(levels, texture, spread, relations, Measures(*(part[0] for part in measures)))

    def compare(self, levels: Numbers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of the levels [known rows, SEGMENTS] and of the relations are odd."""
        related = levels.mean(axis=1) @ self._weights.astype(np.float64)
        return _beyond(levels, self._limits[0]), _beyond(related, self._limits[3])

    def _values(self, windows: Float) -> Float:
        """[n, …] as the limits of `_FastLimits`: few calls, since they run for every request."""
        fast, (count, rows, _) = self._fast, windows.shape
        values = np.empty((count, fast.size), np.float32)
        levels = windows @ _MEANS
        values[:, : fast.levels] = levels[..., :SEGMENTS].reshape(count, -1)
        moves = windows[..., 1:] - windows[..., :-1]
        bends = moves[..., 1:] - moves[..., :-1]
        np.abs(bends, out=bends)
        ordered = np.sort(windows, axis=-1)
        texture = values[:, fast.levels : fast.texture].reshape(count, -1, rows)
        texture[:, 0] = _counts(moves == 0.0)
        texture[:, 1] = _counts(bends < fast.roughness[0])
        texture[:, 2] = _counts(bends > fast.roughness[1])
        np.subtract(ordered[..., -1], ordered[:, fast.every, fast.highest], out=texture[:, 3])
        np.subtract(ordered[:, fast.every, fast.lowest], ordered[..., 0], out=texture[:, 4])
        if self.flows:
            apart = windows[:, self._spreads[0]] - windows[:, self._spreads[1]]
            apart.sort(axis=-1)
            values[:, fast.texture : fast.spread] = apart[..., STEPS // 2]
        np.matmul(levels[..., SEGMENTS], self._weights, out=values[:, fast.spread :])
        return values

    def _limits_of(
        self, usual: Sequence[RowReference | None], steps: int, spreads: Sequence[Range | None]
    ) -> tuple[Numbers, ...]:
        """[…, 2] the lowest and highest usual value, in the shape of each measure."""
        levels = np.array([[row.low, row.high] for row in self.references]).transpose(0, 2, 1)
        levels[:, steps // _SEGMENT :] = _ANY
        texture = [
            [(-_INF, row.repeats) if row else _ANY for row in usual],
            [row.roughness if row else _ANY for row in usual],
            [(-_INF, row.highest) if row else _ANY for row in usual],
            [(-_INF, row.lowest) if row else _ANY for row in usual],
        ]
        related = [(each.low, each.high) for each in self.relations]
        apart = [spread or _ANY for spread in spreads]
        return levels, np.array(texture), np.array(apart).reshape(-1, 2), np.array(related).reshape(-1, 2)


def _beyond(values: Numbers, limits: Numbers) -> NDArray[np.bool_]:
    beyond: NDArray[np.bool_] = (values < limits[..., 0]) | (values > limits[..., 1])
    return beyond


def _counts(found: NDArray[np.bool_]) -> Float:
    """The number of each row; as a matrix product it takes half the time of a sum."""
    counts: Float = found.astype(np.float32) @ _ONES[: found.shape[-1]]
    return counts


class _FastLimits(NamedTuple):
    """The limits as one vector, of values that take less time than the measures.

    Roughness, a median, is within its limits if less than half of the bends are beyond each. For extremes, the values
    are the distance to the reading that must differ from them.
    """

    low: Float
    high: Float
    every: NDArray[np.intp]
    highest: NDArray[np.intp]
    """By row: the place of that reading among the ordered ones."""
    lowest: NDArray[np.intp]
    levels: int
    texture: int
    spread: int
    """Ends of the parts."""
    size: int
    roughness: Float
    """[2, rows, 1] lowest and highest."""

    @classmethod
    def of(cls, limits: tuple[Numbers, ...], rows: int) -> Self:
        """From the limits by measure."""
        levels, texture, spread, related = limits
        repeats, roughness, *extremes = texture
        half = (STEPS - 2) // 2
        fast = [repeats, np.tile((-_INF, half), (rows, 1)), np.tile((-_INF, half - 1), (rows, 1))]
        fast += [
            np.stack((np.where(each[:, 1] < STEPS, _LEAST, -_INF), np.full(rows, _INF)), axis=1) for each in extremes
        ]
        parts = (levels, np.array(fast), spread, related)
        low, high = np.concatenate([part.reshape(-1, 2) for part in parts]).astype(np.float32).T
        places = [np.minimum(each[:, 1], STEPS - 1.0).astype(np.intp) for each in extremes]
        ends: list[int] = np.cumsum([part.size // 2 for part in parts]).tolist()
        return cls(
            np.ascontiguousarray(low),
            np.ascontiguousarray(high),
            np.arange(rows),
            STEPS - 1 - places[0],
            places[1],
            ends[0],
            ends[1],
            ends[2],
            ends[3],
            roughness.T[..., None].astype(np.float32),
        )

    def odd(self, values: Float) -> NDArray[np.bool_]:
        """Which values are beyond the limits."""
        odd = values < self.low
        odd |= values > self.high
        return odd


def row_name(channel: str, component: str) -> str:
    """The name of a row in a reference; of a mean, the name of its sensor."""
    return f"{channel}_{component}"


def sensor_of(row: str) -> str:
    """The sensor of a row."""
    return row.replace("flow_max_", "flow_", 1).replace("flow_min_", "flow_", 1)


def _high(flow: str) -> str:
    return flow.replace("flow_", "flow_max_", 1)


def _low(flow: str) -> str:
    return flow.replace("flow_", "flow_min_", 1)


References: TypeAlias = Mapping[str, ReferenceTable]
"""By circuit."""
