"""The results of a route that is split among several versions, as all server processes have stored them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.artifacts.refs import check_name
from penstock.errors import ModelNotFound
from penstock.registry.registry import Registry
from penstock.registry.rollouts.splits import split_id
from penstock.registry.routes import Route
from penstock.rollouts.evidence import ArmEvidence, merge
from penstock.rollouts.results.comparing import ArmFigures, Labels, compared, notes

_COUNTED = ("key", "request_id")
"""What clients are placed by where their keys are counted."""


def results(registry: Registry, name: str) -> dict[str, Any]:
    """What the versions that share the requests of a name have shown since their shares were set, as JSON.

    Raises ModelNotFound for a name whose requests are not shared, ConfigError.
    """
    stored = registry.routes.get(check_name(name))
    route = stored.route
    if not route.split:
        raise ModelNotFound(_no_split(route))
    arms, placed_by_key = _figures(registry, route), route.sticky.by in _COUNTED
    comparisons = compared(arms, placed_by_key=placed_by_key)
    return {
        "route": name,
        "since": route.since,
        "compared_with": arms[0].version,
        "arms": {arm.version: _shown(arm, route.total) for arm in arms},
        "comparisons": [vars(each) for each in comparisons],
        "notes": list(notes(arms, placed_by_key=placed_by_key, rules=bool(route.rules))),
    }


def _no_split(route: Route) -> str:
    if route.canary is not None:
        return f"{route.name} has a canary, and no split to compare; see `penstock routes why {route.name}`"
    return (
        f"{route.name} sends all requests to {route.serving[0]}, so there is nothing to compare; "
        f"`penstock routes split {route.name} VERSION=WEIGHT VERSION=WEIGHT` shares them"
    )


def _figures(registry: Registry, route: Route) -> Sequence[ArmFigures]:
    rows = registry.routes.canaries.evidence(split_id(route))
    totals = registry.routes.canaries.labels(route.name, route.since)
    labels = {each.arm: Labels(each.recorded, each.labelled, each.judged, each.correct) for each in totals}
    return [
        ArmFigures(
            arm.version,
            arm.weight,
            merge(ArmEvidence.of(row.counters) for row in rows if row.arm == arm.version),
            labels.get(arm.version, Labels()),
        )
        for arm in route.split
    ]


def _shown(arm: ArmFigures, total: int) -> dict[str, Any]:
    evidence, labels = arm.evidence, arm.labels
    looked_at, unsure = arm.rate("unsure")
    return {
        "share": arm.weight / total,
        "clients": evidence.keys.count,
        **figures(evidence),
        "mean_confidence": _mean(evidence),
        "unsure": unsure / looked_at if looked_at else None,
        "recorded": labels.recorded,
        "labelled": labels.labelled,
        "labelled_share": labels.labelled / labels.recorded if labels.recorded else None,
        "judged": labels.judged,
        "correct": labels.correct,
        "accuracy": labels.correct / labels.judged if labels.judged else None,
    }


def figures(arm: ArmEvidence) -> dict[str, Any]:
    """What was counted for one version as JSON, without copies of requests."""
    return {
        "requests": arm.requests,
        "failures": arm.failures,
        "error_rate": arm.error_rate,
        "errors": dict(arm.errors),
        **{f"p{percent}_ms": arm.percentile(percent) for percent in (50, 95, 99)},
        "classes": dict(arm.classes),
        "confidences": {f"{bucket / 20:.2f}": count for bucket, count in sorted(arm.confidences.items())},
        "dropped": arm.dropped,
    }


def _mean(arm: ArmEvidence) -> float | None:
    """The mean of the sampled confidences, known to 2.5 %."""
    total = arm.confidences.total()
    return sum((bucket + 0.5) / 20 * count for bucket, count in arm.confidences.items()) / total if total else None
