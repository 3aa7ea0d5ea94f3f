"""A test of a rate against a limit that may be looked at after every request: an e-process on a grid of rates.

Of n trials s were bad, and the chance of a bad one is at most (or at least) a limit. Each term is a likelihood ratio
against the limit; under the hypothesis the mean of the terms is a nonnegative supermartingale, so the chance that it
*ever* reaches 1/alpha is at most alpha (Ville's inequality). No asymptotics are involved. All functions take numbers or
arrays of equal shape, and work on logarithms.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

GRID = 32
"""Alternatives on each side of a limit; below it, zero is one of them."""
_NEAREST = 1.1
"""The odds of the alternative next to a limit, as a ratio."""
_WORST = 0.97
"""The highest alternative."""
_BEST = 20.0
"""The lowest alternative but zero: the odds of the limit are this many times higher."""


def log_e_worse(n: ArrayLike, s: ArrayLike, limit: float) -> Floats:
    """The logarithm of the evidence that more than `limit` are bad, of n trials with s bad ones."""
    return _log_e(n, s, _worse(limit))


def log_e_better(n: ArrayLike, s: ArrayLike, limit: float) -> Floats:
    """The logarithm of the evidence that fewer than `limit` are bad, of n trials with s bad ones."""
    return _log_e(n, s, _better(limit))


def _log_e(n: ArrayLike, s: ArrayLike, factors: tuple[Floats, Floats]) -> Floats:
    of_bad, of_good = factors
    bad = np.asarray(s, float)[..., None]
    good = np.asarray(n, float)[..., None] - bad
    with np.errstate(invalid="ignore"):
        bad_terms = np.where(bad > 0, bad * of_bad, 0.0)  # the alternative zero allows no bad one
    return log_mean(bad_terms + good * of_good)


def log_mean(terms: Floats) -> Floats:
    """The logarithm of the mean of exp(terms) over the last axis."""
    highest = terms.max(axis=-1, keepdims=True)
    mean = np.exp(terms - highest).mean(axis=-1)
    return np.asarray(highest[..., 0] + np.log(mean))


@lru_cache(maxsize=256)
def _worse(limit: float) -> tuple[Floats, Floats]:
    odds = limit / (1 - limit)
    steps = np.geomspace(_NEAREST, max(_WORST / (1 - _WORST) / odds, 2 * _NEAREST), GRID)
    return _factors(odds * steps / (1 + odds * steps), limit)


@lru_cache(maxsize=256)
def _better(limit: float) -> tuple[Floats, Floats]:
    odds = limit / (1 - limit) / np.geomspace(_NEAREST, _BEST, GRID - 1)
    return _factors(np.append(odds / (1 + odds), 0.0), limit)


def _factors(grid: Floats, limit: float) -> tuple[Floats, Floats]:
    """The logarithms of what a bad and a good trial multiply the evidence for each alternative by."""
    with np.errstate(divide="ignore"):
        return np.log(grid / limit), np.log((1 - grid) / (1 - limit))
