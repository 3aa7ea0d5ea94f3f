"""Component states and their levels, the nine anomalies, and health from severity.

Levels and units are those of the data set "Condition monitoring of hydraulic systems" (Helwig, Pignanelli and
Schütze 2015, doi:10.24432/C5CW21). Every array of levels runs from the best level to the worst.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Head:
    """One ordinal state: `start` and `stop` are its columns in the model's output `levels`."""

    name: str
    kind: str
    unit: str
    levels: tuple[float, ...]
    start: int

    @property
    def stop(self) -> int:
        """One past the last column."""
        return self.start + len(self.levels)

    @property
    def columns(self) -> slice:
        """The columns of this state in `levels`."""
        return slice(self.start, self.stop)

    @property
    def severities(self) -> Float:
        """[levels] The severity of each level: 0 for the best, 1 for the worst, equal steps between."""
        return np.linspace(0.0, 1.0, len(self.levels), dtype=np.float32)


HEADS: Final[tuple[Head, ...]] = (
    Head("cooler_condition", "heat_exchanger", "%", (100.0, 20.0, 3.0), 0),
    Head("valve_condition", "directional_valve", "%", (100.0, 90.0, 80.0, 73.0), 3),
    Head("pump_leakage", "pump", "", (0.0, 1.0, 2.0), 7),
    Head("accumulator_pressure", "accumulator", "bar", (130.0, 115.0, 100.0, 90.0), 10),
)
LEVELS: Final = HEADS[-1].stop
HEAD_OF_KIND: Final = {head.kind: head for head in HEADS}

ANOMALIES: Final[tuple[str, ...]] = (
    "pressure_drop",
    "overheating",
    "cavitation",
    "leakage",
    "vibration_anomaly",
    "flow_restriction",
    "contamination",
    "seal_degradation",
    "valve_stiction",
)


@dataclass(frozen=True, slots=True)
class Supervised:
    """An anomaly derived from a labelled state: the probability that its level is `first` or worse."""

    anomaly: str
    head: Head
    first: int

    @property
    def columns(self) -> slice:
        """The columns of `levels` that add up to the anomaly's probability."""
        return slice(self.head.start + self.first, self.head.stop)


# Only leakage has labels of its own; the other three are states that appear as the anomaly.
SUPERVISED: Final[tuple[Supervised, ...]] = (
    Supervised("overheating", HEADS[0], 1),  # cooler at 20 % or less
    Supervised("valve_stiction", HEADS[1], 1),  # valve at 90 % or less: a switching lag
    Supervised("leakage", HEADS[2], 1),  # any internal leakage of the pump
    Supervised("pressure_drop", HEADS[3], 2),  # pre-charge pressure of 100 bar or less
)


def severity(probabilities: Float, head: Head) -> Float:
    """Expected ordinal level / (levels - 1), 0 (best) to 1, from `[..., levels of the head]` probabilities."""
    return np.asarray(probabilities @ head.severities, dtype=np.float32)


def equipment_health(component_health: Float) -> float:
    """Health of the machine from `[components with a state]`: half the worst, half the mean; 1 for none.

    One component near failure makes the machine critical; one slight fault leaves it healthy.
    """
    if not len(component_health):
        return 1.0
    return float(0.5 * component_health.min() + 0.5 * component_health.mean())
