"""Times as figures: mean, spread and percentiles in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0)
"""The percentiles of a curve."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a number of times, in milliseconds. Percentiles are interpolated between the two nearest times."""

    count: int
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Figures:
        """The figures of at least one time in seconds."""
        ms = np.asarray(seconds, np.float64) * 1000
        p50, p95, p99 = np.percentile(ms, (50, 95, 99))
        spread = float(ms.std(ddof=1)) if len(ms) > 1 else 0.0
        figures = (ms.mean(), spread, ms.min(), ms.max(), p50, p95, p99)
        return cls(len(ms), *(float(figure) for figure in figures))

    def to_json(self) -> dict[str, float]:
        """By name, rounded to a tenth of a microsecond."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def curve_of(seconds: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Percentiles with their times in milliseconds, for a plot; none of times that are none."""
    if not len(seconds):
        return ()
    ms = np.percentile(np.asarray(seconds, np.float64) * 1000, CURVE)
    return tuple((percent, float(value)) for percent, value in zip(CURVE, ms, strict=True))


def histogram_of(seconds: Sequence[float], bins: int = 40) -> tuple[tuple[float, float, int], ...]:
    """Counts in bins of equal width on a logarithmic scale: from and to in milliseconds, and how many."""
    if not len(seconds):
        return ()
    ms = np.maximum(np.asarray(seconds, np.float64) * 1000, 1e-6)
    low, high = float(ms.min()), float(ms.max())
    edges = np.geomspace(low, high, bins + 1) if high > low * 1.001 else np.array([low, high * 1.001])
    edges[0], edges[-1] = low, max(high, float(edges[-1]))
    counts, _ = np.histogram(ms, edges)
    return tuple((float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True))
