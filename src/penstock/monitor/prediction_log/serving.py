"""The prediction log of a server: made from its settings, attached to its engine, with figures of all processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.monitor.prediction_log.log import Figures, PredictionLog, merged
from penstock.monitor.prediction_log.segments import bytes_of
from penstock.monitor.prediction_log.writing import Caps
from penstock.settings import Settings

_OUTCOMES = ("written", "dropped", "failed")


class ServingLog:
    """The log of the process that serves, as its Service uses it."""

    def __init__(self, settings: Settings, engine: InferenceEngine, log: PredictionLog) -> None:
        self._settings = settings
        self._engine = engine
        self._log = log

    @classmethod
    def of(cls, settings: Settings, engine: InferenceEngine) -> Self | None:
        """The log that the settings ask for; None without one."""
        if settings.prediction_log is None or not settings.prediction_log_sample:
            return None
        caps = Caps(settings.prediction_log_bytes, settings.prediction_log_days)
        may_keep = Consents(settings.prediction_log_inputs == "sampled", engine)
        return cls(
            settings, engine, PredictionLog(settings.prediction_log, caps, settings.prediction_log_sample, may_keep)
        )

    def start(self) -> None:
        """Begin to observe and to write. Raises ConfigError if the directory can never be one."""
        self._log.start()
        self._engine.observers.append(self._log.taker)

    def close(self) -> None:
        """Write what waits. Safe to call twice."""
        self._log.close()

    def figures(self) -> Figures:
        """What this process shares with the others of its group."""
        return self._log.figures()

    async def stats(self, everyone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What `/stats` shows."""
        size = await asyncio.to_thread(bytes_of, self._log.directory)
        return {"prediction_log": {**self._merged(everyone), "bytes": size}}

    async def families(self, everyone: Sequence[Mapping[str, Any]]) -> Families:
        """What `/metrics` shows."""
        size = await asyncio.to_thread(bytes_of, self._log.directory)
        return Families(self._merged(everyone), size)

    def _merged(self, everyone: Sequence[Mapping[str, Any]]) -> Figures:
        shared = [figures["prediction_log"] for figures in everyone if "prediction_log" in figures]
        return merged(shared or [self.figures()])


class Consents:
    """Whether inputs may be recorded: where the settings and the manifest of the model allow it."""

    def __init__(self, wanted: bool, engine: InferenceEngine) -> None:
        self._wanted = wanted
        self._engine = engine

    def __call__(self, model: str, version: str) -> bool:
        """True if they may."""
        if not self._wanted:
            return False
        found = loaded(self._engine, model, version)
        return found is not None


def loaded(engine: InferenceEngine, model: str, version: str) -> LoadedModel | None:
    """A model that is loaded now."""
    return engine.manager.cache.find(f"{model}:{version}")


class Families:
    """A collector for prometheus_client."""

    def __init__(self, figures: Figures, size: int) -> None:
        self._figures = figures
        self._size = size

    def collect(self) -> Iterator[Any]:
        """The metric families."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        records = CounterMetricFamily(
            "penstock_prediction_log_records",
            "Sampled requests: written to the prediction log, dropped for want of room, or failed to be written.",
            labels=["outcome"],
        )
        for outcome in _OUTCOMES:
            records.add_metric([outcome], self._figures.get(outcome, 0))
        yield records
        yield GaugeMetricFamily("penstock_prediction_log_bytes", "Size of the prediction log.", value=self._size)
