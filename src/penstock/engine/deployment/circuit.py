"""A circuit breaker for each version of a route with a fallback: what keeps failing gets no requests for a while.

Before a client's request tries it again, the version has to answer one of its golden samples.
"""

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
PROOF_S = 60.0
"""A proof without a result for so long is followed by another one."""
RETRY_S = 1.0
"""The wait after a proof that said nothing about the version, such as one that a full queue refused."""

_FAULTS = frozenset(("error", "load_error", "not_ready", "deadline"))
"""Outcomes that are the version's fault; what the caller did wrong, or a full queue, is not."""


class Circuit:
    """The state of one version. The caller passes the time, in seconds of one clock.

    Once an open circuit has waited, a golden sample proves the version, and only then a client's request probes it.
    """

    __slots__ = ("_failures", "_probed_at", "_prober", "_proven", "_proving_at", "_until", "_wait_s", "trips")

    def __init__(self) -> None:
        self._failures = 0
        self._proving_at: float | None = None
        self._proven = False
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

    def begin_proof(self, now: float) -> bool:
        """True if a golden sample has to be run now; the caller runs it and tells `proved` what came of it."""
        if self._until is None or self._proven or now < self._until:
            return False
        if self._proving_at is not None and now - self._proving_at < PROOF_S:
            return False
        self._proving_at = now
        return True

    def proved(self, right: bool | None, now: float) -> None:
        """The result of a proof: whether the golden sample was answered as recorded, None if that is not known."""
        if self._proving_at is None:
            return
        self._proving_at = None
        if right:
            self._proven = True
        elif right is None:
            self._until = now + RETRY_S
        else:
            self._open_longer(now)

    def allows(self, now: float, request_id: str) -> bool:
        """True if a request may go to the version: always while it is closed, then one probe at a time once proven.

        A probe may ask again: with its head, and when its body is there.
        """
        if self._until is None:
            return True
        waits = now < self._until
        probing = self._probed_at is not None and now - self._probed_at < PROBE_S
        if probing and not waits and request_id and request_id == self._prober:
            return True
        if waits or probing or not self._proven:
            return False
        self._probed_at, self._prober = now, request_id
        return True

    def failed(self, now: float) -> None:
        """A request to the version has failed."""
        self._failures += 1
        if self._until is None and self._failures >= FAILURES:
            self._open(now)
        elif self._probed_at is not None:
            self._open_longer(now)

    def succeeded(self) -> None:
        """A request to the version was answered. While the circuit is open, only the answer to a probe closes it."""
        if self._until is None:
            self._failures = 0
        elif self._probed_at is not None:
            self._failures, self._until, self._probed_at, self._wait_s = 0, None, None, FIRST_WAIT_S

    def _open_longer(self, now: float) -> None:
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        self._open(now)

    def _open(self, now: float) -> None:
        self.trips += 1
        self._until, self._probed_at, self._proven = now + self._wait_s, None, False

    def state(self, now: float) -> dict[str, Any]:
        """For people: `closed`, `open`, `proving` or `probing`, and for how long nothing is tried yet."""
        if self._until is None:
            return {"state": "closed", "trips": self.trips}
        left = max(0.0, self._until - now)
        word = "proving" if self._proving_at is not None else "probing" if self._proven else "open"
        return {"state": word, "trips": self.trips, "next_probe_s": round(left, 1)}


class Circuits:
    """The circuits of all routes with a fallback: an observer of the requests."""

    def __init__(self, clock: Callable[[], float], prove: Callable[[str, Circuit], None]) -> None:
        """`prove` runs a golden sample of a `name:version` and tells the circuit the result, now or later."""
        self._clock = clock
        self._prove = prove
        self.of: dict[tuple[str, str], Circuit] = {}
        """By route and version."""

    def keep(self, wanted: Mapping[tuple[str, str], object]) -> None:
        """Drop the circuits of versions that are in no route with a fallback any more, and add the new ones."""
        self.of = {key: self.of.get(key) or Circuit() for key in wanted}

    def allows(self, route: str, version: str, request_id: str) -> bool:
        """True if a request may go to this version of a route; one whose wait is over is proven first."""
        circuit = self.of.get((route, version))
        if circuit is None or circuit.closed:
            return True
        now = self._clock()
        if circuit.begin_proof(now):
            self._prove(f"{route}:{version}", circuit)
        return circuit.allows(now, request_id)

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
