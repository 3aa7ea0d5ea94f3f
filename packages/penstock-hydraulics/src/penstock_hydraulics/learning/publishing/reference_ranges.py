"""The reference ranges of the recordings: level, texture and relations of usual readings, for the manifest.

They depend on the recordings alone, so every model trained on them has the same.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.learning.data.recordings import RIG, ROWS, Recordings
from penstock_hydraulics.signals.features import Float
from penstock_hydraulics.signals.reference import TEXTURE, Measures, measure, row_name

Table = dict[str, Any]
Numbers = NDArray[np.float64]

LEVEL_MARGIN: Final = 0.25
"""Margins beyond the extremes of the recordings, as shares of the distance between these: for levels, roughness and
spread (both on a logarithmic scale), and relations. With them, less than 1 % of the cycles of held-out runs are odd."""
TEXTURE_MARGIN: Final = 0.25
RELATION_MARGIN: Final = 0.75
COUNT_MARGIN: Final = 2
"""Seconds beyond the most of the recordings, for repeats and extremes."""
_LEAST_SHARE: Final = 0.05
"""Least width of a level, as a share of the sensor's whole range: in some segments there is no pressure at all."""
_MAX_RESIDUAL: Final = 0.4
"""Maximum deviation of a relation, in deviations of the sensor: others tell nothing."""
_EXTREMES: Final = ("flow_max_", "flow_min_")
_STEP: Final = 0.25
"""Of the roughness of the quietest cycles: such a resolution, and so three decimals, is as usual as a finer one."""
_QUIET: Final = 0.01
"""Share of the cycles that count as quietest."""
_NAMES: Final = tuple(row_name(channel, RIG.components[node].id) for node, channel in ROWS)


def reference_ranges(recordings: Recordings) -> Table:
    """The reference of the rig, in the form of the manifest."""
    place = {name: row for row, name in enumerate(_NAMES)}
    flows = [name for name in _NAMES if name.replace("flow_", "flow_max_", 1) in place and "flow_" in name]
    ends = [np.array([place[name.replace("flow_", end, 1)] for name in flows], np.intp) for end in _EXTREMES]
    measures = measure(recordings.readings, (ends[0], ends[1]))
    rows = {name: _row(measures, recordings.readings[:, row], row) for row, name in enumerate(_NAMES)}
    for at, name in enumerate(flows):
        rows[name]["spread"] = _joined(_widened(measures.spread[:, at], TEXTURE_MARGIN, logarithmic=True))
    return {RIG.name: {"rows": rows, "relations": _relations(measures.levels.mean(axis=2))}}


def _row(measures: Measures, readings: Float, row: int) -> dict[str, Any]:
    levels = measures.levels[:, row]
    low, high = levels.min(axis=0), levels.max(axis=0)
    margin = LEVEL_MARGIN * np.maximum(high - low, _LEAST_SHARE * (levels.max() - levels.min()))
    roughness = measures.texture[:, TEXTURE.index("roughness"), row]
    counts = measure(_coarse(readings, float(np.quantile(roughness, _QUIET)))[:, None]).texture[:, :, 0].T
    repeats, _, highest, lowest = counts
    found: dict[str, Any] = {
        "low": _joined(low - margin),
        "high": _joined(high + margin),
        "repeats": _more(repeats),
        "roughness": _joined(_widened(roughness, TEXTURE_MARGIN, logarithmic=True)),
        "highest": _more(highest),
        "lowest": _more(lowest),
    }
    constant = readings.max(axis=1) == readings.min(axis=1)
    if constant.any():
        found["rest"] = _joined([readings[constant].min(), readings[constant].max()])
    return found


def _coarse(readings: Float, roughness: float) -> Float:
    """The readings in steps of a share of a roughness."""
    step = _STEP * roughness
    return readings if step <= 0.0 else (np.round(readings / step) * step).astype(np.float32)


def _relations(means: Numbers) -> list[str]:
    """The pairs of sensors whose means over a cycle are related."""
    sensors = [row for row, (_, channel) in enumerate(ROWS) if not channel.startswith("flow_")]
    found = []
    for one, other in combinations(sensors, 2):
        x, y = means[:, one], means[:, other]
        slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
        rest = y - slope * x
        if rest.std() < _MAX_RESIDUAL * y.std():
            low, high = _widened(rest, RELATION_MARGIN)
            found.append(f"{_NAMES[one]} {_NAMES[other]} {_joined((slope, low, high))}")
    return found


def _widened(values: Numbers, margin: float, *, logarithmic: bool = False) -> tuple[float, float]:
    """The range of the values and a margin, a share of its width."""
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        if low <= 0.0:
            return 0.0, high * (high / float(np.median(values[values > 0])) if (values > 0).any() else 1.0) ** margin
        factor = (high / low) ** margin
        return low / factor, high * factor
    return low - margin * (high - low), high + margin * (high - low)


def _more(counts: Numbers) -> float:
    return float(counts.max() + COUNT_MARGIN)


def _joined(numbers: Any) -> str:
    return " ".join(f"{number:.5g}" for number in numbers)
