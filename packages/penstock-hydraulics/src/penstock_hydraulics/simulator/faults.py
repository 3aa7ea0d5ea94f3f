"""The nine faults: the components that can have them, and the meaning of severity 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from penstock.errors import InvalidInput
from penstock_hydraulics.machine.topology import Topology

FAULTS: Mapping[str, tuple[str, ...]] = {
    "pressure_drop": ("accumulator", "relief_valve"),
    "overheating": ("heat_exchanger",),
    "cavitation": ("pump",),
    "leakage": ("pump", "circulation_pump"),
    "vibration_anomaly": ("pump", "motor"),
    "flow_restriction": ("directional_valve", "load_valve", "cylinder", "motor", "heat_exchanger"),
    "contamination": ("filter",),
    "seal_degradation": ("cylinder", "motor", "pump"),
    "valve_stiction": ("directional_valve",),
}
"""Each fault, in the order of the API, and the kinds of components that can have it; the first is the default."""

Severity = float | tuple[float, float]
"""0 healthy to 1 failed; a pair changes linearly from the first window to the last."""
Faults = Mapping[str, Mapping[str, Severity]]
"""Component id → fault → severity."""

_FAN = ((0.0, 0.5, 1.0), (1.0, 0.2, 0.03))
"""The cooler's fan duty; the recordings' levels of 100, 20 and 3 %."""
_DELAY = ((0.0, 1 / 3, 2 / 3, 1.0), (0.0, 0.073, 0.19, 0.315))
"""Opening delay of a sticking spool in seconds; from PS2 at the levels of 100, 90, 80 and 73 %."""
_BYPASS = ((0.0, 0.5, 1.0), (0.0, 0.65, 1.0))
"""Pump leakage relative to the worst level; from FS1 at the levels 0, 1 and 2."""


def check_faults(topology: Topology, faults: Faults) -> None:
    """Raises InvalidInput, naming the component, for a fault that is impossible in this circuit."""
    for component_id, chosen in faults.items():
        if component_id not in topology.index:
            raise InvalidInput(f"The topology {topology.name} has no component {component_id!r}.", field="faults")
        kind = topology.components[topology.index[component_id]].kind
        for fault, severity in chosen.items():
            _check_fault(component_id, kind, fault, severity)


def _check_fault(component_id: str, kind: str, fault: str, severity: Severity) -> None:
    if fault not in FAULTS:
        raise InvalidInput(f"Unknown fault {fault!r}; known faults: {', '.join(FAULTS)}.", field="faults")
    if kind not in FAULTS[fault]:
        raise InvalidInput(
            f"Component {component_id!r} is a {kind}, which cannot have {fault}; "
            f"it is simulated for: {', '.join(FAULTS[fault])}.",
            field="faults",
        )
    ends = severity if isinstance(severity, tuple) else (severity,)
    if not all(0.0 <= end <= 1.0 for end in ends):
        raise InvalidInput(f"The severity of {fault} at {component_id!r} must be from 0 to 1.", field="faults")


def severities(faults: Faults, window: int, windows: int) -> dict[str, dict[str, float]]:
    """The severities in one window, counted from 0."""
    share = window / max(windows - 1, 1)
    return {
        component_id: {fault: _at(severity, share) for fault, severity in chosen.items()}
        for component_id, chosen in faults.items()
    }


def _at(severity: Severity, share: float) -> float:
    if isinstance(severity, tuple):
        return float(severity[0] + share * (severity[1] - severity[0]))
    return float(severity)


def fan_duty(severity: float) -> float:
    """Fan duty of an overheating cooler: 1 to 0.03."""
    return float(np.exp(np.interp(severity, _FAN[0], np.log(_FAN[1]))))


def opening_delay(severity: float) -> float:
    """Opening delay of a sticking valve in seconds."""
    return float(np.interp(severity, *_DELAY))


def wear_bypass(severity: float) -> float:
    """Bypass of a pump relative to that of a fully worn one."""
    return float(np.interp(severity, *_BYPASS))
