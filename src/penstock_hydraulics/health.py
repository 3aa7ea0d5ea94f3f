"""From the model's probabilities to the state and the health of components and machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.coverage import Coverage
from penstock_hydraulics.schemas import ComponentAnswer, StateAnswer, Status
from penstock_hydraulics.states import HEADS, LEVELS, Head
from penstock_hydraulics.topology import Component, Topology

HEALTHY_FROM: Final = 0.7
WARNING_FROM: Final = 0.5
"""With health as half the worst and half the mean component: one light fault is healthy, one half-way fault a warning,
one component near failure critical."""
RULE_WEIGHT: Final = 0.6
"""A rule that just fires (0.5) takes health to 0.7, the edge of a warning, and one that is certain to 0.4, critical."""

_SEVERITIES: Final = np.zeros((LEVELS, len(HEADS)), np.float32)
for _k, _head in enumerate(HEADS):
    _SEVERITIES[_head.columns, _k] = _head.severities


@dataclass(frozen=True, slots=True)
class _Name:
    head: Head
    place: int
    levels: tuple[float | int, ...]
    keys: tuple[str, ...]


_NAMES: Final = {
    head.kind: _Name(
        head,
        place,
        tuple(int(level) if level.is_integer() else level for level in head.levels),
        tuple(f"{level:g}" for level in head.levels),
    )
    for place, head in enumerate(HEADS)
}


def judge_components(
    topology: Topology, coverage: Coverage, levels: NDArray[np.float32], healths: NDArray[np.float32]
) -> list[ComponentAnswer]:
    """From the model's rows `levels` [N, 14] and `component_health` [N]; padding after the last component."""
    count = len(topology.components)
    severities = (levels[:count] @ _SEVERITIES).tolist()
    probabilities = np.round(levels[:count].astype(np.float64), 6).tolist()
    own = healths[:count].tolist()
    judged = []
    for k, (component, share) in enumerate(zip(topology.components, coverage.components, strict=True)):
        name = _NAMES.get(component.kind)
        if share == 0.0:
            judged.append(_answer(component, None, None, 0.0))
        elif name is None:
            judged.append(_answer(component, _within(own[k]), None, share))
        else:
            state = _state(name, probabilities[k])
            judged.append(_answer(component, _within(1.0 - severities[k][name.place]), state, share))
    return judged


def unjudged(topology: Topology, coverage: Coverage) -> list[ComponentAnswer]:
    """The components of a machine that the model was not asked about."""
    pairs = zip(topology.components, coverage.components, strict=True)
    return [_answer(component, None, None, share) for component, share in pairs]


def _answer(component: Component, health: float | None, state: StateAnswer | None, share: float) -> ComponentAnswer:
    return ComponentAnswer.made(
        component_id=component.id, type=component.kind, health=health, state=state, coverage=share
    )


def _state(name: _Name, row: Sequence[float]) -> StateAnswer:
    head = name.head
    probabilities = row[head.start : head.stop]
    likeliest = probabilities.index(max(probabilities))
    return StateAnswer.made(
        name=head.name,
        level=name.levels[likeliest],
        unit=head.unit,
        probabilities=dict(zip(name.keys, probabilities, strict=True)),
    )


def _within(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 6)


def machine_health(judged: Sequence[ComponentAnswer], otherwise: float) -> float:
    """Half the worst, half the mean of the components with a state; `otherwise` where there is none."""
    healths = [part.health for part in judged if part.state is not None and part.health is not None]
    # as `states.equipment_health`, which takes arrays: for four numbers that is five times as dear
    return 0.5 * min(healths) + 0.5 * sum(healths) / len(healths) if healths else otherwise


def capped(health: float, rule: float) -> float:
    """Health after a rule that fires has spoken; `rule` is its score, 0.5 to 1."""
    return min(health, 1.0 - RULE_WEIGHT * rule)


def status_of(score: float) -> Status:
    """The word for a score."""
    if score >= HEALTHY_FROM:
        return "healthy"
    return "warning" if score >= WARNING_FROM else "critical"
