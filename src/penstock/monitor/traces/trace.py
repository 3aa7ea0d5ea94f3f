"""One traced request: what is kept of it until its spans are made, without the arrays of its observations."""

from __future__ import annotations

import time
from typing import NamedTuple

from penstock.engine.observation import AnsweredRun, Observation
from penstock.monitor.traces.context import Parent, new_span_id

MOST_PREDICTIONS = 64
"""Predictions of a request (the items of a batch) that get spans of their own."""


class Seen(NamedTuple):
    """One prediction. Times in milliseconds but for `ended`, which is in `time.monotonic()` seconds."""

    model: str
    version: str
    variant: str
    task: str
    outcome: str
    error: str
    route: str
    arm: str
    rows: int
    batch_rows: int
    pre_ms: float
    queue_ms: float
    run_ms: float
    post_ms: float
    total_ms: float
    ended: float


_COPIED = tuple(name for name in Seen._fields if name not in ("error", "ended"))


class Trace:
    """A request from its first step to its last. `given` is the caller's span, if it sent one."""

    __slots__ = (
        "attributes", "ended", "ended_ns", "given", "left_out", "method", "request_id", "route", "seen", "span_id",
        "started", "status", "trace_id",
    )  # fmt: skip

    def __init__(self, trace_id: str, given: Parent | None, request_id: str) -> None:
        self.trace_id = trace_id
        self.given = given
        self.request_id = request_id
        self.span_id = new_span_id()
        self.seen: list[Seen] = []
        self.left_out = 0
        """Predictions beyond those that are kept."""
        self.started = self.ended = 0.0
        self.ended_ns = 0
        self.method = self.route = ""
        self.status = 0
        self.attributes: dict[str, str | int] = {}

    @property
    def header(self) -> str:
        """The `traceparent` of this span."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    def add(self, seen: Observation) -> None:
        """Keep the facts of one of its predictions."""
        if len(self.seen) >= MOST_PREDICTIONS:
            self.left_out += 1
            return
        error = "" if seen.error is None else type(seen.error).__name__
        copied = {name: getattr(seen, name) for name in _COPIED}
        self.seen.append(Seen(**copied, error=error, ended=time.monotonic()))

    def add_answered(self, run: AnsweredRun, index: int) -> None:
        """Keep the facts of a prediction that a run has answered together with others."""
        shared = {name: getattr(run, name) for name in ("model", "version", "variant", "task", "route", "arm")}
        self.seen.append(
            Seen(
                **shared,
                outcome="ok",
                error="",
                rows=run.requests[index].rows,
                batch_rows=run.batch_rows,
                pre_ms=run.pre_ms,
                queue_ms=run.queues_ms[index],
                run_ms=run.run_ms,
                post_ms=run.post_ms,
                total_ms=run.totals_ms[index],
                ended=time.monotonic(),
            )
        )

    def wall_ns(self, moment: float) -> int:
        """A moment in `time.monotonic()` seconds as nanoseconds since 1970."""
        return self.ended_ns - round((self.ended - moment) * 1e9)
