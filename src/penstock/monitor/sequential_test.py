"""A test of a rate against a limit that may be looked at after every request: an e-process on a grid of rates.

Each term is the likelihood of one rate over that of the limit, so that under any rate on the limit's good side the mean
is a supermartingale, and ever reaching 1/α has a chance of at most α (Ville's inequality).
"""

from __future__ import annotations

import numpy as np

from penstock.tensors import Array

_FACTORS = 32
_NEAREST = 1.1
"""Odds of the nearest rate of the grid, as a multiple of the odds of the limit; the farthest *better* one is 1/20."""
_FARTHEST_BETTER = 20.0
_FARTHEST_WORSE = 0.97


def log_e_worse(trials: int, bad: int, limit: float) -> float:
    """The logarithm of the evidence that the rate of bad trials is above `limit` (between 0 and 1)."""
    odds = limit / (1 - limit)
    farthest = max(_FARTHEST_WORSE / (1 - _FARTHEST_WORSE), 2 * _NEAREST * odds)
    grid = np.geomspace(_NEAREST * odds, farthest, _FACTORS)
    return _log_mean(trials, bad, limit, grid / (1 + grid))


def log_e_better(trials: int, bad: int, limit: float) -> float:
    """The logarithm of the evidence that the rate of bad trials is below `limit`."""
    odds = limit / (1 - limit)
    grid = odds / np.geomspace(_NEAREST, _FARTHEST_BETTER, _FACTORS - 1)
    return _log_mean(trials, bad, limit, np.concatenate([[0.0], grid / (1 + grid)]))


def _log_mean(trials: int, bad: int, limit: float, rates: Array) -> float:
    with np.errstate(divide="ignore"):
        of_bad = np.log(rates / limit) if bad else np.zeros(len(rates))
    terms = bad * of_bad + (trials - bad) * np.log((1 - rates) / (1 - limit))
    highest = float(terms.max())
    return highest + float(np.log(np.exp(terms - highest).mean()))
