"""The figures of the model card from out-of-fold answers, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.learning import metrics
from penstock_hydraulics.learning.data.recordings import Recordings
from penstock_hydraulics.learning.evaluation.calibration import Calibration, calibrate, cross_fitted, tempered
from penstock_hydraulics.learning.evaluation.coverage import Table, coverage_table
from penstock_hydraulics.learning.evaluation.cross_validation import (
    ALL,
    COOLER,
    FEW,
    GROUPED,
    KEPT,
    SOME,
    OutOfFold,
    coverage_sets,
)
from penstock_hydraulics.learning.evaluation.selection import COMPARED_ONLY, MISSING, WEIGHTS, Result, select
from penstock_hydraulics.learning.evaluation.sure_answers import sure_answers
from penstock_hydraulics.learning.metrics import Interval
from penstock_hydraulics.machine.states import HEADS, SUPERVISED

Mask = NDArray[np.bool_]

FALSE_ALARMS: Final = 0.01
HALF: Final = 0.5


def measured_on(answers: OutOfFold, recordings: Recordings) -> dict[str, Mask]:
    """The two groups of evaluated cycles: `all`, and `settled` runs of ten."""
    held_out = answers.fold >= 0
    return {"all": held_out, "settled": held_out & recordings.in_settled_runs}


def figures(answers: OutOfFold, recordings: Recordings) -> dict[str, Any]:
    """Per state and group: accuracy and macro-F1 with intervals, likelihood, calibration, the confusion matrix."""
    found: dict[str, Any] = {"seconds_per_training": round(answers.seconds / (answers.fold.max() + 1), 1)}
    for group, mask in measured_on(answers, recordings).items():
        found[group] = {
            head.name: _state_figures(answers.of(place), recordings, mask, place)
            for place, head in enumerate(HEADS)
            if not (answers.protocol == COOLER and place == 0) and mask.any()
        }
    return found


def _state_figures(answers: NDArray[np.float64], recordings: Recordings, mask: Mask, place: int) -> dict[str, Any]:
    labels, probabilities = recordings.labels[mask, place], answers[mask]
    by_run = _by_run(answers, recordings, mask, place)
    weights = metrics.bootstrap_weights(len(by_run))
    total, drawn = by_run.sum(axis=0), metrics.resampled(by_run, weights)
    return {
        "cycles": int(mask.sum()),
        "runs": len(by_run),
        "accuracy": _plain(metrics.interval(float(metrics.accuracy(total)), metrics.accuracy(drawn))),
        "macro_f1": _plain(metrics.interval(float(metrics.macro_f1(total)), metrics.macro_f1(drawn))),
        "f1": [round(float(one), 4) for one in np.nan_to_num(metrics.f1_by_class(total))],
        "nll": round(metrics.negative_log_likelihood(probabilities, labels), 4),
        "ece": round(metrics.expected_calibration_error(probabilities, labels), 4),
        "confusion": total.astype(int).tolist(),
    }


def calibrations(answers: OutOfFold, recordings: Recordings) -> list[Calibration]:
    """One calibration for each of `HEADS`, on the settled runs."""
    mask = measured_on(answers, recordings)["settled"]
    return [
        calibrate(answers.of(place)[mask], recordings.labels[mask, place], answers.fold[mask])
        for place in range(len(HEADS))
    ]


def calibrated(answers: OutOfFold, place: int, calibration: Calibration) -> NDArray[np.float64]:
    """[n, levels] as served, with the accepted temperature."""
    return tempered(answers.of(place), calibration.temperature)


def reliability_tables(
    answers: OutOfFold, recordings: Recordings, found: Sequence[Calibration], bins: int = 10
) -> dict[str, list[list[float]]]:
    """Per state: count, mean confidence and accuracy of the non-empty bins, on settled runs.

    Each fold is scaled by the temperature of the others.
    """
    mask = measured_on(answers, recordings)["settled"]
    tables = {}
    for place, head in enumerate(HEADS):
        labels = recordings.labels[mask, place]
        after = _cross_fitted_answers(answers, recordings, mask, place, found[place])
        rows = metrics.reliability(after, labels, bins)
        tables[head.name] = [
            [one.answers, round(one.confidence, 4), round(one.accuracy, 4)] for one in rows if one.answers
        ]
    return tables


def detections(answers: OutOfFold, recordings: Recordings, found: Sequence[Calibration]) -> dict[str, Any]:
    """Per labelled anomaly: the threshold for 1 % false alarms, and detection at it and at 0.5, on settled runs.

    The threshold comes from all folds; `held_out` applies the threshold of the other folds to each fold.
    """
    mask = measured_on(answers, recordings)["settled"]
    result = {}
    for one in SUPERVISED:
        place = HEADS.index(one.head)
        scores = calibrated(answers, place, found[place])[mask, one.first :].sum(axis=1)
        faulty = recordings.labels[mask, place] >= one.first
        threshold = metrics.threshold_at(scores, faulty, FALSE_ALARMS)
        result[one.anomaly] = {
            "threshold": threshold,
            "at_threshold": _shares(metrics.detection_at(scores, faulty, threshold)),
            "held_out": _shares(_held_out(scores, faulty, answers.fold[mask])),
            "at_half": _shares(metrics.detection_at(scores, faulty, HALF)),
        }
    return result


def _held_out(scores: NDArray[np.float64], faulty: Mask, folds: NDArray[np.int64]) -> metrics.Detection:
    flagged = np.zeros(len(scores))
    for fold in np.unique(folds):
        here = folds == fold
        flagged[here] = scores[here] >= metrics.threshold_at(scores[~here], faulty[~here], FALSE_ALARMS)
    return metrics.detection_at(flagged, faulty, HALF)


def sensor_curve(answers: OutOfFold, recordings: Recordings) -> dict[str, dict[str, float]]:
    """Macro-F1 per state on settled runs: all sensors, `few`, `some`, and the mean over random sets of each size."""
    mask = measured_on(answers, recordings)["settled"]
    groups = {ALL: [ALL], SOME: [SOME], FEW: [FEW]}
    groups |= {str(count): [key for key in answers.probabilities if key.startswith(f"{count}_")] for count in KEPT}
    return {
        name: {
            head.name: round(float(np.mean([_score(answers, recordings, mask, place, one) for one in keys])), 4)
            for place, head in enumerate(HEADS)
        }
        for name, keys in groups.items()
        if all(key in answers.probabilities for key in keys) and keys
    }


def coverage_of(
    answers: OutOfFold, recordings: Recordings, found: Sequence[Calibration]
) -> tuple[Table, dict[str, Any]]:
    """The coverage table from the answers as served to held-out settled runs, and the sure answers with it."""
    mask = measured_on(answers, recordings)["settled"]
    temperatures = [one.temperature for one in found]
    served = {key: served_levels(answers.probabilities[key][mask], temperatures) for key in coverage_sets()}
    settled = recordings.take(np.flatnonzero(mask))
    table = coverage_table(served, settled)
    return table, sure_answers(served, settled, table)


def served_levels(probabilities: NDArray[np.float64], temperatures: Sequence[float]) -> NDArray[np.float64]:
    """[n, LEVELS] of all states with the accepted temperatures."""
    parts = [tempered(probabilities[:, head.columns], one) for head, one in zip(HEADS, temperatures, strict=True)]
    return np.concatenate(parts, axis=1)


def _score(answers: OutOfFold, recordings: Recordings, mask: Mask, place: int, sensors: str) -> float:
    by_run = _by_run(answers.of(place, sensors), recordings, mask, place)
    return float(metrics.macro_f1(by_run.sum(axis=0)))


def results(
    measured: Mapping[str, Mapping[str, OutOfFold]],
    recordings: Recordings,
    found: Mapping[str, Sequence[Calibration]],
) -> dict[str, Result]:
    """What the selection rule needs of each model that was evaluated with whole runs held out."""
    every = {}
    for name, answers in measured.get(GROUPED, {}).items():
        few = [key for key in answers.probabilities if key in (FEW, SOME) or _size(key) in KEPT]
        parts = {
            GROUPED: [_targets(answers, recordings)],
            MISSING: [_targets(answers, recordings, key) for key in few],
        }
        if name in (left_out := measured.get(COOLER, {})):
            parts[COOLER] = [_targets(left_out[name], recordings)]
        errors = {head.name: _ece_served(one) for head, one in zip(HEADS, found[name], strict=True)}
        every[name] = Result(parts, errors)
    return every


def _size(key: str) -> int | None:
    """The number of sensors of a random set, whose key is `<size>_<draw>`."""
    size, _, draw = key.partition("_")
    return int(size) if size.isdigit() and draw.isdigit() else None


def _ece_served(one: Calibration) -> float:
    return one.ece_after if one.accepted else one.ece_before


def _targets(answers: OutOfFold, recordings: Recordings, sensors: str = ALL) -> list[NDArray[np.float64]]:
    """The confusions by run of each state, without the cooler where its levels are left out."""
    mask = measured_on(answers, recordings)["settled"]
    places = range(1 if answers.protocol == COOLER else 0, len(HEADS))
    return [_by_run(answers.of(place, sensors), recordings, mask, place) for place in places]


def _by_run(answers: NDArray[np.float64], recordings: Recordings, mask: Mask, place: int) -> NDArray[np.float64]:
    levels = len(HEADS[place].levels)
    best = answers[mask].argmax(axis=1)
    return metrics.confusion_by_run(recordings.labels[mask, place], best, levels, recordings.runs[mask])


def _cross_fitted_answers(
    answers: OutOfFold, recordings: Recordings, mask: Mask, place: int, found: Calibration
) -> NDArray[np.float64]:
    own = answers.of(place)[mask]
    return cross_fitted(own, recordings.labels[mask, place], answers.fold[mask]) if found.accepted else own


def _plain(found: Interval) -> list[float]:
    return [round(value, 4) for value in found]


def _shares(found: metrics.Detection) -> dict[str, float | int]:
    return {
        "false_alarms": round(found.false_alarms, 4),
        "detected": round(found.detected, 4),
        "negatives": found.negatives,
        "positives": found.positives,
    }


def summarise(
    measured: Mapping[str, Mapping[str, OutOfFold]],
    recordings: Recordings,
    universal: str,
) -> dict[str, Any]:
    """All figures of the report, from `measured[protocol][model]`."""
    grouped = measured.get(GROUPED, {})
    found = {name: calibrations(one, recordings) for name, one in grouped.items()}
    result: dict[str, Any] = {
        "recordings": {
            "cycles": len(recordings),
            "runs": len(np.unique(recordings.runs)),
            "settled_cycles": int(recordings.in_settled_runs.sum()),
            "settled_runs": len(np.unique(recordings.runs[recordings.in_settled_runs])),
        },
        "protocols": {
            protocol: {name: figures(one, recordings) for name, one in models.items()}
            for protocol, models in measured.items()
        },
        "calibration": {
            name: {head.name: _calibration(one) for head, one in zip(HEADS, states, strict=True)}
            for name, states in found.items()
        },
        "reliability": {name: reliability_tables(one, recordings, found[name]) for name, one in grouped.items()},
        "detection": {name: detections(one, recordings, found[name]) for name, one in grouped.items()},
        "sensors": {name: sensor_curve(one, recordings) for name, one in grouped.items()},
    }
    measured_sets = {
        name: coverage_of(one, recordings, found[name])
        for name, one in grouped.items()
        if coverage_sets().keys() <= one.probabilities.keys() and name not in COMPARED_ONLY
    }
    result["coverage"] = {name: table for name, (table, _) in measured_sets.items()}
    result["sure_answers"] = {name: sure for name, (_, sure) in measured_sets.items()}
    if grouped:
        chosen = select(results(measured, recordings, found), universal)
        result["selection"] = {**vars(chosen), "eligible": list(chosen.eligible), "weights": dict(WEIGHTS)}
    return result


def _calibration(one: Calibration) -> dict[str, float | bool]:
    return {name: value if isinstance(value, bool) else round(value, 4) for name, value in one._asdict().items()}
