"""Which configurations are tried, which one is the best so far, and why each other one is not; decisions on figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from penstock.toolchain.report.wording import number
from penstock.toolchain.tune.capacity import Capacity, Drive, Figures
from penstock.toolchain.tune.configuration import Configuration

MARGIN = 1.08
"""A configuration replaces a simpler one only when it carries so much more: less than that is noise."""
ROUNDS = 5
CLEAR = 3
"""Rounds that suffice where the challenger meets the objective in all of them, and the baseline in none."""
_WON, _LOST = 4, 1

Status = Literal["baseline", "chosen", "better", "not better", "out of reach", "failed", "skipped"]
"""`better`: the best for a while, or at the end but not proven against the baseline. `out of reach`: no rate met the
objective. `failed`: the server did not start or answer. `skipped`: not tried, by a rule or for lack of time."""


NOTHING = Capacity(None)


@dataclass(frozen=True)
class Trial:
    """A configuration and what came of it."""

    configuration: Configuration
    status: Status
    why: str = ""
    capacity: Capacity = NOTHING

    @property
    def rate(self) -> float:
        """Requests per second within the objective; 0 for none."""
        return self.capacity.rate

    def to_json(self) -> dict[str, Any]:
        """The settings, the figures of the highest rate within the objective, and the outcome."""
        best = self.capacity.best
        lowest = self.capacity.lowest_p99_ms
        return {
            **self.configuration.settings(),
            "throughput_per_second": None if best is None else round(best.rate, 2),
            "p50_ms": None if best is None else round(best.p50_ms, 3),
            "p99_ms": None if best is None else round(best.p99_ms, 3),
            "lowest_p99_ms": None if math.isinf(lowest) else round(lowest, 3),
            "status": self.status,
            "why": self.why,
        }


Try = Callable[[Configuration, "Trial"], "Trial"]
"""Measures a configuration against the best so far: `better` with its capacity, or the reason why it is not."""


class Exploration:
    """Walks through lists of configurations from the best so far, and keeps every trial."""

    def __init__(self, baseline: Trial, attempt: Try, time_left: Callable[[], bool]) -> None:
        self.best = baseline
        self.trials = [baseline]
        self._attempt = attempt
        self._time_left = time_left
        self.complete = True

    def widen(self, lists: Iterable[Sequence[Configuration]]) -> None:
        """Try whole lists, up to one after the first that brings nothing."""
        for place, configurations in enumerate(lists):
            better = [self._try(configuration) for configuration in configurations]
            if place and not any(better):
                return

    def climb(self, lists: Iterable[Sequence[Configuration]]) -> None:
        """Try each list up to a configuration that brings nothing; no further list once one brought something."""
        before = self.best
        for configurations in lists:
            if self.best is before:
                all(self._try(configuration) for configuration in configurations)

    def _try(self, configuration: Configuration) -> bool:
        """True if it is better than the best so far."""
        if any(trial.configuration == configuration for trial in self.trials):
            return False
        if not self._time_left():
            self.complete = False
            self.trials.append(Trial(configuration, "skipped", "no time was left"))
            return False
        trial = self._attempt(configuration, self.best)
        self.trials.append(trial)
        if trial.status != "better":
            return False
        self.best = trial
        return True

    def skip(self, configurations: Iterable[Configuration], why: str) -> None:
        """Keep configurations that a rule leaves out, with the reason."""
        known = {trial.configuration for trial in self.trials}
        self.trials += [Trial(one, "skipped", why) for one in configurations if one not in known]

    def settle(self, final: Trial) -> None:
        """Replace the best trial by its final state, and say of those that were the best before it why they are not."""
        self.trials = [self._settled(one, final) for one in self.trials]

    def _settled(self, trial: Trial, final: Trial) -> Trial:
        if trial.configuration == final.configuration:
            return final
        if trial.status != "better":
            return trial
        more = f"{number(final.rate)} requests/s, where this carries {number(trial.rate)}"
        return replace(trial, why=f"{final.configuration} carries {more}")


def lost(trial: Trial, best: Trial, p99_ms: float) -> Trial:
    """A trial that did not carry more than the best so far: with the reason."""
    last = trial.capacity.runs[-1]
    if not best.rate or last.rate < best.rate:  # not even one request at a time
        return replace(trial, status="out of reach", why=unreachable(trial.capacity))
    asked = f"{number(last.rate)} requests/s, {round(100 * (MARGIN - 1))} % more than the best so far carries"
    return replace(trial, status="not better", why=f"at {asked}, {_fault(last, p99_ms)}")


def unreachable(capacity: Capacity) -> str:
    """The reason of a configuration for which no rate met the objective."""
    return f"no rate met the objective; the lowest p99 was {_ms(capacity.lowest_p99_ms)}"


def _fault(run: Figures, p99_ms: float) -> str:
    """Why a run is not within the objective."""
    if run.failed:
        return f"{run.failed} requests were refused or failed"
    if run.p99_ms > p99_ms:
        return f"its p99 is {_ms(run.p99_ms)}"
    return f"it answered {run.served:.0%} of them in time"


def _ms(value: float) -> str:
    return f"{number(value)} ms"


class Round(NamedTuple):
    """The same rate at both servers, one after the other."""

    rate: float
    baseline: Figures
    challenger: Figures


def comparison_rate(baseline: Trial, challenger: Trial) -> float:
    """Between what both carry, so that both results would have to be wrong for a wrong winner."""
    return math.sqrt(baseline.rate * challenger.rate)


def in_turn(
    baseline: Drive, challenger: Drive, rate: float, p99_ms: float, time_left: Callable[[], bool] = lambda: True
) -> list[Round]:
    """Both driven at one rate, the first one in turn, until that decides: up to five rounds, three when time is up."""
    rounds: list[Round] = []
    while not decided(rounds, p99_ms) and (len(rounds) < CLEAR or time_left()):
        if len(rounds) % 2:
            second = challenger(rate)
            rounds.append(Round(rate, baseline(rate), second))
        else:
            first = baseline(rate)
            rounds.append(Round(rate, first, challenger(rate)))
    return rounds


def decided(rounds: Sequence[Round], p99_ms: float) -> bool:
    """True if the challenger has won, or cannot win any more."""
    kept, also = _kept(rounds, p99_ms)
    missed = len(rounds) - kept
    return wins(rounds, p99_ms) or missed > ROUNDS - _WON or also > _LOST or len(rounds) == ROUNDS


def wins(rounds: Sequence[Round], p99_ms: float) -> bool:
    """True if the challenger met the objective in four of five rounds and the baseline in one at most.

    Three rounds do where the challenger met it in all and the baseline in none: by chance that is one case in 64.
    """
    kept, also = _kept(rounds, p99_ms)
    return (kept >= _WON and also <= _LOST and len(rounds) == ROUNDS) or (kept >= CLEAR == len(rounds) and not also)


def _kept(rounds: Sequence[Round], p99_ms: float) -> tuple[int, int]:
    kept = sum(one.challenger.within(p99_ms) for one in rounds)
    return kept, sum(one.baseline.within(p99_ms) for one in rounds)


def verdict(rounds: Sequence[Round], p99_ms: float) -> str:
    """What the rounds showed, in words."""
    kept, also = _kept(rounds, p99_ms)
    rate = number(rounds[0].rate) if rounds else "?"
    return (
        f"in turn at {rate} requests/s it met the objective in {kept} of {len(rounds)} rounds, the baseline in {also}"
    )
