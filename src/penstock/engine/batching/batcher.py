"""A bounded queue in front of one backend: awaited single requests become batches.

It batches while busy: an idle backend starts at once with what is queued, and the queue fills while it runs. The batch
size follows the load, without a timer (unless `max_wait_ms` asks for one).

A model whose full batch always runs shorter than the hop to a thread and back runs on the event loop. Any other runs in
the batcher's own threads, which take their next batch from the queue without waiting for the event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic

from penstock.backends.base import Stop, run_in_progress
from penstock.engine.batching.collation import Batch, Collator, Payload
from penstock.engine.batching.deadlines import DeadlineTimers
from penstock.engine.batching.delivery import deliver
from penstock.engine.batching.flows.flow import Flow
from penstock.engine.batching.flows.item import Item, Waiter
from penstock.engine.batching.limits import BatchLimits, Forecast, relative_curve
from penstock.engine.batching.loop_time import FLUSH_S, INLINE_BELOW_S, LoopTime
from penstock.engine.batching.outcome import Batched, Outcome, Result
from penstock.engine.batching.queue import BatchQueue
from penstock.engine.batching.runner import BatchRunner
from penstock.errors import DeadlineExceeded, ModelNotReady, Overloaded, PenstockError

MOST_PARTS = 256
"""Of one request in the queue at once; it is cut into as many batches as it needs, some of them later."""
CLOSE_S = 5.0
"""How long `close` waits for the runs in progress."""

WAKE_EVERY_S = 0.02
"""The longest interval at which a request that waits for capacity looks again."""


class Batcher(Generic[Payload, Batch, Result]):
    """Awaited single requests in, batches out to `run`. Any thread's event loop may submit."""

    def __init__(
        self,
        run: Callable[[Batch], Batch],
        collator: Collator[Payload, Batch, Result],
        limits: BatchLimits,
        *,
        full_batch_s: float = 1.0,
        steady: bool = False,
        concurrency: int = 1,
        curve: Mapping[int, float] | None = None,
    ) -> None:
        """A `steady` model, whose time depends on its rows only, runs on the event loop if a full batch is short.

        `concurrency`: batches that run at once, each in a thread. `curve`: times of a batch by its rows, in any unit.
        """
        self.limits = limits
        self.timeout_s = None if limits.timeout_ms is None else limits.timeout_ms / 1000
        """The longest time a request to this model may take; None for the server's limit."""
        self.runner = BatchRunner(run, collator, limits.batch_rows, full_batch_s)
        self._collator = collator
        self.queue: BatchQueue[Payload] = BatchQueue(
            max_batch_rows=limits.batch_rows,
            max_rows=limits.queue_rows,
            max_bytes=limits.queue_bytes,
            shared=limits.join and collator.shared,
        )
        self._max_wait_s = limits.max_wait_ms / 1000
        self._lock = threading.Condition(threading.Lock())
        self._deadlines = DeadlineTimers(self._expire)
        self._inline = steady and full_batch_s < INLINE_BELOW_S
        self._flush_on: asyncio.AbstractEventLoop | None = None
        self._notify_on: asyncio.AbstractEventLoop | None = None
        self._flush_at = 0.0
        self._fill_timer: asyncio.Handle | None = None
        self._concurrency = concurrency
        self._threads: list[threading.Thread] = []
        self.runs: dict[Stop, set[Item[Payload]]] = {}  # those in threads, with the requests that still wait for them
        self._idle = 0
        self._closed = False
        self._inline_s = 0.0
        self.forecast = Forecast(self.queue, self.runner, relative_curve(curve or {}, limits.batch_rows), concurrency)

    @property
    def running_rows(self) -> int:
        """Rows in the runs in progress."""
        return self.forecast.running_rows

    @property
    def queued_rows(self) -> int:
        """Rows in the queue."""
        return self.queue.rows

    @property
    def joins_rows(self) -> bool:
        """True if requests share runs, joined along axis 0 as they are."""
        return self.limits.join and self._collator.plain

    @property
    def inline(self) -> bool:
        """True while batches run on the event loop."""
        return self._inline

    @property
    def wait_s(self) -> float:
        """Expected time until the run of a request that arrives now ends."""
        return self.forecast.wait_s(self.queue.rows)

    # Capacity, and the refusal of a full queue

    def admit(self, rows: int = 1, priority: int = 0, flow: Flow | None = None) -> None:
        """Raise Overloaded now if a request of so many rows would be refused; costs next to nothing."""
        if not self.queue.rows or self.queue.has_capacity(rows):
            return
        with self._lock:
            if not self.queue.can_evict(priority, flow, rows):
                raise self._full(rows, priority, flow)

    def admit_some(
        self, requests: int, priority: int, entered: float, deadline: float, flow: Flow | None = None
    ) -> tuple[int, Overloaded | None]:
        """How many of so many requests the queue would take now, of at least one row each; the others' refusal."""
        with self._lock:
            if deadline <= entered:
                return 1, None  # its deadline has passed, whatever the queue is
            try:
                self.forecast.check(deadline - entered, deadline, priority, flow)
            except Overloaded as late:
                return 0, late
            most = self.queue.most_rows(requests, priority, flow)
            return most, None if most == requests else self._full(most + 1, priority, flow)

    async def wait_for_capacity(
        self, payload: Payload, deadline: float, priority: int = 0, flow: Flow | None = None
    ) -> None:
        """Return once the queue has room for this payload or other flows owe it some. Raises DeadlineExceeded."""
        _, rows, size = self._collator.measure(payload)
        while not self.queue.has_capacity(rows, size):
            with self._lock:
                if self.queue.owes(rows, size, priority, flow):
                    return
                self._notify()
            if time.monotonic() >= deadline:
                raise DeadlineExceeded("the deadline passed before the queue had room")
            await asyncio.sleep(min(WAKE_EVERY_S, max(0.001, self.wait_s / 2)))

    async def submit(
        self,
        payload: Payload,
        deadline: float | None = None,
        priority: int = 0,
        flow: Flow | None = None,
        *,
        admitted: bool = False,
    ) -> Batched[Result]:
        """The outputs for a validated payload, run together with what else is queued.

        `deadline` is absolute, in `time.monotonic()` seconds. A higher `priority` goes first, and evicts a lower one
        from a full queue; inside a priority flows share the model, and inside a `flow` the earlier deadline goes first.
        A request of more rows than a batch is cut into parts. `admitted` payloads are taken by a full queue as well.
        Raises Overloaded, DeadlineExceeded, ModelNotReady (closed), InvalidInput or InferenceError.
        """
        key, rows, size = self._collator.measure(payload)
        loop, now = asyncio.get_running_loop(), time.monotonic()
        if rows > self.limits.batch_rows * MOST_PARTS:
            return await self._submit_in_turn(payload, deadline, priority, flow)
        parts = [(payload, key, rows, size)]
        if rows > self.limits.batch_rows:
            parts = [(cut, *self._collator.measure(cut)) for cut in self._collator.cut(payload, self.limits.batch_rows)]
        futures = [loop.create_future() for _ in parts]
        items = [
            Item(*part, each, loop, now, deadline, priority, flow) for part, each in zip(parts, futures, strict=True)
        ]
        self._enqueue(items, *((0, 0) if admitted else (rows, size)))
        finished: list[Batched[Result]] = []
        try:
            for future in futures:
                outcome: Outcome[Result] = await future
                if isinstance(outcome, PenstockError):
                    raise outcome
                finished.append(outcome)
        except BaseException:
            self._remove(items)
            raise
        finally:
            self._deadlines.pending.difference_update(items)
        return finished[0] if len(finished) == 1 else self.runner.joined(finished)

    async def _submit_in_turn(
        self, payload: Payload, deadline: float | None, priority: int, flow: Flow | None
    ) -> Batched[Result]:
        """The outputs for very many rows, of which only so many are in the queue at once as it needs to stay busy."""
        ended: list[Batched[Result]] = []
        for part in self._collator.cut(payload, self.limits.batch_rows * MOST_PARTS):
            ended.append(await self.submit(part, deadline, priority, flow, admitted=bool(ended)))
        return self.runner.joined(ended)

    def put(
        self,
        waiter: Waiter,
        payload: Payload,
        deadline: float,
        priority: int,
        flow: Flow | None = None,
        *,
        admitted: bool = False,
    ) -> Item[Payload]:
        """Queue a payload of at most one batch for `waiter`, as `submit` does; `take_back` ends the wait."""
        key, rows, size = self._collator.measure(payload)
        loop = asyncio.get_running_loop()
        item = Item(payload, key, rows, size, waiter, loop, time.monotonic(), deadline, priority, flow)
        self._enqueue((item,), *((0, 0) if admitted else (rows, size)))
        return item

    def take_back(self, item: Item[Payload]) -> None:
        """The outcome of an item is known, or of no more interest."""
        self._deadlines.pending.discard(item)
        if not item.waiter.done():
            self._remove((item,))

    def shrink(self, item: Item[Payload], payload: Payload) -> bool:
        """Give an item that still waits a smaller payload; False if its run has begun."""
        with self._lock:
            return self.queue.replace(item, payload, *self._collator.measure(payload)[1:])

    def _enqueue(self, items: Sequence[Item[Payload]], rows: int, size: int) -> None:
        first = items[0]
        loop, deadline = first.loop, first.deadline
        with self._lock:
            if self._closed:
                raise ModelNotReady("the model is being unloaded; try again")
            if deadline is not None:
                if deadline <= first.entered:
                    raise DeadlineExceeded("the deadline had passed before the request was queued")
                if self.queue.requests:
                    self.forecast.check(deadline - first.entered, deadline, first.priority, first.flow)
            evicted = self.queue.offer(items, rows, size)
            if evicted is None:
                raise self._full(rows, first.priority, first.flow)
            idle = self._idle > 0
            if idle and self.queue.rows >= self.limits.batch_rows:
                self._lock.notify()
            elif not idle and not self._threads and not self._inline:
                self._start_threads()
        for item in evicted:
            deliver((item,), (self.forecast.evicted(item, first.priority),), loop)
        self._deadlines.pending.update(items)
        if deadline is not None:
            timer = self._deadlines.next.get(loop)
            if timer is None or deadline < timer[0]:
                self._deadlines.watch(loop, deadline)
        if self._inline:
            self._flush_soon(loop)
        elif idle and self._notify_on is not loop:
            self._notify_on = loop
            loop.call_soon(self._notify_after_turn)

    def _full(self, rows: int, priority: int, flow: Flow | None) -> Overloaded:
        self._notify()
        return self.forecast.full(rows, priority, flow)

    def _remove(self, items: Sequence[Item[Payload]]) -> None:
        """Drop what still waits, and stop a run in a thread that nobody waits for any more."""
        with self._lock:
            for item in items:
                self.queue.remove(item)
            for stop, waiting in self.runs.items():
                waiting.difference_update(items)
                if not waiting:
                    stop.ask()

    def _expire(self, item: Item[Payload]) -> None:
        self._remove((item,))
        error = DeadlineExceeded("the deadline passed before the model answered; the work was dropped")
        deliver((item,), (error,), item.loop)

    # Dispatch on the event loop or in threads

    def _notify(self) -> None:
        """Wake the dispatcher, lock held. The turn of the loop that was to do it may be late, or its loop closed."""
        if self._idle and self.queue.requests:
            self._lock.notify()
        elif self._inline and self.queue.requests:
            loop = asyncio.get_running_loop()
            if self._flush_on is not loop:
                loop.call_soon(self._flush, loop)

    def _notify_after_turn(self) -> None:
        """Wake a thread at the end of a turn of the event loop, so that all requests of the turn share the run.

        To wake it for each request costs more than a small model's run: two switches of thread, and the interpreter's
        lock taken from the loop that prepares the next one.
        """
        self._notify_on = None
        with self._lock:
            if self._idle and self.queue.requests:
                self._lock.notify()

    def _flush_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule a flush on this loop, unless one is due."""
        due = 0.0
        if self._max_wait_s:
            with self._lock:
                due = self._fill_until()
        if self._flush_on is loop:  # one on another loop may never come: that loop may have been closed
            if self._flush_at <= due:
                return
            if self._fill_timer is not None:
                self._fill_timer.cancel()
        wait = due - time.monotonic() if due else 0.0
        # its handle cannot be asked when it is due: uvloop takes a short delay for none, and gives another kind
        self._fill_timer = loop.call_later(wait, self._flush, loop) if wait > 0 else None
        if self._fill_timer is None:
            due = 0.0
            loop.call_soon(self._flush, loop)
        self._flush_on, self._flush_at = loop, due

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush_on, self._fill_timer = None, None
        more, ends = True, time.monotonic() + FLUSH_S
        while more:
            with self._lock:
                batch = self.queue.take()
                more = self.queue.requests > 0
            if batch:
                with LoopTime() as taken:
                    outcomes = self.runner.outcomes(batch)
                self._inline_s += 0.02 * (taken.seconds - self._inline_s)
                deliver(batch, outcomes, loop)
                if self._inline_s > 4 * INLINE_BELOW_S:
                    self._leave_loop()
            if self._max_wait_s or not self._inline or time.monotonic() >= ends:
                break
        if more and self._inline:
            self._flush_soon(loop)

    def run_queued(self, until: float) -> bool:
        """Run on this event loop what is queued; False if that is for threads to do, nothing is queued or it is late.

        `until` is in `time.monotonic()` seconds.
        """
        if not self._inline or not self.queue.requests or time.monotonic() >= until:
            return False
        if self._fill_timer is not None:
            self._fill_timer.cancel()
        self._flush(asyncio.get_running_loop())
        return True

    def _leave_loop(self) -> None:
        """Move to threads: the model has long been much slower than at warm-up."""
        with self._lock:
            self._inline = False
            if not self._threads and not self._closed:
                self._start_threads()

    def _start_threads(self) -> None:
        self._threads = [
            threading.Thread(target=self._work, name=f"penstock-run-{number}", daemon=True)
            for number in range(self._concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        rows = 0
        stop: Stop | None = None
        while True:
            with self._lock:
                self.forecast.running_rows -= rows
                if stop is not None:
                    del self.runs[stop]
                batch = self._next_batch()
                if batch is None:
                    return
                stop = run_in_progress.stop = Stop()
                self.runs[stop] = set(batch)
                rows = sum([item.rows for item in batch])
                self.forecast.running_rows += rows
                if self._idle and self.queue.requests:
                    self._lock.notify()  # another thread, for what did not fit into this run
            deliver(batch, self.runner.outcomes(batch), None)
            del batch

    def _next_batch(self) -> list[Item[Payload]] | None:
        """The next batch, lock held; None when the batcher closes."""
        while not self._closed:
            wait = None
            if self.queue.requests:
                wait = self._fill_until() - time.monotonic() if self._max_wait_s else 0.0
                if wait <= 0:
                    return self.queue.take()
            self._idle += 1
            self._lock.wait(wait)
            self._idle -= 1
        return None

    def _fill_until(self) -> float:  # lock held; 0 for a full batch
        return 0.0 if self.queue.rows >= self.limits.batch_rows else self.queue.fill_until(self._max_wait_s)

    def close(self) -> None:
        """Refuse what still waits and end the threads. Safe to call twice, from any thread."""
        with self._lock:
            self._closed = True
            waiting = self.queue.clear()
            self._lock.notify_all()
        for item in waiting:
            error = ModelNotReady("the model was unloaded while the request waited; try again")
            deliver((item,), (error,), None)
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
