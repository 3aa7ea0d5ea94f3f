"""Compares sampled requests with the reference of their model version, in a thread of each process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np

from penstock.artifacts.reference.reference import Answers
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import Answered
from penstock.engine.statistics import AnswerQueue, Sampling
from penstock.errors import PenstockError
from penstock.monitor.drift.verdicts import Rules
from penstock.monitor.drift.windows import Windows
from penstock.monitor.predictions.watch import scores_of
from penstock.tasks.classification import ClassScores
from penstock.tensors import Array, Arrays

log = logging.getLogger(__name__)

Snapshot: TypeAlias = dict[str, Any]

ROWS_A_SECOND = 200
"""Rows of a model version that are sampled at most, in each process."""
MOST_OF_AN_ITEM = 64
"""Of more rows that were sampled together, such as those of a large request, so many at equal distances are counted."""
_LATE_S = 10.0
MOST_VERSIONS = 64
"""Versions whose windows are kept; those that were loaded first are forgotten."""


@dataclass(slots=True)
class Watched:
    """One model version with a reference."""

    model: str
    version: str
    digest: str
    windows: Windows
    scores: ClassScores | None
    axes: Mapping[str, int | None]
    loaded: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    problem: str = ""
    rows: int = 0

    def count(self, items: Sequence[Answered], now: float) -> None:
        """Count sampled rows. Raises ValueError for rows that are not as in the reference."""
        for group in _alike(items):
            inputs, outputs = (
                _joined(side, self.axes)
                for side in ([one.inputs or {} for one in group], [one.outputs for one in group])
            )
            answers = Answers(outputs=outputs)
            if self.scores is not None:
                rows = outputs[self.scores.name]
                answers = Answers(rows.argmax(axis=1), self.scores.confidences(rows))
            self.windows.add(self.windows.reference.count(inputs, answers), now)
            self.rows += sum(min(one.rows, MOST_OF_AN_ITEM) for one in group)


class DriftWatch:
    """The drift of all model versions in this process that have a reference."""

    def __init__(self, rules: Rules, queue: AnswerQueue, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that all processes of this machine share."""
        self.rules = rules
        self._queue = queue
        self._clock = clock
        self._watched: dict[tuple[str, str, str], Watched] = {}
        self._seen: set[str] = set()
        self._adapted = self._advanced = clock()

    def follow(self, loaded: Iterable[LoadedModel]) -> None:
        """Sample the requests of the loaded versions that have a reference, and of no others."""
        current: dict[tuple[str, str], Watched] = {}
        for model in loaded:
            found = self._watch(model)
            if found is not None:
                current[model.name, model.version] = found
        for one in self._watched.values():
            one.loaded = current.get((one.model, one.version)) is one
        sampling = {key: one.sampling for key, one in current.items()}
        if sampling != self._queue.sampling:
            self._queue.sampling = sampling

    def _watch(self, model: LoadedModel) -> Watched | None:
        artifact = model.artifact
        if artifact is None or artifact.manifest.reference is None:
            return None
        key = (model.name, model.version, artifact.digest)
        if key in self._watched or key[2] in self._seen:
            return self._watched.get(key)
        self._seen.add(key[2])
        try:
            reference = artifact.reference()
        except PenstockError as error:
            log.warning("the drift of %s is not measured: %s", model.key, error)
            return None
        if reference is None:
            return None
        windows = Windows(reference, self.rules, self._clock())
        made = Watched(*key, windows, scores_of(model), model.signature.batch_axes)
        self._watched[key] = made
        for old in list(self._watched)[:-MOST_VERSIONS]:
            del self._watched[old]
        return made

    def add(self, items: Sequence[Answered]) -> None:
        """Count sampled requests."""
        now = self._clock()
        for one in self._watched.values():
            mine = [item for item in items if (item.model, item.version) == (one.model, one.version)]
            if not mine or not one.loaded:
                continue
            try:
                one.count(mine, now)
            except (ValueError, KeyError, IndexError) as error:
                if not one.problem:
                    log.warning("rows of %s:%s are not as in its reference: %s", one.model, one.version, error)
                one.problem = str(error)

    def adapt(self) -> None:
        """Sample fewer requests of a version with many, and more again when there are few."""
        passed = self._clock() - self._adapted
        self._adapted += passed
        for one in self._watched.values():
            one.sampling.room = min(one.sampling.room + ROWS_A_SECOND * passed, 2.0 * ROWS_A_SECOND)
            wanted, spare = ROWS_A_SECOND * passed, one.sampling.room > 1.5 * ROWS_A_SECOND
            if one.rows > wanted * 0.9 and not spare:
                one.sampling.every = min(one.sampling.every * 2, 1 << 20)
            elif one.rows < wanted * 0.4 and one.sampling.every > 1:
                one.sampling.every //= 2
                one.sampling.left = min(one.sampling.left, one.sampling.every)
            one.rows = 0

    def due(self) -> bool:
        """True if a window may have ended since the last `advance`."""
        size = self.rules.window_s
        return bool(self._watched) and int((self._clock() - 2) // size) > int((self._advanced - 2) // size)

    def advance(self, others: Sequence[Sequence[Snapshot]], *, speaks: bool = True) -> None:
        """Close the windows that have ended. `others` are the snapshots of the other processes, one of which `speaks`.

        The log has a line for a window that warns or alarms.
        """
        now = self._advanced = self._clock()
        for one in self._watched.values():
            for result in one.windows.advance(_same(one, others), now):
                late = now - result["to"] * self.rules.window_s > self.rules.window_s + _LATE_S  # before a restart
                if speaks and not late and result["verdict"] in ("warn", "alarm"):
                    log.warning("%s:%s drifts: %s", one.model, one.version, sentence(result))

    def snapshot(self) -> list[Snapshot]:
        """What this process shares with the others of its server."""
        return [
            {
                "model": one.model,
                "version": one.version,
                "digest": one.digest,
                "problem": one.problem,
                **one.windows.snapshot(),
            }
            for one in list(self._watched.values())
        ]

    def report(self, others: Sequence[Sequence[Snapshot]], *, speaks: bool = True) -> list[dict[str, Any]]:
        """The windows of each version, the last one still open, with the counts of all processes."""
        self.advance(others, speaks=speaks)
        return [self._report(one, _same(one, others)) for one in list(self._watched.values())]

    def _report(self, one: Watched, others: Sequence[Snapshot]) -> dict[str, Any]:
        size, offset = self.rules.window_s, time.time() - self._clock()
        closed, opened = one.windows.closed, one.windows.open_window(others)
        opened["to"] = max(opened["from"] + 1, int(self._clock() // size) + 1)
        windows = [
            {
                "begin": _utc(window["from"] * size + offset),
                "end": _utc(window["to"] * size + offset),
                "closed": window is not opened,
                **{name: value for name, value in window.items() if name not in ("from", "to")},
            }
            for window in (*closed, opened)
        ]
        return {
            "model": one.model,
            "version": one.version,
            "digest": one.digest,
            "loaded": one.loaded,
            "reference_rows": one.windows.reference.rows,
            "problem": one.problem or next((other["problem"] for other in others if other["problem"]), ""),
            "verdict": opened["verdict"] if opened["data_quality"] or not closed else closed[-1]["verdict"],
            "windows": windows,
        }


def sentence(result: Mapping[str, Any]) -> str:
    """What moved most in a window, for a log line."""
    bad = [
        f"{one['rate']:.1%} of the values of {one['feature']} are {one['kind'].replace('_', ' ')}"
        for one in result["data_quality"]
    ]
    moved = [f"{one['feature']} (PSI {one['psi']:.2f})" for one in result["moved"] if one["verdict"] != "ok"]
    what = "; ".join([*bad[:3], *([f"moved: {', '.join(moved[:5])}"] if moved else [])])
    return f"{result['verdict']} in a window of {result['rows']} rows; {what}"


def _same(one: Watched, others: Sequence[Sequence[Snapshot]]) -> list[Snapshot]:
    """The snapshots of the same version in the other processes."""
    key = (one.model, one.version, one.digest)
    return [each for other in others for each in other if (each["model"], each["version"], each["digest"]) == key]


def _alike(items: Sequence[Answered]) -> Iterable[list[Answered]]:
    """Items whose arrays can be joined."""
    groups: dict[Any, list[Answered]] = {}
    for one in items:
        shapes = tuple(
            (name, array.shape[1:]) for side in (one.inputs or {}, one.outputs) for name, array in side.items()
        )
        groups.setdefault(shapes, []).append(one)
    return groups.values()


def _joined(parts: Sequence[Arrays], axes: Mapping[str, int | None]) -> Arrays:
    """The arrays of several items as one, axis 0 the row."""
    return {name: np.concatenate([_rows(part[name], axes.get(name) or 0) for part in parts]) for name in parts[0]}


def _rows(array: Array, axis: int) -> Array:
    rows = np.moveaxis(array, axis, 0) if axis else array
    return rows[:: -(-len(rows) // MOST_OF_AN_ITEM)] if len(rows) > MOST_OF_AN_ITEM else rows


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"
