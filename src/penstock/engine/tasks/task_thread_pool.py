"""Threads for work that must not block the event loop: a task's own code, and large requests.

A stuck thread is abandoned and replaced, so that a task that hangs fails its own requests at their deadline and affects
no others. While many threads are stuck, the task's requests are refused.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from penstock.backends.devices import usable_cores
from penstock.errors import DeadlineExceeded, InferenceError, ModelNotReady, Overloaded

log = logging.getLogger(__name__)
T = TypeVar("T")

STUCK_AFTER_S = 1.0
"""A thread is stuck when its request is past its deadline and it has worked for at least this long."""

MOST_STUCK = 8
IDLE_S = 30.0
"""A thread ends after it was idle for this long."""


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
    """Threads for one task of one model, started when there is work. Any thread's event loop may use them."""

    def __init__(self, what: str, *, most: int, most_bytes: int, threads: int | None = None) -> None:
        """`what` names the task in messages. At most `most` requests wait, and `most_bytes` of uploads are held."""
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
        """Number of abandoned threads that still run."""
        return self._stuck

    def admit(self) -> None:
        """Raise what `run` would raise now: Overloaded if too much waits, ModelNotReady if the task hangs."""
        if len(self._waiting) >= self._most or self._bytes > self._most_bytes:
            raise Overloaded(f"{len(self._waiting)} requests are being prepared already; try again later")
        if self._stuck >= MOST_STUCK:
            raise ModelNotReady(
                f"{self._what} hangs in {self._stuck} requests; it is available again when one of them ends",
                retry_after_s=STUCK_AFTER_S,
            )

    async def run(self, work: Callable[[], T], deadline: float, size: int = 0, *, admitted: bool = False) -> T:
        """What `work` returns or raises, in a thread; `size` is that of its request in bytes.

        `admitted`: the request was admitted before, and is not refused now. Raises DeadlineExceeded at the deadline,
        even if the work has begun, and what `admit` raises.
        """
        job = _Job(partial(copy_context().run, work), asyncio.get_running_loop(), deadline, size)
        with self._ready:
            if self._closed:
                raise ModelNotReady("the model is being unloaded; try again")
            self._abandon_stuck()
            if not admitted:
                self.admit()
            self._waiting.append(job)
            self._bytes += size
            self._start_threads()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await job.future  # type: ignore[no-any-return]
        except TimeoutError:
            raise DeadlineExceeded(
                "the deadline passed while the request was prepared or its response was made"
            ) from None
        finally:
            self._leave(job)

    def _leave(self, job: _Job) -> None:
        """The caller has its result or has left: a job that has not begun is dropped, one that runs is watched."""
        with self._ready:
            self._bytes -= job.size
            if job in self._working:
                job.loop.call_later(max(0.0, job.stuck_at - time.monotonic()) + 0.001, self._replace_stuck)
            elif not job.started and not self._closed:
                self._waiting.remove(job)

    def _replace_stuck(self) -> None:
        with self._ready:
            self._abandon_stuck()
            self._start_threads()

    def _abandon_stuck(self) -> None:
        """Abandon stuck threads, lock held."""
        now = time.monotonic()
        for job in [job for job in self._working if not job.stuck and now >= job.stuck_at]:
            job.stuck = True
            self._stuck += 1
            self._alive -= 1
            log.warning(
                "%s has not returned for %.1f s; its thread is abandoned and replaced", self._what, now - job.started
            )

    def _start_threads(self) -> None:
        """Wake or start threads for the waiting jobs, lock held."""
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
                error = raised if not isinstance(raised, StopIteration) else self._failed(raised)
            except BaseException as raised:  # such as sys.exit()
                error = self._failed(raised)
            if self._finished(job):
                return
            _deliver(job, result, error)
            del job, result, error  # releases the request while the thread waits for the next job

    def _failed(self, error: BaseException) -> InferenceError:
        """The error in place of one that no future can hold, or that would end the thread."""
        log.error("%s failed", self._what, exc_info=error)
        return InferenceError(f"{self._what} failed: {type(error).__name__}")

    def _next(self) -> _Job | None:
        """The next job, marked as begun; None after IDLE_S without any, or on close: the thread ends."""
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
        """True if another thread has replaced this one."""
        with self._ready:
            self._working.discard(job)
            if job.stuck:
                self._stuck -= 1
            return job.stuck

    def close(self) -> None:
        """Refuse waiting jobs and end the threads; a stuck thread ends with its work or with the process."""
        with self._ready:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._ready.notify_all()
        for job in waiting:
            _deliver(job, None, ModelNotReady("the model was unloaded while the request waited; try again"))


def _deliver(job: _Job, result: Any, error: BaseException | None) -> None:
    try:
        job.loop.call_soon_threadsafe(_resolve, job.future, result, error)
    except RuntimeError:
        log.debug("an event loop closed before its result arrived")


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
