"""What an answer says about its own limits: one sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.coverage import Coverage
from penstock_hydraulics.signals.features import FeatureConfig
from penstock_hydraulics.signals.windows import WindowPlan


def machine_advisories(topology: Topology, assumed: bool, supported: bool, from_recordings: bool) -> list[str]:
    """What the diagnosis takes the machine for; `supported`: the model may be asked about it at all."""
    warnings = []
    if assumed:
        warnings.append(
            f"the machine is not registered and names no topology; it is taken for a {topology.name}:"
            " send `topology`, or PUT /equipment/{id}"
        )
    if not supported:
        warnings.append(f"this model does not know the topology {topology.name}; the answer comes from rules alone")
    elif not from_recordings:
        warnings.append(f"the states of the {topology.name} were learned from a simulator, not from recordings")
    return warnings


def window_advisories(plan: WindowPlan, config: FeatureConfig, long_enough: bool) -> list[str]:
    """A window that is no whole work cycle."""
    if not long_enough:
        return [
            f"the window is {plan.seconds:g} s, the model takes {config.min_window_s:g} to {config.window_s:g} s;"
            " the answer comes from rules alone, and health says no more than that none of them fires"
        ]
    if plan.seconds < config.window_s - 1.0:
        return [f"the window is {plan.seconds:g} s of a work cycle of {config.window_s:g} s; the rest is filled up"]
    return []


def sensor_advisories(coverage: Coverage, slow: tuple[str, ...], unavailable: tuple[str, ...]) -> list[str]:
    """Which sensors are missing or too slow for the model, and which faults nobody can judge."""
    warnings = []
    if silent := [name for name in coverage.missing if name not in slow]:
        warnings.append(f"sensors that sent nothing: {_join_names(silent)}")
    if slow:
        warnings.append(f"sampled at less than 1 Hz, and left to the rules: {_join_names(slow)}")
    if unavailable:
        warnings.append(f"not judged, for want of sensors, nominal values or labels: {', '.join(unavailable)}")
    return warnings


def _join_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
