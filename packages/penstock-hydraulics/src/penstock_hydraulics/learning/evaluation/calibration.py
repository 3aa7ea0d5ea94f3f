"""Temperature scaling: one divisor of the logits for each state (Guo et al., ICML 2017).

Fitted on pooled out-of-fold answers, since fitting on one small held-out part made two of four states worse. It is
evaluated on answers that it was not fitted on, and accepted only if likelihood and calibration both improve there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.learning.metrics import (
    TINY,
    Labels,
    Reals,
    expected_calibration_error,
    negative_log_likelihood,
)

COLDEST = 0.1
HOTTEST = 10.0
STEPS = 60
PRIOR = 0.25
"""Standard deviation of ln T around 0. Without a prior, error-free answers would be sharpened without limit."""
_GOLDEN = (5**0.5 - 1) / 2


class Calibration(NamedTuple):
    """The served temperature (1 unless accepted), and cross-fitted figures before and after scaling."""

    temperature: float
    fitted: float
    accepted: bool
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


def tempered(probabilities: Reals, temperature: float) -> Reals:
    """Probabilities [n, K] after dividing the logits by `temperature`."""
    logits = np.log(np.maximum(probabilities, TINY)) / temperature
    powers: Reals = np.exp(logits - logits.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


def fit_temperature(probabilities: Reals, labels: Labels) -> float:
    """The most probable temperature under a log-normal prior of `PRIOR`, by golden-section search in its logarithm."""
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if _loss(probabilities, labels, left) < _loss(probabilities, labels, right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def calibrate(probabilities: Reals, labels: Labels, folds: NDArray[np.int64]) -> Calibration:
    """Fit on all out-of-fold answers; accept if cross-fitted temperatures improve the figures.

    `folds` [n] is the fold of each answer.
    """
    after = cross_fitted(probabilities, labels, folds)
    fitted = fit_temperature(probabilities, labels)
    nll = [negative_log_likelihood(answers, labels) for answers in (probabilities, after)]
    ece = [expected_calibration_error(answers, labels) for answers in (probabilities, after)]
    accepted = nll[1] < nll[0] and ece[1] < ece[0]
    return Calibration(fitted if accepted else 1.0, fitted, accepted, *nll, *ece)


def cross_fitted(probabilities: Reals, labels: Labels, folds: NDArray[np.int64]) -> Reals:
    """The answers [n, K] of each fold, scaled by the temperature fitted on the other folds."""
    after = probabilities.copy()
    for fold in np.unique(folds):
        here = folds == fold
        if not here.all():
            after[here] = tempered(probabilities[here], fit_temperature(probabilities[~here], labels[~here]))
    return after


def _loss(probabilities: Reals, labels: Labels, log_temperature: float) -> float:
    likelihood = negative_log_likelihood(tempered(probabilities, float(np.exp(log_temperature))), labels)
    return likelihood + (log_temperature / PRIOR) ** 2 / (2 * len(labels))
