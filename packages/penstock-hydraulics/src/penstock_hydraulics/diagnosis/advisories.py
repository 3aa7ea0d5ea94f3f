"""Warnings about the limits of an answer, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.coverage import Coverage
from penstock_hydraulics.signals.features import FeatureConfig
from penstock_hydraulics.signals.windows import WindowPlan

DetectedFrom: TypeAlias = Mapping[str, Mapping[str, float | None]]
"""By fault and component the severity from which on a model detects the fault in simulations; None if it does not."""


def machine_advisories(
    topology: Topology, assumed: bool, supported: bool, from_recordings: bool, universal: str | None = None
) -> list[str]:
    """Warnings about the topology; `supported`: the model supports it; `universal` is a version that supports any."""
    warnings = []
    if assumed:
        warnings.append(
            f"the machine is not registered and the request has no topology; {topology.name} is assumed:"
            " send `topology`, or PUT /equipment/{id}"
        )
    if not supported:
        other = "" if universal is None else f"; {universal} supports any topology"
        warnings.append(
            f"this model does not support the topology {topology.name}; the answer comes from rules alone{other}"
        )
    elif not from_recordings:
        warnings.append(f"the states of the {topology.name} were learned from a simulator, not from recordings")
    return warnings


def window_advisories(plan: WindowPlan, config: FeatureConfig, long_enough: bool) -> list[str]:
    """Warnings about a window that is not a whole work cycle."""
    if not long_enough:
        return [
            f"the window is {plan.seconds:g} s, the model needs {config.min_window_s:g} to {config.window_s:g} s;"
            " the answer comes from rules alone"
        ]
    if plan.seconds < config.window_s - 1.0:
        return [f"the window is {plan.seconds:g} s of a work cycle of {config.window_s:g} s; the rest is filled in"]
    return []


def sensor_advisories(
    coverage: Coverage, slow: tuple[str, ...], states: Sequence[str], faults: Sequence[str]
) -> list[str]:
    """Missing sensors with the states and faults that are not judged, and sensors too slow for the model."""
    warnings = []
    unjudged = "; ".join(", ".join(each) for each in (states, faults) if each)
    if missing := [name for name in coverage.missing if name not in slow]:
        warnings.append(f"missing sensors: {_join_names(missing)}" + (f"; not judged: {unjudged}" if unjudged else ""))
    elif states:
        warnings.append(f"not judged, no evidence in these readings: {unjudged}")
    elif faults:
        warnings.append(f"not judged, nominal values or labels are missing: {unjudged}")
    if slow:
        warnings.append(f"sampled below 1 Hz, used by rules only: {_join_names(slow)}")
    return warnings


def simulation_advisories(detected_from: DetectedFrom) -> list[str]:
    """The simulated faults that the model does not detect, or only at full severity."""
    found = [
        (f"{fault} of {component}", severity)
        for fault, parts in detected_from.items()
        for component, severity in parts.items()
        if severity is None or severity >= 1.0
    ]
    never = _join_names([name for name, severity in found if severity is None])
    late = _join_names([name for name, severity in found if severity is not None])
    shown = "; ".join(part for part in (never, late and f"below full severity {late}") if part)
    return [f"not excluded, since not reliably detected in simulations of this circuit: {shown}"] if shown else []


def _join_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
