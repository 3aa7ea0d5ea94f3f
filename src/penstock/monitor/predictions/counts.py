"""What a model version has predicted so far: counts of classes, confidences and numeric outputs.

A snapshot is plain data that JSON can carry; snapshots of several processes merge by addition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from penstock.engine.observation import few_numbers
from penstock.errors import printable
from penstock.tasks.classification import ClassScores
from penstock.tensors import Array, Arrays

Snapshot: TypeAlias = dict[str, Any]

MOST_CLASSES = 1000
"""Classes that are counted one by one; later ones count together as `OTHER`."""
MOST_OUTPUTS = 16
OTHER = "other"
LONGEST_LABEL = 100

CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
"""Upper bounds of the histogram of confidences."""
_A_DECADE = 20
_DECADES = range(-3, 7)
_POSITIVE = [
    float(f"1e{decade}") if not step else 10 ** (decade + step / _A_DECADE)
    for decade in _DECADES
    for step in range(_A_DECADE if decade < _DECADES[-1] else 1)
]
VALUES = (*(-bound for bound in reversed(_POSITIVE)), 0.0, *_POSITIVE)
"""Upper bounds of the histogram of numbers: 20 a decade, from 0.001 to a million, on both sides of 0."""
_BOUNDS = np.array(VALUES)


class PredictionCounts:
    """The predictions of one model version in this process."""

    def __init__(self) -> None:
        self.rows = 0
        self.not_finite = 0
        self.classes = np.zeros(0, np.int64)
        self.labels: tuple[str, ...] | None = None
        self.confidence = np.zeros(len(CONFIDENCES) + 1, np.int64)
        self.confidence_sum = 0.0
        self.outputs: dict[str, ValueCounts] = {}

    def add_classes(self, winners: Array, confidences: Array, scores: ClassScores) -> None:
        """Count rows by their class; a confidence that is NaN says that the scores of the row were not finite."""
        finite = np.isfinite(confidences)
        good = confidences[finite]
        found = np.bincount(np.minimum(winners[finite], MOST_CLASSES))
        if len(found) > len(self.classes):
            self.classes = np.concatenate([self.classes, np.zeros(len(found) - len(self.classes), np.int64)])
        self.classes[: len(found)] += found
        self.labels = scores.labels
        self.rows += len(winners)
        self.not_finite += len(winners) - len(good)
        places = np.searchsorted(CONFIDENCES, good)
        self.confidence += np.bincount(places, minlength=len(self.confidence))
        self.confidence_sum += float(good.sum())

    def add_outputs(self, outputs: Arrays, rows: int) -> None:
        """Count the numbers of the outputs, by the name of each."""
        self.rows += rows
        for name, array in outputs.items():
            counts = self.outputs.get(name)
            if counts is None:
                if len(self.outputs) >= MOST_OUTPUTS:
                    continue
                counts = self.outputs[name] = ValueCounts()
            counts.add(array)

    def snapshot(self) -> Snapshot:
        """The counts as JSON can carry them."""
        found: Snapshot = {"rows": self.rows}
        if self.outputs:
            found["outputs"] = {_shown(name): counts.snapshot() for name, counts in list(self.outputs.items())}
        return found | self._classes() if len(self.classes) or self.not_finite else found

    def _classes(self) -> Snapshot:
        return {
            "not_finite": self.not_finite,
            "classes": [[int(i), self._label(int(i)), int(self.classes[i])] for i in np.flatnonzero(self.classes)],
            "confidence": self.confidence.tolist(),
            "confidence_sum": self.confidence_sum,
        }

    def _label(self, index: int) -> str:
        if index >= MOST_CLASSES:
            return OTHER
        named = self.labels[index] if self.labels is not None and index < len(self.labels) else ""
        return _shown(named) or str(index)


class ValueCounts:
    """The numbers of one output."""

    def __init__(self) -> None:
        self.histogram = np.zeros(len(VALUES) + 1, np.int64)
        self.count = 0
        self.not_finite = 0
        self.sum = 0.0
        self.squares = 0.0

    def add(self, array: Array) -> None:
        """Count numbers of any shape."""
        values = np.asarray(array, np.float64).ravel()
        finite = np.isfinite(values)
        if not finite.all():
            self.not_finite += int(len(values) - finite.sum())
            values = values[finite]
        self.histogram += np.bincount(np.searchsorted(_BOUNDS, values), minlength=len(self.histogram))
        self.count += len(values)
        with np.errstate(over="ignore"):
            self.sum = _bounded(self.sum + float(values.sum()))
            self.squares = _bounded(self.squares + float(values.dot(values)))

    def snapshot(self) -> Snapshot:
        """The counts as JSON can carry them; the histogram holds the buckets that are not empty."""
        filled = np.flatnonzero(self.histogram)
        return {
            "count": self.count,
            "not_finite": self.not_finite,
            "sum": self.sum,
            "squares": self.squares,
            "histogram": {str(place): int(self.histogram[place]) for place in filled},
        }


def _bounded(total: float) -> float:
    """A sum that JSON can hold."""
    return min(max(total, -1e300), 1e300)


def _shown(text: str) -> str:
    """A name as one line of text that any page can hold."""
    return printable(text)[:LONGEST_LABEL]


def read_classes(scores: ClassScores, rows: Array) -> tuple[Array, Array]:
    """The likeliest class of every row of scores and its probability, which is NaN where they are not finite."""
    return rows.argmax(axis=1), scores.confidences(rows)


def numbers(outputs: Arrays, rows: int) -> Arrays:
    """The outputs that hold numbers, of each row as few as are counted."""
    return {name: few_numbers(array, rows) for name, array in outputs.items() if array.dtype.kind in "fiub"}


# Several processes


def merge(snapshots: Iterable[Mapping[str, Any]]) -> list[Snapshot]:
    """Snapshots of several processes as one for each model version, sorted. Changes none of them."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in snapshots:
        found.setdefault((one["model"], one["version"]), []).append(one)
    return [{"model": key[0], "version": key[1], **_merged(found[key])} for key in sorted(found)]


def _merged(snapshots: Iterable[Mapping[str, Any]]) -> Snapshot:
    """Snapshots of one model version as one."""
    total: Snapshot = {"rows": 0}
    for one in snapshots:
        total["rows"] += one["rows"]
        if "classes" in one:
            _add_classes(total, one)
        for name, counts in one.get("outputs", {}).items():
            outputs = total.setdefault("outputs", {})
            outputs[name] = _sum_of(outputs[name], counts) if name in outputs else counts
    return total


def _add_classes(total: Snapshot, one: Mapping[str, Any]) -> None:
    known = {(index, label): count for index, label, count in total.get("classes", ())}
    for index, label, count in one["classes"]:
        known[index, label] = known.get((index, label), 0) + count
    total["classes"] = [[index, label, known[index, label]] for index, label in sorted(known)]
    total["not_finite"] = total.get("not_finite", 0) + one["not_finite"]
    total["confidence_sum"] = total.get("confidence_sum", 0.0) + one["confidence_sum"]
    before: Sequence[int] = total.get("confidence", [0] * len(one["confidence"]))
    total["confidence"] = [a + b for a, b in zip(before, one["confidence"], strict=True)]


def _sum_of(a: Mapping[str, Any], b: Mapping[str, Any]) -> Snapshot:
    places = {**a["histogram"], **b["histogram"]}
    return {
        **{name: a[name] + b[name] for name in ("count", "not_finite", "sum", "squares")},
        "histogram": {place: a["histogram"].get(place, 0) + b["histogram"].get(place, 0) for place in places},
    }
