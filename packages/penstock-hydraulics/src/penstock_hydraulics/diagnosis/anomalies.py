"""The nine kinds of fault: predictions of the model, scores of the rules, and faults that neither can judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from penstock_hydraulics.diagnosis.rules import Figures, RuleSet
from penstock_hydraulics.diagnosis.schemas import AnomalyAnswer, Basis
from penstock_hydraulics.machine.states import ANOMALIES, SUPERVISED
from penstock_hydraulics.machine.topology import Topology
from penstock_hydraulics.signals.coverage import Coverage

THRESHOLD: Final = 0.5
"""Default detection threshold, unless the manifest sets a higher one; rules are designed to fire here."""

_LEARNED: Final = {each.anomaly: each.head.kind for each in SUPERVISED}
"""Faults derived from a labelled state, and the kind of component that has the state."""
_LABELLED: Final = frozenset({"leakage"})
"""Faults with labels of their own; the other states are proxies of their fault."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The answer, and the rules that fire: fault → (score, component)."""

    answer: AnomalyAnswer
    fired: dict[str, tuple[float, str]]


@dataclass(frozen=True, slots=True)
class AnomalyDetector:
    """Detects faults for one topology and set of sensors."""

    learned: tuple[tuple[int, str, Basis], ...]
    """Column of the model's `anomalies`, name and basis of each fault that the model predicts."""
    rule_set: RuleSet
    thresholds: Mapping[str, float]
    unavailable: tuple[str, ...]
    """Faults that neither model nor rules can judge."""

    def __call__(self, outputs: Sequence[float], figures: Figures) -> Findings:
        """`outputs` [9] are the model's probabilities.

        The source that detects the fault (else the one with the higher score) sets score, basis and threshold.
        """
        predictions: dict[str, float | None] = dict.fromkeys(ANOMALIES)
        basis: dict[str, Basis] = dict.fromkeys(ANOMALIES, "unavailable")
        for column, name, source in self.learned:
            predictions[name], basis[name] = round(outputs[column], 6), source
        scores, where = self.rule_set.evaluate(figures)
        for name, score in scores.items():
            known = predictions[name]
            if known is None or (score >= THRESHOLD, score) > (known >= self.thresholds[name], known):
                predictions[name], basis[name] = round(score, 6), "rule"
        thresholds = {name: THRESHOLD if basis[name] == "rule" else each for name, each in self.thresholds.items()}
        detected = [name for name, value in predictions.items() if value is not None and value >= thresholds[name]]
        answer = AnomalyAnswer.build(
            predictions=predictions, detected_anomalies=detected, basis=basis, thresholds=thresholds
        )
        return Findings(answer, {n: (score, where[n]) for n, score in scores.items() if score >= THRESHOLD})


def anomaly_detector(
    topology: Topology,
    coverage: Coverage,
    rule_set: RuleSet,
    thresholds: Mapping[str, float],
    *,
    model: bool,
    labelled: bool,
) -> AnomalyDetector:
    """`model`: the model runs; `labelled`: it was trained on recordings of this topology, not on simulations."""
    told = coverage.told or {}
    seen = {
        part.kind for part, share in zip(topology.components, coverage.components, strict=True) if model and share > 0
    }
    learned: list[tuple[int, str, Basis]] = [
        (column, name, "supervised" if labelled and name in _LABELLED else "proxy")
        for column, name in enumerate(ANOMALIES)
        if _LEARNED.get(name) in seen
    ]
    judged = {name for _, name, _ in learned} | rule_set.anomalies
    each = {name: float(thresholds.get(name, THRESHOLD)) for name in ANOMALIES}
    each |= {one.anomaly: told[one.head.name].threshold for one in SUPERVISED if one.head.name in told}
    return AnomalyDetector(tuple(learned), rule_set, each, tuple(name for name in ANOMALIES if name not in judged))
