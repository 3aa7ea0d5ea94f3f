"""What a person can do with canaries: start, promote, roll back, pause, resume. Each needs a reason and is audited."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.refs import Ref, check_name
from penstock.errors import InvalidInput, ModelNotFound
from penstock.registry.audit import acting
from penstock.registry.registry import Registry
from penstock.registry.rollouts.canaries import Move, StoredCanary, ended, not_found
from penstock.registry.routes import Arm, Canary, Route
from penstock.rollouts.analysis import PREPARING
from penstock.rollouts.conductor import evidence_of
from penstock.rollouts.evidence import ArmEvidence, merge
from penstock.rollouts.moves import finished, paused, promoted, resumed, rolled_back
from penstock.rollouts.results.reading import figures
from penstock.rollouts.spec import CanarySpec

Verb: TypeAlias = Literal["promote", "rollback", "pause", "resume"]

_TRIES = 5
"""How often a change is tried that other changes come before."""


def start_canary(
    registry: Registry, name: str, document: Mapping[str, Any], *, who: str | None = None, why: str = ""
) -> StoredCanary:
    """Begin to roll out a version; servers advance it, or roll it back, by its evidence.

    `document` has the fields of `CanarySpec` and `to`; with `again`, a version that was rolled back before is taken.
    Raises InvalidInput or ModelNotFound in one sentence.
    """
    fields = dict(document)
    again, reason = fields.pop("again", False), fields.pop("why", None)
    if not isinstance(again, bool):
        raise InvalidInput(f"again: is true or false, not {again!r}", field="again")
    reason = _reason(why or reason)
    route, before = _route(registry, check_name(name))
    stable = _stable(route)
    to = fields.get("to")
    if isinstance(to, str) and to.startswith("@"):
        fields["to"] = registry.resolve(Ref(name, alias=to[1:]))[1]
    spec = CanarySpec.of(fields, stable)
    artifact = registry.get(Ref(name, spec.to))
    _check_comparable(registry.get(Ref(name, stable)), artifact, spec)
    identity = uuid.uuid4().hex
    prepared = registry.routes.checked(replace(route, canary=Canary(spec.to, 0.0, identity), why=reason))
    canary = StoredCanary(
        id=identity,
        route=name,
        spec=spec.to_document(),
        digest=artifact.digest,
        before=before,
        champion=registry.aliases(name).get("champion"),
        phase="preparing",
        sentence=f"started: {spec.to} is to replace {stable} in steps of {_percentages(spec)}: {reason}",
    )
    with acting(who, reason):
        return registry.routes.canaries.start(canary, prepared, again=again)


def command(registry: Registry, name: str, verb: Verb, *, who: str | None = None, why: str = "") -> StoredCanary:
    """Promote, roll back, pause or resume the canary of a route, and what it is now.

    Raises ModelNotFound without a canary, InvalidInput in a state in which that cannot be done.
    """
    reason = _reason(why)
    with acting(who, reason) as actor:
        for _ in range(_TRIES):
            canary = registry.routes.canaries.newest(check_name(name))
            if canary is None:
                raise not_found(name)
            if registry.routes.canaries.change(canary, _move(canary, verb, actor.who, reason)):
                return registry.routes.canaries.newest(name) or canary
    raise InvalidInput(f"the canary of {name} changes all the time; try again", field="route")


def described(registry: Registry, canary: StoredCanary) -> dict[str, Any]:
    """A canary as JSON: its plan, its state, the newest sentence, and the figures of both arms."""
    steps = evidence_of(canary, registry.routes.canaries.evidence(canary.id))
    spec = CanarySpec.stored(canary.spec)
    return {
        "id": canary.id,
        "route": canary.route,
        "state": canary.phase,
        "step": canary.step,
        "share": 0 if canary.step == PREPARING else spec.steps[canary.step],
        "sentence": canary.sentence,
        "verdicts": canary.verdicts,
        "spec": canary.spec,
        "started_at": int(canary.started_at * 1000),
        "entered_at": int(canary.entered_at * 1000),
        "checked_at": int(canary.checked_at * 1000),
        "evidence": {
            canary.stable: _figures(merge(step.stable for step in steps.values())),
            canary.to: _figures(merge(step.canary for step in steps.values())),
        },
    }


def newest_described(registry: Registry, name: str) -> dict[str, Any]:
    """The newest canary of a route as JSON, also one that has ended. Raises ModelNotFound."""
    canary = registry.routes.canaries.newest(check_name(name))
    if canary is None:
        raise not_found(name)
    return described(registry, canary)


def decisions(registry: Registry, name: str, limit: int = 100) -> list[dict[str, Any]]:
    """The newest decisions about a route as JSON, newest first."""
    return [
        {
            "at": each.at,
            "canary": each.canary,
            "step": each.step,
            "action": each.action,
            "sentence": each.sentence,
            "verdicts": each.verdicts,
        }
        for each in registry.routes.canaries.decisions(check_name(name), limit)
    ]


def _figures(arm: ArmEvidence) -> dict[str, Any]:
    compared = arm.shadow.compared
    shadow = {
        "compared": compared,
        "disagreed": arm.shadow.disagreed,
        "failures": arm.shadow.failures,
        "skipped": arm.shadow.skipped,
        "max_abs": arm.shadow.max_abs,
        "mean_kl": arm.shadow.kl / arm.shadow.kl_count if arm.shadow.kl_count else None,
        "differences": {f"1e{power}": count for power, count in sorted(arm.shadow.differences.items())},
        "worst": arm.shadow.worst,
    }
    return figures(arm) | {"shadow": shadow}


def _move(canary: StoredCanary, verb: Verb, who: str, why: str) -> Move:
    """What a person decides, in the words of a decision."""
    if not canary.live:
        raise ended(canary, verb)
    spec, kept = CanarySpec.stored(canary.spec), _moves(canary, verb, who, why)
    if verb == "rollback":
        return rolled_back(kept)
    if verb == "promote":
        return finished(kept) if canary.phase == "baking" else _promotion(canary, kept, spec)
    if verb == "pause":
        if canary.phase in ("paused", "baking"):
            raise _refused(canary, f"it is {canary.phase}; only one that is preparing or running can be paused")
        return paused(kept)
    if canary.phase != "paused":
        raise _refused(canary, f"it is {canary.phase}, not paused")
    return resumed(kept, canary.step)


_ACTIONS: Mapping[Verb, tuple[str, str]] = {
    "promote": ("promote", "promoted"),
    "rollback": ("rollback", "rolled back"),
    "pause": ("pause", "paused"),
    "resume": ("advance", "resumed"),
}


def _moves(canary: StoredCanary, verb: Verb, who: str, why: str) -> Move:
    action, done = _ACTIONS[verb]
    return Move(
        action=action,
        sentence=f"{done} by {who}: {why}",
        phase=canary.phase,
        step=canary.step,
        verdicts=canary.verdicts,
    )


def _promotion(canary: StoredCanary, kept: Move, spec: CanarySpec) -> Move:
    if canary.step == PREPARING:
        raise _refused(canary, f"{canary.to} has not been loaded and proven by every server yet; {canary.sentence}")
    return promoted(kept, spec)


def _refused(canary: StoredCanary, why: str) -> InvalidInput:
    return InvalidInput(f"the canary {canary.to} of {canary.route}: {why}", field="route")


def _reason(why: Any) -> str:
    if not isinstance(why, str) or not why.strip():
        raise InvalidInput("why: a reason is needed; it is kept in the audit log", field="why")
    return why.strip()


def _route(registry: Registry, name: str) -> tuple[Route, Mapping[str, Any] | None]:
    """The route that a canary is added to, and its record; a new one for a name without a route."""
    try:
        route = registry.routes.get(name).route
    except ModelNotFound:
        salt = secrets.token_hex(8)
        return Route(name, (Arm(registry.resolve(Ref(name))[1], 100),), salt=salt), None
    return route, route.to_record()


def _stable(route: Route) -> str:
    """The one version that a canary is compared with."""
    weighted = [arm.version for arm in route.arms if arm.weight]
    if len(weighted) != 1:
        raise InvalidInput(
            f"the route {route.name} splits its requests between {' and '.join(weighted)}; a canary is compared with "
            "one version: give that all the weight first",
            field="to",
        )
    return weighted[0]


_ANSWERS = ("labels", "top_k", "output", "thresholds")
"""Settings of a task that concern its answers; all others prepare the inputs."""


def _check_comparable(stable: Artifact, to: Artifact, spec: CanarySpec) -> None:
    """Raises InvalidInput if the versions cannot be compared by the same tensors, which a shadow does."""
    if spec.max_disagreement is None:
        return
    first, second = ({**each.manifest.task.config, "kind": each.manifest.task.kind} for each in (stable, to))
    for field in sorted({*first, *second} - {*_ANSWERS}):
        if first.get(field) != second.get(field):
            raise InvalidInput(
                f"max_disagreement: {spec.to} prepares its inputs otherwise than {spec.stable} ({field} differs), so "
                "their answers to the same tensors say nothing; leave the limit out",
                field="max_disagreement",
            )


def _percentages(spec: CanarySpec) -> str:
    return ", ".join(map(str, spec.steps)) + " %"
