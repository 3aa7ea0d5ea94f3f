"""The time of a window, and the degradation of its machine from the stored results of the same trend."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np

from penstock_hydraulics.diagnosis.schemas import DegradationAnswer
from penstock_hydraulics.diagnosis.trend import FAILURE_HEALTH, MIN_RESULTS, Degradation, degradation
from penstock_hydraulics.fleet.equipment import Equipment
from penstock_hydraulics.fleet.fleet import Fleet

NO_TIME: Final = (
    "no timestamp: this window is part of no trend; send the `timestamp` of its end, or register the machine with"
    " its `cycle_s`"
)
_AHEAD_S: Final = 300.0
"""Time into the future from which a timestamp gets a warning: clocks differ by less, time zones by more."""
_MAX_TRENDS: Final = 10_000
_REUSE_S: Final = 0.5
"""Time of the machine for which a trend is reused: it spans hours, while requests may come 1,000 times a second."""


class Moment(NamedTuple):
    """When a window ended, and whether that is known well enough for a trend."""

    at_s: float
    known: bool
    warning: str | None = None


class Place(NamedTuple):
    """The trend that a result belongs to, and the health at which its machine has failed."""

    equipment_id: str
    evidence: str
    failure_health: float
    window_s: float

    @classmethod
    def of(cls, equipment_id: str, evidence: str, equipment: Equipment | None, window_s: float) -> Place:
        """For a machine, registered or not."""
        failure = FAILURE_HEALTH if equipment is None else equipment.failure_health
        return cls(equipment_id, evidence, failure, window_s)


class _Known(NamedTuple):
    at_s: float
    place: Place
    trend: Degradation


class Trends:
    """The trends of all machines as one model sees them. `fleet` may be shared by models."""

    def __init__(self, fleet: Fleet, model: str) -> None:
        self._fleet, self._model = fleet, model
        self._known: dict[str, _Known] = {}

    def moment(self, timestamp: datetime | None, equipment: Equipment | None) -> Moment:
        """From the timestamp, else from the order of the windows if the machine's cycle length is known."""
        if timestamp is not None:
            at_s, now_s = timestamp.timestamp(), time.time()
            return Moment(at_s, True, _ahead(at_s - now_s) if at_s > now_s + _AHEAD_S else None)
        ordered_s = None if equipment is None else self._fleet.next_time(equipment, self._model)
        return Moment(time.time(), False, NO_TIME) if ordered_s is None else Moment(ordered_s, True)

    def of(self, place: Place, score: float, at_s: float) -> Degradation:
        """The trend of the stored results until then, with this one."""
        known = self._known.get(place.equipment_id)
        if known is not None and known.place == place and abs(at_s - known.at_s) < _REUSE_S:
            return known.trend
        times, health = self._fleet.recent(place.equipment_id, self._model, place.evidence)
        times, health = np.append(times, at_s), np.append(health, score)
        trend = degradation(times, health, at_s, place.failure_health, place.window_s)
        if len(times) >= MIN_RESULTS:
            if len(self._known) >= _MAX_TRENDS:
                self._known.clear()
            self._known[place.equipment_id] = _Known(at_s, place, trend)
        return trend


def _ahead(seconds: float) -> str:
    return f"the timestamp is {seconds / 3600.0:.1f} h in the future; check the machine's clock and time zone"


def degradation_answer(
    score: float | None, trend: Degradation | None, failure_health: float, *, model: bool
) -> tuple[DegradationAnswer, str | None]:
    """The answer, and a warning if the machine is below its limit; `trend` is None for a window without one.

    Without a trend, the rate is the health lost so far and not its speed, and no time to failure follows from it.
    """
    below = score is not None and score <= failure_health
    if trend is None or trend.rate is None or trend.basis != "history":
        answer = DegradationAnswer.build(
            rate=None if score is None else round(1.0 - score, 6),
            time_to_failure_hours=0.0 if below else None,
            basis="none" if score is None or not model else "nominal",
            rate_interval=None,
            time_to_failure_interval_hours=None,
        )
    else:
        hours = 0.0 if below else _rounded(trend.time_to_failure_hours)
        answer = DegradationAnswer.build(
            rate=round(trend.rate, 6),
            time_to_failure_hours=hours,
            basis="history",
            rate_interval=_interval(trend.interval),
            time_to_failure_interval_hours=(0.0, 0.0) if hours == 0.0 else _interval(trend.ttf_interval),
        )
    if answer.time_to_failure_hours != 0.0:
        return answer, None
    whose = f"health is {score:.3f}" if below else "the latest results are"
    return answer, f"already below the limit: {whose}, and the machine counts as failed at {failure_health:g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (round(interval[0], 6), round(interval[1], 6))
