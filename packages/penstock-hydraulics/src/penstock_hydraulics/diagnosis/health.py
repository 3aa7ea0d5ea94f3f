"""State and health of components and machine from the model's probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.diagnosis.schemas import ComponentAnswer, StateAnswer, Status
from penstock_hydraulics.machine.states import ANOMALIES, HEAD_OF_KIND, SUPERVISED, Head
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.signals.coverage import Coverage

HEALTHY_FROM: Final = 0.7
WARNING_FROM: Final = 0.5
"""With health as half the worst and half the mean component: one slight fault is healthy, one fault of half severity a
warning, one component near failure critical. A detected fault is at least a warning."""
RULE_WEIGHT: Final = 0.6
"""A rule that just fires (0.5) caps health at 0.7, the limit of a warning; a certain one (1) at 0.4, critical."""
_FAULT: Final = {each.head.name: (ANOMALIES.index(each.anomaly), each.first) for each in SUPERVISED}
"""By state: the column of its fault in the model's `anomalies`, and the first level that counts as the fault."""


class _Part(NamedTuple):
    """A component, and the labels and columns of its state if its kind has one."""

    id: str
    kind: str
    share: float
    head: Head | None
    exponent: float = 1.0
    """1 / temperature of the measured evidence."""
    levels: tuple[float | int, ...] = ()
    keys: tuple[str, ...] = ()
    severities: tuple[float, ...] = ()

    @classmethod
    def of(cls, component: Component, share: float, exponent: float) -> _Part:
        head = HEAD_OF_KIND.get(component.kind)
        if head is None:
            return cls(component.id, component.kind, share, None)
        levels = tuple(int(level) if level.is_integer() else level for level in head.levels)
        keys = tuple(f"{level:g}" for level in head.levels)
        return cls(component.id, component.kind, share, head, exponent, levels, keys, tuple(head.severities.tolist()))

    def answer(self, health: float | None, state: StateAnswer | None) -> ComponentAnswer:
        return ComponentAnswer.build(
            component_id=self.id, type=self.kind, health=health, state=state, coverage=self.share
        )

    def assess(self, head: Head, own: Sequence[float]) -> ComponentAnswer:
        """Answer from the probabilities of the levels of this component's state."""
        state = StateAnswer.build(
            name=head.name,
            level=self.levels[own.index(max(own))],
            unit=head.unit,
            probabilities={key: round(probability, 6) for key, probability in zip(self.keys, own, strict=True)},
        )
        return self.answer(_within(1.0 - sum(map(mul, own, self.severities))), state)

    def softened(self, own: Sequence[float]) -> Sequence[float]:
        """The probabilities at the temperature of the evidence."""
        if self.exponent == 1.0:
            return own
        powers = [max(0.0, probability) ** self.exponent for probability in own]
        total = sum(powers)
        return [power / total for power in powers] if total > 0.0 else own


class Assessment(NamedTuple):
    """The components; `anomalies` are those of the model, with the softened ones of states in their place."""

    parts: list[ComponentAnswer]
    anomalies: list[float]
    faulty: bool
    """Whether the most probable level of a state is a fault."""


class ComponentAssessor:
    """Assesses components for one topology and set of sensors."""

    def __init__(self, topology: Topology, coverage: Coverage) -> None:
        told = coverage.told or {}
        self._parts = tuple(
            _Part.of(component, share, 1.0 / told[head.name].temperature if head and head.name in told else 1.0)
            for component, share in zip(topology.components, coverage.components, strict=True)
            for head in (HEAD_OF_KIND.get(component.kind),)
        )
        self.with_state = tuple((part.id, part.head.name) for part in self._parts if part.head is not None)
        """Component and state of all components that have one, judged or not."""

    def __call__(self, levels: NDArray[np.float32], anomalies: Sequence[float]) -> Assessment:
        """From the model's rows `levels` [N, 14]; rows beyond the components are padding."""
        answers, scores, seen, faulty = [], [*anomalies], set[int](), False
        for part, row in zip(self._parts, levels.tolist(), strict=False):
            head = part.head
            if head is None or part.share == 0.0:
                answers.append(part.answer(None, None))
                continue
            own = part.softened(row[head.start : head.stop])
            answers.append(part.assess(head, own))
            column, first = _FAULT[head.name]
            score = min(1.0, sum(own[first:]))
            scores[column] = max(scores[column], score) if column in seen else score
            seen.add(column)
            faulty = faulty or own.index(max(own)) >= first
        return Assessment(answers, scores, faulty)

    def without_model(self, anomalies: Sequence[float]) -> Assessment:
        """Answers when the model does not run: no health, no state."""
        return Assessment([part.answer(None, None) for part in self._parts], [*anomalies], False)


def _within(value: float) -> float:
    return round(value, 6) if 0.0 <= value <= 1.0 else min(1.0, max(0.0, value))


def machine_health(judged: Sequence[ComponentAnswer]) -> float | None:
    """Half the worst, half the mean of the components with a state; None if there is none."""
    healths = [part.health for part in judged if part.state is not None and part.health is not None]
    # same as `states.equipment_health`, without arrays: five times faster for four numbers
    return 0.5 * min(healths) + 0.5 * sum(healths) / len(healths) if healths else None


def cap_health(health: float, rule: float) -> float:
    """Health limited by a rule that fires; `rule` is its score, 0.5 to 1."""
    return min(health, 1.0 - RULE_WEIGHT * rule)


def status_of(score: float) -> Status:
    """The status of a health score."""
    if score >= HEALTHY_FROM:
        return "healthy"
    return "warning" if score >= WARNING_FROM else "critical"
