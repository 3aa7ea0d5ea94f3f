"""One model in this process, without server and queue, for notebooks and batch jobs."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias, Unpack

from penstock.engine.batching.halving import halve_batch
from penstock.engine.cache import PredictionCache
from penstock.engine.config import check_at_least
from penstock.engine.loading.load_overrides import LiveModule, LoadKeywords
from penstock.engine.loading.loaded_model import TENSOR, LoadedModel, ModelInfo
from penstock.engine.loading.manager import ModelManager
from penstock.engine.predictor.local_runs import LocalRuns
from penstock.engine.predictor.progress import Progress, reported
from penstock.engine.predictor.sources import chunked, prepared_ahead, requests_of
from penstock.errors import ConfigError, InferenceError, InvalidInput, ModelNotReady, PenstockError
from penstock.formats import is_model_file
from penstock.options import (
    BackendOptions,
    Effort,
    EngineOptions,
    RangeAction,
    also_named,
    check_names,
    given,
    with_option_help,
)
from penstock.registry.registry import Registry
from penstock.tasks.base import Task, TimedResponse
from penstock.tensors import Arrays

OPTIMIZATIONS = ("graph_optimization", "kernel_fusion", "quantization")
_GRAPH_OPTIMIZATIONS = {"graph_optimization", "kernel_fusion"}
_LOAD_ONLY = [name for name in LoadKeywords.__annotations__ if name not in BackendOptions.model_fields]


class _Prepared(NamedTuple):
    request: Any
    arrays: Arrays
    rows: int


Item: TypeAlias = "_Prepared | PenstockError"
OnError: TypeAlias = Literal["raise", "return"]


class PredictorKeywords(LoadKeywords, total=False):
    """The keywords of Predictor; None leaves an option as it is."""

    optimizations: Sequence[str] | None
    batch_size: int | None
    cache_size: int | None
    cache_bytes: int | None
    model_type: str | None
    require_signed: str | Path | Sequence[str | Path] | None
    choosing: Effort | None
    on_input_range: RangeAction | None
    on_output_range: RangeAction | None
    on_nan_output: RangeAction | None


class Predictor:
    """preprocess → backend → postprocess for one model. Thread-safe; a subclass may override either end.

    Another process, forked or spawned, cannot use the model of this one; a predictor that is pickled and sent there
    (`pool.map(predictor.predict, …)`) loads its own, once in each process.
    """

    @also_named(model_path="model", ref="model")
    @with_option_help(PredictorKeywords)
    def __init__(
        self,
        model: str | Path | LiveModule,
        *,
        registry: Registry | Path | str | None = None,
        config: EngineOptions | Mapping[str, Any] | None = None,
        **options: Unpack[PredictorKeywords],
    ) -> None:
        """`model` is a registry reference, a model that ships in an installed package, a model file, or a
        `torch.nn.Module`, of which a copy runs; a module needs an `example_input` or its `signature`. A name with a
        route is its version with the greatest weight.

        It runs with the options of `config` and, in their place, `options`. `optimizations`: graph_optimization and
        kernel_fusion are the runtime's graph passes, on or off together; quantization selects the artifact's int8
        variant, and without one `info.warnings` says so. `task` is one of the model's tasks, `variant` one of its
        variants such as onnx-fp32. `labels`, `preprocess`, `example_input`, `batch_axes`, `no_batch`, `signature`,
        `architecture` and `architecture_args` describe a model file, as for `ModelManager.load_model`.
        Raises ModelNotFound, ModelLoadError, ConfigError naming an option out of range, TypeError for an unknown one.
        """
        self._made_with: dict[str, Any] = {"model": model, "config": config, **options}
        self._token = uuid.uuid4().hex
        check_names("Predictor", options, {*BackendOptions.model_fields, *PredictorKeywords.__annotations__})
        chosen = given(options)
        engine_options = _engine_options(EngineOptions.of(config), chosen)
        self._manager = ModelManager(registry, engine_options)
        self._registry = self._manager.registry
        self._model = self._load(model, chosen)
        self._bind(chosen.get("task"))
        cached = engine_options.cache_size or engine_options.cache_bytes
        self._cache = PredictionCache(engine_options.cache_size, engine_options.cache_bytes) if cached else None

    def _load(self, model: Any, chosen: Mapping[str, Any]) -> LoadedModel:
        load: dict[str, Any] = {name: chosen[name] for name in _LOAD_ONLY if name in chosen}
        is_file = is_model_file(str(model))
        if not isinstance(model, str | Path):
            return self._manager.load_module(_module(model), **load)
        if not is_file:
            self._registry.ensure(str(model))
        if not is_file or chosen.get("task") == TENSOR:  # one of the tasks that it has
            load.pop("task", None)
        return self._manager.load_model(str(model) if is_file else self._chosen(str(model)), **load)

    def _chosen(self, ref: str) -> str:
        """The reference itself; of a name with a route, the version with the greatest weight."""
        found = self._registry.routes.all().get(ref)
        return ref if found is None else f"{ref}:{found.route.primary}"

    def _bind(self, task: str | None) -> None:
        """Use one task of the loaded model; the model is closed again if it does not have it."""
        model = self._model
        try:
            self._runner = model.runner if task is None else model.runner_for(task)
        except PenstockError:
            self._manager.close()
            raise
        self._runs = LocalRuns(model)
        self._batch_size = model.batcher.limits.batch_rows

    @property
    def task(self) -> Task:
        """The task: the meaning of the model's tensors."""
        return self._runner.task

    @property
    def info(self) -> ModelInfo:
        """Device, variant and why it was chosen, parameters, size and measured times of the model."""
        return self._model.info

    def preprocess(self, request: Any) -> Arrays:
        """The model's inputs for one request; override to change what the model sees."""
        return self.task.preprocess(request)

    def postprocess(self, outputs: Arrays, request: Any) -> Any:
        """The answer from one request's rows of the outputs; override to change what callers see."""
        return self.task.postprocess(outputs, request)

    @also_named(data="value", inputs="value")
    def predict(self, value: Any) -> Any:
        """The answer to one request: the Task's Request, a mapping of its fields, an array or a file.

        Raises InvalidInput, InferenceError (OutOfMemory when not even one row fits), or ModelNotReady after `close`.
        """
        started = time.perf_counter()
        item = self._prepare(value)
        prepared = time.perf_counter()
        outputs = self._outputs([item], self._batch_size)[0]
        ran = time.perf_counter()
        response = self._finished(item, outputs)
        if isinstance(response, TimedResponse):
            marks = (prepared - started, ran - prepared, time.perf_counter() - ran)
            response.stamp(self._model.version, *(seconds * 1e3 for seconds in marks))
        return response

    @also_named(data="values", inputs="values")
    def predict_batch(
        self,
        values: Iterable[Any],
        batch_size: int | None = None,
        num_workers: int = 0,
        *,
        progress: Progress = False,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """The answers to many requests, in order, `batch_size` at a time; as `predict_iter`, all at once."""
        return list(self.predict_iter(values, batch_size, num_workers, progress=progress, on_error=on_error))

    @also_named(data="values", inputs="values")
    def predict_iter(
        self,
        values: Iterable[Any],
        batch_size: int | None = None,
        num_workers: int = 0,
        *,
        progress: Progress = False,
        on_error: OnError = "raise",
    ) -> Iterator[Any]:
        """The answers one by one, in order; however long `values` is, only two batches of it are in memory.

        `values` is any iterable; of an array each row is a request. Each is copied when it is pulled, so that a source
        may reuse its buffer. `num_workers` threads prepare requests while the
        model runs. `progress` shows a bar, or is called with the requests done and, where it is known, their number.
        Raises the first error, or with `on_error="return"` gives it in the place of the answer.
        """
        size = self._batch_size if batch_size is None else batch_size
        check_at_least("batch_size", size, 1)
        check_at_least("num_workers", num_workers, 0)
        if on_error not in ("raise", "return"):
            raise ConfigError(f"on_error: {on_error!r} is unknown; known are raise, return")
        self._check_open()
        prepare = self._prepare if on_error == "raise" else self._prepare_or_error
        chunks = chunked(requests_of(values), size)
        prepared = prepared_ahead(prepare, chunks, num_workers) if num_workers else ([*map(prepare, c)] for c in chunks)
        answers = (self._answer(items, size, on_error) for items in prepared)
        total = len(values) if isinstance(values, Sized) else None
        return (answer for chunk in reported(answers, total, progress) for answer in chunk)

    def close(self) -> None:
        """Release the model's memory; later calls raise ModelNotReady. Safe to call twice."""
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        own = {name: value for name, value in self.__dict__.items() if name not in _RUNTIME}
        registry = (self._registry.path, self._registry.database_url, self._registry.require_signed)
        return _revived, (type(self), self._token, registry, self._made_with, own)

    # One batch

    def _check_open(self) -> None:
        if self._model.retired:
            self._manager.check_open()
            raise ModelNotReady(f"{self._model.key} was unloaded; make another Predictor")

    def _prepare(self, value: Any) -> _Prepared:
        self._check_open()
        item: _Prepared = _guarded(self.task, "to prepare the request", self._checked, value)
        if self._runner.watch is not None:
            self._runner.watch.inputs(item.arrays)
        return item

    def _checked(self, value: Any) -> _Prepared:
        request = value if isinstance(value, self.task.Request) else self.task.coerce(value)
        arrays = self.preprocess(request)
        try:
            return _Prepared(request, *self.task.signature.validate(arrays))
        except InvalidInput as error:
            if self.task.passes_arrays:
                raise
            raise InferenceError(f"the arrays that {self._who} made for the request do not fit: {error}") from error

    @property
    def _who(self) -> str:
        """The code that makes the arrays."""
        own = type(self).preprocess is not Predictor.preprocess
        return f"{type(self).__name__}.preprocess" if own else f"the task {self.task.kind}"

    def _prepare_or_error(self, value: Any) -> Item:
        try:
            return self._prepare(value)
        except PenstockError as error:
            return error

    def _answer(self, items: Sequence[Item], size: int, on_error: OnError) -> list[Any]:
        """One answer an item, in order; an item that is an error already is its own answer."""
        good = [item for item in items if isinstance(item, _Prepared)]
        if on_error == "raise":
            outputs: Sequence[Arrays | PenstockError] = self._outputs(good, size)
        else:
            outputs = self._outputs_or_errors(good, size)
        answers = iter([self._finished_or_error(*pair, on_error) for pair in zip(good, outputs, strict=True)])
        return [next(answers) if isinstance(item, _Prepared) else item for item in items]

    def _outputs_or_errors(self, items: Sequence[_Prepared], size: int) -> list[Arrays | PenstockError]:
        """A batch that fails is halved until only the items at fault have the error."""

        def run(part: Sequence[_Prepared]) -> list[Arrays | PenstockError]:
            return [*self._outputs(part, size)]

        try:
            return run(items)
        except PenstockError as error:
            return halve_batch(run, items, error, _error_of)

    def _finished_or_error(self, item: _Prepared, outputs: Arrays | PenstockError, on_error: OnError) -> Any:
        if isinstance(outputs, PenstockError):
            return outputs
        try:
            answer = self._finished(item, outputs)
        except PenstockError as error:
            if on_error == "raise":
                raise
            return error
        if isinstance(answer, TimedResponse):
            answer.stamp(self._model.version)
        return answer

    def _finished(self, item: _Prepared, outputs: Arrays) -> Any:
        if self._runner.watch is not None:
            self._runner.watch.outputs(outputs)
        return _guarded(self.task, "on the model's outputs", self.postprocess, outputs, item.request)

    def _outputs(self, items: Sequence[_Prepared], size: int) -> list[Arrays]:
        """Each item's rows of the outputs, from the cache where it knows them; equal items do not share theirs."""
        cache, identity = self._cache, self._model.cache_identity
        if cache is None or not self._model.cacheable:
            return self._run(items, size)
        keys = [cache.key(identity, item.arrays) for item in items]
        found = {key: outputs for key in keys if (outputs := cache.get(key)) is not None}
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in found}
        for key, outputs in zip(missing, self._run([*missing.values()], size), strict=True):
            cache.put(key, outputs, identity)
            found[key] = outputs
        return [{name: array.copy() for name, array in found[key].items()} for key in keys]

    def _run(self, items: Sequence[_Prepared], size: int) -> list[Arrays]:
        return self._runs.outputs([item.arrays for item in items], [item.rows for item in items], size)


_RUNTIME = (
    "_batch_size",
    "_cache",
    "_runner",
    "_made_with",
    "_manager",
    "_model",
    "_registry",
    "_runs",
    "_token",
)
"""Attributes that an unpickled predictor creates again; all others, such as those of a subclass, are pickled."""

BasePredictor = Predictor
"""The name to subclass: override `preprocess`, `postprocess` or both."""

_COPIES = 8
_copies: OrderedDict[str, Predictor] = OrderedDict()


def _revived(
    kind: type[Predictor],
    token: str,
    registry: tuple[Path, str, tuple[Path, ...]],
    made_with: dict[str, Any],
    own: dict[str, Any],
) -> Predictor:
    """Unpickle a predictor from another process; its model is loaded once, however often it is unpickled."""
    copy = _copies.get(token)
    if copy is None or copy._model.retired:
        copy = kind.__new__(kind)
        Predictor.__init__(copy, registry=Registry(*registry), **made_with)
        copy._token = token
        _copies[token] = copy
        while len(_copies) > _COPIES:
            _copies.popitem(last=False)
    copy.__dict__.update(own)
    _copies.move_to_end(token)
    return copy


def _module(model: Any) -> LiveModule:
    """The module. Raises InvalidInput for anything else, such as a class that was not called."""
    if isinstance(model, LiveModule) and not isinstance(model, type):
        return model
    given = model.__name__ if isinstance(model, type) else type(model).__name__
    raise InvalidInput(
        f"model: {given} is not a model; give a reference such as fraud@champion, a path or a torch.nn.Module object",
        field="model",
    )


def _engine_options(config: EngineOptions, chosen: Mapping[str, Any]) -> EngineOptions:
    """The options of `config` with those that were given in their place."""
    changes = {name: value for name, value in chosen.items() if name in EngineOptions.model_fields}
    optimizations = chosen.get("optimizations")
    if optimizations is not None:
        _check_optimizations(optimizations)
        changes["enable_onnx_optimization"] = bool(_GRAPH_OPTIMIZATIONS & set(optimizations))
        if "quantization" in optimizations:
            changes["precision"] = "int8"
    return config.override(**changes)


def _check_optimizations(optimizations: Sequence[str]) -> None:
    names = {optimizations} if isinstance(optimizations, str) else set(optimizations)
    if unknown := sorted(names - set(OPTIMIZATIONS)):
        raise ConfigError(f"optimizations: {unknown[0]!r} is unknown; known are {', '.join(OPTIMIZATIONS)}")
    if isinstance(optimizations, str):
        raise ConfigError(f"optimizations: give a list of them, [{optimizations!r}]")


def _guarded(task: Task, when: str, work: Callable[..., Any], *args: Any) -> Any:
    """What code of a task or a subclass gives; a bug in it becomes an InferenceError that has the bug as its cause."""
    try:
        return work(*args)
    except PenstockError:
        raise
    except Exception as error:
        raise InferenceError(f"the task {task.kind} failed {when}: {type(error).__name__}: {error}") from error


def _error_of(item: _Prepared, error: BaseException) -> PenstockError:  # noqa: ARG001
    """The error as the item's own result; a bug in a backend is raised."""
    if not isinstance(error, PenstockError):
        raise error
    return error
