"""Takes the sampled requests from the event loop: picks them by hash, copies their rows, and keeps them in bounds."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from penstock.engine.observation import SHADOW, AnsweredRun, Observation
from penstock.engine.routing import Sample
from penstock.monitor.prediction_log.records import DISAGREEMENT, Record
from penstock.tensors import Array, Arrays

SAMPLE_SALT = "penstock-sample"
"""Not that of a route: the same requests are logged whatever the routes are, and of two shares the smaller's are a part
of the larger's."""
MOST_REQUESTS = 10_000
MOST_BYTES = 64 * 2**20
"""What may wait for the thread that writes: requests, and the memory of their arrays."""

Consent = Callable[[str, str], bool]
"""Whether the inputs of a model and version may be recorded."""


class Request(NamedTuple):
    """What the requests of a run do not share."""

    request_id: str
    key: str | None
    rows: int
    total_ms: float
    queue_ms: float
    item: int | None = None


class Taken(NamedTuple):
    """Sampled requests of one run: what they share is in `like`, their rows lie in order in the arrays."""

    at: float
    like: Observation | AnsweredRun
    outcome: str
    requests: Sequence[Request]
    inputs: Arrays | None
    outputs: Arrays | None
    size: int
    """Bytes of the arrays."""
    shadow: str = ""
    shadow_outputs: Arrays | None = None

    def records(self) -> Iterator[Record]:
        """Each as a record, with its key as it was sent."""
        start = 0
        for request in self.requests:
            own = slice(start, start + request.rows)
            start = own.stop
            yield self._record(request, own)

    def _record(self, request: Request, own: slice) -> Record:
        like, alone = self.like, len(self.requests) == 1
        return Record(
            at=self.at,
            request_id=request.request_id,
            key=request.key,
            item=request.item,
            model=like.model,
            version=like.version,
            outcome=self.outcome,
            variant=like.variant,
            route=like.route,
            arm=like.arm,
            shadow=self.shadow,
            task=like.task,
            protocol=like.protocol,
            rows=request.rows,
            batch_rows=like.batch_rows,
            total_ms=request.total_ms,
            pre_ms=like.pre_ms,
            queue_ms=request.queue_ms,
            run_ms=like.run_ms,
            post_ms=like.post_ms,
            inputs=self.inputs if alone else _cut(self.inputs, own),
            outputs=self.outputs if alone else _cut(self.outputs, own),
            shadow_outputs=self.shadow_outputs,
        )


class Taker:
    """An observer of the engine. On the event loop it costs the hash of every request and the copy of those sampled."""

    def __init__(self, share: float, inputs: Consent) -> None:
        self._sample = Sample(SAMPLE_SALT, share)
        self._inputs = inputs
        self._waiting: deque[Taken] = deque()
        self._lock = threading.Lock()
        self._requests = self._bytes = 0
        self.dropped = 0
        """Sampled requests for which there was no room."""

    def __call__(self, seen: Observation) -> None:
        """Take one request, if it is sampled; copies of requests have their ids, and are not logged."""
        if seen.protocol == SHADOW:
            return
        identity = seen.key or seen.request_id or uuid.uuid4().hex  # of callers in Python, which may give no id
        if not self._sample.chosen([identity]):
            return
        answered = seen.outcome == "ok"
        keeps = answered and seen.inputs is not None and self._inputs(seen.model, seen.version)
        inputs = _copies(seen.inputs) if keeps else None
        outputs = _copies(seen.outputs) if answered else None
        request = Request(seen.request_id or identity, seen.key, seen.rows, seen.total_ms, seen.queue_ms, seen.item)
        self._keep(seen, seen.outcome, [request], inputs, outputs)

    def answered(self, run: AnsweredRun) -> None:
        """Take those requests of a run that are sampled."""
        chosen = self._sample.chosen([request.key or request.request_id for request in run.requests])
        if not chosen:
            return
        kept = [run.requests[index] for index in chosen]
        requests = [
            Request(request.request_id, request.key, request.rows, run.totals_ms[index], run.queues_ms[index])
            for index, request in zip(chosen, kept, strict=True)
        ]
        rows = np.concatenate([np.arange(one.start, one.start + one.rows) for one in kept])
        inputs = _rows(run.inputs, rows) if self._inputs(run.model, run.version) else None
        self._keep(run, "ok", requests, inputs, _rows(run.outputs, rows))

    def disagreed(self, seen: Observation, shadow: str, outputs: Arrays) -> None:
        """Take a request, sampled or not, that the version `shadow` has answered with other outputs.

        The arrays are kept as they are.
        """
        request = Request(seen.request_id, seen.key, seen.rows, seen.total_ms, seen.queue_ms, seen.item)
        size = sum(map(_bytes_of, (seen.inputs, seen.outputs, outputs)))
        like, at = _without_arrays(seen), time.time()
        self._add(Taken(at, like, DISAGREEMENT, [request], seen.inputs, seen.outputs, size, shadow, outputs))

    def _keep(
        self,
        like: Observation | AnsweredRun,
        outcome: str,
        requests: Sequence[Request],
        inputs: Arrays | None,
        outputs: Arrays | None,
    ) -> None:
        size = _bytes_of(inputs) + _bytes_of(outputs)
        self._add(Taken(time.time(), _without_arrays(like), outcome, requests, inputs, outputs, size))

    def _add(self, taken: Taken) -> None:
        count = len(taken.requests)
        with self._lock:
            if self._requests + count > MOST_REQUESTS or self._bytes + taken.size > MOST_BYTES:
                self.dropped += count
                return
            self._requests += count
            self._bytes += taken.size
            self._waiting.append(taken)

    def drain(self, most: int) -> list[Taken]:
        """Up to so many runs that wait, oldest first."""
        with self._lock:
            found = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._requests -= sum(len(taken.requests) for taken in found)
            self._bytes -= sum(taken.size for taken in found)
        return found


def _without_arrays(like: Observation | AnsweredRun) -> Observation:
    """What is shared, without the arrays and the requests of the run, whose memory it would keep."""
    return Observation(
        model=like.model,
        version=like.version,
        variant=like.variant,
        outcome="ok",
        total_ms=0.0,
        task=like.task,
        protocol=like.protocol,
        route=like.route,
        arm=like.arm,
        batch_rows=like.batch_rows,
        pre_ms=like.pre_ms,
        run_ms=like.run_ms,
        post_ms=like.post_ms,
    )


def _rows(arrays: Arrays, rows: Array) -> Arrays:
    return {name: array[rows] for name, array in arrays.items()}


def _copies(arrays: Arrays | None) -> Arrays | None:
    return None if arrays is None else {name: array.copy() for name, array in arrays.items()}


def _cut(arrays: Arrays | None, own: slice) -> Arrays | None:
    return None if arrays is None else {name: array[own] for name, array in arrays.items()}


def _bytes_of(arrays: Arrays | None) -> int:
    """The memory of arrays; each text counts for its length."""
    if arrays is None:
        return 0
    return sum(
        sum(map(len, map(str, array.ravel().tolist()))) if array.dtype.hasobject else array.nbytes
        for array in arrays.values()
    )
