"""Health and status of the machine: healthy only with evidence for every component that can fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from penstock_hydraulics.diagnosis.anomalies import Findings
from penstock_hydraulics.diagnosis.health import Assessment, cap_health, machine_health, status_of
from penstock_hydraulics.diagnosis.schemas import Health, HealthBasis, Status
from penstock_hydraulics.machine.topology import Topology

NO_FAULT: Final = "no fault seen in what was measured"


@dataclass(frozen=True, slots=True)
class Grounds:
    """What the answers for one topology, set of sensors and length of window can rest on."""

    judged: int
    """Number of components with a state that is judged."""
    missing: tuple[str, ...]
    """The states that are not judged, as `<state> of <component>`."""
    unmeasured: str | None
    """Why the accuracy of the states was not measured; None if it was."""

    @property
    def basis(self) -> HealthBasis:
        """What a score of the model rests on."""
        if self.unmeasured is not None:
            return "unmeasured"
        return "partial" if self.missing else "measured"


def make_grounds(
    with_state: Sequence[tuple[str, str]], judged: Sequence[bool], *, model: bool, measured: bool, whole: bool
) -> Grounds:
    """`with_state` are component and state; `judged` tells for each whether the sensors tell the state."""
    missing = tuple(
        f"{state} of {component}"
        for (component, state), told in zip(with_state, judged, strict=True)
        if not (told and model)
    )
    unmeasured = None
    if model and not measured:
        unmeasured = "which sensors tell which state was not measured for this model and circuit"
    elif model and not whole:
        unmeasured = "the accuracy was measured on whole work cycles"
    return Grounds(len(with_state) - len(missing), missing, unmeasured)


class Conclusion(NamedTuple):
    """Health of the machine, and a warning if its status is unknown."""

    health: Health
    warning: str | None


def conclude(
    assessment: Assessment, findings: Findings, grounds: Grounds, topology: Topology, *, unusual: bool
) -> Conclusion:
    """Apply the rules that fire to health, and decide the status; `unusual` readings are out of distribution.

    A detected fault is never healthy, and nothing is critical without one.
    """
    parts, score = assessment.parts, machine_health(assessment.parts)
    basis: HealthBasis = "unavailable" if score is None else grounds.basis
    for rule, component_id in findings.fired.values():
        part = parts[topology.index[component_id]]
        part.health = round(cap_health(1.0 if part.health is None else part.health, rule), 6)
        basis = "rules" if score is None else basis
        score = cap_health(1.0 if score is None else score, rule)
    if score is None:
        return Conclusion(_health(None, "unknown", basis), _unknown(grounds, unusual))
    score = round(min(1.0, max(0.0, score)), 6)
    status, detected = status_of(score), findings.answer.detected_anomalies
    if (status == "healthy" and (detected or assessment.faulty)) or (status == "critical" and not detected):
        status = "warning"
    if status != "healthy":
        return Conclusion(_health(score, status, basis), None)
    if grounds.missing or grounds.unmeasured is not None or unusual:
        return Conclusion(_health(None if grounds.missing else score, "unknown", basis), _unknown(grounds, unusual))
    return Conclusion(_health(score, status, basis), None)


def _health(score: float | None, status: Status, basis: HealthBasis) -> Health:
    return Health.build(score=score, status=status, basis=basis)


def _unknown(grounds: Grounds, unusual: bool) -> str:
    """Why a machine without a detected fault is not called healthy."""
    reasons = ["not every component that can fail was judged"] if grounds.missing or not grounds.judged else []
    if grounds.unmeasured is not None:
        reasons.append(grounds.unmeasured)
    if unusual:
        reasons.append("the readings are out of distribution")
    return f"{NO_FAULT}: {'; '.join(reasons)}"
