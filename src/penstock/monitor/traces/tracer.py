"""Which requests of this process are traced, and what was seen of them: the part of tracing on the path of requests."""

from __future__ import annotations

import time
from typing import Any

from penstock.engine.observation import AnsweredRun, Observation
from penstock.monitor.traces.context import Parent, new_trace_id, threshold_of
from penstock.monitor.traces.exporter import Exporter
from penstock.monitor.traces.trace import Trace
from penstock.option_types import headers_in
from penstock.settings import Settings


class Tracer:
    """An observer of the engine. A request that is not traced costs a random number and one look into a dictionary."""

    def __init__(self, settings: Settings, endpoint: str) -> None:
        """Nothing runs before the exporter is started."""
        self.threshold = threshold_of(settings.trace_sample)
        self.exporter = Exporter(endpoint, headers_in(settings.otlp_headers or ""), settings.otlp_service_name)
        self.active: dict[str, Trace] = {}
        """The traced requests in flight, by request id."""

    @classmethod
    def of(cls, settings: Settings) -> Tracer | None:
        """The tracer of a server; None if it does not trace."""
        return None if settings.otlp_endpoint is None else cls(settings, settings.otlp_endpoint)

    def begin(self, request_id: str, low: int) -> Trace:
        """A trace for a request in our own sample: `low`, the lowest bits of its id, is below the threshold."""
        return self._keep(Trace(new_trace_id(low), None, request_id))

    def join(self, given: Parent, request_id: str) -> Trace | None:
        """The trace of a caller, who decides whether this request is traced."""
        return self._keep(Trace(given.trace_id, given, request_id)) if given.sampled else None

    def _keep(self, trace: Trace) -> Trace:
        self.active[trace.request_id] = trace
        return trace

    def finish(self, trace: Trace, started: float) -> None:
        """The request has ended. One in our own sample that met no model is of no interest, unless it failed."""
        if self.active.get(trace.request_id) is trace:  # not another one with the same id
            del self.active[trace.request_id]
        trace.started, trace.ended, trace.ended_ns = started, time.monotonic(), time.time_ns()
        failed = trace.status >= 500 and trace.status != 503  # the answer of a probe, too
        if trace.seen or trace.given is not None or failed:
            self.exporter.put(trace)

    def __call__(self, seen: Observation) -> None:
        """Keep a prediction of a traced request."""
        trace = self.active.get(seen.request_id)
        if trace is not None:
            trace.add(seen)

    def answered(self, run: AnsweredRun) -> None:
        """Keep the predictions of traced requests."""
        active = self.active
        if not active:
            return
        for index, request in enumerate(run.requests):
            if request.request_id in active:
                active[request.request_id].add_answered(run, index)

    def figures(self) -> dict[str, Any]:
        """What `/metrics` shows of the traces of this process."""
        return self.exporter.figures()
