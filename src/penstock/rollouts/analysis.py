"""What happens next to a canary, decided by its plan, its state and the evidence, and by nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from penstock.rollouts.checks import Check, error_check, run_checks
from penstock.rollouts.evidence import ArmEvidence, StepEvidence, merge
from penstock.rollouts.spec import CanarySpec

Phase: TypeAlias = Literal["preparing", "running", "paused", "baking", "promoted", "rolled_back"]
Action: TypeAlias = Literal["advance", "hold", "pause", "rollback", "promote"]

LIVE: frozenset[Phase] = frozenset({"preparing", "running", "paused", "baking"})
"""The phases in which a canary is watched."""
PREPARING = -1
"""The step before the first one: the new version is loaded and gets no request."""


@dataclass(frozen=True)
class CanaryState:
    """Where a canary is. `entered_at` is the time of the database in seconds; `threshold_ms` are the percentiles of the
    stable arm that latencies are compared with.
    """

    phase: Phase = "preparing"
    step: int = PREPARING
    entered_at: float = 0.0
    threshold_ms: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Readiness:
    """Which processes have the new version loaded, warm and proven: how many of how many, and why one has not."""

    ready: int = 0
    processes: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Evidence:
    """The evidence of all processes, by step, and whether they can serve the new version."""

    steps: Mapping[int, StepEvidence] = field(default_factory=dict)
    readiness: Readiness = Readiness()


@dataclass(frozen=True)
class Decision:
    """One thing to do, and why in one sentence with all figures."""

    action: Action
    sentence: str
    checks: tuple[Check, ...] = ()
    threshold_ms: tuple[float, ...] | None = None
    """The percentiles to compare latencies with from now on, None for those of the state."""

    @property
    def verdicts(self) -> dict[str, Any]:
        """The checks as JSON, by name."""
        return {check.name: check.to_document() for check in self.checks}


def decide(spec: CanarySpec, state: CanaryState, evidence: Evidence, now: float) -> Decision:
    """The next action. `now` is the time of the database in seconds.

    Breaches roll back in every phase, also while a canary is paused. Without data nothing passes and nothing fails.
    """
    if state.phase not in LIVE:
        return Decision("hold", f"{spec.to} is {state.phase.replace('_', ' ')}; nothing is decided any more")
    if state.step == PREPARING:
        return _prepare(spec, state, evidence, now)
    checks = tuple(run_checks(spec, evidence.steps, state.threshold_ms))
    look = _Look(spec, state, evidence, now - state.entered_at, checks)
    if broken := [check for check in checks if check.verdict == "breach"]:
        return Decision("rollback", f"rolled back {look.where}: {_listed(broken)}", checks)
    if state.phase == "paused":
        return look.decision("hold", f"paused {look.where} until it is resumed")
    return look.bake() if state.phase == "baking" else look.run()


def local_breach(spec: CanarySpec, canary: ArmEvidence) -> str:
    """Why one process alone keeps requests from the canary while the database is away; empty if it does not."""
    if spec.max_error_rate is None:
        return ""
    check = error_check(spec, canary)
    return str(check) if check.verdict == "breach" else ""


def totals(evidence: Evidence) -> StepEvidence:
    """Both arms over all steps."""
    steps = evidence.steps.values()
    return StepEvidence(merge(step.stable for step in steps), merge(step.canary for step in steps))


def _prepare(spec: CanarySpec, state: CanaryState, evidence: Evidence, now: float) -> Decision:
    """Whether the new version may get its first requests."""
    readiness, waited = evidence.readiness, now - state.entered_at
    loading = f"{spec.to} is loaded and proven in {readiness.ready} of {readiness.processes} processes"
    if readiness.failure:
        return Decision("rollback", f"rolled back before its first request: {readiness.failure}")
    checks = tuple(run_checks(spec, evidence.steps, state.threshold_ms))
    if broken := [check for check in checks if check.verdict == "breach"]:  # its answers to copies of requests
        return Decision("rollback", f"rolled back before its first request: {_listed(broken)}", checks)
    if state.phase == "paused":
        return Decision("hold", f"paused at 0 % until it is resumed: {loading}")
    if not 0 < readiness.processes <= readiness.ready:
        late = waited > spec.max_hold_s
        return Decision(
            "pause" if late else "hold", f"{'paused' if late else 'holds'} {waited:.0f} s at 0 %: {loading}"
        )
    threshold = _threshold(evidence, PREPARING)
    if spec.max_p99_ratio is not None and threshold is None and waited < spec.warmup_s:
        return Decision("hold", f"holds {waited:.0f} s at 0 %: {loading}; missing: latencies of {spec.stable}")
    if spec.steps[0] == 100:
        return Decision("promote", f"promoted: {loading}", (), threshold)
    return Decision("advance", f"advanced to {spec.steps[0]} %: {loading}", (), threshold)


@dataclass(frozen=True)
class _Look:
    """One look at a canary that gets requests."""

    spec: CanarySpec
    state: CanaryState
    evidence: Evidence
    held: float
    checks: tuple[Check, ...]

    @property
    def where(self) -> str:
        return f"{self.held:.0f} s at {self.spec.steps[self.state.step]} %"

    @property
    def step(self) -> StepEvidence:
        return self.evidence.steps.get(self.state.step) or StepEvidence()

    def decision(self, action: Action, words: str, missing: Sequence[str] = ()) -> Decision:
        """With the figures of all checks; the percentiles to compare latencies with are renewed with each step."""
        lacking = f"; missing: {', '.join(missing)}" if missing else ""
        renew = action in ("advance", "promote") or self.state.threshold_ms is None
        threshold = _threshold(self.evidence, self.state.step) if renew else None
        return Decision(action, f"{words}: {_listed(self.checks)}{lacking}", self.checks, threshold)

    def run(self) -> Decision:
        missing = list(self._missing())
        if not missing:
            return self._on(f"after {self.where}")
        if self.held <= self.spec.max_hold_s:
            return self.decision("hold", f"holds {self.where}", missing)
        return self._inconclusive(missing)

    def _inconclusive(self, missing: Sequence[str]) -> Decision:
        """The longest hold is over. Without data nothing passes and nothing fails."""
        blind = not self.step.canary.requests or any(check.verdict == "no_data" for check in self.checks)
        if not blind and self.spec.on_inconclusive == "rollback":
            return self.decision("rollback", f"rolled back as inconclusive {self.where}", missing)
        if not blind and self.spec.on_inconclusive == "advance" and not any(check.above for check in self.checks):
            return self._on(f"as inconclusive {self.where}", missing)
        return self.decision("pause", f"paused {self.where}, its longest hold is over", missing)

    def _on(self, words: str, missing: Sequence[str] = ()) -> Decision:
        share = self.spec.steps[self.state.step + 1]
        if share == 100:
            return self.decision("promote", f"promoted {words}", missing)
        return self.decision("advance", f"advanced to {share} % {words}", missing)

    def bake(self) -> Decision:
        left = self.spec.bake_s - self.held
        if left > 0:
            return self.decision("hold", f"{self.spec.stable} stays loaded for another {left:.0f} s")
        return self.decision("advance", f"the rollout of {self.spec.to} is complete")

    def _missing(self) -> Iterator[str]:
        """What the next step waits for."""
        if self.held < self.spec.hold_s:
            yield f"{self.spec.hold_s - self.held:.0f} s"
        for version, arm in ((self.spec.to, self.step.canary), (self.spec.stable, self.step.stable)):
            if arm.requests < self.spec.min_requests:
                yield f"{self.spec.min_requests - arm.requests:,} requests of {version}"
        for check in self.checks:
            if check.verdict == "no_data":
                yield f"data for {check.name}"
            elif check.above:
                yield f"an estimate below the limit of {check.name}"
            elif self.spec.strict and check.verdict == "open":
                yield f"proof of {check.name}"


def _threshold(evidence: Evidence, step: int) -> tuple[float, ...] | None:
    """The percentiles of the stable arm in one step or the last one before it with enough requests."""
    arms = [evidence.steps[known].stable for known in sorted(evidence.steps) if known <= step]
    return next((found for arm in reversed(arms) if (found := arm.thresholds()) is not None), None)


def _listed(checks: Sequence[Check]) -> str:
    return "; ".join(map(str, checks))
