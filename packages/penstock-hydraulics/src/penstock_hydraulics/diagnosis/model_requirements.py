"""Requirements on a model: its configuration in the manifest, its tensors, and finite outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from penstock.errors import ModelLoadError, OutOfRange
from penstock.plugin_api import Signature
from penstock_hydraulics.diagnosis.advisories import DetectedFrom
from penstock_hydraulics.signals.evidence import EvidenceTable
from penstock_hydraulics.signals.features import INPUTS
from penstock_hydraulics.signals.reference import ReferenceTable

OUTPUTS: Final = ("levels", "component_health", "health", "degradation", "anomalies")
_USED: Final = ("levels", "component_health", "health", "anomalies")
"""The output `degradation` is an estimate from one window and unused; the answer's comes from the trend or health."""


class HydraulicConfig(BaseModel):
    """The task configuration in a manifest.

    `topologies` are the supported topologies; `states` is `supervised` (trained on recordings) or `simulated`, for all
    or by template. `thresholds` are probabilities at 1 % false alarms, `nominal` healthy means by template and sensor,
    `default_topology` is assumed for requests without a topology from unregistered machines. `coverage` is the measured
    table of which sensors tell which state, by template; `detected_from` the severity from which on the model detects
    a simulated fault, by template; `reference` the usual level and texture of the readings, by template; `universal`
    is the reference of a version that supports any topology.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    scales: dict[str, Any]
    topologies: Literal["any"] | tuple[str, ...] = "any"
    states: str | dict[str, str] = Field(default_factory=lambda: {"zema_rig": "supervised"})
    thresholds: dict[str, float] = Field(default_factory=dict)
    nominal: dict[str, dict[str, float]] = Field(default_factory=dict)
    coverage: dict[str, EvidenceTable] = Field(default_factory=dict)
    detected_from: dict[str, DetectedFrom] = Field(default_factory=dict)
    reference: dict[str, ReferenceTable] = Field(default_factory=dict)
    universal: str | None = None
    default_topology: str = "zema_rig"
    min_window_s: float = 30.0


def check_signature(signature: Signature) -> None:
    """Raises ModelLoadError that names a missing input or output."""
    for wanted, specs, what in ((INPUTS, signature.inputs, "input"), (OUTPUTS, signature.outputs, "output")):
        names = {spec.name for spec in specs}
        missing = next((name for name in wanted if name not in names), None)
        if missing is not None:
            raise ModelLoadError(f"hydraulic-diagnostics: the model has no {what} {missing!r}; export it again")


def check_finite(outputs: Mapping[str, NDArray[Any]]) -> None:
    """Raises OutOfRange that names an output with NaN or infinity."""
    total = float(np.add.reduce(outputs["levels"], axis=None)) + float(outputs["health"][0])
    if math.isfinite(total + sum(outputs["component_health"][0].tolist()) + sum(outputs["anomalies"][0].tolist())):
        return
    wrong = next((name for name in _USED if not np.isfinite(outputs[name]).all()), _USED[0])
    raise OutOfRange(
        f"sensor_data: the model's {wrong} is not finite; the readings are far outside the training data",
        field="sensor_data",
        side="output",
        tensor=wrong,
    )
