"""How many requests per second a server carries within a latency objective: decisions on figures, without a clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

CLOSE = 1.06
"""The search ends when the lowest rate that failed is this close to the highest that passed."""
_STEP = 1.6
_SERVED = 0.97
_UNLUCKY = 4.0
"""A run whose p99 is up to this many times the objective is repeated once: a pause of the machine looks like that."""


class Figures(NamedTuple):
    """One run at a constant rate; latencies count from the time when a request was due.

    `failed` counts replies without success, refused ones included. `served` is the share of the requests that were
    answered in time; below 0.97 the queue grows without end. `strained`: the load generator used a whole core.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    failed: int = 0
    served: float = 1.0
    strained: bool = False

    def within(self, p99_ms: float) -> bool:
        """True if the server carried this rate within the objective."""
        return not self.failed and self.p99_ms <= p99_ms and self.served >= _SERVED


Drive = Callable[[float], Figures]
"""Runs the load at a rate, for as long as its percentiles need."""


@dataclass(frozen=True)
class Capacity:
    """The highest rate that was carried, None if there is none, and every run."""

    best: Figures | None
    runs: tuple[Figures, ...] = field(default=())

    @property
    def rate(self) -> float:
        """Requests per second; 0 if no rate met the objective."""
        return self.best.rate if self.best else 0.0

    @property
    def lowest_p99_ms(self) -> float:
        """The lowest p99 of all runs without failures."""
        return min((run.p99_ms for run in self.runs if not run.failed), default=math.inf)


class _Search:
    """Runs at rates, and what they showed."""

    def __init__(self, drive: Drive, p99_ms: float, time_left: Callable[[], bool]) -> None:
        self._drive = drive
        self._p99_ms = p99_ms
        self.time_left = time_left
        self.runs: list[Figures] = []
        self.best: Figures | None = None

    def carries(self, rate: float) -> bool:
        """True if the rate is carried; a run that failed by little is repeated once."""
        figures = self._run(rate)
        if not figures.within(self._p99_ms) and self._unlucky(figures) and self.time_left():
            figures = self._run(rate)
        if not figures.within(self._p99_ms):
            return False
        if self.best is None or figures.rate > self.best.rate:
            self.best = figures
        return True

    def _run(self, rate: float) -> Figures:
        figures = self._drive(rate)
        self.runs.append(figures)
        return figures

    def _unlucky(self, figures: Figures) -> bool:
        return figures.p99_ms <= _UNLUCKY * self._p99_ms


def capacity(
    drive: Drive,
    p99_ms: float,
    start: float,
    *,
    lowest: float,
    time_left: Callable[[], bool] = lambda: True,
) -> Capacity:
    """The highest rate whose p99 stays within `p99_ms`, within 6 %: up or down from `start`, then by bisection.

    Below `lowest` no rate is tried: what fails there cannot meet the objective. When time is up before any rate was
    carried, `lowest` itself is still tried.
    """
    search = _Search(drive, p99_ms, time_left)
    low, high = _bracket(search, max(start, lowest), lowest)
    while low and high / low > CLOSE and time_left():
        middle = math.sqrt(low * high)
        if search.carries(middle):
            low = middle
        else:
            high = middle
    return Capacity(search.best, tuple(search.runs))


def _bracket(search: _Search, start: float, lowest: float) -> tuple[float, float]:
    """A rate that is carried and a higher one that is not; 0 if none is carried."""
    rate = start
    if search.carries(rate):
        while search.time_left() and search.carries(rate * _STEP):
            rate *= _STEP
        return rate, rate * _STEP
    while rate > lowest:
        high, rate = rate, max(lowest, rate / _STEP if search.time_left() else lowest)
        if search.carries(rate):
            return rate, high
    return 0.0, rate
