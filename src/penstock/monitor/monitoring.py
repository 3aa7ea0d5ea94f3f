"""What is watched of the answers of one process, and what the pages show of all processes of the server."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.engine.engine import InferenceEngine
from penstock.engine.statistics import AnswerQueue
from penstock.monitor.drift.families import DriftFamilies
from penstock.monitor.drift.verdicts import Rules
from penstock.monitor.drift.watch import DriftWatch
from penstock.monitor.predictions.counts import merge
from penstock.monitor.predictions.pages import PredictionFamilies, to_stats
from penstock.monitor.predictions.watch import PART_ROWS, PredictionWatch
from penstock.settings import Settings

log = logging.getLogger(__name__)

_RUNNING_S = 3.0
EVERY_S = 0.25
"""How often the thread looks at what was answered: seldom enough to cost little, often enough to hold little."""


class Monitoring:
    """The watches that the settings ask for, in one thread that runs from `start` to `close`."""

    def __init__(self, settings: Settings, engine: InferenceEngine) -> None:
        self._engine = engine
        self.queue = AnswerQueue(outputs=settings.prediction_stats)
        self.predictions = PredictionWatch() if settings.prediction_stats else None
        rules = Rules(settings.drift_window_s, settings.drift_min_rows, settings.drift_psi)
        self.drift = DriftWatch(rules, self.queue) if settings.drift_window_s else None
        self.peers: Callable[[], list[dict[str, Any]]] = list
        """The snapshots of the other processes of the server; set by what knows them."""
        self._draining = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch, after the fork of a worker."""
        if self.predictions is None and self.drift is None:
            return
        self.drain()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="penstock-monitoring", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Safe to call twice."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        if self.queue in self._engine.observers:
            self._engine.observers.remove(self.queue)
        self.drain()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self.drain()
                if self.drift is not None and self.drift.due():
                    self.advance(self.peers())
            except Exception:
                log.exception("what was answered could not be counted")

    def drain(self) -> None:
        """Count what was answered up to now, and follow the models that are loaded."""
        with self._draining:
            loaded = self._engine.loaded()
            if self.drift is not None:
                self.drift.follow(loaded)
            if self.predictions is not None:
                self.predictions.follow(loaded, self.queue)
            while taken := self.queue.take(PART_ROWS):
                if self.predictions is not None:
                    self.predictions.add([one for one in taken if one.inputs is None])
                if self.drift is not None:
                    self.drift.add([one for one in taken if one.inputs is not None])
            if self.drift is not None:
                self.drift.adapt()
            self._attach()

    def _attach(self) -> None:
        """Observe the engine only if there is something to count: no watch, no cost."""
        wanted = self.predictions is not None or bool(self.queue.sampling)
        if wanted and not self._stop.is_set() and self.queue not in self._engine.observers:
            self._engine.observers.append(self.queue)

    def advance(self, others: Sequence[Mapping[str, Any]]) -> None:
        """Close the windows of drift that have ended."""
        with self._draining:
            if self.drift is not None:
                self.drift.advance(_drifts(others), speaks=_speaks(others))

    def drift_report(self, others: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The windows of every version with a reference. `others` are the snapshots of the other processes."""
        self.drain()
        with self._draining:
            return [] if self.drift is None else self.drift.report(_drifts(others), speaks=_speaks(others))

    def snapshot(self) -> dict[str, Any]:
        """What this process shares with the others of its server."""
        if self._thread is None and not self._stop.is_set():
            return {}
        self.drain()
        with self._draining:
            return {
                "predictions": self.predictions.snapshot() if self.predictions else [],
                "drift": self.drift.snapshot() if self.drift else [],
                "left_out": self.queue.left_out,
                "process": [os.getpid(), time.monotonic()],
            }

    def add_stats(self, models: dict[str, dict[str, Any]], snapshots: Sequence[Mapping[str, Any]]) -> None:
        """Add what was predicted to the figures of each model in `/stats`."""
        for key, predictions in to_stats(_predictions(snapshots)).items():
            if key in models:
                models[key]["predictions"] = predictions

    def collectors(self, snapshots: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Metric families for `/metrics`; the first of the snapshots is that of this process."""
        found: list[Any] = []
        if self.predictions is not None:
            left_out = sum(one.get("left_out", 0) for one in snapshots)
            found.append(PredictionFamilies(_predictions(snapshots), left_out))
        if self.drift is not None:
            found.append(DriftFamilies(self.drift_report(snapshots[1:])))
        return found


def _predictions(snapshots: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return merge(model for one in snapshots for model in one.get("predictions", ()))


def _speaks(others: Sequence[Mapping[str, Any]]) -> bool:
    """True in one of the processes that run, so that each line is in the log once."""
    now = time.monotonic()
    running = [pid for pid, at in (one["process"] for one in others if "process" in one) if now - at < _RUNNING_S]
    return os.getpid() <= min(running, default=os.getpid())


def _drifts(snapshots: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    return [one.get("drift", []) for one in snapshots]
