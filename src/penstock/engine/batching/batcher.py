"""A bounded queue in front of one backend: awaited single requests become batches.

It batches while busy: an idle backend starts at once with what is there, and the queue fills while it runs, so
the batch size follows the load and nobody waits for a timer (unless `max_wait_ms` asks for one).

A model whose full batch runs shorter than the hop to a thread and back runs on the event loop itself; any other runs
in the batcher's own thread, which takes its next batch directly from the queue and so never waits for the loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from penstock.engine.batching.collation import Joining
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.queue import BatchQueue, Item
from penstock.errors import (
    DeadlineExceeded,
    InferenceError,
    ModelNotReady,
    OutOfMemory,
    Overloaded,
    PenstockError,
)
from penstock.tensors import Arrays

log = logging.getLogger(__name__)

INLINE_BELOW_S = 0.0005
"""A full batch that runs shorter than this stays on the event loop: the hop to a thread and back costs about half
of it, and a pause of this length is what the loop sees from any other callback."""


class Batched(NamedTuple):
    """One request's own rows of the outputs, and the batch they came from. Times in seconds."""

    outputs: Arrays
    batch_rows: int
    queue_s: float
    run_s: float


class Preempted(Overloaded):
    """The request had a place in the queue, and one of a higher priority took it."""


Result: TypeAlias = "Batched | PenstockError"


class Batcher:
    """Awaited single requests in, batches out to `run`. Any thread's event loop may submit."""

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        limits: BatchLimits,
        *,
        full_batch_s: float = 1.0,
        runners: int = 1,
        joining: Joining | None = None,
    ) -> None:
        """`full_batch_s`, the measured time of a full batch, decides between event loop and threads.

        `runners` is how many batches may run at once, each in a thread of its own. `joining` says how requests share a
        run, without it along axis 0.
        """
        self.limits = limits
        self.running_rows = 0
        self.timeout_s = None if limits.timeout_ms is None else limits.timeout_ms / 1000
        """The longest a request to this model may take; None where the server's own limit holds."""
        self._run = run
        self._joining = joining or Joining()
        self._key = self._joining.key
        self._queue = BatchQueue(
            max_batch_rows=limits.batch_rows,
            max_rows=limits.queue_rows,
            max_bytes=limits.queue_bytes,
            join=limits.join and self._joining.joins,
        )
        self._lock = threading.Condition(threading.Lock())
        self._live: set[Item] = set()
        self._inline = full_batch_s < INLINE_BELOW_S
        self._flush_on: asyncio.AbstractEventLoop | None = None
        self._nudge_on: asyncio.AbstractEventLoop | None = None
        self._fill_timer: asyncio.TimerHandle | None = None
        self._runners = runners
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._full_s = full_batch_s
        self._inline_s = 0.0
        self._sweeps: dict[asyncio.AbstractEventLoop, tuple[float, asyncio.TimerHandle]] = {}

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a run."""
        return self._queue.rows

    @property
    def inline(self) -> bool:
        """True while batches run on the event loop."""
        return self._inline

    @property
    def wait_s(self) -> float:
        """How long a request that comes now should expect to wait for its run to end."""
        return self._wait_behind(self._queue.rows)

    def _wait_behind(self, rows: int) -> float:
        return (rows + self.running_rows) / (self.limits.batch_rows * self._runners) * self._full_s

    def admit(self, rows: int = 1, priority: int = 0) -> None:
        """Raise Overloaded now if a request of so many rows would be refused; costs next to nothing."""
        if self._queue.has_room(rows):
            return
        with self._lock:
            if not self._queue.gives_way(priority):
                raise self._full(rows)

    async def room(self, rows: int, deadline: float, size: int = 0) -> None:
        """Return when a request of so many rows and bytes would be let in; DeadlineExceeded if that is too late."""
        while not self._queue.has_room(rows, size):
            with self._lock:
                self._rouse()
            if time.monotonic() >= deadline:
                raise DeadlineExceeded("the deadline passed before the queue had room")
            await asyncio.sleep(min(0.02, max(0.001, self.wait_s / 2)))

    async def submit(self, arrays: Arrays, rows: int, deadline: float | None = None, priority: int = 0) -> Batched:
        """The outputs for these validated inputs, run with whoever else is waiting.

        `deadline` is absolute, in `time.monotonic()` seconds. The higher `priority` goes first, and in a full queue it
        takes the place of a lower one; inside a priority it is the earlier deadline. A request of more rows than a
        batch may have is cut into several.
        Raises Overloaded, DeadlineExceeded, ModelNotReady (closed), InvalidInput or InferenceError.
        """
        if rows > self.limits.batch_rows:
            return await self._submit_in_parts(arrays, rows, deadline, priority)
        item = self._item(arrays, rows, deadline, priority)
        self._enqueue((item,), rows, item.bytes)
        try:
            result: Result = await item.future
        except asyncio.CancelledError:
            self._forget(item)
            raise
        finally:
            self._live.discard(item)
        if isinstance(result, PenstockError):
            raise result
        return result

    async def _submit_in_parts(self, arrays: Arrays, rows: int, deadline: float | None, priority: int) -> Batched:
        size = self.limits.batch_rows
        cuts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
        items = [
            self._item({name: array[cut] for name, array in arrays.items()}, cut.stop - cut.start, deadline, priority)
            for cut in cuts
        ]
        self._enqueue(items, rows, sum(item.bytes for item in items))
        try:
            results = await asyncio.gather(*(item.future for item in items))
        finally:
            for item in items:
                self._live.discard(item)
                self._forget(item)
        result = _joined(results)
        if isinstance(result, PenstockError):
            raise result
        return result

    def _item(self, arrays: Arrays, rows: int, deadline: float | None, priority: int) -> Item:
        loop = asyncio.get_running_loop()
        return Item(arrays, rows, loop.create_future(), loop, time.monotonic(), deadline, priority, self._key(arrays))

    def _enqueue(self, items: Sequence[Item], rows: int, size: int) -> None:
        first = items[0]
        gone: Sequence[Item] = ()
        with self._lock:
            if self._closed:
                raise ModelNotReady("the model is being unloaded; try again")
            if first.deadline is not None:
                self._check_deadline(first)
            if not self._queue.has_room(rows, size):
                gone = self._queue.put_out(rows, size, first.priority)
                if not gone:
                    raise self._full(rows)
            for item in items:
                self._queue.push(item)
            idle = self._idle > 0
            if idle and self._queue.rows >= self.limits.batch_rows:
                self._lock.notify()
            elif not idle and not self._threads and not self._inline:
                self._start_threads()
        for item in gone:
            refusal = Preempted("requests of a higher priority took its place", retry_after_s=self._retry_after_s())
            _tell(item, refusal, first.loop)
        self._live.update(items)
        if first.deadline is not None:
            self._watch(first.loop, first.deadline)
        if self._inline:
            self._wake(first.loop)
        elif idle:
            self._nudge_soon(first.loop)

    def _check_deadline(self, first: Item) -> None:
        assert first.deadline is not None
        left = first.deadline - first.entered
        if left <= 0:
            raise DeadlineExceeded("the deadline had passed before the model was asked")
        if left < self.wait_s and self._queue:
            wait_s = self._wait_behind(self._queue.rows_before(first.priority, first.deadline))
            if left < wait_s:
                raise Overloaded(
                    f"the wait is about {wait_s * 1000:.0f} ms, longer than the {left * 1000:.0f} ms left",
                    retry_after_s=self._retry_after_s(),
                )

    def _full(self, rows: int) -> Overloaded:
        self._rouse()
        words = f"the queue is full ({self._queue.full_of(rows)}); try again later"
        return Overloaded(words, retry_after_s=self._retry_after_s())

    def _retry_after_s(self) -> float:
        return max(0.001, self.wait_s)

    def _rouse(self) -> None:
        """Lock held: those who wait may be waiting for the turn of an event loop that is busy, or was closed."""
        if self._idle and self._queue:
            self._lock.notify()
        elif self._inline and self._queue:
            loop = asyncio.get_running_loop()
            if self._flush_on is not loop:
                loop.call_soon(self._flush, loop)

    def _forget(self, item: Item) -> None:
        with self._lock:
            self._queue.drop(item)

    # Running: on the loop, or in the thread

    def _nudge_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake a thread once this turn of the loop is over: whoever is prepared in the same turn shares the run.

        To wake it for each request costs more than a small model's run: two switches of thread, and the interpreter's
        lock taken from the loop that is preparing the next one.
        """
        if self._nudge_on is not loop:
            self._nudge_on = loop
            loop.call_soon(self._nudge)

    def _nudge(self) -> None:
        self._nudge_on = None
        with self._lock:
            self._rouse()

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that a flush is due on this loop."""
        wait = 0.0
        if self.limits.max_wait_ms:
            with self._lock:
                wait = self._fill_wait_s()
        timer = self._fill_timer
        if self._flush_on is loop and (timer is None or (wait > 0 and timer.when() <= loop.time() + wait)):
            return  # a flush on this loop is due; one on another loop may never come: that loop may have been closed
        if timer is not None and self._flush_on is loop:  # that of another loop is for who waits there
            timer.cancel()
        self._flush_on = loop
        self._fill_timer = loop.call_later(wait, self._flush, loop) if wait > 0 else None
        if wait <= 0:
            loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush_on, self._fill_timer = None, None
        with self._lock:
            batch = self._queue.take()
            more = bool(self._queue)
        if batch:
            started = time.monotonic()
            self._resolve(batch, self._run_batch(batch))
            self._inline_s += 0.02 * (time.monotonic() - started - self._inline_s)
            if self._inline_s > 4 * INLINE_BELOW_S:
                self._leave_loop()
        if more and self._inline:
            self._wake(loop)

    def _leave_loop(self) -> None:
        """The model has long been much slower than at warm-up: from now on its runs go to the thread."""
        with self._lock:
            self._inline = False
            if not self._threads and not self._closed:
                self._start_threads()

    def _start_threads(self) -> None:
        self._threads = [
            threading.Thread(target=self._work, name=f"penstock-run-{number}", daemon=True)
            for number in range(self._runners)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        rows = 0
        while True:
            with self._lock:
                self.running_rows -= rows
                batch = self._next_batch()
                if batch is None:
                    return
                rows = sum(item.rows for item in batch)
                self.running_rows += rows
                if self._queue:
                    self._lock.notify()  # another thread, for what did not fit into this run
            self._deliver(batch, self._run_batch(batch))
            del batch

    def _next_batch(self) -> list[Item] | None:
        """Waits, lock held, for the next batch; None when the batcher closes."""
        while not self._closed:
            if self._queue:
                wait = self._fill_wait_s()
                if wait <= 0:
                    return self._queue.take()
                self._pause(wait)
            else:
                self._pause(None)
        return None

    def _pause(self, timeout: float | None) -> None:
        self._idle += 1
        self._lock.wait(timeout)
        self._idle -= 1

    def _fill_wait_s(self) -> float:
        """How much longer to wait for a fuller batch: 0 without `max_wait_ms`."""
        if not self.limits.max_wait_ms or self._queue.rows >= self.limits.batch_rows:
            return 0.0
        return self._queue.patient_until(self.limits.max_wait_ms / 1000) - time.monotonic()

    def _run_batch(self, batch: Sequence[Item]) -> list[Result]:
        """One result per item. A batch that fails is halved until only the guilty request is left with the error."""
        rows = [item.rows for item in batch]
        total = sum(rows)
        started = time.monotonic()
        try:
            arrays = [item.arrays for item in batch]
            outputs = self._joining.split(self._run(self._joining.stack(arrays)), rows, arrays)
        except (Exception, SystemExit) as error:  # a model that calls exit() would end the thread, and answer nobody
            if len(batch) == 1:
                return [self._run_halves(batch[0], error) if isinstance(error, OutOfMemory) else _as_penstock(error)]
            half = len(batch) // 2
            return [*self._run_batch(batch[:half]), *self._run_batch(batch[half:])]
        run_s = time.monotonic() - started
        if 2 * total >= self.limits.batch_rows:  # small batches tell little of full ones
            self._full_s += 0.1 * (run_s * self.limits.batch_rows / total - self._full_s)
        return [Batched(part, total, started - item.entered, run_s) for item, part in zip(batch, outputs, strict=True)]

    def _run_halves(self, item: Item, error: OutOfMemory) -> Result:
        """One request that does not fit into memory, half of its rows at a time, and half of those if need be."""
        if item.rows < 2:
            return error
        cuts = (slice(None, item.rows // 2), slice(item.rows // 2, None))
        halves = [
            Item({k: a[cut] for k, a in item.arrays.items()}, rows, item.future, item.loop, item.entered, key=item.key)
            for cut, rows in zip(cuts, (item.rows // 2, item.rows - item.rows // 2), strict=True)
        ]
        return _joined([self._run_batch([half])[0] for half in halves])

    def _deliver(self, batch: Sequence[Item], results: Sequence[Result]) -> None:
        """Hand results from the thread to the event loop of each caller, one call per loop."""
        loops = {item.loop for item in batch}
        for loop in loops:
            pairs = [(i, r) for i, r in zip(batch, results, strict=True) if i.loop is loop]
            try:
                loop.call_soon_threadsafe(self._resolve, [i for i, _ in pairs], [r for _, r in pairs])
            except RuntimeError:
                log.debug("an event loop closed before its answers came")

    def _resolve(self, batch: Sequence[Item], results: Sequence[Result]) -> None:
        here = asyncio.get_running_loop()
        for item, result in zip(batch, results, strict=True):
            _tell(item, result, here)

    # Deadlines: one timer per event loop, for the earliest of its callers

    def _watch(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        due = self._sweeps.get(loop)
        if due is not None:
            if due[0] <= deadline:
                return
            due[1].cancel()
        elif self._sweeps:
            sweeps = list(self._sweeps.items())  # at once: a loop in another thread may add its own meanwhile
            self._sweeps = {known: other for known, other in sweeps if not known.is_closed()}
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, loop)
        self._sweeps[loop] = (deadline, timer)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the callers of this loop whose deadline has passed, waiting or running; then watch the next one."""
        self._sweeps.pop(loop, None)
        now = time.monotonic()
        upcoming: float | None = None
        for item in list(self._live):
            if item.deadline is None or item.loop is not loop:
                continue
            if item.deadline <= now + 0.0005:
                self._live.discard(item)
                self._forget(item)
                error = DeadlineExceeded("the deadline passed before the model answered; the work was dropped")
                _tell(item, error, loop)
            elif upcoming is None or item.deadline < upcoming:
                upcoming = item.deadline
        if upcoming is not None:
            self._watch(loop, upcoming)

    # The end

    def close(self) -> None:
        """Refuse what still waits and end the thread. Safe to call twice, from any thread."""
        with self._lock:
            self._closed = True
            waiting = self._queue.clear()
            self._lock.notify_all()
        for item in waiting:
            _tell(item, ModelNotReady("the model was unloaded while the request waited; try again"), None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5)


def _tell(item: Item, result: Result, here: asyncio.AbstractEventLoop | None) -> None:
    """Answer the caller of `item`, on its own loop; `here` is the loop that is running now, if any."""
    if item.loop is not here:
        try:
            item.loop.call_soon_threadsafe(_tell, item, result, item.loop)
        except RuntimeError:
            log.debug("an event loop closed before its answer came")
    elif not item.future.done():
        item.future.set_result(result)


def _joined(results: Sequence[Result]) -> Result:
    """The parts of one request as one answer, or the first error among them."""
    parts: list[Batched] = []
    for result in results:
        if isinstance(result, PenstockError):
            return result
        parts.append(result)
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    rows = max(part.batch_rows for part in parts)
    return Batched(outputs, rows, max(part.queue_s for part in parts), sum(part.run_s for part in parts))


def _as_penstock(error: BaseException) -> PenstockError:
    if isinstance(error, PenstockError):
        return error
    log.error("the model failed", exc_info=error)
    wrapped = InferenceError("the model failed on this input")
    wrapped.__cause__ = error
    return wrapped
