"""A circuit breaker for each version of a route with a fallback: what keeps failing gets no requests for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penstock.engine.observation import AnsweredRun, Observation
from penstock.errors import OutOfRange

FAILURES = 5
"""Failures in a row that open the circuit."""
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 60.0
PROBE_S = 30.0
"""A probe without an answer for so long is followed by another one."""

_FAULTS = frozenset(("error", "load_error", "not_ready", "deadline"))
"""Outcomes that are the version's fault; what the caller did wrong, or a full queue, is not."""


class Circuit:
    """The state of one version. The caller passes the time, in seconds of one clock."""

    __slots__ = ("_failures", "_probed_at", "_prober", "_until", "_wait_s", "trips")

    def __init__(self) -> None:
        self._failures = 0
        self._until: float | None = None
        self._probed_at: float | None = None
        self._prober = ""
        self._wait_s = FIRST_WAIT_S
        self.trips = 0
        """How often it has opened."""

    @property
    def closed(self) -> bool:
        """True while requests go to the version as ever."""
        return self._until is None

    def allows(self, now: float, request_id: str) -> bool:
        """True if a request may go to the version: always while it is closed, then one probe at a time.

        A probe may ask again: with its head, and when its body is there.
        """
        if self._until is None:
            return True
        waits = now < self._until
        probing = self._probed_at is not None and now - self._probed_at < PROBE_S
        if probing and not waits and request_id and request_id == self._prober:
            return True
        if waits or probing:
            return False
        self._probed_at, self._prober = now, request_id
        return True

    def failed(self, now: float) -> None:
        """A request to the version has failed."""
        self._failures += 1
        if self._until is None and self._failures >= FAILURES:
            self._open(now)
        elif self._probed_at is not None:
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            self._open(now)

    def succeeded(self) -> None:
        """A request to the version was answered. While the circuit is open, only the answer to a probe closes it."""
        if self._until is None:
            self._failures = 0
        elif self._probed_at is not None:
            self._failures, self._until, self._probed_at, self._wait_s = 0, None, None, FIRST_WAIT_S

    def _open(self, now: float) -> None:
        self.trips += 1
        self._until, self._probed_at = now + self._wait_s, None

    def state(self, now: float) -> dict[str, Any]:
        """For people: `closed`, `open` or `probing`, and for how long no probe is sent yet."""
        if self._until is None:
            return {"state": "closed", "trips": self.trips}
        left = max(0.0, self._until - now)
        word = "open" if self._probed_at is None else "probing"
        return {"state": word, "trips": self.trips, "next_probe_s": round(left, 1)}


class Circuits:
    """The circuits of all routes with a fallback: an observer of the requests."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.of: dict[tuple[str, str], Circuit] = {}
        """By route and version."""

    def keep(self, wanted: Mapping[tuple[str, str], object]) -> None:
        """Drop the circuits of versions that are in no route with a fallback any more, and add the new ones."""
        self.of = {key: self.of.get(key) or Circuit() for key in wanted}

    def __call__(self, seen: Observation) -> None:
        """Count one finished request."""
        circuit = self.of.get((seen.route, seen.arm))
        if circuit is None:
            return
        if seen.outcome == "ok":
            circuit.succeeded()
        elif seen.outcome in _FAULTS or (isinstance(seen.error, OutOfRange) and seen.error.side == "output"):
            circuit.failed(self._clock())

    def answered(self, run: AnsweredRun) -> None:
        """Requests that one run has answered."""
        circuit = self.of.get((run.route, run.arm))
        if circuit is not None:
            circuit.succeeded()
