"""The prediction log of a server: made from its settings, attached to its engine, with figures of all processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import Observation
from penstock.monitor.prediction_log.feedback import Feedback
from penstock.monitor.prediction_log.log import Figures, PredictionLog, merged
from penstock.monitor.prediction_log.segments import bytes_of
from penstock.monitor.prediction_log.writing import Caps
from penstock.settings import Settings
from penstock.tasks.classification import ClassScores
from penstock.tensors import Arrays

if TYPE_CHECKING:
    from penstock.registry.database.feedback import Total

log = logging.getLogger(__name__)

_OUTCOMES = ("written", "dropped", "failed")
_SUMS = {
    "recorded": "Predictions in the database that can get a label.",
    "labelled": "Predictions in the database that have a label.",
    "judged": "Labels that could be compared with the predicted class.",
    "correct": "Labels that are the predicted class.",
}
"""The fields of a Total that `/metrics` shows. Every server of a database shows the same."""


class ServingLog:
    """The log of the process that serves, as its Service uses it."""

    def __init__(self, engine: InferenceEngine, log: PredictionLog, feedback: Feedback, consents: Consents) -> None:
        self._engine = engine
        self._log = log
        self._consents = consents
        self.feedback = feedback

    @classmethod
    def of(cls, settings: Settings, engine: InferenceEngine) -> Self | None:
        """The log that the settings ask for; None without one."""
        inputs, share = settings.prediction_log_inputs, settings.prediction_log_sample
        if settings.prediction_log is None and inputs != "none":
            log.warning("prediction_log_inputs is %s, but prediction_log names no directory: nothing is kept", inputs)
        if settings.prediction_log is None or not (share or inputs == "disagreements"):
            return None
        caps = Caps(settings.prediction_log_bytes, settings.prediction_log_days)
        consents = Consents(inputs, engine)
        feedback = Feedback(
            engine.registry.database_url, caps.days, partial(scores_of, engine), lambda: engine.registry.routes.known
        )
        written = PredictionLog(settings.prediction_log, caps, share, consents.sampled, feedback.add)
        return cls(engine, written, feedback, consents)

    def start(self) -> None:
        """Begin to observe and to write. Raises ConfigError if the directory can never be one."""
        self._log.start()
        self.feedback.start()
        self._engine.observers.append(self._log.taker)

    def explain(self) -> None:
        """Say which loaded models have no inputs in the log, although the settings ask for them."""
        self._consents.explain(self._engine.loaded())

    def close(self) -> None:
        """Write what waits. Safe to call twice."""
        self._log.close()
        self.feedback.close()

    def disagreed(self, seen: Observation, version: str, outputs: Arrays) -> bool:
        """Log an answered request that another version has answered with these outputs, if its inputs may be kept.

        False if they may not. The log keeps the arrays.
        """
        if not self._consents.disagreements(seen.model, seen.version, version):
            return False
        self._log.taker.disagreed(seen, version, outputs)
        return True

    def figures(self) -> Figures:
        """What this process shares with the others of its group."""
        return {**self._log.figures(), **self.feedback.figures()}

    async def stats(self, everyone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What `/stats` shows."""
        size, totals = await asyncio.to_thread(self._looked_up)
        figures = self._merged(everyone)
        return {
            "prediction_log": {**{name: figures.get(name, 0) for name in _OUTCOMES}, "bytes": size},
            "feedback": {
                "duplicates": figures.get("feedback_duplicates", 0),
                "lost": figures.get("feedback_lost", 0),
                "versions": [_shown(total) for total in totals],
            },
        }

    async def families(self, everyone: Sequence[Mapping[str, Any]]) -> Families:
        """What `/metrics` shows."""
        return Families(self._merged(everyone), *await asyncio.to_thread(self._looked_up))

    def _looked_up(self) -> tuple[int, Sequence[Total]]:
        return bytes_of(self._log.directory), self.feedback.totals()

    def _merged(self, everyone: Sequence[Mapping[str, Any]]) -> Figures:
        shared = [figures["prediction_log"] for figures in everyone if "prediction_log" in figures]
        return merged(shared or [self.figures()])


class Consents:
    """Whether inputs may be recorded: where the settings and the manifest of the model allow it.

    The log says once of each version whose manifest forbids what the settings ask for.
    """

    def __init__(self, wanted: str, engine: InferenceEngine) -> None:
        self._wanted = wanted
        self._engine = engine
        self._forbidden: set[str] = set()

    def sampled(self, model: str, version: str) -> bool:
        """True for the inputs of a sampled request."""
        return self._wanted == "sampled" and self._allowed(model, version)

    def disagreements(self, model: str, *versions: str) -> bool:
        """True for the inputs of a request that these versions have answered in different ways."""
        return self._wanted == "disagreements" and all(self._allowed(model, version) for version in versions)

    def _allowed(self, model: str, version: str) -> bool:
        found = loaded(self._engine, model, version)
        return found is not None and (found.artifact is None or found.artifact.manifest.log_inputs is not False)

    def explain(self, models: Iterable[LoadedModel]) -> None:
        """Say which of these models have no inputs in the log, although the settings ask for them."""
        if self._wanted == "none":
            return
        found = {
            f"{model.name}:{model.version}"
            for model in models
            if model.artifact is not None and model.artifact.manifest.log_inputs is False
        }
        for ref in sorted(found - self._forbidden):
            log.warning(
                "the inputs of %s are not logged, although prediction_log_inputs is %s: its manifest forbids it "
                "(log_inputs)",
                ref,
                self._wanted,
            )
        self._forbidden |= found


def loaded(engine: InferenceEngine, model: str, version: str) -> LoadedModel | None:
    """A model that is loaded now."""
    return engine.manager.cache.find(f"{model}:{version}")


def scores_of(engine: InferenceEngine, model: str, version: str) -> ClassScores | None:
    """What reads the classes of a loaded model; None for one without classes."""
    found = loaded(engine, model, version)
    tasks = (getattr(runner.task, "scores", None) for runner in (found.runners.values() if found else ()))
    return next((scores for scores in tasks if isinstance(scores, ClassScores)), None)


def _shown(total: Total) -> dict[str, Any]:
    """Shares are None where nothing was counted."""
    return {
        **total._asdict(),
        "labelled_share": total.labelled / total.recorded if total.recorded else None,
        "accuracy": total.correct / total.judged if total.judged else None,
    }


class Families:
    """A collector for prometheus_client."""

    def __init__(self, figures: Figures, size: int, totals: Sequence[Total]) -> None:
        self._figures = figures
        self._size = size
        self._totals = totals

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
        yield CounterMetricFamily(
            "penstock_feedback_duplicates",
            "Logged predictions whose request id was recorded already.",
            value=self._figures.get("feedback_duplicates", 0),
        )
        yield CounterMetricFamily(
            "penstock_feedback_lost",
            "Logged predictions that no database took.",
            value=self._figures.get("feedback_lost", 0),
        )
        for name, text in _SUMS.items():
            family = GaugeMetricFamily(f"penstock_feedback_{name}", text, labels=["model", "version", "route", "arm"])
            for total in self._totals:
                family.add_metric([total.model, total.version, total.route, total.arm], getattr(total, name))
            yield family
