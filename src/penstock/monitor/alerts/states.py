"""Whether an alert fires: one step of its life for each look. Pure; times are seconds of any clock.

Nothing → pending → firing → nothing. Data that is missing changes nothing, and its time counts for nothing: neither for
the minutes after which an alert fires, nor for those after which it ends. So a restart, too, is a gap and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self, TypeAlias

from penstock.errors import ConfigError

Phase: TypeAlias = Literal["pending", "firing"]
News: TypeAlias = Literal["firing", "resolved"]

MOST_STEP_S = 60.0
"""Two looks that are further apart have a gap between them, of which this much counts."""
REPEAT_S = 4 * 3600.0
"""How often an alert that goes on firing is sent again."""
GONE_S = REPEAT_S
"""After so long without data an alert ends: what it was about is gone."""


class Limits(NamedTuple):
    """An alert fires above `above` for `for_s`, and ends when not above `clear` for `keep_s`."""

    above: float
    clear: float
    for_s: float
    keep_s: float


@dataclass(frozen=True, kw_only=True)
class AlertState:
    """One alert that is pending or firing. `since` is when it became so, `value` the last one above its threshold.

    `held_s` counts towards the next phase: the time above the threshold of a pending alert, and below the lower one of
    a firing alert; None while that is above. `silent_s` is the time without data.
    """

    labels: Mapping[str, str]
    phase: Phase
    since: float
    value: float
    looked_at: float
    held_s: float | None = None
    silent_s: float = 0.0
    sent_at: float = 0.0

    @classmethod
    def of(cls, document: Mapping[str, object]) -> Self:
        """A state from its JSON. Raises ConfigError where a later release wrote it otherwise."""
        try:
            return cls(**{name: document[name] for name in cls.__dataclass_fields__})  # type: ignore[arg-type]
        except KeyError as error:
            raise ConfigError(f"a stored alert has no {error}; it was written by another release") from None


class Step(NamedTuple):
    """What an alert is after a look, None for nothing, and what its receivers have to hear."""

    state: AlertState | None
    news: News | None = None


def step(limits: Limits, state: AlertState | None, labels: Mapping[str, str], value: float | None, now: float) -> Step:
    """One look. `value` is None without data, and NaN where there is too little for a judgement: that is not above."""
    if state is None:
        if value is None or not value > limits.above:
            return Step(None)
        state = AlertState(labels=labels, phase="pending", since=now, value=value, looked_at=now, held_s=0.0)
        return _pending(limits, state, value, 0.0, now)
    passed = min(max(now - state.looked_at, 0.0), MOST_STEP_S)
    if value is None:
        return _silent(replace(state, looked_at=now, silent_s=state.silent_s + passed))
    counts = 0.0 if state.silent_s else passed  # the time before this look is unknown after a look without data
    state = replace(state, looked_at=now, silent_s=0.0)
    return (_pending if state.phase == "pending" else _firing)(limits, state, value, counts, now)


def _silent(state: AlertState) -> Step:
    if state.silent_s < GONE_S:
        return Step(state)
    return Step(None, "resolved" if state.phase == "firing" else None)


def _pending(limits: Limits, state: AlertState, value: float, passed: float, now: float) -> Step:
    if not value > limits.above:
        return Step(None)
    held_s = (state.held_s or 0.0) + passed
    if held_s < limits.for_s:
        return Step(replace(state, held_s=held_s, value=value))
    return Step(replace(state, phase="firing", since=now, held_s=None, value=value, sent_at=now), "firing")


def _firing(limits: Limits, state: AlertState, value: float, passed: float, now: float) -> Step:
    if value > limits.clear:
        state = replace(state, held_s=None, value=value if value > limits.above else state.value)
    else:
        held_s = 0.0 if state.held_s is None else state.held_s + passed
        if held_s >= limits.keep_s:
            return Step(None, "resolved")
        state = replace(state, held_s=held_s)
    if now - state.sent_at < REPEAT_S:
        return Step(state)
    return Step(replace(state, sent_at=now), "firing")


# Names

_OFFSET, _PRIME, _END = 0xCBF29CE484222325, 0x100000001B3, b"\xff"


def fingerprint(labels: Mapping[str, str]) -> str:
    """The name of an alert: the hash of its labels that Prometheus and Alertmanager give it (FNV-1a, 64 bits)."""
    found = _OFFSET
    for byte in b"".join(part.encode() + _END for name in sorted(labels) for part in (name, labels[name])):
        found = ((found ^ byte) * _PRIME) & 0xFFFFFFFFFFFFFFFF
    return f"{found:016x}"
