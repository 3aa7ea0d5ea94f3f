"""One model in this process, no server and no queue: what a notebook or a batch job uses."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from penstock.backends.base import BackendOptions
from penstock.engine.batcher import BatchLimits
from penstock.engine.cache import PredictionCache
from penstock.engine.config import check_at_least, check_precision
from penstock.engine.loaded import LoadedModel, ModelInfo
from penstock.engine.manager import ModelManager, is_model_file
from penstock.errors import ConfigError
from penstock.registry.registry import Registry
from penstock.tasks.base import Task, TimedResponse
from penstock.tensors import Arrays, group_key, split, stack

OPTIMIZATIONS = ("graph_optimization", "kernel_fusion", "quantization")


class Predictor:
    """preprocess → backend → postprocess for one model. Thread-safe; a subclass may override either end."""

    def __init__(
        self,
        model: str | Path,
        *,
        registry: Registry | None = None,
        batch_size: int = 32,
        device: str = "auto",
        precision: str = "fp32",
        optimizations: Sequence[str] = ("graph_optimization", "kernel_fusion"),
        cache_size: int = 0,
    ) -> None:
        """`model` is a registry reference, a model that ships in an installed package, or a model file.

        `optimizations`: graph_optimization and kernel_fusion are the runtime's graph passes, on or off together;
        quantization asks for the artifact's int8 variant. Raises ModelNotFound, ModelLoadError or ConfigError.
        """
        unknown = set(optimizations) - set(OPTIMIZATIONS)
        if unknown:
            raise ConfigError(f"optimizations: {unknown.pop()!r} is unknown; known are {', '.join(OPTIMIZATIONS)}")
        check_at_least("batch_size", batch_size, 1)
        check_at_least("cache_size", cache_size, 0)
        check_precision(precision)
        registry = registry or Registry()
        name = str(model)
        if not is_model_file(name):
            registry.ensure(name)
        options = BackendOptions(
            device=device,
            precision="int8" if "quantization" in optimizations else precision,
            graph_optimization=bool({"graph_optimization", "kernel_fusion"} & set(optimizations)),
        )
        manager = ModelManager(registry, options=options, limits=BatchLimits(batch_rows=batch_size))
        self._model: LoadedModel = manager.load_model(name)
        if "quantization" in optimizations and not self._model.variant.endswith("int8"):
            self._model.close()
            raise ConfigError(f"{self._model.key} has no int8 variant that runs here; leave quantization out")
        self._batch_size = self._model.batcher.limits.batch_rows
        fixed = (spec.shape[0] for spec in self._model.signature.inputs if spec.shape[0] > 0)
        self._fixed_rows = next(fixed, None)
        self._cache = PredictionCache(cache_size) if cache_size else None

    @property
    def task(self) -> Task:
        """What the model's tensors mean."""
        return self._model.task

    @property
    def info(self) -> ModelInfo:
        """Device, variant, parameters, size and measured times of the model."""
        return self._model.info

    def preprocess(self, request: Any) -> Arrays:
        """The model's inputs for one request; override to change what the model sees."""
        return self.task.preprocess(request)

    def postprocess(self, outputs: Arrays, request: Any) -> Any:
        """The answer from one request's rows of the outputs; override to change what callers see."""
        return self.task.postprocess(outputs, request)

    def predict(self, value: Any) -> Any:
        """The answer to one request: the Task's Request, a mapping of its fields, an array or a file.

        Raises InvalidInput or InferenceError.
        """
        started = time.perf_counter()
        request, arrays, rows = self._prepare(value)
        prepared = time.perf_counter()
        outputs = self._run_rows(arrays, rows, self._batch_size)
        ran = time.perf_counter()
        response = self.postprocess(outputs, request)
        if isinstance(response, TimedResponse):
            marks = (prepared - started, ran - prepared, time.perf_counter() - ran)
            response.stamp(self._model.version, *(seconds * 1e3 for seconds in marks))
        return response

    def predict_batch(self, values: Iterable[Any], batch_size: int | None = None, num_workers: int = 0) -> list[Any]:
        """The answers to many requests, in order, `batch_size` at a time.

        `values` is any iterable; of an array each row is a request. `num_workers` threads prepare requests while the
        model runs. Raises the first error.
        """
        size = self._batch_size if batch_size is None else batch_size
        check_at_least("batch_size", size, 1)
        if num_workers <= 0:
            chunks = _chunks(values, size)
            return [answer for chunk in chunks for answer in self._answer(map(self._prepare, chunk), size)]
        answers: list[Any] = []
        with ThreadPoolExecutor(num_workers, thread_name_prefix="penstock-prepare") as pool:
            ahead: list[Iterator[Any]] = []
            for chunk in _chunks(values, size):
                ahead.append(pool.map(self._prepare, chunk))
                if len(ahead) > 1:
                    answers.extend(self._answer(ahead.pop(0), size))
            for prepared in ahead:
                answers.extend(self._answer(prepared, size))
        return answers

    def close(self) -> None:
        """Give the model's memory back."""
        self._model.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, value: Any) -> tuple[Any, Arrays, int]:
        request = value if isinstance(value, self.task.Request) else self.task.coerce(value)
        arrays, rows = self.task.signature.validate(self.preprocess(request))
        return request, arrays, rows

    def _answer(self, prepared: Iterable[tuple[Any, Arrays, int]], size: int) -> list[Any]:
        """Runs the requests that can share a run together, and answers in the order they came."""
        items = list(prepared)
        groups: dict[Any, list[int]] = {}
        for index, (_, arrays, _) in enumerate(items):
            groups.setdefault(group_key(arrays), []).append(index)
        answers: list[Any] = [None] * len(items)
        for members in groups.values():
            rows = [items[index][2] for index in members]
            outputs = self._run_rows(stack([items[index][1] for index in members]), sum(rows), size)
            for index, part in zip(members, split(outputs, rows), strict=True):
                answers[index] = self.postprocess(part, items[index][0])
                if isinstance(answers[index], TimedResponse):
                    answers[index].stamp(self._model.version)
        return answers

    def _run_rows(self, arrays: Arrays, rows: int, size: int) -> Arrays:
        """All rows, at most `size` a run (or what the model was exported for), from the cache where it knows them."""
        key = self._cache.key(self._model.cache_identity, arrays) if self._cache is not None else b""
        if self._cache is not None and (found := self._cache.get(key)) is not None:
            return found
        size = min(size, self._fixed_rows or size)
        parts = [
            self._model.backend.run({name: array[start : start + size] for name, array in arrays.items()})
            for start in range(0, max(rows, 1), size)
        ]
        outputs = stack(parts)
        if self._cache is not None:
            self._cache.put(key, outputs)
        return outputs


def _chunks(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk
