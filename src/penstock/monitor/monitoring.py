"""What is watched of the answers of one process, and what the pages show of all processes of the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.engine.engine import InferenceEngine
from penstock.engine.statistics import AnswerQueue
from penstock.monitor.predictions.counts import merge
from penstock.monitor.predictions.pages import PredictionFamilies, to_stats
from penstock.monitor.predictions.watch import PART_ROWS, PredictionWatch
from penstock.settings import Settings

log = logging.getLogger(__name__)

EVERY_S = 0.25
"""How often the thread looks at what was answered: seldom enough to cost little, often enough to hold little."""


class Monitoring:
    """The watches that the settings ask for, in one thread that runs from `start` to `close`."""

    def __init__(self, settings: Settings, engine: InferenceEngine) -> None:
        self._engine = engine
        self.queue = AnswerQueue(outputs=settings.prediction_stats)
        self.predictions = PredictionWatch() if settings.prediction_stats else None
        self._draining = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch, after the fork of a worker."""
        if self.predictions is None:
            return
        self._engine.observers.append(self.queue)
        self._thread = threading.Thread(target=self._run, name="penstock-monitoring", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._engine.observers.remove(self.queue)
            self.drain()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self.drain()
            except Exception:
                log.exception("what was answered could not be counted")

    def drain(self) -> None:
        """Count what was answered up to now."""
        with self._draining:
            if not self.queue.items:
                return
            if self.predictions is not None:
                self.predictions.follow(self._engine.loaded(), self.queue)
            while taken := self.queue.take(PART_ROWS):
                if self.predictions is not None:
                    self.predictions.add([one for one in taken if one.inputs is None])

    def snapshot(self) -> dict[str, Any]:
        """What this process shares with the others of its server."""
        if self._thread is None:
            return {}
        self.drain()
        return {"predictions": self.predictions.snapshot() if self.predictions else [], "left_out": self.queue.left_out}

    def add_stats(self, models: dict[str, dict[str, Any]], snapshots: Sequence[Mapping[str, Any]]) -> None:
        """Add what was predicted to the figures of each model in `/stats`."""
        for key, predictions in to_stats(_predictions(snapshots)).items():
            if key in models:
                models[key]["predictions"] = predictions

    def collectors(self, snapshots: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Metric families for `/metrics`."""
        if self.predictions is None:
            return []
        left_out = sum(one.get("left_out", 0) for one in snapshots)
        return [PredictionFamilies(_predictions(snapshots), left_out)]


def _predictions(snapshots: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return merge(model for one in snapshots for model in one.get("predictions", ()))
