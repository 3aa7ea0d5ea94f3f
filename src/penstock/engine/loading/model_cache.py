"""The loaded models of a process, within a budget: the least recently used is evicted first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

from penstock.engine.loading.fork_safety import FORKED, leak
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.loading.memory import trim_memory
from penstock.errors import ModelNotReady


class ModelCache:
    """Loaded models by `name:version`. Thread-safe.

    `max_models` and `max_bytes` (of the weights in memory) bound what stays besides pinned and leased models. A model
    that is removed answers no new request and is closed when its last lease ends.
    """

    def __init__(self, max_models: int, max_bytes: int | None) -> None:
        self._max_models = max_models
        self._max_bytes = max_bytes
        self._models: dict[str, LoadedModel] = {}
        self._bytes = 0
        self._pinned: set[str] = set()
        self._ended: str | None = None
        self.over_budget = False
        """True while more is loaded than the budget allows, because the rest is pinned or leased."""
        self._lock = threading.Lock()
        self.lease_lock = threading.Lock()
        """Guards the leases of all models, and whether they are retired. Taken after `_lock` if both are needed."""

    @property
    def open(self) -> bool:
        """False after `close` and in a forked process."""
        return self._ended is None

    def check_open(self) -> None:
        """Raises ModelNotReady after `close` and in a forked process."""
        if self._ended is not None:
            raise ModelNotReady(self._ended)

    def find(self, key: str) -> LoadedModel | None:
        """The model under this key, None if it is not loaded."""
        with self._lock:
            return self._models.get(key)

    def all(self) -> list[LoadedModel]:
        """Every loaded model, least recently used first."""
        with self._lock:
            return sorted(self._models.values(), key=_used_at)

    def add(self, model: LoadedModel) -> None:
        """Put a model in the place of the one under its key, and evict others beyond the budget.

        Raises ModelNotReady and closes the model if the cache was closed.
        """
        with self._lock:
            ended = self._ended
            idle = self._remove(model.key) if ended is None else None
            if ended is None:
                self._models[model.key] = model
                self._bytes += model.info.memory_bytes
                self.over_budget = self._exceeds_budget()
        if ended is not None:
            model.close()
            raise ModelNotReady(ended)
        _close_in_thread(idle)
        self._evict(newest=model.key)

    def settle(self, model: LoadedModel) -> None:
        """After the last lease on a model: close it if it was removed meanwhile, else apply the budget."""
        if model.retired:
            _close_in_thread(model)
        else:
            self._evict()

    @contextmanager
    def leased(self, model: LoadedModel) -> Iterator[None]:
        """Keep a model loaded meanwhile, for work that is no request. Raises ModelNotReady if it was unloaded."""
        with self.lease_lock:
            if model.retired:
                raise ModelNotReady(f"{model.key} was unloaded")
            model.leases += 1
        try:
            yield
        finally:
            with self.lease_lock:
                model.leases -= 1
                idle = not model.leases
            if idle and (model.retired or self.over_budget):
                self.settle(model)

    def pin(self, keys: set[str]) -> None:
        """Keep exactly these models, regardless of the budget."""
        with self._lock:
            self._pinned = set(keys)
        self._evict()

    def remove(self, key: str) -> None:
        """Unload a model once its requests are answered."""
        with self._lock:
            idle = self._remove(key)
        _close_in_thread(idle)

    def close(self) -> None:
        """Unload everything and accept nothing more; waits until the models are closed. Safe to call twice."""
        with self._lock:
            if self._ended is None:
                self._ended = "the models are unloaded: the engine, manager or predictor that held them was closed"
            models = list(self._models.values())
            self._models.clear()
            self._bytes = 0
            with self.lease_lock:
                for model in models:
                    model.retired = True
        for model in models:
            model.close()
        if models:
            trim_memory()

    def after_fork(self) -> None:
        """In a forked child: the models, their threads and the lock belong to the parent and are not used again."""
        self._lock = threading.Lock()
        self.lease_lock = threading.Lock()
        self._ended = f"this engine, manager or predictor cannot be used here: {FORKED}"
        for model in self._models.values():
            model.retired = True
            leak(model)
        self._models.clear()
        self._bytes = 0

    def _remove(self, key: str) -> LoadedModel | None:
        """Retire a model, lock held. Returns it if it is idle, for the caller to close."""
        model = self._models.pop(key, None)
        if model is None:
            return None
        self._bytes -= model.info.memory_bytes
        self.over_budget = self._exceeds_budget()
        with self.lease_lock:
            model.retired = True
            return None if model.leases else model

    def _exceeds_budget(self) -> bool:
        return len(self._models) > self._max_models or (self._max_bytes is not None and self._bytes > self._max_bytes)

    def _evict(self, newest: str | None = None) -> None:
        """Unload the least recently used models that are neither pinned nor leased until the budget holds.

        `newest` stays, since it had no time to be used; without it, the most recently used does.
        """
        while True:
            with self._lock:
                if not self._exceeds_budget():
                    return
                by_use = sorted(self._models.values(), key=_used_at)
                kept = newest if newest in self._models else by_use[-1].key
                idle = (m.key for m in by_use if m.key not in self._pinned and not m.leases and m.key != kept)
                victim = self._remove(next(idle, ""))
            if victim is None:
                return
            _close_in_thread(victim)


_used_at = attrgetter("used_at")


def _close_in_thread(model: LoadedModel | None) -> None:
    """Close in a thread: closing waits for a run in progress, and the caller may be an event loop."""
    if model is not None:
        threading.Thread(target=_close, args=(model,), name="penstock-unload", daemon=True).start()


def _close(model: LoadedModel) -> None:
    model.close()
    del model
    trim_memory()
