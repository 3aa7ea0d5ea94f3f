"""Compare in turns: each side once per round, and the median of every figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, TypeAlias

from processes import Unavailable

Result: TypeAlias = dict[str, Any]


def median(values: list[float], digits: int = 3) -> float:
    return round(statistics.median(values), digits)


def in_turn(sides: dict[str, Callable[[], Result]], rounds: int) -> dict[str, Result]:
    """Each side once a round; the median of every figure, and the spread of the requests/s.

    A side that cannot be measured is left out after its first try, and its result is `{"skipped": why}`.
    """
    runs: dict[str, list[Result]] = {name: [] for name in sides}
    skipped: dict[str, Result] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            if name in skipped:
                continue
            try:
                runs[name].append(side())
            except Unavailable as reason:
                skipped[name] = {"skipped": str(reason)}
                print(f"    {name}: skipped: {reason}", flush=True)
                continue
            print(f"    {name}: " + ", ".join(f"{k}={v:.4g}" for k, v in runs[name][-1].items()), flush=True)
    return {name: skipped.get(name) or _summary(of) for name, of in runs.items()}


def _summary(runs: list[Result]) -> Result:
    found: Result = {key: median([run[key] for run in runs]) for key in runs[0]}
    for key in ("rps", "cpu_us"):
        if key in found:
            found[f"{key}_spread"] = [round(min(run[key] for run in runs), 1), round(max(run[key] for run in runs), 1)]
    return {**found, "rounds": len(runs)}
