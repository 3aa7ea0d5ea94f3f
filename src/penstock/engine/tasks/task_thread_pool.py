"""Threads for what must not hold up the event loop: a task's own code, and requests so large that they take long.

A thread that does not come back from a task is left behind and another one takes its place, so that a task that hangs
costs its own requests their deadline and nobody else anything. When many are left behind, the task is asked no more
until one of them comes back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from penstock.backends.devices import usable_cores
from penstock.errors import DeadlineExceeded, InferenceError, ModelNotReady, Overloaded

log = logging.getLogger(__name__)
T = TypeVar("T")

STUCK_AFTER_S = 1.0
"""A thread counts as stuck when it is past its request's deadline and has worked for this long at least."""

MOST_STUCK = 8
IDLE_S = 30.0
"""A thread that had nothing to do for so long ends."""


class _Job:
    __slots__ = ("deadline", "future", "loop", "size", "started", "stuck", "work")

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop, deadline: float, size: int) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.deadline = deadline
        self.size = size
        self.started = 0.0
        self.stuck = False

    @property
    def stuck_at(self) -> float:
        return max(self.deadline, self.started + STUCK_AFTER_S)


class TaskThreadPool:
    """A few threads for one task of one model, started when there is work. Any thread's event loop may ask."""

    def __init__(self, what: str, *, most: int, most_bytes: int, threads: int | None = None) -> None:
        """`what` names the task to people. At most `most` requests and `most_bytes` of uploads wait or work."""
        self._what = what
        self._most, self._most_bytes = most, most_bytes
        self._threads = threads or usable_cores()
        self._waiting: deque[_Job] = deque()
        self._working: set[_Job] = set()
        self._bytes = self._alive = self._idle = self._stuck = 0
        self._ready = threading.Condition(threading.Lock())
        self._closed = False

    @property
    def stuck(self) -> int:
        """Threads that were left behind and have not come back."""
        return self._stuck

    def admit(self) -> None:
        """Raise now what `run` would: Overloaded when too much waits, ModelNotReady when the task hangs."""
        if len(self._waiting) >= self._most or self._bytes > self._most_bytes:
            raise Overloaded(f"{len(self._waiting)} requests are being prepared already; try again later")
        if self._stuck >= MOST_STUCK:
            raise ModelNotReady(
                f"{self._what} hangs in {self._stuck} requests; it answers again when one of them ends",
                retry_after_s=STUCK_AFTER_S,
            )

    async def run(self, work: Callable[[], T], deadline: float, size: int = 0, *, admitted: bool = False) -> T:
        """What `work` gives or raises, made in a thread; `size` is what its request weighs in bytes.

        `admitted`: it belongs to a request that was let in before. Raises DeadlineExceeded at the deadline, whether the
        work was begun or not, and what `admit` raises.
        """
        job = _Job(work, asyncio.get_running_loop(), deadline, size)
        with self._ready:
            if self._closed:
                raise ModelNotReady("the model is being unloaded; try again")
            self._let_go_of_stuck()
            if not admitted:
                self.admit()
            self._waiting.append(job)
            self._bytes += size
            self._staff()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await job.future  # type: ignore[no-any-return]
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the request was prepared or answered") from None
        finally:
            self._leave(job)

    def _leave(self, job: _Job) -> None:
        """Its caller has what came, or waits no more: it is not begun, or watched until it ends or is stuck."""
        with self._ready:
            self._bytes -= job.size
            if job in self._working:
                job.loop.call_later(max(0.0, job.stuck_at - time.monotonic()) + 0.001, self._replace_stuck)
            elif not job.started and not self._closed:
                self._waiting.remove(job)

    def _replace_stuck(self) -> None:
        with self._ready:
            self._let_go_of_stuck()
            self._staff()

    def _let_go_of_stuck(self) -> None:
        """Leave the threads behind that do not come back, lock held."""
        now = time.monotonic()
        for job in [job for job in self._working if not job.stuck and now >= job.stuck_at]:
            job.stuck = True
            self._stuck += 1
            self._alive -= 1
            log.warning("%s has not come back for %.1f s; its thread is left behind", self._what, now - job.started)

    def _staff(self) -> None:
        """See to it that somebody takes what waits, lock held."""
        self._ready.notify(len(self._waiting))
        missing = min(len(self._waiting) - self._idle, self._threads - self._alive)
        for _ in range(0 if self._closed else missing):
            self._alive += 1
            threading.Thread(target=self._serve, name="penstock-task", daemon=True).start()

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = job.work()
            except Exception as raised:
                error = raised
            except BaseException as raised:  # such as sys.exit(), which is not for a task to decide
                log.exception("%s tried to end its thread", self._what)
                error = InferenceError(f"{self._what} failed: {type(raised).__name__}")
            if self._finished(job):
                return
            _tell(job, result, error)
            del job, result, error  # nothing of a request stays while the thread waits for the next one

    def _next(self) -> _Job | None:
        """The next job, begun; None when there was none for a while, and the thread is to end."""
        with self._ready:
            while not self._waiting:
                self._idle += 1
                woken = not self._closed and self._ready.wait(IDLE_S)
                self._idle -= 1
                if not (woken or self._waiting):
                    self._alive -= 1
                    return None
            job = self._waiting.popleft()
            job.started = time.monotonic()
            self._working.add(job)
            return job

    def _finished(self, job: _Job) -> bool:
        """Whether another thread has taken the place of this one."""
        with self._ready:
            self._working.discard(job)
            if job.stuck:
                self._stuck -= 1
            return job.stuck

    def close(self) -> None:
        """Refuse what waits and let the threads end; one that is stuck ends with its work or with the process."""
        with self._ready:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._ready.notify_all()
        for job in waiting:
            _tell(job, None, ModelNotReady("the model was unloaded while the request waited; try again"))


def _tell(job: _Job, result: Any, error: BaseException | None) -> None:
    try:
        job.loop.call_soon_threadsafe(_resolve, job.future, result, error)
    except RuntimeError:
        log.debug("an event loop closed before its answer came")


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
