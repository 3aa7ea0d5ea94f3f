"""The models of a process: loads each once, keeps the most recently used, and unloads what is no longer needed."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.refs import FILE_VERSION, name_of
from penstock.backends.axes.seen import moved_samples, rows_first
from penstock.backends.examples import Examples
from penstock.backends.verification import warm_up
from penstock.engine.config import check_at_least
from penstock.engine.loading.fork_safety import call_after_fork
from penstock.engine.loading.load import (
    batch_limits,
    bounded_runs,
    load_artifact,
    load_file,
    load_module,
    load_python,
    naming,
    reporting,
    signed_artifact,
)
from penstock.engine.loading.load_backoff import LoadBackoff
from penstock.engine.loading.load_overrides import LiveModule, LoadKeywords, LoadOverrides
from penstock.engine.loading.loaded_model import LoadedModel, ModelInfo
from penstock.engine.loading.model_cache import ModelCache
from penstock.engine.loading.selection_cache import SelectionResult
from penstock.engine.loading.variant_selection import VariantSelection, known_results
from penstock.engine.single_flight import SingleFlight
from penstock.errors import InvalidInput, ModelNotFound, ModelNotReady
from penstock.formats import file_stem, is_model_file, python_class
from penstock.options import EngineKeywords, EngineOptions, also_named, check_names, given, with_option_help
from penstock.registry.registry import Registry
from penstock.scan.trust import strongest

log = logging.getLogger(__name__)


class ModelManager:
    """The models of this process. An ordinary object: its owner decides how many there are. Thread-safe."""

    @with_option_help(EngineKeywords)
    def __init__(
        self,
        registry: Registry | Path | str | None = None,
        config: EngineOptions | Mapping[str, Any] | None = None,
        *,
        attach: bool = False,
        **options: Unpack[EngineKeywords],
    ) -> None:
        """The models of `registry`, run with the options of `config` and, in their place, `options`.

        `max_models` and `max_bytes` bound what stays loaded besides pinned and busy models. `attach` starts the
        background resources of tasks, such as a writer of histories; an engine's manager does.
        Raises ConfigError naming an option out of range, TypeError for an unknown one.
        """
        check_names("ModelManager", options, EngineOptions.model_fields)
        self._options = EngineOptions.of(config).override(**given(options))
        source = registry if registry is not None else self._options.registry
        self.registry = source if isinstance(source, Registry) else _registry(source, self._options)
        if self.registry.require_signed and not self._options.require_signed:
            self._options = self._options.override(require_signed=self.registry.require_signed)
        self._attach = attach
        self.cache = ModelCache(self._options.max_models, self._options.byte_budget)
        self._flights: SingleFlight[str, LoadedModel] = SingleFlight()
        self._backoff = LoadBackoff()
        call_after_fork(self)

    # Loading

    @also_named(model_path="ref", path="ref")
    @with_option_help(LoadKeywords)
    def load_model(self, ref: str | Path, *, fresh: bool = False, **overrides: Unpack[LoadKeywords]) -> LoadedModel:
        """The loaded model for a registry reference or a model file; concurrent callers share one load.

        The overrides are options in place of the manager's, and `variant`, one of the artifact's by name, such as
        onnx-fp32. A model that is loaded with others is loaded again, and then takes the place of the loaded one. The
        other overrides describe a model file: the kind of its `task`, the names of
        its classes (`labels`), the task's configuration or steps (`preprocess`; both also as a file), the axis of the
        batch by name (`batch_axes`) or that there is none (`no_batch`), and an `example_input` that it runs with: an
        array or tensor, a tuple of them, a mapping by name, or a file of them. A file of weights (.ckpt, .pt, .pth,
        .safetensors) needs its `architecture`, the class or its `module:Class`, with the `architecture_args` of its
        constructor, and its `signature` or an `example_input` to infer it from.
        `fresh` loads again if the registry holds other content under this version by now.
        Raises ModelNotFound, ModelLoadError or a child of it; ModelNotReady after `close`; ConfigError or TypeError for
        a wrong option.
        """
        chosen = LoadOverrides.of(overrides)
        options = self._options.override(**chosen.options)
        key, path = self._resolve(str(ref))
        chosen.check(key, path)
        stale: LoadedModel | None = None
        while True:
            model = self._load_once(key, path, options, chosen, stale)
            if self._meets(model, chosen, options) and not (fresh and self.outdated(model)):
                return self._used(model, path)
            stale = model

    def _meets(self, model: LoadedModel, overrides: LoadOverrides, options: EngineOptions) -> bool:
        """True if a model runs as the overrides of another call ask."""
        if overrides.empty or overrides.met_by(model.loaded_with, model.info.device, options):
            return True
        log.info("%s is loaded again, with other options than before", model.key)
        return False

    @with_option_help(LoadKeywords)
    def load_module(self, module: LiveModule, **overrides: Unpack[LoadKeywords]) -> LoadedModel:
        """A copy of a live `torch.nn.Module`, loaded under the name of its class, in place of an earlier one.

        It needs an `example_input` or its `signature`; the keywords are those of `load_model`. The registry does not
        know it, and no other process can load it: export or publish a model that is to be served.
        """
        chosen = LoadOverrides.of(overrides)
        self.cache.check_open()
        options = self._options.override(**chosen.options)
        model = load_module(module, options, chosen.description, self._proofs(options))
        self.cache.add(model)
        return model

    def _load_once(
        self, key: str, path: Path | None, options: EngineOptions, overrides: LoadOverrides, stale: LoadedModel | None
    ) -> LoadedModel:
        """The model under this key, unless it is the stale one; else the result of a load that all callers share."""

        def load() -> LoadedModel:
            model = self._current(key, stale)  # another flight may have ended since the look below
            if model is not None:
                return model
            with reporting(key), bounded_runs():
                return self._load(key, path, options, overrides)

        self.cache.check_open()
        return self._current(key, stale) or self._flights.run(key, load)

    def _current(self, key: str, stale: LoadedModel | None) -> LoadedModel | None:
        """The model under this key, unless it is the stale one."""
        model = self.cache.find(key)
        return None if model is stale else model

    def _load(self, key: str, path: Path | None, options: EngineOptions, overrides: LoadOverrides) -> LoadedModel:
        if path is not None:
            about = overrides.description.over(options.file_description)
            if python_class(str(path)) is None:
                model = load_file(path, options, about, self._proofs(options))
            else:
                start = partial(load_python, path, options, about, self._proofs(options))
                model = self._backoff.run(str(path), start, retry=not overrides.empty)
        else:
            with naming(key):
                model = self._load_artifact(self.registry.get(key), options, overrides)
        try:
            if self._attach:
                model.attach(self.registry)
        except BaseException:
            model.close()
            raise
        model.loaded_with = overrides.on(options, model.variant)
        self.cache.add(model)
        for warning in model.backend.warnings:
            log.warning("%s: %s", model.key, warning)
        for sentence in model.info.assumed:
            log.info("%s: %s", model.key, sentence)
        return model

    def _load_artifact(self, artifact: Artifact, options: EngineOptions, overrides: LoadOverrides) -> LoadedModel:
        """Unless with overrides, content that failed a moment ago, and is trusted no more than then, fails again."""
        artifact, options = signed_artifact(artifact, options), self._trusted(artifact, options)
        load = partial(load_artifact, artifact, options, self._selection(options, overrides.variant))
        return self._backoff.run(f"{artifact.digest} {options.trust}", load, retry=not overrides.empty)

    def _trusted(self, artifact: Artifact, options: EngineOptions) -> EngineOptions:
        """The options with the trust that the registry records for the artifact, if that is more."""
        return options.override(trust=strongest(options.trust, self.registry.trusted(artifact.digest)))

    def _selection(self, options: EngineOptions, variant: str | None = None) -> VariantSelection:
        directory = options.cache_dir or self.registry.path / ".cache"
        return VariantSelection(variant, options.choosing, directory / "choices")

    def _proofs(self, options: EngineOptions) -> Path | None:
        """Where proofs of bare files are kept; a file alone does not make a registry."""
        kept = options.cache_dir is not None or self.registry.path.is_dir()
        return self._selection(options).proofs if kept else None

    def key(self, ref: str) -> str:
        """`name:version` of what a reference means now. Raises ModelNotFound."""
        return self._resolve(ref)[0]

    def _resolve(self, ref: str) -> tuple[str, Path | None]:
        """The key, and the path of a file: while it is loaded, a file is a model under its stem, in version v1.0."""
        if is_model_file(ref):
            path, stem = Path(ref), file_stem(ref)
            if not re.fullmatch(r"[^:@/]+", stem):
                raise InvalidInput(f"{path}: a model cannot be called {stem!r}; rename the file")
            return f"{stem}:{FILE_VERSION}", path
        name = name_of(ref)
        file = self.cache.find(f"{name}:{FILE_VERSION}")
        if file is None or file.artifact is not None:
            return ":".join(self.registry.resolve(ref)), None
        if ref not in (name, file.key):
            raise ModelNotFound(f"{ref}: {name} is a bare model file, which has the version {FILE_VERSION} only")
        return file.key, file.path

    def _used(self, model: LoadedModel, path: Path | None) -> LoadedModel:
        if path is not None and model.path != path:
            raise InvalidInput(f"{path}: {model.key} is served from {model.path or 'the registry'} already; rename one")
        model.used_at = time.monotonic()
        return model

    def outdated(self, model: LoadedModel) -> bool:
        """True if the registry holds other content under the model's name and version by now."""
        return model.artifact is not None and self.registry.get(model.key).digest != model.artifact.digest

    def has_current(self, key: str) -> bool:
        """True if this `name:version` is loaded, with the content that the registry holds now."""
        model = self.cache.find(key)
        return model is not None and model.artifact is not None and not self.outdated(model)

    # Looking

    def get_model(self, ref: str | Path) -> LoadedModel:
        """A loaded model, which counts as used now; raises ModelNotReady if it is known but not loaded."""
        model = self._loaded(ref)
        model.used_at = time.monotonic()
        return model

    def get_model_info(self, ref: str | Path) -> ModelInfo:
        """The facts about a loaded model, which does not count as a use."""
        return self._loaded(ref).info

    def _loaded(self, ref: str | Path) -> LoadedModel:
        key = self.key(str(ref))
        model = self.cache.find(key)
        if model is None:
            raise ModelNotReady(f"{key} is not loaded; load_model() loads it")
        return model

    def list_cached_models(self) -> list[ModelInfo]:
        """The facts about every loaded model, least recently used first."""
        return [model.info for model in self.models()]

    def models(self) -> list[LoadedModel]:
        """Every loaded model, least recently used first."""
        return self.cache.all()

    def selection_results(self, ref: str, *, measure: bool = False) -> tuple[SelectionResult, ...]:
        """For each variant of an artifact whether this machine runs it, and why: as known so far, or measured now."""
        artifact = self.registry.get(ref)
        options = self._trusted(artifact, self._options)
        if not measure:
            limits = batch_limits(options, artifact.name, artifact.manifest)
            return known_results(artifact, options, limits, self._selection(options))
        model = load_artifact(artifact, options, self._selection(options.override(choosing="all")))
        model.close()
        return model.info.choice

    def check(self, ref: str) -> ModelInfo:
        """Load an artifact as a server with these options does, and close it again; the first variant that works.

        Raises ModelNotFound or ModelLoadError.
        """
        key = self.key(ref)
        with naming(key):
            artifact = self.registry.get(key)
        options = self._trusted(artifact, self._options.override(choosing="first"))
        model = load_artifact(artifact, options, self._selection(options))
        model.close()
        return model.info

    def warmup(self, ref: str | Path, batch_size: int = 32) -> dict[int, float]:
        """Run the model at 1, 2, 4, … `batch_size` rows; the median seconds by number of rows. Loads it if needed."""
        check_at_least("batch_size", batch_size, 1)
        model = self.load_model(ref)
        golden = model.artifact.golden() if model.artifact is not None else None
        backend = rows_first(model.backend)
        examples = Examples(backend, backend.signature, moved_samples(golden, model.signature))
        rows = 1 if model.signature.whole else batch_size
        return warm_up(backend, backend.signature, rows, examples, written=model.artifact is not None)

    # Leases, eviction and the end

    def pin(self, keys: set[str]) -> None:
        """Keep exactly these `name:version` loaded, regardless of the budget."""
        self.cache.pin(keys)

    def unload(self, key: str) -> None:
        """Unload a model: it answers no new request and is closed when its last one is answered."""
        self.cache.remove(key)

    def clear_cache(self, ref: str | Path | None = None) -> None:
        """Unload one model, or all of them; requests in flight are answered first."""
        keys = [self.key(str(ref))] if ref is not None else [model.key for model in self.models()]
        for key in keys:
            self.unload(key)

    @property
    def open(self) -> bool:
        """False after `close` and in a forked process: nothing more can be loaded."""
        return self.cache.open

    def check_open(self) -> None:
        """Raises ModelNotReady after `close` and in a forked process."""
        self.cache.check_open()

    def close(self) -> None:
        """Unload everything and load nothing more; waits until the models are closed. Safe to call twice."""
        self.cache.close()

    def after_fork(self) -> None:
        """In a forked child: nothing that is loaded or loading may be used."""
        self.cache.after_fork()
        self._flights.clear()
        self._backoff.clear()


def _registry(path: Path | str | None, options: EngineOptions) -> Registry:
    return Registry(path, options.database_url, options.require_signed)
