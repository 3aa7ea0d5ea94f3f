"""Warn when a work cycle is out of distribution: the model itself answers for any input."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

import numpy as np

from penstock_hydraulics.diagnosis.odd_readings import odd_reading_warnings
from penstock_hydraulics.diagnosis.request_plans import RequestPlan
from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.features import STATISTICS, STEPS, Float, Layout

FAR: Final = 4.0
"""Standard deviations from which on a statistic of a window counts as far from usual."""
MAX_FAR_SHARE: Final = 0.05
"""Maximum share of far statistics in a usual cycle with all sensors. Of the recordings, standardised with the scales of
other runs (five folds, 1,905 cycles), none has more than 0.048; shifted by one second, every one has."""
_ALL_ROWS: Final = 18
_SCATTER_EXPONENT: Final = 0.7
"""Exponent by which the limit grows with fewer rows, since small samples scatter: with random choices of 12, 8, 5, 3, 2
and 1 of the 18 rows, no recorded cycle has more than 0.06, 0.08, 0.10, 0.17, 0.24 and 0.38."""
_MAX_NAMED: Final = 3


@cache
def usual_far_share(rows: int) -> float:
    """Maximum share of far statistics in a usual window with this many rows."""
    return float(MAX_FAR_SHARE * max(1.0, _ALL_ROWS / rows) ** _SCATTER_EXPONENT)


def unusual_windows(statistics: Float, rows: int) -> list[int]:
    """Which of several whole cycles are out of distribution; `statistics` is the model's input, of `rows` rows each."""
    counts = np.count_nonzero((np.abs(statistics) >= FAR).reshape(len(statistics), -1), axis=1)
    return [each for each, count in enumerate(counts.tolist()) if count / (rows * STATISTICS) > usual_far_share(rows)]


def out_of_distribution_advisory(statistics: Float, layout: Layout, topology: Topology) -> str | None:
    """A warning for a whole cycle that is out of distribution; `statistics` are its own in the input of that name."""
    far, rows = np.abs(statistics) >= FAR, len(layout.rows)
    usual = usual_far_share(rows)
    share = int(np.count_nonzero(far)) / (rows * STATISTICS)
    if share <= usual:
        return None
    own = far.reshape(-1, STATISTICS)[layout.slots].mean(axis=1)
    names = dict.fromkeys(_name(topology, layout, int(row)) for row in np.argsort(-own, kind="stable") if own[row] > 0)
    return (
        f"the readings are out of distribution ({share:.0%} of their statistics are far from usual, the limit is"
        f" {usual:.0%}), most of all {', '.join([*names][:_MAX_NAMED])}: check units and sensor positions, and that the"
        " window starts with the work cycle; the states may be wrong"
    )


class Unusual(NamedTuple):
    """Whether each of several windows is out of distribution, and the warnings about it."""

    flags: list[bool]
    warnings: list[list[str]]


def find_unusual(windows: Float, statistics: Float, plan: RequestPlan) -> Unusual:
    """Compare windows of one plan with the reference of the model and with the scales of its training."""
    found = Unusual([False] * len(windows), [[] for _ in windows])
    if plan.layout is None:
        return found
    if plan.reference is not None:
        for each, odd in plan.reference(windows).items():
            found.flags[each] = True
            found.warnings[each] += odd_reading_warnings(
                odd, plan.reference.known(windows[each][None])[0], plan.reference
            )
    if plan.usual is not None and plan.window_plan.steps == STEPS:
        for each in unusual_windows(statistics, len(plan.shown)):
            advisory = out_of_distribution_advisory(statistics[each], plan.layout, plan.topology)
            found.flags[each] = found.flags[each] or advisory is not None
            found.warnings[each] += [] if advisory is None else [advisory]
    return found


def _name(topology: Topology, layout: Layout, row: int) -> str:
    node, channel = layout.rows[row]
    return f"{channel.partition('_')[0]}_{topology.components[node].id}"
