"""The coverage table: which sensors tell which state, from the answers of a model with each set of sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.learning import metrics
from penstock_hydraulics.learning.data.recordings import RIG, Recordings
from penstock_hydraulics.learning.evaluation.calibration import tempered
from penstock_hydraulics.learning.evaluation.cross_validation import coverage_sets
from penstock_hydraulics.machine.states import HEADS, SUPERVISED
from penstock_hydraulics.signals.evidence import SURE, StateEvidence, weakest

Probabilities = NDArray[np.float64]
Answers = Mapping[str, Probabilities]
"""[cycles, LEVELS] as served, by the key of the sensor set."""
Table = dict[str, Any]

MIN_RIGHT: Final = 0.985
"""Least share of right answers among the sure ones; above the 0.97 that is promised, since runs are few."""
MIN_RIGHT_OF_SAMPLES: Final = 0.975
"""Least share of right answers among the sure ones that 95 of 100 samples of `SAMPLE_RUNS` runs reach."""
MIN_RIGHT_OF_FEW: Final = 0.98
"""The same for one or two sensors: of so many sets, some pass by chance. With 0.97 one in four draws of held-out runs
fell below the promised share."""
SAMPLE_RUNS: Final = 30
SAMPLES: Final = 400
MIN_F1: Final = 0.8
"""Least macro-F1 of all answers."""
MIN_SURE: Final = 0.5
"""Least share of sure answers."""
TEMPERATURES: Final = tuple(round(float(1.1**step), 2) for step in range(25))
"""1 to 9.85; only softer answers, since the model is calibrated with all sensors already."""
FALSE_ALARMS: Final = 0.01
_FIRST: Final = {each.head.name: each.first for each in SUPERVISED}


def coverage_table(answers: Answers, recordings: Recordings) -> Table:
    """The table of `answers` to settled cycles, in the form of the manifest."""
    every = coverage_sets()
    names = list(dict.fromkeys(sensor for sensors in every.values() for sensor in sensors))
    labels, runs = recordings.labels, recordings.runs
    sets = []
    for key, sensors in every.items():
        states = {}
        for place, head in enumerate(HEADS):
            least = MIN_RIGHT_OF_FEW if len(sensors) <= 2 else MIN_RIGHT_OF_SAMPLES
            found = state_evidence(answers[key][:, head.columns], labels[:, place], runs, _FIRST[head.name], least)
            if found is not None:
                states[head.name] = [*found]
        sets.append({"sensors": [names.index(sensor) for sensor in sensors], "states": states})
    return {RIG.name: {"sensors": names, "sets": sets}}


def state_evidence(
    probabilities: Probabilities,
    labels: metrics.Labels,
    runs: metrics.Labels,
    first: int,
    least: float = MIN_RIGHT_OF_SAMPLES,
) -> StateEvidence | None:
    """The figures of one state with one set of sensors; None if these sensors do not tell it.

    `first` is the first level that counts as a fault; `least` the share of right answers that samples of runs reach.
    """
    answered = probabilities.argmax(axis=1)
    right = answered == labels
    confusion = metrics.confusion_by_run(labels, answered, probabilities.shape[1], runs).sum(axis=0)
    if float(metrics.macro_f1(confusion)) < MIN_F1:
        return None
    for temperature in TEMPERATURES:
        softened = tempered(probabilities, temperature)
        sure = softened.max(axis=1) >= SURE
        if sure.mean() < MIN_SURE:
            return None
        share = float(right[sure].mean())
        if share >= MIN_RIGHT and _low_share(right, sure, runs) >= least:
            faulty = labels >= first
            threshold = metrics.threshold_at(softened[:, first:].sum(axis=1), faulty, FALSE_ALARMS)
            return StateEvidence(temperature, threshold, _down(float(sure.mean())), _down(share))
    return None


def _low_share(right: NDArray[np.bool_], sure: NDArray[np.bool_], runs: metrics.Labels) -> float:
    """The share of right answers among the sure ones that 95 of 100 samples of runs reach."""
    if right[sure].all():
        return 1.0
    _, of_run = np.unique(runs, return_inverse=True)
    known, hits = (np.bincount(of_run, weights=each) for each in (sure, right & sure))
    chosen = np.random.default_rng(0).integers(len(known), size=(SAMPLES, min(SAMPLE_RUNS, len(known))))
    shares = hits[chosen].sum(axis=1) / np.maximum(known[chosen].sum(axis=1), 1)
    return float(np.percentile(shares, 5))


def combined(tables: Sequence[Table]) -> Table:
    """The table of what all tables tell, with the most cautious figures; they have the same sets."""
    first, *others = (table[RIG.name] for table in tables)
    sets = []
    for rows in zip(first["sets"], *(other["sets"] for other in others), strict=True):
        states = {
            name: [*weakest([StateEvidence(*row["states"][name]) for row in rows])]
            for name in rows[0]["states"]
            if all(name in row["states"] for row in rows)
        }
        sets.append({"sensors": rows[0]["sensors"], "states": states})
    return {RIG.name: {"sensors": first["sensors"], "sets": sets}}


def compact(table: Table) -> Table:
    """The same table for a manifest, with the numbers of a set in one string."""
    return {
        name: {
            "sensors": one["sensors"],
            "sets": [
                {"sensors": _joined(each["sensors"]), "states": {k: _joined(v) for k, v in each["states"].items()}}
                for each in one["sets"]
            ],
        }
        for name, one in table.items()
    }


def _joined(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def _down(share: float) -> float:
    return float(np.floor(share * 1000) / 1000)
