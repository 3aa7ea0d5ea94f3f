"""When the workers of a model are started again, and when they are asked no more: decisions without clocks."""

from __future__ import annotations

FAILURES = 5
"""Failures in a row that open the circuit."""
FIRST_WAIT_S = 0.5
"""The wait after the second failure in a row; the first is followed by a start at once."""
LONGEST_WAIT_S = 60.0


class Restarts:
    """The failures of a model's workers in a row: deaths, hangs, failed loads. The caller passes the time in seconds.

    A worker that dies is replaced at once, the next one after a wait that doubles. After FAILURES in a row, which no
    answer has interrupted, the circuit is open: nobody waits for a worker any more, only one is started at a time, and
    what it answers closes the circuit.
    """

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.total = 0
        """Since the model was opened."""
        self.why = ""
        """The last failure, in one sentence."""
        self._next = 0.0

    @property
    def open(self) -> bool:
        """True while requests are refused, unless a worker is ready."""
        return self.failures >= FAILURES

    def failed(self, now: float, why: str) -> None:
        """A worker has died, was ended because it hung, or could not load the model."""
        self.failures += 1
        self.total += 1
        self.why = why
        self._next = now + self.wait_s

    def answered(self) -> None:
        """A worker has answered a run."""
        self.failures = 0

    @property
    def wait_s(self) -> float:
        """The wait between the last failure and the next start."""
        if self.failures < 2:
            return 0.0
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self.failures - 2, 32))

    def due_in(self, now: float, starting: int) -> float | None:
        """Seconds until another worker may be started, 0 for now; None until one of those that are `starting` is ready.

        After a failure they are started one by one, so that what fails does not fail in all of them at once.
        """
        if self.failures and starting:
            return None
        return max(0.0, self._next - now) if self.failures else 0.0
