"""From a decision to the change of the canary and its route that carries it out."""

from __future__ import annotations

from dataclasses import replace

from penstock.registry.rollouts.canaries import Move, StoredCanary
from penstock.rollouts.analysis import PREPARING, Decision
from penstock.rollouts.spec import CanarySpec


def move_of(canary: StoredCanary, decision: Decision) -> Move:
    """The change that a decision means."""
    spec = CanarySpec.stored(canary.spec)
    kept = Move(
        action=decision.action,
        sentence=decision.sentence,
        verdicts=decision.verdicts,
        phase=canary.phase,
        step=canary.step,
        threshold_ms=decision.threshold_ms,
    )
    if decision.action == "advance":
        return finished(kept) if canary.phase == "baking" else advanced(kept, spec, canary.step + 1)
    if decision.action == "promote":
        return promoted(kept, spec)
    if decision.action == "rollback":
        return rolled_back(kept)
    return paused(kept) if decision.action == "pause" else kept


def advanced(move: Move, spec: CanarySpec, step: int) -> Move:
    """To a step, whose time begins now."""
    share = spec.steps[step] / 100
    return replace(move, phase="running", step=step, entered=True, route="share", share=share)


def promoted(move: Move, spec: CanarySpec) -> Move:
    """All requests and the alias to the new version; the old one stays loaded for the bake time."""
    return replace(move, phase="baking", step=len(spec.steps) - 1, entered=True, route="promote")


def rolled_back(move: Move) -> Move:
    """Everything as it was before the canary."""
    return replace(move, phase="rolled_back", live=False, route="restore")


def paused(move: Move) -> Move:
    """Shares stay as they are until a person decides."""
    return replace(move, phase="paused")


def resumed(move: Move, step: int) -> Move:
    """The time of the step begins anew."""
    return replace(move, phase="preparing" if step == PREPARING else "running", entered=True)


def finished(move: Move) -> Move:
    """The old version may be unloaded."""
    return replace(move, phase="promoted", live=False, route="finish")
