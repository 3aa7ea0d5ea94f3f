"""Which models are loaded: load once, prove, remember the most recently used, give back what is no longer needed."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from penstock.backends.base import BackendOptions
from penstock.engine.batcher import BatchLimits
from penstock.engine.config import check_at_least
from penstock.engine.loaded import LoadedModel, ModelInfo, load_artifact, load_file, warm_up
from penstock.errors import ConfigError, InvalidInput, ModelLoadError, ModelNotFound, ModelNotReady
from penstock.registry.refs import name_of
from penstock.registry.registry import Registry
from penstock.settings import parse_size

RETRY_AFTER_S = 2.0
"""A model that could not be loaded is tried again after this time at the earliest, then after twice as long, …"""

MODEL_SUFFIXES = (".onnx", ".pt", ".pth", ".pt2", ".ckpt", ".safetensors")


def is_model_file(ref: str) -> bool:
    """True when `ref` means a file and not a name in the registry."""
    return "/" in ref or ref.lower().endswith(MODEL_SUFFIXES)


class ModelManager:
    """The models of this process. An ordinary object: one per process is a choice of its owner. Thread-safe."""

    def __init__(
        self,
        registry: Registry | None = None,
        *,
        max_models: int = 8,
        max_bytes: int | str | None = None,
        options: BackendOptions | None = None,
        limits: BatchLimits | None = None,
        model_type: str | None = None,
    ) -> None:
        """`max_models` and `max_bytes` (a number or "4GiB") bound what stays loaded besides pinned and busy models."""
        self.registry = registry if registry is not None else Registry()
        check_at_least("max_models", max_models, 1)
        self._max_models = max_models
        self._max_bytes = _size("max_bytes", max_bytes)
        self._options = options or BackendOptions()
        self._limits = limits or BatchLimits()
        self._model_type = model_type
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._loading: dict[str, Future[LoadedModel]] = {}
        self._failed: dict[str, _Failure] = {}
        self._closed = False
        self._pinned: set[str] = set()
        self._lock = threading.Lock()

    # Loading

    def load_model(self, ref: str | Path, *, device: str | None = None, fresh: bool = False) -> LoadedModel:
        """The loaded model for a registry reference or a model file; callers who ask at once share one load.

        `device` is where it is brought up if it is not loaded yet, in place of the manager's own choice.
        `fresh` looks whether the registry holds other content under this version by now, and loads that.
        Raises ModelNotFound, ModelLoadError or a child of it; ModelNotReady after `close`.
        """
        key, path = self._resolve(str(ref))
        with self._lock:
            model = self._models.get(key)
        outdated = fresh and model is not None and self._outdated(model)
        with self._lock:
            model = None if outdated else self._models.get(key)
            flight, mine = self._loading.get(key), Future[LoadedModel]()
            if model is None and flight is None:
                self._check_failed(key)
                self._loading[key] = mine
        if model is not None:
            return self._touched(model, path)
        if flight is not None:
            return self._touched(flight.result(), path)
        try:
            options = self._options if device is None else replace(self._options, device=device)
            model = self._load(key, path, options)
            self._take_in(model)
        except BaseException as error:
            with self._lock:
                del self._loading[key]
                if isinstance(error, ModelLoadError) and path is None:
                    tries = self._failed[key].tries + 1 if key in self._failed else 0
                    self._failed[key] = _Failure(error, time.monotonic() + RETRY_AFTER_S * 2 ** min(tries, 5), tries)
            mine.set_exception(error)
            raise
        with self._lock:
            self._failed.pop(key, None)
            del self._loading[key]
        mine.set_result(model)
        self._evict()
        return model

    def key(self, ref: str) -> str:
        """`name:version` of what a reference means now. Raises ModelNotFound."""
        return self._resolve(ref)[0]

    def _resolve(self, ref: str) -> tuple[str, Path | None]:
        """The key, and for a file its path: a file is a model under its stem, in version 1, while it is loaded."""
        if is_model_file(ref):
            path = Path(ref)
            if not re.fullmatch(r"[^:@/]+", path.stem):
                raise InvalidInput(f"{path}: a model cannot be called {path.stem!r}; rename the file")
            return f"{path.stem}:1", path
        name = name_of(ref)
        with self._lock:
            file = self._models.get(f"{name}:1")
        if file is None or file.path is None:
            return ":".join(self.registry.resolve(ref)), None
        if ref not in (name, file.key):
            raise ModelNotFound(f"{ref}: {name} is a bare model file, which has the version 1 only")
        return file.key, file.path

    def _touched(self, model: LoadedModel, path: Path | None) -> LoadedModel:
        if path is not None and model.path != path:
            raise InvalidInput(f"{path}: {model.key} is served from {model.path or 'the registry'} already; rename one")
        with self._lock:
            if model.key in self._models:
                self._models.move_to_end(model.key)
        return model

    def _outdated(self, model: LoadedModel) -> bool:
        return model.artifact is not None and self.registry.get(model.key).digest != model.artifact.digest

    def _check_failed(self, key: str) -> None:
        """A broken model is not read and proved again for every request that asks for it."""
        failure = self._failed.get(key)
        if failure is not None and time.monotonic() < failure.until:
            raise failure.error.with_traceback(None)

    def _load(self, key: str, path: Path | None, options: BackendOptions) -> LoadedModel:
        if path is not None:
            return load_file(path, self._model_type, options, self._limits)
        return load_artifact(self.registry.get(key), options, self._limits)

    def _take_in(self, model: LoadedModel) -> None:
        """Put a model in place of the one that was loaded under its key, which goes when its requests are answered."""
        with self._lock:
            closed = self._closed
            old = None if closed else self._models.get(model.key)
            if not closed:
                self._models[model.key] = model
        if closed:
            model.close()
            raise ModelNotReady("the server is shutting down")
        if old is not None:
            self._retire(old)

    def close(self) -> None:
        """Unload everything and load nothing more; waits until the models are closed."""
        with self._lock:
            self._closed = True
            models = list(self._models.values())
            self._models.clear()
            for model in models:
                model.retired = True
        for model in models:
            model.close()

    # Looking

    def get_model(self, ref: str | Path) -> LoadedModel:
        """A model that is loaded; raises ModelNotReady when it is known but not loaded."""
        key = self.key(str(ref))
        with self._lock:
            if key not in self._models:
                raise ModelNotReady(f"{key} is not loaded; load_model() brings it up")
            return self._models[key]

    def get_model_info(self, ref: str | Path) -> ModelInfo:
        """What is known of a loaded model."""
        return self.get_model(ref).info

    def list_cached_models(self) -> list[ModelInfo]:
        """Every loaded model, least recently used first."""
        with self._lock:
            return [model.info for model in self._models.values()]

    def models(self) -> list[LoadedModel]:
        """Every loaded model, least recently used first."""
        with self._lock:
            return list(self._models.values())

    def warmup(self, ref: str | Path, batch_size: int = 32) -> dict[int, float]:
        """Run the model at 1, 2, 4, … `batch_size` rows; the median seconds by number of rows. Loads it if need be."""
        model = self.load_model(ref)
        golden = model.artifact.golden() if model.artifact is not None else None
        return warm_up(model.backend, model.signature, batch_size, golden)

    # Holding and letting go

    def hold(self, model: LoadedModel) -> bool:
        """Keep a model from being closed until `release`; False when it was unloaded already."""
        with self._lock:
            if model.retired:
                return False
            model.leases += 1
            return True

    def release(self, model: LoadedModel) -> None:
        """The other end of `hold`; the last one out closes an unloaded model."""
        with self._lock:
            model.leases -= 1
            idle = model.leases == 0
            over = idle and not model.retired and self._over_budget()
        if idle and model.retired:
            _close_aside(model)
        elif over:
            self._evict()

    def pin(self, keys: set[str]) -> None:
        """These `name:version` and no others stay loaded whatever the budget says."""
        with self._lock:
            self._pinned = set(keys)
        self._evict()

    def unload(self, key: str) -> None:
        """Let a model go: it answers no new request and is closed when its last one is answered."""
        with self._lock:
            model = self._models.pop(key, None)
        if model is not None:
            self._retire(model)

    def clear_cache(self, ref: str | Path | None = None) -> None:
        """Unload one model, or all of them; requests in flight are answered first."""
        keys = [self.key(str(ref))] if ref is not None else [model.key for model in self.models()]
        for key in keys:
            self.unload(key)

    def _retire(self, model: LoadedModel) -> None:
        with self._lock:
            model.retired = True
            idle = model.leases == 0
        if idle:
            _close_aside(model)

    def _over_budget(self) -> bool:
        if len(self._models) > self._max_models:
            return True
        return self._max_bytes is not None and sum(m.info.size_bytes for m in self._models.values()) > self._max_bytes

    def _evict(self) -> None:
        """Unload the least recently used models that are neither pinned nor busy until the budget holds."""
        while True:
            with self._lock:
                newest = next(reversed(self._models), None)
                idle = (k for k, m in self._models.items() if k not in self._pinned and not m.leases and k != newest)
                victim = self._models.pop(next(idle, ""), None) if self._over_budget() else None
            if victim is None:
                return
            self._retire(victim)


def _size(field: str, value: int | str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise ConfigError(f"{field}: {value!r} {error}") from None


class _Failure(NamedTuple):
    """Why a model could not be loaded, and until when it is not tried again."""

    error: ModelLoadError
    until: float
    tries: int


def _close_aside(model: LoadedModel) -> None:
    """Close in a thread of its own: closing waits for a run in progress, and the caller may be an event loop."""
    threading.Thread(target=model.close, name="penstock-unload", daemon=True).start()
