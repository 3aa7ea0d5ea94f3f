"""State and health of components and machine from the model's probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.diagnosis.schemas import ComponentAnswer, StateAnswer, Status
from penstock_hydraulics.machine.states import HEAD_OF_KIND, Head
from penstock_hydraulics.machine.topology import Component, Topology
from penstock_hydraulics.signals.coverage import Coverage

HEALTHY_FROM: Final = 0.7
WARNING_FROM: Final = 0.5
"""With health as half the worst and half the mean component: one slight fault is healthy, one fault of half severity a
warning, one component near failure critical."""
RULE_WEIGHT: Final = 0.6
"""A rule that just fires (0.5) caps health at 0.7, the limit of a warning; a certain one (1) at 0.4, critical."""


class _Part(NamedTuple):
    """A component, and the labels and columns of its state if its kind has one."""

    id: str
    kind: str
    share: float
    head: Head | None
    levels: tuple[float | int, ...] = ()
    keys: tuple[str, ...] = ()
    severities: tuple[float, ...] = ()

    @classmethod
    def of(cls, component: Component, share: float) -> _Part:
        head = HEAD_OF_KIND.get(component.kind)
        if head is None:
            return cls(component.id, component.kind, share, None)
        levels = tuple(int(level) if level.is_integer() else level for level in head.levels)
        keys = tuple(f"{level:g}" for level in head.levels)
        return cls(component.id, component.kind, share, head, levels, keys, tuple(head.severities.tolist()))

    def answer(self, health: float | None, state: StateAnswer | None) -> ComponentAnswer:
        return ComponentAnswer.build(
            component_id=self.id, type=self.kind, health=health, state=state, coverage=self.share
        )

    def assess(self, head: Head, row: Sequence[float]) -> ComponentAnswer:
        """Answer from the component's row of the model's `levels`."""
        sure = row[head.start : head.stop]
        state = StateAnswer.build(
            name=head.name,
            level=self.levels[sure.index(max(sure))],
            unit=head.unit,
            probabilities={key: round(probability, 6) for key, probability in zip(self.keys, sure, strict=True)},
        )
        return self.answer(_within(1.0 - sum(map(mul, sure, self.severities))), state)


class ComponentAssessor:
    """Assesses components for one topology and set of sensors."""

    def __init__(self, topology: Topology, coverage: Coverage) -> None:
        self._parts = tuple(map(_Part.of, topology.components, coverage.components))

    def __call__(self, levels: NDArray[np.float32], healths: NDArray[np.float32]) -> list[ComponentAnswer]:
        """From the model's rows `levels` [N, 14] and `component_health` [N]; rows beyond the components are padding."""
        answers = []
        for part, row, health in zip(self._parts, levels.tolist(), healths.tolist(), strict=False):
            if part.share == 0.0:
                answers.append(part.answer(None, None))
            elif part.head is None:
                answers.append(part.answer(_within(health), None))
            else:
                answers.append(part.assess(part.head, row))
        return answers

    def without_model(self) -> list[ComponentAnswer]:
        """Answers when the model does not run: no health, no state."""
        return [part.answer(None, None) for part in self._parts]


def _within(value: float) -> float:
    return round(value, 6) if 0.0 <= value <= 1.0 else min(1.0, max(0.0, value))


def machine_health(judged: Sequence[ComponentAnswer], default: float) -> float:
    """Half the worst, half the mean of the components with a state; `default` if there is none."""
    healths = [part.health for part in judged if part.state is not None and part.health is not None]
    # same as `states.equipment_health`, without arrays: five times faster for four numbers
    return 0.5 * min(healths) + 0.5 * sum(healths) / len(healths) if healths else default


def cap_health(health: float, rule: float) -> float:
    """Health limited by a rule that fires; `rule` is its score, 0.5 to 1."""
    return min(health, 1.0 - RULE_WEIGHT * rule)


def status_of(score: float) -> Status:
    """The status of a health score."""
    if score >= HEALTHY_FROM:
        return "healthy"
    return "warning" if score >= WARNING_FROM else "critical"
