"""Which candidates are worth keeping, and which one is the best by a target; plain decisions on figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from penstock.errors import InvalidInput
from penstock.options import suggestion

Target = Literal["p99", "throughput", "size", "memory"]
TARGETS: tuple[Target, ...] = get_args(Target)

SAME = 0.03
"""Figures that differ by less than this share count as equal: timings of the same file differ by as much."""


def check_target(target: str) -> Target:
    """`target` if it is one. Raises InvalidInput listing them."""
    for known in TARGETS:
        if target == known:
            return known
    close = suggestion(target, TARGETS).partition(";")[2] if target else ""
    hint = close if "mean" in close else ""
    raise InvalidInput(f"target: {target!r} is not one of {', '.join(TARGETS)}{hint and ';' + hint}", field="target")


def pareto(figures: Mapping[str, Sequence[float]]) -> dict[str, str | None]:
    """For each name, another one that is at least as good in every figure; None for those worth keeping.

    Lower figures are better. A figure is worse only beyond SAME; of equal ones the first of the mapping is kept, so
    the simplest comes first.
    """
    remaining = list(figures)
    dominated: dict[str, str | None] = dict.fromkeys(figures)
    for name in reversed(list(figures)):  # only by one that remains, or a chain of near equals would remove all
        dominated[name] = next((other for other in remaining if other != name and _as_good(other, name, figures)), None)
        if dominated[name] is not None:
            remaining.remove(name)
    return dominated


def _as_good(other: str, name: str, figures: Mapping[str, Sequence[float]]) -> bool:
    """True if `other` is worse in nothing, and better in something or earlier."""
    pairs = list(zip(figures[other], figures[name], strict=True))
    if any(_worse(theirs, own) for theirs, own in pairs):
        return False
    order = list(figures)
    return order.index(other) < order.index(name) or any(_worse(own, theirs) for theirs, own in pairs)


def _worse(one: float, other: float) -> bool:
    return one - other > SAME * max(abs(one), abs(other))


Interval = tuple[float, float, float]
"""A ratio with the low and the high end of its interval."""


def beats(ratio: Interval, margin: float = SAME) -> bool:
    """True if a form is faster than the baseline beyond noise: by its interval, and by its median beyond a margin."""
    median, low, _ = ratio
    return low > 1 and median > 1 + margin


def winner(ratios: Mapping[str, Interval]) -> str | None:
    """The fastest of those that beat the baseline; a simpler one, which comes first, if it is as fast within SAME.

    The mapping goes from simple to complex. None: nothing beats the baseline.
    """
    better = {name: ratio for name, ratio in ratios.items() if beats(ratio)}
    if not better:
        return None
    best = max(ratio[0] for ratio in better.values())
    return next(name for name, ratio in better.items() if ratio[0] * (1 + SAME / 2) >= best)


def best_batch(curve: Mapping[int, float]) -> int | None:
    """The number of rows up to which batches are worth their time; None if that is the largest one measured.

    `curve` holds the milliseconds of a batch by its rows. A larger batch costs more for a row where its share is more
    than a tenth above the lowest.
    """
    if len(curve) < 2:
        return None
    sizes = sorted(curve)
    costs = {rows: curve[rows] / rows for rows in sizes}
    lowest = min(costs.values())
    worth = max(rows for rows in sizes if costs[rows] <= 1.1 * lowest)
    return None if worth == sizes[-1] else worth
