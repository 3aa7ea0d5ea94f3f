"""The statistics of drift: counts of a window against those of the reference. Pure functions of counts."""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, exp, sqrt
from typing import NamedTuple

import numpy as np

from penstock.tensors import Array

LEAST_EXPECTED = 5.0
"""Bins of which a window of the reference's distribution would hold fewer rows are pooled."""
FEW_PARTS = 4
CAUTIOUS_PHI = 3.0
"""What the spread is taken for at least where a window has fewer than `FEW_PARTS` parts to measure it from."""


class Difference(NamedTuple):
    """How far a window is from the reference in one feature; `psi` is corrected for the size of both."""

    chi2: float
    degrees: int
    psi: float
    ks: float
    js: float


def chi2_tail(chi2: float, degrees: int) -> float:
    """The chance of a χ² at least so large, by Wilson and Hilferty's approximation from 3 degrees on."""
    if degrees < 1 or chi2 <= 0:
        return 1.0
    if degrees < 3:
        return erfc(sqrt(chi2 / 2)) if degrees == 1 else exp(-chi2 / 2)
    part = 2 / (9 * degrees)
    return 0.5 * erfc(((chi2 / degrees) ** (1 / 3) - (1 - part)) / sqrt(part) / sqrt(2))


def difference(window: Array, reference: Array, phi: float = 1.0, *, ordered: slice | None = None) -> Difference:
    """A window's counts against the reference's. `phi` is the spread of the window's counts over that of single rows.

    `ordered` are the bins whose order means something; the Kolmogorov-Smirnov distance is theirs.
    """
    n, m = float(window.sum()), float(reference.sum())
    if not n or not m:
        return Difference(0.0, 0, 0.0, 0.0, 0.0)
    w, r = _pooled(window, reference)
    expected = (w + r) * (n / (n + m))
    chi2 = float(((w - expected) ** 2 / expected).sum() * (n + m) / m)
    degrees = len(w) - 1
    p, q = (w + 0.5) / (n + 0.5 * len(w)), (r + 0.5) / (m + 0.5 * len(r))
    psi = float(((p - q) * np.log(p / q)).sum()) - degrees * (max(phi, 1.0) / n + 1 / m)
    mean = (p + q) / 2
    js = sqrt(max(float((p * np.log2(p / mean) + q * np.log2(q / mean)).sum()) / 2, 0.0))
    inside = ordered or slice(0, len(window))
    ks = float(np.abs(np.cumsum(window[inside] / n - reference[inside] / m)).max(initial=0.0))
    return Difference(chi2, degrees, max(psi, 0.0), ks, js)


def _pooled(window: Array, reference: Array) -> tuple[Array, Array]:
    """The counts of bins that are large enough, and of all others together."""
    both = window + reference
    share = window.sum() / both.sum()
    small = both * min(share, 1 - share) < LEAST_EXPECTED
    kept = ~small & (both > 0)
    w, r = window[kept].astype(float), reference[kept].astype(float)
    rest = both[small].sum()
    if rest:
        w, r = np.append(w, window[small].sum()), np.append(r, reference[small].sum())
        if rest * share < 1 and len(w) > 1:  # too few for a bin of their own: with the smallest other one
            place = int((w + r)[:-1].argmin())
            w[place], r[place] = w[place] + w[-1], r[place] + r[-1]
            w, r = w[:-1], r[:-1]
    return w, r


def spread(parts: Sequence[Array], slices: Sequence[slice]) -> float:
    """φ: how much more the parts of a window differ than single rows would, over all features; at least 1.

    Rows that come in clusters, such as those of one user, make it about as large as a cluster.
    """
    parts = [part for part in parts if part.any()]
    chi2, degrees = 0.0, 0
    if len(parts) > 1:
        table = np.array(parts, np.float64)
        for one in slices:
            found = _homogeneity(table[:, one])
            chi2, degrees = chi2 + found[0], degrees + found[1]
    phi = max(chi2 / degrees, 1.0) if degrees else 1.0
    return phi if len(parts) >= FEW_PARTS else max(phi, CAUTIOUS_PHI)


def _homogeneity(table: Array) -> tuple[float, int]:
    """The χ² of parts against their sum, and its degrees of freedom."""
    totals, rows = table.sum(axis=0), table.sum(axis=1)
    kept = totals > 0
    if kept.sum() < 2:
        return 0.0, 0
    expected = np.outer(rows, totals[kept]) / rows.sum()
    return float(((table[:, kept] - expected) ** 2 / expected).sum()), (len(rows) - 1) * (int(kept.sum()) - 1)


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which of several hypotheses are rejected so that any false rejection has a chance of at most `alpha`."""
    rejected = [False] * len(p_values)
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        if p_values[place] > alpha / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected
