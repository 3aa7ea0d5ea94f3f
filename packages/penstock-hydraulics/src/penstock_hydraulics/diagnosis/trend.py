"""Degradation rate and time to failure from the trend of a machine's health over its stored results.

The slope is the median of the slopes between all pairs of results (Theil 1950; Sen 1968,
doi:10.1080/01621459.1968.10480934), its 95 % interval follows from Kendall's statistic over the
ranks of those slopes (Sen 1968; Gilbert 1987, section 16.4), widened for autocorrelated results (Yue and Wang 2004,
doi:10.1023/B:WARM.0000043140.61082.60).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, sqrt
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Basis: TypeAlias = Literal["history", "nominal", "none"]
"""Basis of a rate: the stored results, the present state alone, or nothing."""

MIN_RESULTS: Final = 8
"""Minimum number of results of a trend, and of windows that fit into its time one after the other."""
MAX_RESULTS: Final = 64
FAILURE_HEALTH: Final = 0.3
"""Default health at which a machine counts as failed."""
REFERENCE_H: Final = 100.0
"""Hours in which a machine of rate 1 loses all its health."""
LONGEST_H: Final = 10_000.0
"""Longest reported time to failure; it then means `at least`."""

_Z: Final = 1.959964
"""95 %, two-sided, of the normal distribution."""
_LATEST: Final = 8
"""Number of the latest results that set the present level of the trend."""
_RECOVERY: Final = 0.2
_RUN: Final = 4
"""A repair: this many results in a row are all at least `_RECOVERY` better than the same number before them."""
_MIN_PART: Final = 16
"""Minimum number of results of a part of a trend; fewer do not allow an estimate of the autocorrelation."""
_MAX_AUTOCORRELATION: Final = 0.9
_CLOCK_S: Final = 0.001
"""Resolution of timestamps."""

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Degradation:
    """`rate` 0..1 is the loss of health in 100 h; the time to failure is None unless the loss is significant.

    Intervals are 95 %. With the basis `nominal` they are None, and `rate` is the health lost so far.
    """

    rate: float | None
    interval: tuple[float, float] | None
    time_to_failure_hours: float | None
    ttf_interval: tuple[float, float] | None
    basis: Basis


NOTHING: Final = Degradation(None, None, None, None, "none")


def degradation(
    times_s: Float, health: Float, now_s: float, failure_health: float = FAILURE_HEALTH, window_s: float = 60.0
) -> Degradation:
    """The trend of `[n]` results including the present one; results later than `now_s` are ignored.

    The times are ends of windows of `window_s`; of results with the same time, the last one counts. Only results since
    the last repair count, and only their later half if the decline became steeper. Fewer than 8 results, or less time
    than 8 windows take, give the basis `nominal`; no results give the basis `none`.
    """
    times_s, health = _ordered(times_s, health, now_s)
    if not len(health):
        return NOTHING
    start = _last_repair(health)
    hours, health = (times_s[start:] - now_s) / 3600.0, health[start:]
    if len(health) < MIN_RESULTS or (hours[-1] - hours[0]) * 3600.0 + window_s < MIN_RESULTS * window_s - _CLOCK_S:
        return _nominal(float(health[-1]))
    slope, low, high = _latest_slope(hours, health)
    level, spread = _present_level(hours, health, slope)
    rates = _rate(-slope), (_rate(-high), _rate(-low))
    return Degradation(*rates, *_time_to_failure(level - failure_health, spread, slope, low, high), "history")


def theil_sen(x: Float, y: Float) -> tuple[float, float, float]:
    """The median slope and its 95 % interval, for `[n]` points with at least two different x."""
    first, second = _pairs(len(x))
    run = x.take(second) - x.take(first)
    rise = y.take(second) - y.take(first)
    apart = run > 0
    if not apart.all():
        run, rise = run[apart], rise[apart]
    slopes = rise / run
    slopes.sort()
    middle = float(slopes[len(slopes) // 2] + slopes[(len(slopes) - 1) // 2]) / 2
    half = _Z * sqrt(_variance(len(x)) * _inflation(x, y, middle)) / 2
    last = len(slopes) - 1
    low, high = round(last / 2 - half), round(last / 2 + half)
    if low < 0 or high > last:  # too few points for a 95 % interval
        return middle, -np.inf, np.inf
    return middle, float(slopes[low]), float(slopes[high])


def _latest_slope(hours: Float, health: Float) -> tuple[float, float, float]:
    """Like `theil_sen`; repeated on the later half while that is significantly steeper, since wear accelerates."""
    found = theil_sen(hours, health)
    while len(hours) >= 2 * _MIN_PART:
        hours, health = hours[len(hours) // 2 :], health[len(health) // 2 :]
        if hours[0] == hours[-1]:
            break
        later = theil_sen(hours, health)
        if later[2] >= found[0]:
            break
        found = later
    return found


def _ordered(times_s: Float, health: Float, now_s: float) -> tuple[Float, Float]:
    fits = np.isfinite(health) & (times_s <= now_s)
    if not fits.all():
        times_s, health = times_s[fits], health[fits]
    if len(times_s) > 1 and (times_s[1:] < times_s[:-1]).any():
        order = times_s.argsort(kind="stable")
        times_s, health = times_s[order], health[order]
    if len(times_s) > 1:
        last = np.append(times_s[1:] > times_s[:-1], True)
        if not last.all():
            times_s, health = times_s[last], health[last]
    return times_s[-MAX_RESULTS:], health[-MAX_RESULTS:]


def _last_repair(health: Float) -> int:
    """Index of the first result after the last repair; 0 without a repair."""
    count = len(health) - _RUN + 1  # number of windows of _RUN results
    if count <= _RUN:
        return 0
    worst, best = health[:count], health[:count]
    for step in range(1, _RUN):
        worst = np.minimum(worst, health[step : count + step])
        best = np.maximum(best, health[step : count + step])
    repaired = (worst[_RUN:] >= best[:-_RUN] + _RECOVERY).nonzero()[0]
    return int(repaired[-1]) + _RUN if len(repaired) else 0


def _nominal(health: float) -> Degradation:
    return Degradation(min(max(1.0 - health, 0.0), 1.0), None, None, None, "nominal")


def _rate(loss_per_h: float) -> float:
    return min(max(loss_per_h * REFERENCE_H, 0.0), 1.0) + 0.0  # -0.0 becomes 0.0


def _present_level(hours: Float, health: Float, slope: float) -> tuple[float, float]:
    """Health at 0 h on a line through the latest results, and its standard error from their spread about it."""
    residuals = np.sort((health - slope * hours)[-_LATEST:])
    level = float(residuals[(len(residuals) - 1) // 2] + residuals[len(residuals) // 2]) / 2
    # Median absolute deviation to standard deviation: 1.4826; standard error of a median: 1.2533 sigma / sqrt(n)
    deviations = np.sort(np.abs(residuals - level))
    return level, 1.4826 * 1.2533 * float(deviations[len(deviations) // 2]) / sqrt(len(residuals))


def _time_to_failure(
    margin: float, spread: float, slope: float, low: float, high: float
) -> tuple[float | None, tuple[float, float] | None]:
    """Hours until the margin above failure is lost, with interval; None unless the loss is significant."""
    if margin <= 0:
        return 0.0, (0.0, 0.0)
    if high >= 0 or not isfinite(low):
        return None, None
    soonest = max(0.0, margin - _Z * spread) / -low
    latest = (margin + _Z * spread) / -high
    hours, soonest, latest = (min(value, LONGEST_H) for value in (margin / -slope, soonest, latest))
    return hours, (soonest, latest)


def _variance(n: int) -> float:
    """Variance of Kendall's statistic over n points without a trend."""
    return n * (n - 1) * (2 * n + 5) / 18.0


def _inflation(x: Float, y: Float, slope: float) -> float:
    """Factor on that variance for autocorrelated deviations (first-order autoregression)."""
    deviations = y - slope * x
    deviations = deviations - deviations.sum() / len(deviations)
    power = float(deviations @ deviations)
    if power <= 1e-18 * len(y):
        return 1.0
    correlation = min(max(float(deviations[1:] @ deviations[:-1]) / power, 0.0), _MAX_AUTOCORRELATION)
    return (1.0 + correlation) / (1.0 - correlation)


@lru_cache(maxsize=MAX_RESULTS + 1)
def _pairs(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    first, second = np.triu_indices(n, 1)
    return first, second
