"""Decides a search: the best once more against the baseline and for longer, who is kept, and why each is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from penstock.errors import PenstockError
from penstock.toolchain.search.candidate import Candidate, Form, Judgement, Speed
from penstock.toolchain.search.pareto import SAME, Interval, Target, beats, pareto, winner
from penstock.toolchain.search.trying.gate import Budget
from penstock.toolchain.search.trying.measuring import (
    LONG_S,
    Bench,
    Final,
    Side,
    best_threads,
    final,
    measure_curves,
)

BEST = 3
"""How many candidates get the long comparison."""
_MEASURE: dict[Target, str] = {
    "p99": "as fast as",
    "throughput": "the throughput of",
    "size": "as small as",
    "memory": "as small in memory as",
}


@dataclass(eq=False)
class Tried:
    """All that a search tried: the baseline and eager PyTorch in their processes, the candidates, and all speeds.

    `speeds` are those of the variants that the model had, by name.
    """

    bench: Bench
    baseline: Side
    judgement: Judgement
    budget: Budget
    eager: Side | None = None
    speeds: dict[str, Speed] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a search found. `over_budget`: something was better, but broke the accuracy budget.

    `on_front` names the candidates that no other is as good as in every respect.
    """

    tried: Tried
    chosen: Candidate | None
    on_front: frozenset[str]
    over_budget: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The candidates in the order of the plan."""
        return tuple(self.tried.candidates.values())


def decide(tried: Tried, left_s: float) -> Outcome:
    """Compare the best once more and for longer, choose, and say of every candidate why it is kept or not."""
    with ExitStack() as stack:
        compared = _compare_best(tried, left_s, stack)
    for name, ratio in compared.ratios.items():
        one = tried.candidates[name]
        tried.candidates[name] = replace(one, speed=replace(one.speed or Speed(1), ratio=ratio))
    ratios = {name: ratio for name, ratio in compared.ratios.items() if name not in compared.worse_tails}
    chosen = winner(ratios)
    front = _front(tried, chosen)
    for name, one in tried.candidates.items():
        if one.measured is not None:
            tried.candidates[name] = _settled(one, tried, chosen, front, compared)
    return Outcome(
        tried,
        None if chosen is None else tried.candidates[chosen],
        frozenset(name for name, better in front.items() if better is None),
        chosen is None and any(map(_would_win, tried.candidates.values())),
        () if compared.warning is None else (compared.warning,),
    )


def pace_of(one: Candidate, tried: Tried) -> str:
    """How it compares with the baseline at the target, in words."""
    ratio = ratio_of(one)
    if ratio is None:
        return "not measured"
    return f"{ratio[0]:.2f} times {_MEASURE[tried.bench.target]} the baseline {tried.baseline.name}"


def ratio_of(one: Candidate) -> Interval | None:
    """How many times as good as the baseline it was measured to be."""
    return one.speed.ratio if one.speed is not None else None


def _compare_best(tried: Tried, left_s: float, stack: ExitStack) -> Final:
    """The long comparison of those that were the fastest in the short one."""
    measured = {name: found for name, one in tried.candidates.items() if (found := one.measured) is not None}
    gains = {name: speed.ratio for name, (_, _, speed) in measured.items() if speed.ratio and speed.ratio[2] > 1}
    best = sorted(gains, key=lambda name: -gains[name][0])[:BEST]
    sides: list[Side] = []
    for name in sorted(best, key=lambda name: tried.candidates[name].planned.rank):
        form, _, speed = measured[name]
        with suppress(PenstockError):
            sides.append(best_threads(tried.bench, form, [speed.threads], stack))
    if not sides:
        return Final({})
    _measure_again(tried, sides)
    return final(tried.baseline, sides, tried.bench, seconds=min(LONG_S, max(1.0, left_s / 4)))


def _measure_again(tried: Tried, sides: Sequence[Side]) -> None:
    """Measure the curves of the best, the baseline and eager once more, in turn."""
    known = [tried.baseline, *([tried.eager] if tried.eager not in (None, tried.baseline) else [])]
    again = [*(side for side in known if side is not None), *sides]
    measure_curves(again, tried.bench.batches, rounds=4, seconds=LONG_S / 2)
    for side in again:
        if side.name in tried.speeds:
            tried.speeds[side.name] = side.speed()
        else:
            one = tried.candidates[side.name]
            tried.candidates[side.name] = replace(one, speed=replace(side.speed(), ratio=ratio_of(one)))


def _front(tried: Tried, chosen: str | None) -> dict[str, str | None]:
    """Who is worth keeping by latency, throughput, size and accuracy; the baseline comes first among equals."""
    base = tried.baseline
    known = {base.name: _figures(base.form, tried.speeds[base.name], tried.judgement)}
    for name, one in tried.candidates.items():
        if one.measured is not None:
            known[name] = _figures(one.measured[0], one.measured[2], one.measured[1])
    found = pareto(known)
    if chosen is not None:
        found[chosen] = None
    return found


def _settled(
    one: Candidate, tried: Tried, chosen: str | None, front: Mapping[str, str | None], compared: Final
) -> Candidate:
    pace = pace_of(one, tried)
    if one.name == chosen:
        return one.now("chosen", f"{pace}, the best within the accuracy budget")
    if one.status == "dominated":
        return one
    if one.name in compared.worse_tails:
        pace = f"{pace} in the median, but its 99th percentile is worse"
    better = front.get(one.name)
    if better is not None:
        return one.now("dominated", f"{pace}; {better} is at least as good in every respect")
    if chosen is None:
        return one.now("dominated", f"{pace}: that is within noise, or slower")
    return one.now("kept", f"{pace}; no other is as good in latency, throughput, size and accuracy together")


def _would_win(one: Candidate) -> bool:
    """True for a candidate that only the accuracy budget keeps from winning."""
    over, ratio = one.judgement is not None and one.judgement.over_budget, ratio_of(one)
    return over and ratio is not None and beats(ratio)


def _figures(form: Form, speed: Speed, judgement: Judgement | None) -> tuple[float, ...]:
    """Latency of one run, milliseconds for a row at best, bytes, and the share of wrong answers; lower is better."""
    found = judgement or Judgement()
    right = found.accuracy if found.accuracy is not None else found.agreement
    latency = min(speed.p50_ms.items())[1] if speed.p50_ms else 0.0
    return latency, speed.row_ms() or 0.0, float(form.size_bytes), round(1 + SAME - (right or 0.0), 4)
