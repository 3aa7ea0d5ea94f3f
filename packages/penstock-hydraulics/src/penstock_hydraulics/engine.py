"""Diagnosis in this process, without a server: `InferenceEngine` in event loops, `HydraulicPredictor` elsewhere."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeAlias

from pydantic import Field

import penstock
from penstock import Predictor, Registry
from penstock.errors import InvalidInput, ModelLoadError, PenstockError
from penstock.plugin_api import Task
from penstock_hydraulics.diagnosis.schemas import PredictionRequest, PredictionResponse
from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.model_source import KIND, ModelSource, find_model
from penstock_hydraulics.signals.features import FeatureConfig
from penstock_hydraulics.task import HydraulicDiagnostics

__all__ = [
    "FeatureConfig",
    "HydraulicPredictor",
    "InferenceConfig",
    "InferenceEngine",
    "PredictionRequest",
    "PredictionResponse",
]

Request: TypeAlias = "PredictionRequest | Mapping[str, Any]"
Circuit: TypeAlias = "Topology | Mapping[str, Any] | str | None"


class InferenceConfig(penstock.InferenceConfig):
    """The options of `penstock.InferenceConfig`, with what hydraulic models need.

    `model_path` is a reference such as `hydraulics:v1.0`, the directory of an artifact, a model file that carries its
    scales, or what `penstock-hydraulics train` wrote; the default is the model shipped with this package. `history`
    opens the fleet database of the registry, as a server does: registered machines are found by id, answers are stored,
    and degradation follows their trend. Raises ConfigError naming the field for a value out of range, TypeError for an
    unknown name.
    """

    model_path: str | Path = Field("hydraulics", description="A reference, an artifact, a model file or a checkpoint.")
    history: bool = Field(False, strict=True, description="Store answers in the fleet database; follow their trend.")


class _Source:
    """A model, found and prepared, with the directory that it was prepared in."""

    def __init__(self, config: InferenceConfig) -> None:
        self.config, self.registry = config, Registry(config.registry, config.database_url)
        self.scratch = Path(tempfile.mkdtemp(prefix="penstock-hydraulics-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        try:
            self.found: ModelSource = find_model(config.model_path, self.registry, self.scratch)
        except BaseException:
            self.remove()
            raise

    def settle(self, tasks: Iterable[Task], model: str, features: FeatureConfig | None) -> HydraulicDiagnostics:
        """The hydraulic task among `tasks`, with `features`, and with its fleet if a history is kept."""
        task = next((task for task in tasks if isinstance(task, HydraulicDiagnostics)), None)
        if task is None:
            raise ModelLoadError(f"model_path: {self.config.model_path} is no model of the task {KIND}")
        if features is not None:
            task.features = features
        task.close()
        if self.config.history:
            self.registry.path.mkdir(parents=True, exist_ok=True)  # an artifact elsewhere made none
            task.attach(self.registry, model)
        return task


class InferenceEngine:
    """One model behind a queue that batches, for any number of callers; use it from one event loop or several.

    `await close()` it, or use it in an `async with` block, if it keeps a history.
    """

    def __init__(
        self,
        config: InferenceConfig | Mapping[str, Any] | None = None,
        feature_config: FeatureConfig | None = None,
    ) -> None:
        """Loads the model. `feature_config` replaces the model's own parameters of the window.

        Raises ModelNotFound or ModelLoadError, also for a model of another task.
        """
        self.config = _config(config)
        self.feature_config = _features(feature_config)
        self._source = source = _Source(self.config)
        found = source.found
        changes: dict[str, Any] = {"model_path": found.ref, "registry": None, "database_url": None}
        if found.config is not None:
            file = source.scratch / "task.json"
            file.write_text(json.dumps(dict(found.config)), encoding="utf-8")
            changes |= {"model_task": KIND, "model_preprocess": file}
        self._engine = penstock.InferenceEngine(self.config.model_copy(update=changes), registry=found.registry)
        try:
            model = self._engine.manager.load_model(found.ref)
            tasks = [runner.task for runner in model.runners.values()]
            self._task = source.settle(tasks, model.key, self.feature_config)
        except BaseException:
            self._engine.manager.close()
            source.remove()
            raise

    async def predict(self, request: Request, topology: Circuit = None) -> PredictionResponse:
        """Diagnose one work cycle; `topology` overrides the request's.

        Raises InvalidInput, Overloaded, DeadlineExceeded or InferenceError.
        """
        prediction = await self._engine.predict(_request(self._task, request, topology), task=KIND)
        assert isinstance(prediction.response, PredictionResponse)
        return prediction.response

    async def predict_batch(
        self, requests: Iterable[Request], topology: Circuit = None
    ) -> list[PredictionResponse | PenstockError]:
        """One diagnosis or one error for each request, in order; it waits for room in the queue."""
        read = [_read(self._task, request, topology) for request in _several(requests)]
        good = [request for request in read if isinstance(request, PredictionRequest)]
        answers = iter(await self._engine.predict_batch(good, task=KIND) if good else ())
        return [_answer(next(answers)) if isinstance(each, PredictionRequest) else each for each in read]

    def get_stats(self) -> dict[str, Any]:
        """The figures of `GET /stats`: model, device, queue, and requests, errors and times of the last minute."""
        return self._engine.get_stats() | {"model_path": str(self.config.model_path)}

    async def close(self) -> None:
        """Release the model and write queued results of the history. Waiting requests get ModelNotReady."""
        await self._engine.close()
        self._task.close()
        self._source.remove()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class HydraulicPredictor:
    """One model in this process, without a queue. Thread-safe; `close()` it, or use it in a `with` block."""

    def __init__(
        self,
        config: InferenceConfig | Mapping[str, Any] | None = None,
        feature_config: FeatureConfig | None = None,
    ) -> None:
        """As for `InferenceEngine`; the options of the queue have no meaning here."""
        self.config = _config(config)
        self.feature_config = _features(feature_config)
        self._source = source = _Source(self.config)
        found = source.found
        described: dict[str, Any] = {} if found.config is None else {"task": KIND, "preprocess": dict(found.config)}
        options = self.config.model_copy(update={"model_path": None, "registry": None, "database_url": None})
        try:
            self._predictor = Predictor(found.ref, registry=found.registry, config=options, **described)
        except BaseException:
            source.remove()
            raise
        try:
            info = self._predictor.info
            self._task = source.settle([self._predictor.task], f"{info.name}:{info.version}", self.feature_config)
        except BaseException:
            self._predictor.close()
            source.remove()
            raise

    def predict(self, request: Request, topology: Circuit = None) -> PredictionResponse:
        """Diagnose one work cycle; `topology` overrides the request's. Raises InvalidInput."""
        answer = self._predictor.predict(_request(self._task, request, topology))
        assert isinstance(answer, PredictionResponse)
        return answer

    def predict_batch(
        self, requests: Iterable[Request], topology: Circuit = None
    ) -> list[PredictionResponse | PenstockError]:
        """One diagnosis or one error for each request, in order."""
        read = [_read(self._task, request, topology) for request in _several(requests)]
        good = [request for request in read if isinstance(request, PredictionRequest)]
        answers = iter(self._predictor.predict_batch(good, on_error="return"))
        return [next(answers) if isinstance(each, PredictionRequest) else each for each in read]

    def close(self) -> None:
        """Release the model and write queued results of the history."""
        self._predictor.close()
        self._task.close()
        self._source.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _config(config: InferenceConfig | Mapping[str, Any] | None) -> InferenceConfig:
    if isinstance(config, InferenceConfig):
        return config
    if config is None or isinstance(config, Mapping):
        return InferenceConfig(**(config or {}))
    raise InvalidInput(
        f"config: {type(config).__name__} is no configuration; use penstock_hydraulics.InferenceConfig", field="config"
    )


def _features(features: FeatureConfig | None) -> FeatureConfig | None:
    if features is None or isinstance(features, FeatureConfig):
        return features
    raise InvalidInput(
        f"feature_config: {type(features).__name__} is no FeatureConfig; use penstock_hydraulics.FeatureConfig",
        field="feature_config",
    )


def _several(requests: Iterable[Request]) -> Iterable[Request]:
    if isinstance(requests, PredictionRequest | Mapping | str) or not isinstance(requests, Iterable):
        raise InvalidInput("requests: must be a list of requests; predict() answers a single one", field="requests")
    return requests


def _request(task: HydraulicDiagnostics, request: Request, topology: Circuit) -> PredictionRequest:
    read = task.coerce(request)
    return read if topology is None else read.model_copy(update={"topology": topology})


def _read(task: HydraulicDiagnostics, request: Request, topology: Circuit) -> PredictionRequest | PenstockError:
    try:
        return _request(task, request, topology)
    except PenstockError as error:
        return error


def _answer(item: Any) -> PredictionResponse | PenstockError:
    answer: PredictionResponse | PenstockError = item if isinstance(item, PenstockError) else item.response
    return answer
