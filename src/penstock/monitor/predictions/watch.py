"""Counts in a thread what models answer: classes, confidences, numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import Answered
from penstock.engine.statistics import AnswerQueue
from penstock.monitor.predictions.counts import PredictionCounts, Snapshot, numbers, read_classes
from penstock.tasks.classification import ClassScores
from penstock.tensors import Array

log = logging.getLogger(__name__)

PART_ROWS = 4096
"""Rows that are joined at once: numpy holds the interpreter meanwhile."""
MOST_NUMBERS = 4096
"""Numbers of an output that are counted of so many rows."""

ModelKey: TypeAlias = tuple[str, str]


class PredictionWatch:
    """The predictions of all model versions in this process."""

    def __init__(self) -> None:
        self._counts: dict[ModelKey, PredictionCounts] = {}
        self._scores: dict[ModelKey, ClassScores | None] = {}
        """What gives the classes of a version; None for one that answers with numbers."""

    def follow(self, loaded: Iterable[LoadedModel], queue: AnswerQueue) -> None:
        """Learn what the outputs of the loaded models mean."""
        for model in loaded:
            found = self._scores[model.name, model.version] = scores_of(model)
            if found is not None:
                queue.whole.add((model.name, model.version))

    def add(self, items: Sequence[Answered]) -> None:
        """Count answers."""
        groups: dict[ModelKey, list[Answered]] = {}
        for one in items:
            groups.setdefault((one.model, one.version), []).append(one)
        for key, parts in groups.items():
            try:
                _add(self._counts.setdefault(key, PredictionCounts()), self._scores.get(key), parts)
            except Exception:  # outputs of several shapes, of a version that was replaced by another
                log.exception("predictions of %s:%s could not be counted", *key)

    def snapshot(self) -> list[Snapshot]:
        """What was counted up to now, to be merged with that of other processes."""
        return [
            {"model": model, "version": version, **counts.snapshot()}
            for (model, version), counts in list(self._counts.items())
        ]


def scores_of(model: LoadedModel) -> ClassScores | None:
    """What gives the classes of a model that has a task with classes."""
    found = (getattr(runner.task, "scores", None) for runner in model.runners.values())
    return next((scores for scores in found if isinstance(scores, ClassScores)), None)


def _add(counts: PredictionCounts, scores: ClassScores | None, parts: Sequence[Answered]) -> None:
    if scores is not None:
        joined = np.concatenate([part.outputs[scores.name] for part in parts])
        counts.add_classes(*read_classes(scores, joined), scores)
        return
    found: dict[str, list[Array]] = {}
    for part in parts:
        for name, array in numbers(part.outputs, part.rows).items():
            found.setdefault(name, []).append(array)
    counts.add_outputs({name: _some(arrays) for name, arrays in found.items()}, sum(part.rows for part in parts))


def _some(arrays: Sequence[Array]) -> Array:
    """The numbers of all arrays or, of too many, those of rows at equal distances."""
    step = -(-sum(array.size for array in arrays) // MOST_NUMBERS)
    if step <= 1:
        return np.concatenate([array.ravel() for array in arrays])
    kept, passed = [], 0
    for array in map(np.atleast_1d, arrays):
        first = -passed % step
        passed += len(array)
        if first < len(array):
            kept.append(array[first::step].ravel())
    return np.concatenate(kept)
