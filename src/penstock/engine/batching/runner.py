"""Runs a batch: from queued items to one outcome each, the requests at fault apart from the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic

from penstock.engine.batching.collation import Batch, Collator, Payload
from penstock.engine.batching.flows.item import Item
from penstock.engine.batching.halving import as_penstock_error, halve_batch, halve_rows
from penstock.engine.batching.outcome import Batched, Outcome, Result
from penstock.errors import OutOfMemory


class BatchRunner(Generic[Payload, Batch, Result]):
    """Stacks, runs and splits. Threads may share it."""

    def __init__(
        self, run: Callable[[Batch], Batch], collator: Collator[Payload, Batch, Result], batch_rows: int, full_s: float
    ) -> None:
        """`full_s` is how long a batch of `batch_rows` takes, which is then learned from the runs."""
        self.run = run
        self.full_s = full_s
        self._collator = collator
        self._batch_rows = batch_rows

    def outcomes(self, batch: Sequence[Item[Payload]]) -> list[Outcome[Result]]:
        """One outcome per item. A batch that fails is halved until only the requests at fault have the error."""
        try:
            return self._run_batch(batch)
        except BaseException as error:  # exit() in a model would end the thread, and leave requests waiting
            return halve_batch(self._run_batch, batch, error, self._failed)

    def _run_batch(self, batch: Sequence[Item[Payload]]) -> list[Outcome[Result]]:
        started = time.monotonic()
        payloads = [item.payload for item in batch]
        outputs = self._collator.split(self.run(self._collator.stack(payloads)), payloads)
        run_s = time.monotonic() - started
        rows = sum([item.rows for item in batch])
        if 2 * rows >= self._batch_rows:  # small batches say little about full ones
            self.full_s += 0.1 * (run_s * self._batch_rows / rows - self.full_s)
        return [Batched(own, rows, started - item.entered, run_s) for item, own in zip(batch, outputs, strict=True)]

    def _failed(self, item: Item[Payload], error: BaseException) -> Outcome[Result]:
        """The outcome of a request that failed alone; one that does not fit into memory runs in parts."""
        if not isinstance(error, OutOfMemory):
            return as_penstock_error(error)
        try:
            parts = halve_rows(
                lambda payload: self._run_part(item, payload), item.payload, item.rows, self._collator.cut, error
            )
        except BaseException as failure:
            return as_penstock_error(failure)
        return self.joined(parts)

    def _run_part(self, item: Item[Payload], payload: Payload) -> Batched[Result]:
        started = time.monotonic()
        (outputs,) = self._collator.split(self.run(self._collator.stack([payload])), [payload])
        _, rows, _ = self._collator.measure(payload)
        return Batched(outputs, rows, started - item.entered, time.monotonic() - started)

    def joined(self, parts: Sequence[Batched[Result]]) -> Batched[Result]:
        """The parts of one request, in order, as one."""
        outputs = self._collator.join([part.outputs for part in parts])
        rows = max(part.batch_rows for part in parts)
        return Batched(outputs, rows, max(part.queue_s for part in parts), sum(part.run_s for part in parts))
