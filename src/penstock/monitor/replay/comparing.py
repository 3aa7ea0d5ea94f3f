"""Compares the answers of two versions to the same requests: classes, numbers, probabilities. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from penstock.datatypes import BF16, float_from_bf16
from penstock.tasks.classification import softmax
from penstock.tensors import Array, Arrays, TensorSpec

TOLERANCE = 1e-3
"""Of models without classes: a row agrees if each of its numbers differs by this share of the largest at most."""
_SUM_TOLERANCE = 1e-3
Z95 = 1.959964


class Interval(NamedTuple):
    """A share with its interval of 95 %."""

    rate: float
    low: float
    high: float


def wilson(count: int, total: int) -> Interval:
    """The share of `count` in `total` with Wilson's interval, which holds at 0 and 1 too."""
    if not total:
        return Interval(math.nan, 0.0, 1.0)
    rate, z2 = count / total, Z95**2 / total
    middle = (rate + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total))
    return Interval(rate, max(0.0, middle - half), min(1.0, middle + half))


class Difference(NamedTuple):
    """One request: its rows, and how many of them differ."""

    rows: int
    disagreeing: int
    not_finite: int
    """Rows where one answer has NaN or infinity and the other does not."""
    max_abs: float
    kl: tuple[float, ...]
    old_class: int | None
    new_class: int | None
    """Of the first row that disagrees, else of the first."""


class Labels(NamedTuple):
    """The names of the classes of both versions in the order of their scores."""

    old: Sequence[str]
    new: Sequence[str]

    @property
    def order(self) -> list[int] | None:
        """Where the new version has the classes of the old one; None if they are not the same classes."""
        if sorted(self.old) != sorted(self.new) or len({*self.old}) != len(self.old):
            return None
        return [self.new.index(name) for name in self.old]


def difference(
    old: Arrays, new: Arrays, outputs: Mapping[str, TensorSpec], scores: str | None, labels: Labels | None = None
) -> Difference:
    """How two answers to one request differ. `scores` is the output with a score for each class, None without classes.

    With `labels`, classes are compared by their names. Only `outputs` that both have are compared. Raises ValueError if
    there is none, or their shapes differ.
    """
    pairs = {name: (_numbers(old[name], spec), _numbers(new[name], spec)) for name, spec in outputs.items()
             if name in old and name in new}  # fmt: skip
    if not pairs:
        raise ValueError("the answers have no output in common")
    for name, (a, b) in pairs.items():
        if a.shape != b.shape:
            raise ValueError(f"{name} had the shape {list(a.shape)}, and has {list(b.shape)}")
    classes: tuple[Any, Any] | None = None
    other: Array | None = None
    kl: tuple[float, ...] = ()
    if scores in pairs and pairs[scores][0].ndim == 2:
        classes = tuple(each.argmax(axis=1) for each in pairs[scores])
        other = _other_class(*classes, labels)
        if labels is not None and (order := labels.order) is not None and len(order) == pairs[scores][1].shape[1]:
            pairs[scores] = (pairs[scores][0], pairs[scores][1][:, order])
        kl = _divergence(*pairs[scores])
    broken, max_abs, far = _compared(pairs)
    wrong = broken | (far if other is None else other)
    first = int(wrong.argmax()) if len(wrong) else 0
    old_class, new_class = (None, None) if classes is None or not len(wrong) else (int(each[first]) for each in classes)
    return Difference(len(wrong), int(wrong.sum()), int(broken.sum()), max_abs, kl, old_class, new_class)


def _other_class(old: Array, new: Array, labels: Labels | None) -> Array:
    """By row: whether the classes differ, by their names where both versions name them."""
    if labels is None or max(old.max(initial=0) - len(labels.old), new.max(initial=0) - len(labels.new)) >= 0:
        return np.asarray(old != new)
    return np.asarray(np.asarray(labels.old, object)[old] != np.asarray(labels.new, object)[new])


def _numbers(array: Array, spec: TensorSpec) -> Array:
    """As floats; texts as they are."""
    if array.dtype.hasobject:
        values = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
        made = np.empty(len(values), object)
        made[:] = values
        return made.reshape(array.shape)
    if spec.dtype == BF16 and array.dtype == np.uint16:
        array = float_from_bf16(array)
    return array.astype(np.float64)


def _compared(pairs: Mapping[str, tuple[Array, Array]]) -> tuple[Array, float, Array]:
    """By row: whether only one is finite, and whether the numbers differ; the largest difference of all."""
    rows = max((len(a) if a.ndim else 1) for a, _ in pairs.values())
    broken, far, largest = np.zeros(rows, bool), np.zeros(rows, bool), 0.0
    for a, b in pairs.values():
        one, other = a.reshape(len(a) if a.ndim else 1, -1), b.reshape(len(b) if b.ndim else 1, -1)
        if a.dtype.hasobject:
            far |= (one != other).any(axis=1)
            continue
        finite = np.isfinite(one) & np.isfinite(other)
        broken |= (np.isfinite(one) != np.isfinite(other)).any(axis=1)
        gap = np.where(finite, np.abs(np.where(finite, one, 0.0) - np.where(finite, other, 0.0)), 0.0)
        limit = TOLERANCE * np.where(finite, np.abs(one), 0.0).max(axis=1, initial=0.0) + 1e-9
        far |= gap.max(axis=1, initial=0.0) > limit
        largest = max(largest, float(gap.max(initial=0.0)))
    return broken, largest, far


def _divergence(old: Array, new: Array) -> tuple[float, ...]:
    """KL(old ‖ new) of each row whose scores are finite in both."""
    finite = np.isfinite(old).all(axis=1) & np.isfinite(new).all(axis=1)
    p, q = _probabilities(old[finite]), _probabilities(new[finite])
    tiny = np.finfo(np.float64).tiny
    found = (p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny)))).sum(axis=1)
    return tuple(np.maximum(found, 0.0).tolist())


def _probabilities(rows: Array) -> Array:
    """The rows that are distributions as they are, the others through softmax."""
    if not rows.size:
        return rows
    ready = (rows.min(axis=1) >= 0) & (np.abs(rows.sum(axis=1) - 1) < _SUM_TOLERANCE)
    return np.where(ready[:, None], rows, softmax(rows))


@dataclass
class Comparison:
    """The differences of many requests, added up."""

    keep: int
    """How many of the worst to keep."""
    requests: int = 0
    rows: int = 0
    disagreeing: int = 0
    not_finite: int = 0
    failed: int = 0
    first_failure: str = ""
    max_abs: float = 0.0
    kl: list[float] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    """Milliseconds of the old and the new version, for the same request one after the other."""
    _worst: list[tuple[float, float, int, dict[str, Any]]] = field(default_factory=list)

    def add(self, found: Difference, about: Mapping[str, Any]) -> None:
        """Add one request; `about` describes it."""
        self.requests += 1
        self.rows += found.rows
        self.disagreeing += found.disagreeing
        self.not_finite += found.not_finite
        self.max_abs = max(self.max_abs, found.max_abs)
        self.kl.extend(found.kl)
        shown = {**about, "rows": found.rows, "disagreeing": found.disagreeing, "max_abs": found.max_abs}
        self._keep(found.disagreeing, found.max_abs, {**shown, "was": found.old_class, "is": found.new_class})

    def fail(self, rows: int, why: str, about: Mapping[str, Any]) -> None:
        """Add one request that the new version does not answer: all its rows disagree."""
        self.requests += 1
        self.failed += 1
        self.rows += rows
        self.disagreeing += rows
        self.first_failure = self.first_failure or why
        self._keep(rows, math.inf, {**about, "rows": rows, "disagreeing": rows, "max_abs": None, "why": why})

    def _keep(self, disagreeing: int, gap: float, shown: dict[str, Any]) -> None:
        entry = (float(disagreeing > 0), gap, -self.requests, shown)
        if len(self._worst) < self.keep:
            heapq.heappush(self._worst, entry)
        elif self.keep:
            heapq.heappushpop(self._worst, entry)

    @property
    def worst(self) -> list[dict[str, Any]]:
        """The requests that differ most, the worst first."""
        return [
            shown for differs, gap, _, shown in sorted(self._worst, reverse=True, key=lambda e: e[:3]) if differs or gap
        ]

    @property
    def disagreement(self) -> Interval:
        """The share of the rows that disagree."""
        return wilson(self.disagreeing, self.rows)

    @property
    def slowdown(self) -> float | None:
        """The time of the new version as a multiple of the old one's: the median over the requests that both ran."""
        return median([new / old for old, new in self.times if old > 0]) if self.times else None
