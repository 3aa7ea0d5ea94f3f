"""Concurrent calls for one key share one run, in threads as well as on event loops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

from penstock.errors import type_and_message

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")


def contained(work: Callable[[], T]) -> T:
    """What `work` returns or raises, in a thread whose outcome goes to an event loop.

    A RuntimeError takes the place of what no future can hold (StopIteration, after which its caller would wait for
    ever), and of what would end or cancel the caller (SystemExit, CancelledError and others that are no Exception).
    """
    try:
        return work()
    except Exception as error:
        if not isinstance(error, StopIteration):
            raise
        raise RuntimeError(type_and_message(error)) from error
    except BaseException as error:
        raise RuntimeError(type_and_message(error)) from error


class Abandoned(Exception):
    """The caller who ran the work has no outcome to share."""


class SingleFlight(Generic[Key, T]):
    """Runs in progress by key. Thread-safe; one object may serve threads and event loops together."""

    def __init__(self) -> None:
        self._flights: dict[Key, Future[T]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of runs in progress."""
        return len(self._flights)

    def share(self, key: Key, start: Callable[[], Future[T]]) -> Future[T]:
        """The future of the run in progress, or else the one that `start` gives; it is forgotten when it is done."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and not flight.done():
                return flight
            flight = self._flights[key] = start()
        flight.add_done_callback(lambda _: self._end(key, flight))
        return flight

    def _end(self, key: Key, flight: Future[T]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def clear(self) -> None:
        """Forget all runs, such as those of the parent in a forked child."""
        self._lock = threading.Lock()
        self._flights = {}

    def run(self, key: Key, work: Callable[[], T]) -> T:
        """What `work` returns or raises, here or in the thread that runs it for this key already."""
        own: Future[T] = Future()
        flight = self.share(key, lambda: own)
        if flight is own:
            with _outcome_to(own, BaseException):
                own.set_result(work())
        return flight.result()

    async def run_async(
        self, key: Key, work: Callable[[], Awaitable[T]], *, deadline: float, shared_errors: type[Exception]
    ) -> T:
        """What `work` returns or raises, in this task or in the one that runs it for this key already.

        Only `shared_errors` reach the callers who wait. After any other error or a cancellation of the task that runs
        `work`, one of them runs its own. Raises TimeoutError if this caller still waits at its `deadline`, which is in
        `time.monotonic()` seconds; `work` keeps its own.
        """
        while True:
            own: Future[T] = Future()
            flight = self.share(key, lambda: own)  # noqa: B023
            if flight is own:
                with _outcome_to(own, shared_errors):
                    own.set_result(await work())
                return own.result()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    return await asyncio.shield(asyncio.wrap_future(flight))
            except Abandoned:
                continue


@contextmanager
def _outcome_to(flight: Future[T], shared_errors: type[BaseException]) -> Iterator[None]:
    """Give an error to the callers who wait for `flight`, or Abandoned if it is not one of `shared_errors`."""
    try:
        yield
    except BaseException as error:
        flight.set_exception(error if isinstance(error, shared_errors) else Abandoned())
        raise
