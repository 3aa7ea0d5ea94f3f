"""Single-flight loads: callers that want the same model at the same time share one load, and failures back off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from penstock.engine.loading.loaded_model import LoadedModel
from penstock.errors import ModelLoadError

RETRY_AFTER_S = 2.0
"""A model that failed to load is retried after this time at the earliest, then after twice as long, up to 64 s."""


class _Failure(NamedTuple):
    error: ModelLoadError
    until: float
    tries: int


class LoadFlights:
    """Loads in progress and recent failures, by `name:version`. Thread-safe."""

    def __init__(self) -> None:
        self._flights: dict[str, Future[LoadedModel]] = {}
        self._failures: dict[str, _Failure] = {}
        self._lock = threading.Lock()

    def run(
        self, key: str, load: Callable[[], LoadedModel], *, back_off: bool = True, retry: bool = False
    ) -> LoadedModel:
        """The model of the load in progress, else of `load`. Raises what the load raised.

        With `back_off` a ModelLoadError is raised again, without a load, until its retry time; `retry` loads anyway.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is None and not retry:
                self._check_failed(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leads:
            return flight.result()
        try:
            model = load()
        except BaseException as error:
            self._land(key, error if back_off and isinstance(error, ModelLoadError) else None)
            flight.set_exception(error)
            raise
        self._land(key, None, succeeded=True)
        flight.set_result(model)
        return model

    def after_fork(self) -> None:
        """In a forked child: the loads in progress are the parent's."""
        self._lock = threading.Lock()
        self._flights.clear()

    def _land(self, key: str, failure: ModelLoadError | None, *, succeeded: bool = False) -> None:
        with self._lock:
            self._flights.pop(key, None)
            if succeeded:
                self._failures.pop(key, None)
            if failure is not None:
                tries = self._failures[key].tries + 1 if key in self._failures else 0
                self._failures[key] = _Failure(failure, time.monotonic() + RETRY_AFTER_S * 2 ** min(tries, 5), tries)

    def _check_failed(self, key: str) -> None:
        """A broken model is not read and verified again for every request."""
        failure = self._failures.get(key)
        if failure is not None and time.monotonic() < failure.until:
            raise failure.error.with_traceback(None)
