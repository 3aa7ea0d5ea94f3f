"""Canaries as they are stored: immutable values. Times are seconds of the database's clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from penstock.errors import InvalidInput, ModelNotFound

RouteChange: TypeAlias = Literal["keep", "share", "promote", "restore", "finish"]
"""What a change of a canary does to its route: nothing, another share, all requests to the new version and its alias,
back to how it was before the canary, or forget the old version."""

LEASE_S = 5.0
"""How long a process may decide without renewing its lease."""


@dataclass(frozen=True, kw_only=True)
class StoredCanary:
    """A canary as it is in the store. `spec` and `verdicts` are JSON values of `penstock.rollouts`.

    `digest` is that of the new version, `before` the record of the route when the canary began, None if there was no
    route. `changes` counts up with every change.
    """

    id: str
    route: str
    spec: Mapping[str, Any]
    digest: str
    before: Mapping[str, Any] | None
    champion: str | None
    phase: str
    step: int = -1
    started_at: float = 0.0
    entered_at: float = 0.0
    checked_at: float = 0.0
    threshold_ms: tuple[float, ...] | None = None
    sentence: str = ""
    verdicts: Mapping[str, Any] = field(default_factory=dict)
    changes: int = 0
    live: bool = True

    @property
    def stable(self) -> str:
        """The version that is replaced."""
        return str(self.spec["stable"])

    @property
    def to(self) -> str:
        """The version that is rolled out."""
        return str(self.spec["to"])


@dataclass(frozen=True, kw_only=True)
class Move:
    """One change of a canary: its next phase and step, what happens to the route, and the decision behind it.

    With `entered` the time of the step begins anew. A `share` goes with the change "share".
    """

    action: str
    sentence: str
    phase: str
    step: int
    verdicts: Mapping[str, Any] = field(default_factory=dict)
    entered: bool = False
    live: bool = True
    threshold_ms: tuple[float, ...] | None = None
    route: RouteChange = "keep"
    share: float = 0.0


class DecisionRecord(NamedTuple):
    """One decision: when (milliseconds since 1970), in which step, about which checks, and why."""

    at: int
    canary: str
    step: int
    action: str
    sentence: str
    verdicts: Mapping[str, Any]


class EvidenceRow(NamedTuple):
    """The counters of one process: cumulative, for one step and arm. `age_s` is the time since they were stored."""

    step: int
    arm: str
    process: str
    counters: Mapping[str, Any]
    age_s: float = 0.0


def not_found(route: str) -> ModelNotFound:
    """The error of a route without a canary."""
    return ModelNotFound(f"{route} has no canary; start one with `penstock routes canary {route} --to VERSION`")


def ended(canary: StoredCanary, verb: str) -> InvalidInput:
    """The error of a verb on a canary that has ended."""
    state = canary.phase.replace("_", " ")
    return InvalidInput(f"cannot {verb} the canary of {canary.route}: {canary.to} is {state}", field="route")
