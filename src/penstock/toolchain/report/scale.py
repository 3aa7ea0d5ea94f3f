"""Scales of a plot: values to pixels, linear or logarithmic, and the values at which they are labelled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from penstock.toolchain.report.wording import finite, number, tamed

_LOG_FROM = 30.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic unless it says otherwise."""
_TICKS = 6
_PADDING = 0.06


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows.

    `log` None: logarithmic when the values span more than a factor of 30. `zero`: a linear axis begins at zero. `most`:
    the largest value that is labelled, such as 1 for a share. `ticks`: the only values to label, such as batch sizes,
    with their labels. `say`: a value as text.
    """

    label: str
    unit: str = ""
    log: bool | None = None
    zero: bool = False
    most: float = math.inf
    ticks: tuple[tuple[float, str], ...] = ()
    say: Callable[[float], str] = number

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]
    names: tuple[str, ...] = ()

    def at(self, value: float) -> float:
        """The pixel of a value; values outside are moved to the nearer end."""
        low, high, place = self._placed(self.low), self._placed(self.high), self._placed(value)
        part = (place - low) / (high - low)
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def labels(self) -> list[str]:
        """The text of each tick: its name, or as many digits as tell it from the others."""
        if self.names:
            return list(self.names)
        if self.log or len(self.ticks) < 2:
            return [number(_whole(tick)) for tick in self.ticks]
        step = min(later - tick for tick, later in itertools.pairwise(self.ticks))
        return [_fixed(tick, step, max(map(abs, self.ticks))) if tick else "0" for tick in self.ticks]

    def _placed(self, value: float) -> float:
        return math.log10(max(value, self.low, 1e-300)) if self.log else value


def scale(values: Iterable[object], axis: Axis, start: float, end: float) -> Scale:
    """The scale that holds every finite one of these values, with some room at its ends."""
    known = [tamed(value) for value in values if finite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    log = low > 0 and (high / low >= _LOG_FROM if axis.log is None else axis.log)
    largest = high
    low, high = _log_span(low, high) if log else _linear_span(low, high, axis.zero)
    if largest <= axis.most < high:
        high = axis.most + _PADDING * (axis.most - low)
    most = min(high, axis.most)
    if axis.ticks:
        named = [(tick, name) for tick, name in axis.ticks if low <= tick <= most]
        return Scale(low, high, start, end, log, tuple(tick for tick, _ in named), tuple(name for _, name in named))
    ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
    return Scale(low, high, start, end, log, tuple(tick for tick in ticks if low <= tick <= most))


def _decades(low: float, high: float) -> float:
    return math.log10(high) - math.log10(low)


def _log_span(low: float, high: float) -> tuple[float, float]:
    room = min(max(_PADDING * _decades(low, high), 0.04), 1.0)
    return low * 10**-room, high * 10**room


def _linear_span(low: float, high: float, zero: bool) -> tuple[float, float]:
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = 0.1 * abs(high) or 1.0
        return (0.0 if zero and low >= 0 else low - room), high + room
    room = _PADDING * (high - low)
    return (low if zero and low == 0 else low - room), high + room


def _linear_ticks(low: float, high: float) -> list[float]:
    step = _nice((high - low) / (_TICKS - 1))
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _nice(step: float) -> float:
    """The next larger of 1, 2, 2.5, 5 and 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 2 * _TICKS:
        every = math.ceil((last - first) / _TICKS)
        return [10.0**power for power in range(first, last + 1, every)]
    decades = _decades(low, high)
    factors: Sequence[int] = (1,) if decades > 4 else (1, 3) if decades > 2.5 else (1, 2, 5)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return ticks if sum(low <= tick <= high for tick in ticks) >= 2 else _linear_ticks(low, high)


def _whole(value: float) -> float:
    return int(value) if value == int(value) and abs(value) < 1e6 else value


def _fixed(tick: float, step: float, largest: float) -> str:
    """A tick with the digits that its distance to the next one needs."""
    if step < 1e-4 or largest >= 1e6:
        mantissa, _, exponent = f"{tick:.{_digits(step, abs(tick))}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += 0 if math.isclose(round(step, decimals), step, rel_tol=1e-6) else 1
    return f"{tick:,.{decimals}f}"


def _digits(step: float, size: float) -> int:
    """How many digits after the first one tell a number of this size from its neighbour."""
    return min(max(0, math.floor(math.log10(size)) - math.floor(math.log10(step * 1.0001))), 15)
