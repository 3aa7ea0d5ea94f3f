"""Runs of the load generator on one server, long enough for their percentiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import InferenceError
from penstock.registry.registry import Registry
from penstock.toolchain.bench.connection import Target
from penstock.toolchain.bench.discovery import find_target
from penstock.toolchain.bench.load import LoadResult, closed_loop, open_loop
from penstock.toolchain.tune.capacity import Figures
from penstock.toolchain.tune.configuration import Configuration
from penstock.toolchain.tune.server import Serving, running

_SHORTEST_S, _LONGEST_S = 1.2, 12.0
_REQUESTS = 250
"""In one run at least, where that takes no longer than the longest run: a p99 of fewer is the worst one or two."""
_OBJECTIVES = 8.0
"""A run lasts so many times the objective: a queue that grows slowly shows only then."""
_PATIENCE = 10.0
"""A reply is waited for this many times the objective."""
_CLIENTS = 16
"""In flight for the first estimate of what a server carries."""


@dataclass(frozen=True)
class Meter:
    """Measures one server with requests of one kind."""

    target: Target
    p99_ms: float

    def alone(self) -> Figures:
        """One request at a time: no rate gives lower latencies."""
        return self._figures(closed_loop(self.target, concurrency=1, seconds=_SHORTEST_S), None)

    def crowded(self) -> float:
        """Requests per second with many in flight, whatever their latency."""
        result = closed_loop(self.target, concurrency=_CLIENTS, seconds=_SHORTEST_S)
        return result.throughput_per_second

    def drive(self, rate: float) -> Figures:
        """A run at a rate; times of sending are those of many independent clients."""
        seconds = run_seconds(rate, self.p99_ms)
        timeout_s = max(1.0, _PATIENCE * self.p99_ms / 1000)
        return self._figures(open_loop(self.target, rate, seconds=seconds, timeout_s=timeout_s), rate)

    def _figures(self, result: LoadResult, rate: float | None) -> Figures:
        if result.latency is None or result.stopped is not None:
            raise InferenceError(_why_nothing(result))
        p50, p99 = result.latency.p50_ms, result.latency.p99_ms
        achieved = result.throughput_per_second
        in_flight = 0.0 if rate is None else rate * p50 / 1000
        due = max(1.0, result.requests - in_flight)  # what was due just before the end may be answered after it
        return Figures(
            rate=achieved if rate is None else rate,
            p50_ms=p50,
            p99_ms=p99,
            failed=result.failed + result.refused,
            served=min(1.0, achieved * result.seconds / due),
            strained=any("whole core" in warning for warning in result.warnings),
        )


def run_seconds(rate: float, p99_ms: float) -> float:
    """How long a run at a rate takes."""
    return min(_LONGEST_S, max(_SHORTEST_S, _REQUESTS / rate, _OBJECTIVES * p99_ms / 1000))


def _why_nothing(result: LoadResult) -> str:
    errors = ", ".join(f"{count} times {what}" for what, count in result.errors.items())
    said = result.stopped or f"no request was answered with success ({errors or 'all were refused'})"
    return f"the load on the server gave no figures: {said}"


@dataclass(frozen=True)
class Bench:
    """Starts servers and measures them. `config` writes the settings file for a configuration."""

    serving: Serving
    p99_ms: float
    registry: Registry
    payload: Path | None

    @contextmanager
    def meter(self, configuration: Configuration, config: str) -> Iterator[Meter]:
        """A running server with this configuration, warmed up."""
        with running(self.serving, configuration, config) as url:
            target = find_target(url, model=self.serving.ref, payload=self.payload, registry=self.registry)
            yield Meter(target, self.p99_ms)


def lowest_rate(alone: Figures) -> float:
    """A fifth of what one client gets: so few requests hardly ever meet."""
    return max(0.2, alone.rate / 5)


def out_of_reach(alone: Figures, p99_ms: float) -> bool:
    """True if half of the requests take longer than the objective even where each is alone.

    Under load they may take less than that, where they would wait for others, but an objective holds at any load.
    """
    return alone.p50_ms > p99_ms or math.isnan(alone.p50_ms)
