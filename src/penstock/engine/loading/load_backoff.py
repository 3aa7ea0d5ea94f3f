"""Back-off after a failed load: a broken model is not read and verified again for every request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from penstock.engine.loading.loaded_model import LoadedModel
from penstock.errors import ModelLoadError

RETRY_AFTER_S = 2.0
"""A model that failed to load is retried after this time at the earliest, then after twice as long, up to 64 s."""


class _Failure(NamedTuple):
    error: ModelLoadError
    until: float
    tries: int


class LoadBackoff:
    """Recent failures, by what was loaded. Thread-safe."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}
        self._lock = threading.Lock()

    def run(self, key: str, load: Callable[[], LoadedModel], *, retry: bool = False) -> LoadedModel:
        """The model of `load`. Unless `retry`, a recent ModelLoadError is raised again without a load."""
        failure = self._failures.get(key)
        if failure is not None and not retry and time.monotonic() < failure.until:
            raise failure.error.with_traceback(None)
        try:
            model = load()
        except ModelLoadError as error:
            with self._lock:
                tries = self._failures[key].tries + 1 if key in self._failures else 0
                self._failures[key] = _Failure(error, time.monotonic() + RETRY_AFTER_S * 2 ** min(tries, 5), tries)
            raise
        self._failures.pop(key, None)
        return model

    def clear(self) -> None:
        """Forget all failures, and the lock, which a forked child may find locked."""
        self._lock = threading.Lock()
        self._failures = {}
