"""From traces to spans, as messages of OTLP. Runs in the exporter's thread, when the requests are long answered."""

from __future__ import annotations

import functools
import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from importlib.metadata import version
from typing import TypeAlias

from penstock.monitor.traces import otlp
from penstock.monitor.traces.context import new_span_id
from penstock.monitor.traces.trace import Seen, Trace

Attributes: TypeAlias = Mapping[str, otlp.Value]

MOST_LINKS = 32
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))


class Batch:
    """A run of a model, and the spans of sampled requests that it answered."""

    def __init__(self, trace_id: str, span_id: str, seen: Seen, started_ns: int) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.seen = seen
        self.started_ns = started_ns
        self.links: list[tuple[str, str]] = []


class Spans:
    """Makes the spans of one process."""

    def __init__(self, service_name: str) -> None:
        self._service_name = service_name
        self._batches: dict[bytes, Batch] = {}

    @functools.cached_property
    def _salt(self) -> bytes:
        return os.urandom(16)

    @functools.cached_property
    def _origin(self) -> tuple[bytes, bytes]:
        """Resource and scope; made when the process has traces, since it may have been forked before."""
        release = version("penstock")
        facts: dict[str, otlp.Value] = {
            "service.name": self._service_name,
            "service.version": release,
            "service.instance.id": str(uuid.uuid4()),
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
        }
        return otlp.resource(facts), otlp.scope("penstock", release)

    def request_of(self, traces: Iterable[Trace], batches: Iterable[Batch] = ()) -> bytes:
        """The body of an export request."""
        spans = [span for trace in traces for span in self._spans(trace)]
        return otlp.export_request(*self._origin, [*spans, *map(_batch_span, batches)])

    def take_batches(self) -> list[Batch]:
        """The runs of the traces so far. Called once a cycle, after the next one: requests of a run end together."""
        batches, self._batches = self._batches, {}
        return list(batches.values())

    def _spans(self, trace: Trace) -> Iterable[bytes]:
        yield _request_span(trace)
        for index, seen in enumerate(trace.seen):
            yield from self._phases(trace, seen, {"penstock.item": index} if len(trace.seen) > 1 else {})

    def _phases(self, trace: Trace, seen: Seen, attributes: Attributes) -> Iterable[bytes]:
        """The phases of a prediction, back from its end: gaps between them are those of the event loop."""
        end = trace.wall_ns(seen.ended)
        start = end - round(seen.total_ms * 1e6)
        if seen.outcome != "ok":
            failed = {**attributes, **_of_prediction(seen)}
            yield otlp.span(_below(trace), "predict", otlp.INTERNAL, (start, end), failed, failed=True)
            return
        prepared, answered = start + round(seen.pre_ms * 1e6), end - round(seen.post_ms * 1e6)
        yield otlp.span(_below(trace), "preprocess", otlp.INTERNAL, (start, prepared), attributes)
        if seen.batch_rows:
            began = max(prepared, answered - round(seen.run_ms * 1e6))
            queued = max(start, began - round(seen.queue_ms * 1e6))
            yield otlp.span(_below(trace), "queue", otlp.INTERNAL, (queued, began), attributes)
            yield self._run(trace, seen, (began, max(began, answered)), attributes)
        yield otlp.span(_below(trace), "postprocess", otlp.INTERNAL, (answered, end), attributes)

    def _run(self, trace: Trace, seen: Seen, times_ns: tuple[int, int], attributes: Attributes) -> bytes:
        batch = self._batch_of(seen, times_ns[0])
        ids = _below(trace)
        if len(batch.links) < MOST_LINKS:
            batch.links.append(ids[:2])
        found = {**attributes, **_of_prediction(seen), "penstock.batch.id": batch.span_id}
        return otlp.span(ids, "run", otlp.INTERNAL, times_ns, found, more=otlp.link(batch.trace_id, batch.span_id))

    def _batch_of(self, seen: Seen, start_ns: int) -> Batch:
        """The run of a prediction: the measured time of a run, exact to the last digit, tells it from others."""
        text = f"{seen.model}\n{seen.version}\n{seen.variant}\n{seen.batch_rows}\n{seen.run_ms!r}"
        key = blake2b(otlp.text(text), key=self._salt, digest_size=24).digest()
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = Batch(key[:16].hex(), key[16:].hex(), seen, start_ns)
        return batch


def _below(trace: Trace) -> tuple[str, str, str]:
    """The ids of a new span below that of the request."""
    return trace.trace_id, new_span_id(), trace.span_id


def _request_span(trace: Trace) -> bytes:
    given = trace.given
    return otlp.span(
        (trace.trace_id, trace.span_id, "" if given is None else given.span_id),
        f"{trace.method if trace.method in _METHODS else 'HTTP'} {trace.route}".strip(),
        otlp.SERVER,
        (trace.wall_ns(trace.started), trace.ended_ns),
        _of_request(trace),
        more=otlp.state("" if given is None else given.state),
        failed=trace.status >= 500,
    )


def _batch_span(batch: Batch) -> bytes:
    ended_ns = batch.started_ns + round(batch.seen.run_ms * 1e6)
    found = {**_of_model(batch.seen), "penstock.batch.rows": batch.seen.batch_rows}
    links = b"".join([otlp.link(*each) for each in batch.links])
    ids = (batch.trace_id, batch.span_id, "")
    return otlp.span(ids, "batch", otlp.INTERNAL, (batch.started_ns, ended_ns), found, more=links)


def _of_request(trace: Trace) -> dict[str, otlp.Value]:
    known = trace.method in _METHODS
    found: dict[str, otlp.Value] = {
        "http.request.method": trace.method if known else "_OTHER",
        "penstock.request_id": trace.request_id,
        **trace.attributes,
    }
    if trace.route:
        found["http.route"] = trace.route
    if trace.status:
        found["http.response.status_code"] = trace.status
    if trace.status >= 500:
        found["error.type"] = str(trace.status)
    if trace.left_out:
        found["penstock.items_left_out"] = trace.left_out
    return found


def _of_model(seen: Seen) -> dict[str, otlp.Value]:
    found = {"penstock.model": seen.model, "penstock.version": seen.version, "penstock.variant": seen.variant}
    return {name: value for name, value in found.items() if value}


def _of_prediction(seen: Seen) -> dict[str, otlp.Value]:
    facts = {
        **_of_model(seen),
        "penstock.task": seen.task,
        "penstock.route": seen.route,
        "penstock.arm": seen.arm,
        "error.type": seen.error,
    }
    counted = {"penstock.rows": seen.rows, "penstock.batch.rows": seen.batch_rows}
    found: dict[str, otlp.Value] = {name: value for name, value in facts.items() if value}
    return {**found, "penstock.outcome": seen.outcome, **{name: value for name, value in counted.items() if value}}
