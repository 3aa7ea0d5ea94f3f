"""Which models are loaded: load once, prove, remember the most recently used, give back what is no longer needed."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.policies import BatchingPolicy
from penstock.artifacts.refs import name_of
from penstock.backends.base import BackendOptions
from penstock.backends.verification import warm_up
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.config import check_at_least, check_choosing, check_precision
from penstock.engine.loading.fork_safety import FORKED, abandon, watch
from penstock.engine.loading.loaded_model import LoadedModel, ModelInfo, Told, load_artifact, load_file
from penstock.engine.loading.memory import give_back
from penstock.engine.loading.selection_cache import Effort, Verdict
from penstock.engine.loading.variant_selection import Choosing, known_verdicts
from penstock.engine.tasks.ranges import RangePolicies
from penstock.errors import ConfigError, InvalidInput, ModelLoadError, ModelNotFound, ModelNotReady
from penstock.registry.registry import Registry
from penstock.scan.trust import check_trust, strongest
from penstock.settings import parse_size
from penstock.tensors import Signature

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2.0
"""A model that could not be loaded is tried again after this time at the earliest, then after twice as long, …"""

MODEL_SUFFIXES = (".onnx", ".xml", ".ts", ".pt", ".pth", ".pt2", ".ckpt", ".safetensors", ".bin")


def is_model_file(ref: str) -> bool:
    """True when `ref` means a file and not a name in the registry."""
    return "/" in ref or ref.lower().endswith(MODEL_SUFFIXES)


class ModelManager:
    """The models of this process. An ordinary object: one per process is a choice of its owner. Thread-safe."""

    def __init__(
        self,
        registry: Registry | Path | str | None = None,
        *,
        max_models: int = 8,
        max_bytes: int | str | None = None,
        options: BackendOptions | None = None,
        limits: BatchLimits | None = None,
        batching: Mapping[str, BatchingPolicy] | None = None,
        model_type: str | None = None,
        choosing: Effort = "light",
        ranges: RangePolicies | None = None,
        attach: bool = False,
    ) -> None:
        """`max_models` and `max_bytes` (a number or "4GiB") bound what stays loaded besides pinned and busy models.

        Bytes are those of the weights in memory. `limits` holds for every model, but for what its manifest asks and,
        before that, `batching` says of its name. `choosing` is how much a load may spend to find an artifact's fastest
        variant: light, all or first. `ranges` says what becomes of requests outside of what a model expects.
        `attach` lets tasks start what lives beside them, such as a writer of histories: an engine's manager does.
        """
        self.registry = registry if isinstance(registry, Registry) else Registry(registry)
        check_at_least("max_models", max_models, 1)
        self._max_models = max_models
        self._max_bytes = _size("max_bytes", max_bytes)
        self._options = options or BackendOptions()
        self._limits = limits or BatchLimits()
        self._batching = dict(batching or {})
        self._model_type = model_type
        self._ranges = ranges
        self._attach = attach
        self._choosing = Choosing(effort=check_choosing(choosing), directory=self._choices())
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._loading: dict[str, Future[LoadedModel]] = {}
        self._failed: dict[str, _Failure] = {}
        self._bytes = 0
        self._ended: str | None = None
        self._pinned: set[str] = set()
        self._lock = threading.Lock()
        watch(self)

    def _choices(self) -> Path:
        """Where choices of variants are kept between processes."""
        return (self._options.cache_dir or self.registry.path / ".cache") / "choices"

    # Loading

    def load_model(
        self,
        ref: str | Path,
        *,
        device: str | None = None,
        precision: str | None = None,
        use_compile: bool | None = None,
        compile_mode: str | None = None,
        trust: str | None = None,
        variant: str | None = None,
        architecture: str | type | None = None,
        architecture_args: Mapping[str, Any] | None = None,
        signature: Signature | None = None,
        example_input: Any = None,
        fresh: bool = False,
    ) -> LoadedModel:
        """The loaded model for a registry reference or a model file; callers who ask at once share one load.

        `device` to `variant` say how it is brought up if it is not loaded yet, in place of the manager's own choice;
        `variant` names one of an artifact's, such as onnx-fp32. A file of weights (.ckpt, .pt, .pth, .safetensors)
        needs its `architecture`, the class or its `module:Class`, with what its constructor takes, and its `signature`
        or an `example_input` that it can be read from: an array or tensor, a tuple of them, or a mapping by name.
        `fresh` looks whether the registry holds other content under this version by now, and loads that.
        Raises ModelNotFound, ModelLoadError or a child of it; ModelNotReady after `close`.
        """
        told = Told(architecture, dict(architecture_args or {}), signature, example_input)
        wishes = _Wishes(device, precision, use_compile, compile_mode, trust, variant, told)
        key, path = self._resolve(str(ref))
        wishes.check(key, path)
        stale: LoadedModel | None = None
        while True:
            model, flight, mine = self._enter(key, stale, wishes)
            if mine:
                return self._fly(flight, key, path, wishes)
            if model is None:
                model = flight.result()
            if not fresh or not self._outdated(model):
                return self._touched(model, path)
            stale = model

    def _enter(
        self, key: str, stale: LoadedModel | None, wishes: _Wishes
    ) -> tuple[LoadedModel | None, Future[LoadedModel], bool]:
        """The model if it is loaded and not `stale`; else the load to wait for, and whether it is ours to carry out."""
        with self._lock:
            self._check_open()
            model = self._models.get(key)
            if model is not None and model is not stale:
                return model, _NO_FLIGHT, False
            flight = self._loading.get(key)
            if flight is not None:
                return None, flight, False
            if not wishes.anything:
                self._check_failed(key)
            flight = self._loading[key] = Future()
            return None, flight, True

    def _fly(self, flight: Future[LoadedModel], key: str, path: Path | None, wishes: _Wishes) -> LoadedModel:
        """Load, for ourselves and all who wait for `flight`."""
        try:
            model = self._load(key, path, wishes)
            self._attached(model)
            self._take_in(model)
        except BaseException as error:
            with self._lock:
                del self._loading[key]
                if isinstance(error, ModelLoadError) and path is None:
                    tries = self._failed[key].tries + 1 if key in self._failed else 0
                    self._failed[key] = _Failure(error, time.monotonic() + RETRY_AFTER_S * 2 ** min(tries, 5), tries)
            flight.set_exception(error)
            raise
        with self._lock:
            self._failed.pop(key, None)
            del self._loading[key]
        flight.set_result(model)
        self._evict(newest=key)
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

    @property
    def open(self) -> bool:
        """False once nothing more can be loaded: it was closed, or its process was forked."""
        return self._ended is None

    def check_open(self) -> None:
        """Raise ModelNotReady when this manager can load nothing more: it was closed, or its process was forked."""
        with self._lock:
            self._check_open()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise ModelNotReady(self._ended)

    def _load(self, key: str, path: Path | None, wishes: _Wishes) -> LoadedModel:
        options = wishes.options(self._options)
        if path is not None:
            limits = self._limits.under(self._batching.get(path.stem))
            return load_file(path, self._model_type, options, limits, wishes.told, self._ranges)
        artifact = self.registry.get(key)
        options, limits = self._way(artifact, options)
        how = replace(self._choosing, variant=wishes.variant)
        return load_artifact(artifact, options, limits, how, self._ranges)

    def _way(self, artifact: Artifact, options: BackendOptions) -> tuple[BackendOptions, BatchLimits]:
        """How an artifact is run: `options` with what the registry trusts it, and its own limits."""
        limits = self._limits.of(artifact.manifest).under(self._batching.get(artifact.name))
        return replace(options, trust=strongest(options.trust, self.registry.trusted(artifact.digest))), limits

    def _attached(self, model: LoadedModel) -> None:
        """Its tasks at work before it answers; a model whose task cannot begin is closed again."""
        try:
            if self._attach:
                model.attach(self.registry)
        except BaseException:
            model.close()
            raise

    def _take_in(self, model: LoadedModel) -> None:
        """Put a model in place of the one that was loaded under its key, which goes when its requests are answered."""
        with self._lock:
            ended = self._ended
            idle = self._pop(model.key) if ended is None else None
            if ended is None:
                self._models[model.key] = model
                self._bytes += model.info.memory_bytes
        if ended is not None:
            model.close()
            raise ModelNotReady(ended)
        for warning in model.backend.warnings:
            log.warning("%s: %s", model.key, warning)
        _close_aside(idle)

    def _pop(self, key: str) -> LoadedModel | None:
        """Take a model out, lock held: it answers no new request. Returned when it is idle, and so to be closed."""
        model = self._models.pop(key, None)
        if model is None:
            return None
        self._bytes -= model.info.memory_bytes
        model.retired = True
        return None if model.leases else model

    def close(self) -> None:
        """Unload everything and load nothing more; waits until the models are closed. Safe to call twice."""
        with self._lock:
            if self._ended is None:
                self._ended = "the models are unloaded: the engine, manager or predictor that held them was closed"
            models = list(self._models.values())
            self._models.clear()
            self._bytes = 0
            for model in models:
                model.retired = True
        for model in models:
            model.close()
        if models:
            give_back()

    def after_fork(self) -> None:
        """In a forked child: the models, their threads and this lock are the parent's, and nothing here may be used."""
        self._lock = threading.Lock()
        self._ended = f"this engine, manager or predictor cannot be used here: {FORKED}"
        for model in self._models.values():
            model.retired = True
            abandon(model)
        self._models.clear()
        self._loading.clear()
        self._bytes = 0

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

    def verdicts(self, ref: str, *, measure: bool = False) -> tuple[Verdict, ...]:
        """Of each variant of an artifact whether it is taken here, and why: as far as is known, or `measure`d now."""
        artifact = self.registry.get(ref)
        options, limits = self._way(artifact, self._options)
        if not measure:
            return known_verdicts(artifact, options, limits, self._choosing)
        model = load_artifact(artifact, options, limits, replace(self._choosing, effort="all"), self._ranges)
        model.close()
        return model.info.choice

    def warmup(self, ref: str | Path, batch_size: int = 32) -> dict[int, float]:
        """Run the model at 1, 2, 4, … `batch_size` rows; the median seconds by number of rows. Loads it if need be."""
        check_at_least("batch_size", batch_size, 1)
        model = self.load_model(ref)
        golden = model.artifact.golden() if model.artifact is not None else None
        return warm_up(model.backend, model.signature, batch_size, golden, written=model.artifact is not None)

    # Holding and letting go

    def hold(self, model: LoadedModel) -> bool:
        """Keep a model from being closed until `release`; False when it was unloaded already. Counts as a use."""
        with self._lock:
            if model.retired:
                return False
            model.leases += 1
            self._models.move_to_end(model.key)
            return True

    def release(self, model: LoadedModel) -> None:
        """The other end of `hold`; the last one out closes an unloaded model."""
        with self._lock:
            model.leases -= 1
            idle = model.leases == 0
            last = idle and model.retired  # told with the lock held: by now another caller may hold it again
            over = idle and not model.retired and self._over_budget()
        if last:
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
            idle = self._pop(key)
        _close_aside(idle)

    def clear_cache(self, ref: str | Path | None = None) -> None:
        """Unload one model, or all of them; requests in flight are answered first."""
        keys = [self.key(str(ref))] if ref is not None else [model.key for model in self.models()]
        for key in keys:
            self.unload(key)

    def _over_budget(self) -> bool:
        return len(self._models) > self._max_models or (self._max_bytes is not None and self._bytes > self._max_bytes)

    def _evict(self, newest: str | None = None) -> None:
        """Unload the least recently used models that are neither pinned nor busy until the budget holds.

        `newest` stays, as nobody had the time to use it; without it, what was used last does.
        """
        while True:
            with self._lock:
                if not self._over_budget():
                    return
                kept = newest if newest in self._models else next(reversed(self._models), None)
                spare = (k for k, m in self._models.items() if k not in self._pinned and not m.leases and k != kept)
                victim = self._pop(next(spare, ""))
            if victim is None:
                return
            _close_aside(victim)


@dataclass(frozen=True, slots=True, eq=False)
class _Wishes:
    """What one caller of `load_model` wants otherwise than the manager does by itself; None = as the manager does."""

    device: str | None = None
    precision: str | None = None
    compile: bool | None = None
    compile_mode: str | None = None
    trust: str | None = None
    variant: str | None = None
    told: Told = field(default_factory=Told)

    @property
    def anything(self) -> bool:
        """False for a plain `load_model(ref)`."""
        plain = (self.device, self.precision, self.compile, self.compile_mode, self.trust, self.variant)
        return self.told.anything or any(wish is not None for wish in plain)

    def check(self, key: str, path: Path | None) -> None:
        """Raises InvalidInput or ConfigError for a wish that cannot be meant."""
        if self.precision is not None:
            check_precision(self.precision)
        if self.trust is not None:
            check_trust(self.trust)
        if path is None and self.told.anything:
            raise InvalidInput(
                f"{key}: architecture, signature and example_input are for files; the manifest says them"
            )
        if path is not None and self.variant is not None:
            raise InvalidInput(f"{path}: a file is one variant; leave out variant={self.variant!r}", field="variant")

    def options(self, base: BackendOptions) -> BackendOptions:
        """The manager's options with these wishes in their place."""
        names = ("device", "precision", "compile", "compile_mode", "trust")
        return replace(base, **{name: value for name in names if (value := getattr(self, name)) is not None})


_NO_FLIGHT: Future[LoadedModel] = Future()


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


def _close_aside(model: LoadedModel | None) -> None:
    """Close in a thread of its own: closing waits for a run in progress, and the caller may be an event loop."""
    if model is not None:
        threading.Thread(target=_close, args=(model,), name="penstock-unload", daemon=True).start()


def _close(model: LoadedModel) -> None:
    model.close()
    del model
    give_back()
