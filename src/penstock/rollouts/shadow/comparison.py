"""How far the outputs of two versions for the same inputs are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.tensors import Arrays

MOST_CLASSES = 100_000
CLOSE_RELATIVE = 1e-2
"""Numbers without classes agree when they differ by less than this share of their size."""


def scores_of(outputs: Arrays) -> NDArray[np.float64] | None:
    """The first output that holds a score for each class, one row for each example; None if there is none."""
    for array in outputs.values():
        if array.ndim == 2 and 2 <= array.shape[1] <= MOST_CLASSES and np.issubdtype(array.dtype, np.floating):
            return array.astype(np.float64)
    return None


def probabilities_of(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores if they are probabilities already, else their softmax."""
    if np.all(scores >= 0) and np.allclose(scores.sum(axis=1), 1.0, atol=1e-3):
        return scores
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def classes_of(outputs: Arrays) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """The class of each row and its confidence; None for outputs without classes."""
    scores = scores_of(outputs)
    if scores is None or not len(scores):
        return None
    return scores.argmax(axis=1), probabilities_of(scores).max(axis=1)


@dataclass(frozen=True)
class Difference:
    """Of two answers: do they agree, the largest absolute difference, and the divergence in nats where both are
    probabilities, averaged over the rows. `kl` is None where there are no classes.
    """

    agrees: bool
    max_abs: float
    kl: float | None


Labels: TypeAlias = Sequence[str] | None
"""The names of classes in the order of the scores."""


def compare(expected: Arrays, found: Arrays, expected_labels: Labels = None, found_labels: Labels = None) -> Difference:
    """Answers agree if every row has the same class or, without classes, if all numbers are close. NaN agrees with NaN.

    Classes are the same if their names are, where both have names. Outputs that one of them lacks, or of another shape,
    do not agree.
    """
    if expected.keys() != found.keys() or any(expected[name].shape != found[name].shape for name in expected):
        return Difference(False, math.inf, None)
    largest = max((_max_abs(expected[name], found[name]) for name in expected), default=0.0)
    first, second = scores_of(expected), scores_of(found)
    if first is None or second is None:
        return Difference(all(_close(expected[name], found[name]) for name in expected), largest, None)
    valid = np.isfinite(first).all(axis=1) == np.isfinite(second).all(axis=1)
    agrees = bool(
        np.all(valid & _same_classes(first.argmax(axis=1), second.argmax(axis=1), expected_labels, found_labels))
    )
    return Difference(agrees, largest, _kl(first, second))


def _same_classes(
    first: NDArray[np.int64], second: NDArray[np.int64], expected: Labels, found: Labels
) -> NDArray[np.bool_]:
    if expected is None or found is None or list(expected) == list(found):
        return np.asarray(first == second)
    return np.asarray(np.asarray(expected, str)[first] == np.asarray(found, str)[second])


def _max_abs(expected: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    if not expected.size:
        return 0.0
    if not _numeric(expected) or not _numeric(found):
        return 0.0 if np.array_equal(expected, found) else math.inf
    first, second = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((first == second) | (np.isnan(first) & np.isnan(second)), 0.0, np.abs(first - second))
    return float(np.max(np.where(np.isnan(apart), math.inf, apart)))


def _close(expected: NDArray[np.generic], found: NDArray[np.generic]) -> bool:
    if not _numeric(expected) or not np.issubdtype(expected.dtype, np.floating):
        return bool(np.array_equal(expected, found))
    size = float(np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected)))
    return bool(np.allclose(expected, found, rtol=CLOSE_RELATIVE, atol=CLOSE_RELATIVE * size, equal_nan=True))


def _numeric(array: NDArray[np.generic]) -> bool:
    return np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_


def _kl(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float | None:
    if not (np.isfinite(expected).all() and np.isfinite(found).all()) or not len(expected):
        return None
    first, second = probabilities_of(expected), probabilities_of(found)
    terms = first * np.log(np.maximum(first, 1e-12) / np.maximum(second, 1e-12))
    return float(terms.sum(axis=1).mean())
