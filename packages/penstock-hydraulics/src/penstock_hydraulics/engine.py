"""In-process diagnosis without a server: for notebooks, batch jobs and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from penstock import Predictor, Registry
from penstock.errors import ModelLoadError, PenstockError
from penstock_hydraulics.diagnosis.schemas import PredictionRequest, PredictionResponse
from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.features import FeatureConfig
from penstock_hydraulics.task import HydraulicDiagnostics

__all__ = ["FeatureConfig", "InferenceConfig", "InferenceEngine", "PredictionRequest", "PredictionResponse"]


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """Model and options. `model` is a reference in the registry; the default is the model shipped with this package.

    `history` opens the fleet database of the registry, as a server does: registered machines are found by id, answers
    are stored, and degradation follows their trend.
    """

    model: str = "hydraulics"
    registry: Path | str | None = None
    database_url: str | None = None
    device: str = "auto"
    threads: int | None = None
    batch_size: int = 32
    history: bool = False
    features: FeatureConfig = field(default_factory=FeatureConfig)


class InferenceEngine:
    """One model in this process. Thread-safe; `close()` it, or use it in a `with` block."""

    def __init__(self, config: InferenceConfig | None = None) -> None:
        """Raises ModelNotFound or ModelLoadError, also for a model of another task."""
        self.config = config = config or InferenceConfig()
        registry = Registry(config.registry, config.database_url)
        self._predictor = Predictor(
            config.model,
            registry=registry,
            device=config.device,
            threads=config.threads,
            batch_size=config.batch_size,
        )
        task = self._predictor.task
        if not isinstance(task, HydraulicDiagnostics):
            self._predictor.close()
            raise ModelLoadError(f"{config.model} has the task {task.kind}, not {HydraulicDiagnostics.kind}")
        self._task = task
        task.features = config.features
        if config.history:
            info = self._predictor.info
            task.attach(registry, f"{info.name}:{info.version}")

    def predict(
        self,
        request: PredictionRequest | Mapping[str, Any],
        topology: Topology | Mapping[str, Any] | str | None = None,
    ) -> PredictionResponse:
        """Diagnose one work cycle; `topology` overrides the request's. Raises InvalidInput."""
        answer = self._predictor.predict(self._request(request, topology))
        assert isinstance(answer, PredictionResponse)
        return answer

    def predict_batch(
        self,
        requests: Iterable[PredictionRequest | Mapping[str, Any]],
        topology: Topology | Mapping[str, Any] | str | None = None,
    ) -> list[PredictionResponse | PenstockError]:
        """One diagnosis or one error for each request, in order."""
        read = [self._read(request, topology) for request in requests]
        good = [request for request in read if isinstance(request, PredictionRequest)]
        answers = iter(self._predictor.predict_batch(good, on_error="return"))
        return [next(answers) if isinstance(request, PredictionRequest) else request for request in read]

    def close(self) -> None:
        """Release the model and write queued results of the history."""
        self._predictor.close()
        self._task.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, request: Any, topology: Any) -> PredictionRequest | PenstockError:
        try:
            return self._request(request, topology)
        except PenstockError as error:
            return error

    def _request(self, request: Any, topology: Any) -> PredictionRequest:
        read = self._task.coerce(request)
        return read if topology is None else read.model_copy(update={"topology": topology})
