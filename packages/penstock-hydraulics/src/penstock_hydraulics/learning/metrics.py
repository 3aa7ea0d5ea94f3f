"""Accuracy, macro-F1, calibration, detection, and bootstrap intervals over runs.

Shapes: n cycles, K levels, R runs, S bootstrap samples. Probabilities are [n, K] with rows that sum to 1, labels [n]
are indices of levels. Confusion matrices are [..., K, K] with the truth in rows and the answer in columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Labels = NDArray[np.int64]

BINS = 15
"""Number of equal-width bins of the expected calibration error (Guo et al., ICML 2017)."""
SAMPLES = 2000
TINY = 1e-9
"""Lower bound of probabilities in logarithms."""


class Interval(NamedTuple):
    """A value with its 95 % percentile interval."""

    value: float
    low: float
    high: float


class Bin(NamedTuple):
    """Answers of similar confidence: their number, mean confidence and accuracy."""

    answers: int
    confidence: float
    accuracy: float


def confusion_by_run(labels: Labels, answers: Labels, classes: int, runs: Labels) -> Reals:
    """Counts [R, K, K], runs in ascending order."""
    names, of_cycle = np.unique(runs, return_inverse=True)
    confusion = np.zeros((len(names), classes, classes))
    np.add.at(confusion, (of_cycle, labels, answers), 1)
    return confusion


def accuracy(confusion: Reals) -> Reals:
    """Share of correct answers [...]."""
    hits: Reals = confusion.diagonal(axis1=-2, axis2=-1).sum(axis=-1) / np.maximum(confusion.sum(axis=(-2, -1)), 1)
    return hits


def f1_by_class(confusion: Reals) -> Reals:
    """F1 of each level [..., K]; NaN for a level that occurs neither in labels nor in answers."""
    hits = confusion.diagonal(axis1=-2, axis2=-1)
    involved = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return np.where(involved > 0, 2 * hits / np.maximum(involved, 1), np.nan)


def macro_f1(confusion: Reals) -> Reals:
    """Unweighted mean F1 [...] over the levels in labels or answers, as in scikit-learn."""
    scores = f1_by_class(confusion)
    counted = np.isfinite(scores)
    mean: Reals = np.where(counted, scores, 0.0).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
    return mean


def negative_log_likelihood(probabilities: Reals, labels: Labels) -> float:
    """The mean of -ln p(truth)."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], TINY)).mean())


def reliability(probabilities: Reals, labels: Labels, bins: int = BINS) -> list[Bin]:
    """The bins of the reliability plot, from confidence 0 to 1, empty ones included."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (confidence, right.astype(float))]
    means = [total / np.maximum(count, 1) for total in sums]
    return [Bin(int(n), float(c), float(a)) for n, c, a in zip(count, *means, strict=True)]


def expected_calibration_error(probabilities: Reals, labels: Labels, bins: int = BINS) -> float:
    """The mean distance between confidence and accuracy, weighted by the bins' counts (Guo et al., ICML 2017)."""
    found = reliability(probabilities, labels, bins)
    return sum(one.answers * abs(one.confidence - one.accuracy) for one in found) / max(len(labels), 1)


def bootstrap_weights(runs: int, samples: int = SAMPLES, seed: int = 0) -> Reals:
    """Number of draws of each run [S, R]: R runs per sample, with replacement.

    Runs instead of cycles, since the cycles of a run are nearly copies of each other.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(runs, np.full(runs, 1 / runs), size=samples).astype(np.float64)


def resampled(by_run: Reals, weights: Reals) -> Reals:
    """The confusion matrices [S, K, K] of the drawn runs."""
    return np.tensordot(weights, by_run, axes=1)


def interval(value: float, drawn: Reals) -> Interval:
    """`value` with the 2.5th and the 97.5th percentile of the samples."""
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(float(value), float(low), float(high))


def mean_macro_f1(targets: Sequence[Reals], weights: Reals | None = None) -> Reals:
    """Mean macro-F1 over targets, from confusions by run [R, K, K]: one number, or one per sample [S]."""
    scores = [macro_f1(one.sum(axis=0) if weights is None else resampled(one, weights)) for one in targets]
    mean: Reals = np.mean(scores, axis=0)
    return mean


def paired_difference(ours: Sequence[Reals], theirs: Sequence[Reals], seed: int = 0) -> Interval:
    """Mean macro-F1 of `ours` minus `theirs`, paired bootstrap over the same runs."""
    weights = bootstrap_weights(len(ours[0]), seed=seed)
    drawn = mean_macro_f1(ours, weights) - mean_macro_f1(theirs, weights)
    return interval(float(mean_macro_f1(ours) - mean_macro_f1(theirs)), drawn)


class Detection(NamedTuple):
    """Detection at a threshold: share of flagged fault-free cycles (false alarms) and of flagged faulty ones."""

    threshold: float
    false_alarms: float
    detected: float
    negatives: int
    positives: int


def detection_at(scores: Reals, faulty: NDArray[np.bool_], threshold: float) -> Detection:
    """Detection by `scores >= threshold`; a share is NaN without cycles of its kind."""
    flagged = scores >= threshold
    negatives, positives = int((~faulty).sum()), int(faulty.sum())
    return Detection(
        threshold,
        float(flagged[~faulty].mean()) if negatives else float("nan"),
        float(flagged[faulty].mean()) if positives else float("nan"),
        negatives,
        positives,
    )


def threshold_at(scores: Reals, faulty: NDArray[np.bool_], false_alarms: float, least: float = 0.5) -> float:
    """The lowest threshold with at most this share of false alarms, to four decimals.

    Never below `least`: well separated faults in these data may be less separated on another machine.
    """
    negatives_sorted = np.sort(scores[~faulty])
    allowed = int(np.floor(false_alarms * len(negatives_sorted)))
    highest = negatives_sorted[len(negatives_sorted) - 1 - allowed]
    above = np.floor(highest * 10_000 + 1) / 10_000
    return float(np.clip(above, least, 1.0))
