"""The race between the variants of an artifact: each one that works runs against the fastest so far."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from penstock.artifacts.artifact import Artifact, Variant
from penstock.artifacts.golden import Golden
from penstock.backends.axes.seen import rows_first
from penstock.backends.examples import Examples
from penstock.backends.verification import timed
from penstock.engine.loading.bring_up import ReadyBackend
from penstock.engine.loading.selection_cache import SelectionResult, in_manifest_order
from penstock.errors import ModelLoadError, UnsupportedFormat, Untrusted

log = logging.getLogger(__name__)

RACE_S = 0.15
"""A race of two variants takes about this long, once for one row and once for a full batch."""
CLEAR = 2.0
"""Warm-up times that differ by more than this factor, for one row and for a full batch, need no race."""
NOISE = 1.1
"""A variant must be this many times as fast as a simpler one, and in three of four runs, to be preferred."""


class SelectedVariant(NamedTuple):
    """The variant that was selected, with its backend; the result for each variant, and the failures of better ones.

    `measured` is the number of variants that were brought up.
    """

    variant: Variant
    ready: ReadyBackend
    results: tuple[SelectionResult, ...]
    failures: tuple[str, ...]
    measured: int = 1


class VariantRace:
    """The fastest variant so far, and the reason why each of the others is not selected."""

    def __init__(self, artifact: Artifact, excluded: list[SelectionResult]) -> None:
        """`excluded` are the results of the variants that do not take part."""
        self.leader: Variant | None = None
        self._artifact = artifact
        self._ready: ReadyBackend | None = None
        self._results = list(excluded)
        self._failures: list[ModelLoadError] = []
        self._measured = 0

    def reject(self, variant: Variant, reason: str) -> None:
        """Record why a variant is not selected."""
        self._results.append(SelectionResult(variant.name, False, reason))

    def fail(self, variant: Variant, error: ModelLoadError) -> None:
        """Record a variant that does not load."""
        self.reject(variant, str(error))
        self._failures.append(error)

    def enter(self, variant: Variant, ready: ReadyBackend) -> None:
        """Race a variant that works against the leader; the slower one is closed."""
        self._measured += 1
        leader, best = self.leader, self._ready
        if leader is None or best is None:
            self.leader, self._ready = variant, ready
            return
        if best.unproven or ready.unproven:
            self._prefer_proven(leader, best, variant, ready)
            return
        gain, sure = _gain(best, ready, self._artifact.golden())
        if gain > NOISE and sure:
            best.backend.close()
            self.reject(leader, f"{gain:.1f} times as slow as {variant.name} ({_times(best)})")
            self.leader, self._ready = variant, ready
            return
        ready.backend.close()
        slower = (
            f"{1 / gain:.1f} times as slow as {leader.name}" if gain < 1 / NOISE else f"no faster than {leader.name}"
        )
        self.reject(variant, f"{slower} ({_times(ready)})")

    def _prefer_proven(self, leader: Variant, best: ReadyBackend, variant: Variant, ready: ReadyBackend) -> None:
        """A variant that ran goes before one that could not be tried; of two that could not, the simpler one stays."""
        if best.unproven and not ready.unproven:
            best.backend.close()
            self.reject(leader, best.rows.why)
            self.leader, self._ready = variant, ready
        else:
            ready.backend.close()
            self.reject(variant, ready.rows.why)

    def abort(self) -> None:
        """Close the leader."""
        if self._ready is not None:
            self._ready.backend.close()

    def finish(self, candidates: int) -> SelectedVariant:
        """The winner. Raises the first failure, or UnsupportedFormat if no variant can be tried on this machine."""
        leader, ready = self.leader, self._ready
        if leader is None or ready is None:
            if self._failures:
                raise self._failures[0]
            reasons = "; ".join(f"{result.variant}: {result.reason}" for result in self._results)
            raise UnsupportedFormat(f"{self._artifact.ref}: this machine runs none of its variants ({reasons})")
        several = f"the fastest of {self._measured}" if self._measured > 1 else "the first that works"
        reason = "the only one that can be tried" if candidates == 1 else several
        taken = SelectionResult(leader.name, True, f"{reason} ({_times(ready)})")
        # missing trust is a decision of the operator
        failures = tuple(str(failure) for failure in self._failures if not isinstance(failure, Untrusted))
        for failure in failures:
            log.warning("%s", failure)
        results = in_manifest_order(self._artifact, [taken, *self._results])
        return SelectedVariant(leader, ready, results, failures, self._measured)


def _times(ready: ReadyBackend) -> str:
    if ready.unproven:
        return "not measured"
    full = max(ready.timings)
    return f"{ready.one_row_s * 1e3:.3g} ms for {min(ready.timings)}, {ready.full_s * 1e3:.3g} ms for {full} rows"


def _gain(holder: ReadyBackend, challenger: ReadyBackend, golden: Golden | None) -> tuple[float, bool]:
    """How many times as fast `challenger` is, over one row and a full batch alike; and whether it won most runs."""
    shares = challenger.runners / holder.runners
    one_row, full = holder.one_row_s / challenger.one_row_s, holder.row_s / challenger.row_s * shares
    if min(one_row, full) > CLEAR or max(one_row, full) < 1 / CLEAR:
        return math.sqrt(one_row * full), True
    examples = holder.examples or Examples(holder.backend, holder.backend.signature, golden)
    one = _race(holder, challenger, examples, min)
    many = _race(holder, challenger, examples, max)
    return math.sqrt(one.gain * many.gain * shares), (one.won + many.won) / 2 >= 0.75


class _RaceTimes(NamedTuple):
    gain: float
    won: float
    """The fraction of the runs that the challenger won."""


def _race(
    holder: ReadyBackend, challenger: ReadyBackend, examples: Examples, size: Callable[[Iterable[int]], int]
) -> _RaceTimes:
    """Run the two in turn, so that other load on the machine affects both; each with the rows that it runs at once."""
    held_rows, rows = size(holder.timings), size(challenger.timings)
    held_inputs, inputs = examples.of(held_rows), examples.of(rows)
    held, tried = rows_first(holder.backend), rows_first(challenger.backend)
    pairs: list[tuple[float, float]] = []
    until = time.monotonic() + RACE_S
    while not pairs or (time.monotonic() < until and len(pairs) < 1000):
        pairs.append((timed(held, held_inputs) / held_rows, timed(tried, inputs) / rows))
    before, after = (statistics.median(times) for times in zip(*pairs, strict=True))
    return _RaceTimes(before / after, sum(b < a for a, b in pairs) / len(pairs))
