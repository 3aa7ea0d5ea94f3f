"""Rates: a token bucket whose whole state is one time (the generic cell rate algorithm)."""

from __future__ import annotations

from typing import NamedTuple

SLACK_S = 1e-6
"""What rounding may cost: a client that waits as long as it was told is admitted."""


class Gcra(NamedTuple):
    """A rate: one request each `interval_s`, of which some may come at once, `longest_s` worth of them.

    The state is when the bucket will be full again. Times are in `time.monotonic()` seconds, which all processes of a
    machine share.
    """

    interval_s: float
    longest_s: float

    @classmethod
    def of(cls, requests: int, seconds: float, at_once: int) -> Gcra:
        """So many requests in so many seconds."""
        return cls(seconds / requests, at_once * seconds / requests)

    def take(self, full_at: float, now: float) -> tuple[float, float]:
        """The state after a request, and 0; or the state as it was, and the seconds until one is admitted."""
        interval, longest = self
        if not full_at > now:  # also a state that is no number
            return now + interval, 0.0
        if full_at > now + longest:  # of another rate, or of another machine
            full_at = now + longest
        wait = full_at + interval - longest - now
        if wait > SLACK_S:
            return full_at, wait
        return full_at + interval, 0.0
