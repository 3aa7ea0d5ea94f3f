"""The Pareto front: the points that no other point beats in one measure without losing in the other."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.toolchain.report.wording import finite


def front(points: Sequence[tuple[float | None, float | None]], *, low_x: bool = True, low_y: bool = False) -> list[int]:
    """The places of the points on the front, from the best `x` on.

    `low_x`, `low_y`: a lower value is better. Points without finite values are not on it; of equal points the first is.
    """
    sign_x, sign_y = (1 if low_x else -1), (1 if low_y else -1)
    known = [(sign_x * x, sign_y * y, place) for place, (x, y) in enumerate(points) if finite(x) and finite(y)]
    kept: list[int] = []
    best = float("inf")
    for _, y, place in sorted(known):
        if y < best:
            best = y
            kept.append(place)
    return kept
