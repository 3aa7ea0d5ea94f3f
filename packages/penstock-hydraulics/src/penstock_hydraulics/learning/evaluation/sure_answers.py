"""Sure answers by family of sensor sets: how often a state gets one, and how many of them are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.learning.data.recordings import RIG, SENSORS, Recordings
from penstock_hydraulics.learning.evaluation.calibration import tempered
from penstock_hydraulics.learning.evaluation.coverage import SAMPLE_RUNS, Answers, Table, coverage_table
from penstock_hydraulics.learning.evaluation.cross_validation import coverage_sets
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.signals.evidence import MEANS, SURE, Evidence, EvidenceTable

FAMILIES: Final = ("single", "pair", "usual", "all, flows at 10 Hz", "all, flows at 1 Hz")
DRAWS: Final = 12
"""Draws of `SAMPLE_RUNS` held-out runs."""

Counts = NDArray[np.float64]
"""[FAMILIES, HEADS, 3] answers, sure answers and right ones among these."""


def family_of(sensors: Sequence[str]) -> int:
    """The index in `FAMILIES` of a set of sensors."""
    if len(sensors) == len(SENSORS):
        return 4 if any(name.endswith(MEANS) for name in sensors) else 3
    return min(len(sensors), 3) - 1


def counts(answers: Answers, recordings: Recordings, evidence: Evidence | None = None) -> Counts:
    """Counts of the answers as served with `evidence`; without it, of all answers at their own confidence."""
    found = np.zeros((len(FAMILIES), len(HEADS), 3))
    for key, sensors in coverage_sets().items():
        told = None if evidence is None else evidence.states(sensors)
        for place, head in enumerate(HEADS):
            row = found[family_of(sensors), place]
            row[0] += len(recordings)
            if told is not None and head.name not in told:
                continue
            own = answers[key][:, head.columns]
            own = own if told is None else tempered(own, told[head.name].temperature)
            sure = own.max(axis=1) >= SURE
            row[1] += sure.sum()
            row[2] += (own.argmax(axis=1) == recordings.labels[:, place])[sure].sum()
    return found


def sure_answers(
    answers: Answers, recordings: Recordings, table: Table, draws: int = DRAWS
) -> dict[str, dict[str, dict[str, list[float | None]]]]:
    """By family and state: share of sure answers and share of right ones among these.

    `without` coverage, `served` with `table`, and `held_out`: the table of the other runs, on `SAMPLE_RUNS` drawn runs
    that it was not measured on, with the lowest share of right ones of any draw in addition.
    """
    every = counts(answers, recordings), counts(answers, recordings, evidence_of(table))
    drawn = np.stack([_held_out(answers, recordings, seed) for seed in range(draws)])
    result: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for family, name in enumerate(FAMILIES):
        result[name] = {}
        for place, head in enumerate(HEADS):
            rights = [_share(one[family, place, 2], one[family, place, 1]) for one in drawn]
            known = [right for right in rights if right is not None]
            result[name][head.name] = {
                "without": _shares(every[0][family, place]),
                "served": _shares(every[1][family, place]),
                "held_out": [*_shares(drawn.sum(axis=0)[family, place]), min(known, default=None)],
            }
    return result


def evidence_of(table: Mapping[str, Any]) -> Evidence:
    """The evidence of a table, as it is served."""
    return Evidence(EvidenceTable.model_validate(table[RIG.name]))


def _held_out(answers: Answers, recordings: Recordings, seed: int) -> Counts:
    runs = np.unique(recordings.runs)
    chosen = np.random.default_rng(seed).permutation(runs)[: min(SAMPLE_RUNS, len(runs) // 2)]
    test = np.isin(recordings.runs, chosen)
    others, drawn = (
        ({key: one[part] for key, one in answers.items()}, recordings.take(np.flatnonzero(part)))
        for part in (~test, test)
    )
    return counts(*drawn, evidence_of(coverage_table(*others)))


def _shares(row: NDArray[np.float64]) -> list[float | None]:
    return [_share(row[1], row[0]), _share(row[2], row[1])]


def _share(part: float, whole: float) -> float | None:
    return round(float(part / whole), 4) if whole else None
