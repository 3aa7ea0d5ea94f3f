"""Sequential tests of a canary: they hold however often one looks at the figures, after every request if need be.

The engine is the e-process of `monitor.sequential_test`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from penstock.monitor.sequential_test import Floats, log_e_better, log_e_worse, log_mean

HALF = 0.5
"""The limit of paired comparisons: of the pairs in which one side is worse, either side is as likely."""
MIN_EACH_WAY = 30
"""Successes and failures that each arm needs before a difference of rates has a confidence sequence."""
MIN_MISMATCH_KEYS = 1000
MISMATCH_E = 1000.0
"""The distinct keys, and the evidence against the intended shares, that a mismatch of shares needs."""


def canary_share_of_failures(share: float, ratio: float) -> float:
    """The chance that a failure is the canary's when it fails `ratio` times as often and gets `share` of the requests.

    The limit for the engine on (failures of both arms, failures of the canary): comparing two rates needs no rate.
    """
    return share * ratio / (share * ratio + 1 - share)


def log_e_mismatch(n: ArrayLike, s: ArrayLike, share: float) -> Floats:
    """The logarithm of the evidence that the canary's share of n keys, s of them, is not `share`, above or below."""
    sides = np.stack([log_e_worse(n, s, share), log_e_better(n, s, share)])
    return log_mean(np.moveaxis(sides, 0, -1))


def is_mismatch(n: int, s: int, share: float) -> bool:
    """True if the shares of distinct keys are not the intended ones, so that the arms cannot be compared."""
    if n < MIN_MISMATCH_KEYS or not 0 < share < 1:
        return False
    return bool(log_e_mismatch(n, s, share) >= math.log(MISMATCH_E))


class Interval(NamedTuple):
    """A difference of means, and half the width of its confidence sequence."""

    difference: float
    half_width: float

    @property
    def excludes_zero(self) -> bool:
        """True if one side is better, at the confidence of the sequence."""
        return abs(self.difference) > self.half_width


def half_width(n: ArrayLike, standard_error: ArrayLike, alpha: float = 0.05) -> Floats:
    """Half the width of an asymptotic confidence sequence: of a difference with this standard error after n trials.

    It is narrowest around n = 5,000. Not for rare events; see `rate_difference`.
    """
    n, error = np.asarray(n, float), np.asarray(standard_error, float)
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / 5000
    scaled = n * rho2 + 1
    return np.asarray(error * np.sqrt(n) * np.sqrt(2 * scaled / (n**2 * rho2) * np.log(np.sqrt(scaled) / alpha)))


def rate_difference(n: tuple[int, int], s: tuple[int, int], alpha: float = 0.05) -> Interval | None:
    """The difference of two rates, the second minus the first, from the trials and the hits of both.

    None with fewer than 30 hits or 30 misses on either side: for rare events the sequence gives false alarms; compare
    those by `canary_share_of_failures`.
    """
    if min(*s, n[0] - s[0], n[1] - s[1]) < MIN_EACH_WAY:
        return None
    first, second = s[0] / n[0], s[1] / n[1]
    error = math.sqrt(first * (1 - first) / n[0] + second * (1 - second) / n[1])
    return Interval(second - first, float(half_width(sum(n), error, alpha)))
