"""Whether a work cycle is like those that the model learned from: it answers for any, and cannot tell by itself."""

from __future__ import annotations

from typing import Final

import numpy as np

from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.features import STATISTICS, Float, Layout

FAR: Final = 4.0
"""Deviations from usual, from where on a statistic of a window is far off."""
MOST: Final = 0.05
"""The share of far statistics up to which a cycle with every sensor is usual. Of the recordings, each measured by the
scales of other runs (five folds, 1,905 cycles), none has more than 0.048; moved by a second, each has."""
_ROWS: Final = 18
_SCATTER: Final = 0.7
"""Shares of few rows scatter: of random choices of 12, 8, 5, 3, 2 and 1 of the 18 rows, no recorded cycle has more than
0.06, 0.08, 0.10, 0.17, 0.24 and 0.38; the limit goes along."""
_NAMED: Final = 3


def usual_far_share(rows: int) -> float:
    """The share of far statistics up to which a window of so many rows is usual."""
    return float(MOST * max(1.0, _ROWS / rows) ** _SCATTER)


def out_of_distribution_advisory(statistics: Float, layout: Layout, topology: Topology) -> str | None:
    """A warning for a whole cycle that is unlike what was learned; `statistics` are the model's input of that name."""
    far = np.abs(statistics) >= FAR
    count, rows = int(np.count_nonzero(far)), len(layout.rows)
    usual = usual_far_share(rows)
    share = count / (rows * STATISTICS)
    if share <= usual:
        return None
    own = far.reshape(-1, STATISTICS)[layout.slots].mean(axis=1)
    names = dict.fromkeys(_name(topology, layout, int(row)) for row in np.argsort(-own, kind="stable") if own[row] > 0)
    return (
        f"the readings are unlike those that the model learned from ({share:.0%} of their statistics are far from"
        f" usual, {usual:.0%} at most in what it knows), most of all {', '.join([*names][:_NAMED])}: check their units"
        " and places, and that the window begins with the work cycle; take the states with care"
    )


def _name(topology: Topology, layout: Layout, row: int) -> str:
    node, channel = layout.rows[row]
    return f"{channel.partition('_')[0]}_{topology.components[node].id}"
