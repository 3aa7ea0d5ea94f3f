"""Compare in turns: each side once per round, and the median of every figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, TypeAlias

Result: TypeAlias = dict[str, Any]


def median(values: list[float], digits: int = 2) -> float:
    return round(statistics.median(values), digits)


def in_turn(sides: dict[str, Callable[[], Result]], rounds: int) -> dict[str, Result]:
    """Each side once a round; the median of every figure."""
    runs: dict[str, list[Result]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            runs[name].append(side())
            print(f"    {name}: " + ", ".join(f"{k}={v:.4g}" for k, v in runs[name][-1].items()), flush=True)
    return {name: {key: median([r[key] for r in of]) for key in of[0]} for name, of in runs.items()}
