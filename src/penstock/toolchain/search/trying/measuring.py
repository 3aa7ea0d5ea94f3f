"""Times of candidates: always in turn with the baseline, in processes of their own, so that noise decides nothing."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from penstock.backends.axes.reading import all_axes
from penstock.backends.base import ModelFile
from penstock.errors import PenstockError
from penstock.options import BackendOptions
from penstock.scan.trust import strongest
from penstock.tensors import Arrays, Signature
from penstock.toolchain.bench.sandbox import Limits, Sandbox
from penstock.toolchain.bench.turns import Ratio, ratio_of, take_turns
from penstock.toolchain.search.candidate import Form, Speed
from penstock.toolchain.search.pareto import Interval, Target

BATCHES = (1, 2, 4, 8, 16, 32)
_ROUND_S = 0.01
"""A side of a round is timed for about this long."""
_MOST_REPEATS = 100
_CONFIDENCE = 0.99
QUICK_S = 0.001
"""More threads than one do not pay for a run that is quicker than this."""
SHORT_S, LONG_S = 1.2, 6.0
"""Seconds of a short comparison, which all candidates get, and of a long one, which the best get."""
_SHORT_ROUNDS, _LONG_ROUNDS = 12, 60
LAST_ROUNDS = 9
_NO_RATIO: Interval = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Bench:
    """How forms are opened and timed: real rows, the signature, the target, and limits of a process."""

    signature: Signature
    inputs: Arrays
    target: Target
    trust: str = "data"
    memory_bytes: int | None = None
    axes: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes of a curve: only one for a model that takes no other number of rows."""
        fixed = 1 if self.signature.whole else self.signature.fixed_rows
        return BATCHES if fixed is None else (fixed,)

    @property
    def rows(self) -> int:
        """The rows of a run that the target looks at."""
        return self.batches[-1] if self.target == "throughput" else self.batches[0]

    def open(self, form: Form, threads: int | None, seconds: float = 60.0) -> Sandbox:
        """The form in a process of its own. Raises SandboxFailed, or what opening it raises."""
        file = ModelFile(form.path, self.signature, form.architecture, form.architecture_args, batch_axes=self.axes)
        options = BackendOptions(threads=threads, trust=strongest(self.trust, form.trust), device="cpu")
        limits = Limits(seconds=seconds, load_seconds=seconds, memory_bytes=self.memory_bytes, threads=threads)
        return Sandbox.open(form.format, file, options, inputs=self.inputs, name=form.name, limits=limits)


def bench_of(signature: Signature, inputs: Arrays, target: Target, *, has_axes: bool, trust: str) -> Bench:
    """The bench of one search; `has_axes`: the manifest states batch axes."""
    return Bench(signature, inputs, target, trust, _memory_limit(), all_axes(signature) if has_axes else {})


def _memory_limit() -> int:
    """Three quarters of the machine's memory that is free now, at least 1 GiB."""
    import os

    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(1 << 30, free * 3 // 4)


@dataclass(eq=False)
class Side:
    """One form in a process, as a side of a comparison. `runs` are the seconds of all its runs by batch size."""

    name: str
    form: Form
    sandbox: Sandbox
    threads: int
    runs: dict[int, list[float]] = field(default_factory=dict)
    tails: list[float] = field(default_factory=list)
    """The 99th percentile of each round at the target's batch size."""
    _repeats: dict[int, int] = field(default_factory=dict)

    def measure(self, rows: int) -> float:
        """The median seconds of a few runs, which are kept."""
        if rows not in self._repeats:
            once = statistics.median(self.sandbox.time(rows, 3))
            self._repeats[rows] = max(1, min(_MOST_REPEATS, round(_ROUND_S / max(once, 1e-7))))
        taken = self.sandbox.time(rows, self._repeats[rows])
        self.runs.setdefault(rows, []).extend(taken)
        self.tails.append(float(np.quantile(taken, 0.99)))
        return statistics.median(taken)

    def speed(self) -> Speed:
        """What was measured so far."""
        usage = self.sandbox.usage()
        return Speed(
            self.threads,
            {rows: statistics.median(runs) * 1e3 for rows, runs in sorted(self.runs.items())},
            {rows: float(np.quantile(runs, 0.99)) * 1e3 for rows, runs in sorted(self.runs.items())},
            usage.peak_bytes,
            usage.load_s + usage.first_run_s,
        )


def best_threads(bench: Bench, form: Form, threads: Sequence[int], stack: ExitStack, seconds: float = 60.0) -> Side:
    """The form with the number of threads that is the fastest for the target; its process ends with the stack.

    Fewer threads are kept unless more are clearly faster. Raises what opening the form raises.
    """
    best = Side(form.name, form, bench.open(form, threads[0], seconds), threads[0])
    try:
        for count in threads[1:] if best.measure(bench.rows) > QUICK_S else ():
            best = _faster(best, Side(form.name, form, bench.open(form, count, seconds), count), bench)
    except BaseException:
        best.sandbox.close()
        raise
    stack.callback(best.sandbox.close)
    return best


def _faster(one: Side, other: Side, bench: Bench) -> Side:
    try:
        ratio = compared(one, other, bench.rows, rounds=_SHORT_ROUNDS, seconds=SHORT_S / 2)
    except BaseException:
        one.sandbox.close()
        other.sandbox.close()
        raise
    kept, left = (other, one) if ratio.faster and ratio.median > 1.05 else (one, other)
    left.sandbox.close()
    return kept


def compared(baseline: Side, side: Side, rows: int, *, rounds: int, seconds: float) -> Ratio:
    """How many times as fast a side is as the baseline."""
    sides = {"a": lambda: baseline.measure(rows), "b": lambda: side.measure(rows)}
    taken = take_turns(sides, rounds=rounds, seconds=seconds)
    return ratio_of(taken["a"], taken["b"], confidence=_CONFIDENCE)


def screened(baseline: Side, side: Side, bench: Bench) -> Speed:
    """A short comparison with the baseline at what the target names, and a rough curve."""
    ratio = target_ratio(baseline, side, bench, rounds=_SHORT_ROUNDS, seconds=SHORT_S)
    measure_curves([side], bench.batches, rounds=2, seconds=SHORT_S / 2)
    return replace(side.speed(), ratio=ratio)


def target_ratio(baseline: Side, side: Side, bench: Bench, *, rounds: int, seconds: float) -> Interval:
    """How many times as good a side is as the baseline at the target, with an interval."""
    if bench.target == "size":
        return _exact(baseline.form.size_bytes / max(1, side.form.size_bytes))
    ratio = compared(baseline, side, bench.rows, rounds=rounds, seconds=seconds)
    if bench.target == "memory":
        measure_curves([baseline, side], bench.batches[-1:], rounds=1, seconds=1.0)
        return _exact(baseline.sandbox.usage().peak_bytes / side.sandbox.usage().peak_bytes)
    return interval(ratio)


def _exact(ratio: float) -> Interval:
    return ratio, ratio, ratio


def interval(ratio: Ratio) -> Interval:
    """A ratio as plain numbers; the ends of an unknown interval are far away."""
    return ratio.median, ratio.low, ratio.high if math.isfinite(ratio.high) else 1e9


def measure_curves(sides: Sequence[Side], batches: Sequence[int], *, rounds: int, seconds: float) -> None:
    """Time every batch size on all sides in turn; a batch size that a side fails on is left out of its curve.

    The smallest and the largest come first; of the others, none begins after `seconds`.
    """
    ends = time.monotonic() + seconds
    failed: set[tuple[str, int]] = set()
    ordered = [*dict.fromkeys((batches[0], batches[-1], *batches))]
    for place, rows in enumerate(ordered):
        if place > 1 and time.monotonic() > ends:
            break
        for number in range(rounds):
            for side in sides if number % 2 else reversed(sides):
                if (side.name, rows) not in failed and not _timed(side, rows):
                    failed.add((side.name, rows))


def _timed(side: Side, rows: int) -> bool:
    try:
        side.measure(rows)
    except PenstockError:
        return False
    return True


@dataclass(frozen=True)
class Final:
    """The outcome of the long comparison: ratios to the baseline, whose tail is worse, and how the machine behaved."""

    ratios: Mapping[str, Interval]
    worse_tails: frozenset[str] = frozenset()
    warning: str | None = None


def final(baseline: Side, sides: Sequence[Side], bench: Bench, *, seconds: float) -> Final:
    """The long comparison of the best: all of them in one sequence of rounds, with the baseline in each round.

    `seconds` is for all of them together.
    """
    if bench.target in ("size", "memory"):
        ratios = {side.name: target_ratio(baseline, side, bench, rounds=_SHORT_ROUNDS, seconds=1.0) for side in sides}
        return Final(ratios)
    every = {"": baseline, **{side.name: side for side in sides}}
    for side in every.values():
        side.measure(bench.rows)
        side.tails.clear()
    rows = bench.rows
    turns = {name: (lambda side=side: side.measure(rows)) for name, side in every.items()}
    taken = take_turns(turns, rounds=_LONG_ROUNDS, seconds=seconds)
    found = {side.name: ratio_of(taken[""], taken[side.name], confidence=_CONFIDENCE) for side in sides}
    tails = {side.name: ratio_of(baseline.tails, side.tails, confidence=_CONFIDENCE) for side in sides}
    worse = {name for name, ratio in tails.items() if bench.target == "p99" and ratio.high < 1}
    warning = next((ratio.warning for ratio in found.values() if ratio.warning), None)
    return Final({name: interval(ratio) for name, ratio in found.items()}, frozenset(worse), warning)
