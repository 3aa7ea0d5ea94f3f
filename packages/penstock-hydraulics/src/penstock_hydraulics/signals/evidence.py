"""Which sensors tell which state: measured on recordings for one model, and stored in its artifact.

The set of sensors in a request is one of the measured sets, whose own figures then count, or lies between some: it
tells a state if a measured subset and every measured superset do, with the most cautious of their figures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MEANS: Final = "@1hz"
"""Ending of the name of a flow that is sampled below 10 Hz, which has no extremes: another sensor in the table."""
SURE: Final = 0.8
"""Confidence from which an answer counts as sure: of the sure answers, at least 97 % are right."""


class StateEvidence(NamedTuple):
    """The figures of one state with one set of sensors, on cycles that the model was not trained on."""

    temperature: float
    """Divides the logits of the model's answer, so that sure answers are right."""
    threshold: float
    """Detection threshold of the fault that the state shows, at 1 % false alarms."""
    sure: float
    """Share of cycles with a sure answer."""
    right: float
    """Share of the sure answers that are right."""


def weakest(found: Sequence[StateEvidence]) -> StateEvidence:
    """The most cautious of some figures, field by field."""
    temperatures, thresholds, sure, right = zip(*found, strict=True)
    return StateEvidence(max(temperatures), max(thresholds), min(sure), min(right))


_LENGTH_S: Final = 6.0
"""Windows whose length differs by less rest on the same evidence."""


def evidence_key(circuit: str, sensors: Collection[str], seconds: float, *, whole: bool, assumed: bool) -> str:
    """16 characters that are equal for answers of one model from the same evidence: circuit, sensors and coverage.

    `whole`: the window is a whole work cycle; `assumed`: the circuit is only assumed.
    """
    length = "whole" if whole else int(seconds / _LENGTH_S)
    return blake2b(repr((circuit, sorted(sensors), length, assumed)).encode(), digest_size=8).hexdigest()


def _split(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


class MeasuredSet(BaseModel):
    """One set of sensors, as indices, and the states that it tells; states that are not listed are not told.

    Numbers may be one string with spaces between, as in a manifest, which has one line for each otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sensors: Annotated[tuple[int, ...], BeforeValidator(_split)]
    states: dict[str, Annotated[StateEvidence, BeforeValidator(_split)]] = Field(default_factory=dict)


class EvidenceTable(BaseModel):
    """The measured sets of one circuit; `sensors` are the names that the sets refer to."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sensors: tuple[str, ...]
    sets: tuple[MeasuredSet, ...]


States: TypeAlias = Mapping[str, StateEvidence]


class Evidence:
    """Finds what a set of sensors tells. Raises IndexError for a set with an unknown sensor."""

    def __init__(self, table: EvidenceTable) -> None:
        self._names = frozenset(table.sensors)
        self.sensors: Final = frozenset(name.removesuffix(MEANS) for name in table.sensors)
        """The sensors of the recordings."""
        self._sets: dict[frozenset[str], States] = {
            frozenset(table.sensors[index] for index in measured.sensors): measured.states for measured in table.sets
        }

    def states(self, sensors: Collection[str]) -> States:
        """The states that these sensors tell, by name; sensors outside the table are ignored.

        A flow without extremes ends with `MEANS`.
        """
        seen = self._names.intersection(sensors)
        measured = self._sets.get(seen)
        if measured is not None:
            return measured
        inside, around = [], []
        for names, states in self._sets.items():
            if names < seen:
                inside.append(states)
            elif names > seen:
                around.append(states)
        told = {name for states in inside for name in states if all(name in each for each in around)}
        every = [*inside, *around]
        return {name: weakest([states[name] for states in every if name in states]) for name in sorted(told)}
