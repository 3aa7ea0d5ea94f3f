"""The selection rule: which model is served by default, as a pure function of the results of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_hydraulics.learning import metrics
from penstock_hydraulics.learning.evaluation.cross_validation import COOLER, GROUPED
from penstock_hydraulics.learning.metrics import Interval

MISSING: Final = "missing_sensors"
WEIGHTS: Final[Mapping[str, float]] = {GROUPED: 0.5, MISSING: 0.25, COOLER: 0.25}
"""Weights of the parts of the score. Each part is a mean macro-F1 over the states, on settled runs: whole runs held out
with all sensors; the same with missing sensors, mean over the sensor sets; a cooler level left out with all sensors."""
ECE_LIMIT: Final = 0.03
"""Highest calibration error of any state of a candidate."""
MIN_F1: Final = 0.8
"""Least macro-F1 of any state of a candidate, whole runs held out, all sensors: below it, a state is not known."""
COMPARED_ONLY: Final = ("network_without_edges", "logistic_regression")
"""Models of the comparison that cannot be served."""

Confusions = Sequence[NDArray[np.float64]]
"""For each state the confusion matrices by run [R, K, K]; the runs are the same for all models and parts."""


@dataclass(frozen=True)
class Result:
    """What a model showed: for each evaluated part one entry by sensor set, and the calibration error of each state."""

    parts: Mapping[str, Sequence[Confusions]]
    calibration_errors: Mapping[str, float]


@dataclass(frozen=True)
class Selection:
    """The verdict: the served model, or None if no candidate qualifies, and what led to it."""

    served: str | None
    best: str | None
    """The candidate with the highest score."""
    eligible: tuple[str, ...]
    refused: Mapping[str, str]
    """Why each other model does not qualify."""
    scores: Mapping[str, Mapping[str, float]]
    """The evaluated parts of each model, and the `score` where it has all of them."""
    difference: Interval | None
    """Score of the universal model minus that of the best; None where they are not compared."""
    sentence: str


def select(results: Mapping[str, Result], universal: str) -> Selection:
    """The qualified candidate with the highest score is served; `universal` supports any topology.

    It is preferred unless a paired bootstrap over runs finds its score lower at 95 %.
    """
    refused = {name: why for name, one in results.items() if (why := obstacle(name, one)) is not None}
    eligible = tuple(name for name in results if name not in refused)
    scores = {name: _scores(one) for name, one in results.items()}
    if not eligible:
        return Selection(None, None, (), refused, scores, None, _none_sentence(refused))
    best = max(eligible, key=lambda name: scores[name]["score"])
    if best == universal or universal not in eligible:
        sentence = f"`{best}` has the highest score, {scores[best]['score']:.4f}, and is served.{_others(refused)}"
        return Selection(best, best, eligible, refused, scores, None, sentence)
    difference = paired_difference(results[universal], results[best])
    served = universal if difference.high >= 0 else best
    verdict = "not significantly lower, and is served" if served == universal else "significantly lower"
    sentence = (
        f"`{best}` has the highest score, {scores[best]['score']:.4f}; `{universal}`, which supports any topology, has"
        f" {scores[universal]['score']:.4f}, a difference of {difference.value:+.4f} (95 % interval"
        f" {difference.low:+.4f} to {difference.high:+.4f}, paired bootstrap over runs): {verdict}"
        f"{'.' if served == universal else f', so `{best}` is served.'}{_others(refused)}"
    )
    return Selection(served, best, eligible, refused, scores, difference, sentence)


def obstacle(name: str, result: Result) -> str | None:
    """Why a model does not qualify; None if it does."""
    if name in COMPARED_ONLY:
        return "it is only compared"
    missing = [part for part in WEIGHTS if not result.parts.get(part)]
    if missing:
        return f"it was not evaluated by {', '.join(missing)}"
    worst = max(result.calibration_errors, key=lambda state: result.calibration_errors[state])
    if result.calibration_errors[worst] > ECE_LIMIT:
        error = result.calibration_errors[worst]
        return f"its calibration error of {worst} is {error:.3f} after scaling, above {ECE_LIMIT:g}"
    states = list(result.calibration_errors)
    found = [float(metrics.macro_f1(one.sum(axis=0))) for one in result.parts[GROUPED][0]]
    lowest = int(np.argmin(found))
    if found[lowest] < MIN_F1:
        return f"its macro-F1 of {states[lowest]} is {found[lowest]:.3f}, below {MIN_F1:g}"
    return None


def paired_difference(ours: Result, theirs: Result, seed: int = 0) -> Interval:
    """Score of `ours` minus that of `theirs`, with a paired bootstrap over the same runs."""
    weights = metrics.bootstrap_weights(len(ours.parts[GROUPED][0][0]), seed=seed)
    value, drawn = (_score(ours.parts, chosen) - _score(theirs.parts, chosen) for chosen in (None, weights))
    return metrics.interval(float(value), drawn)


def _scores(result: Result) -> dict[str, float]:
    found = {name: float(_part(sets)) for name, sets in result.parts.items() if name in WEIGHTS and sets}
    return {**found, "score": float(_score(result.parts))} if found.keys() == WEIGHTS.keys() else found


def _score(parts: Mapping[str, Sequence[Confusions]], weights: metrics.Reals | None = None) -> metrics.Reals:
    """One number, or one per bootstrap sample [S]."""
    return np.asarray(sum(share * _part(parts[name], weights) for name, share in WEIGHTS.items()))


def _part(sets: Sequence[Confusions], weights: metrics.Reals | None = None) -> metrics.Reals:
    return np.asarray(np.mean([metrics.mean_macro_f1(states, weights) for states in sets], axis=0))


def _none_sentence(refused: Mapping[str, str]) -> str:
    return f"No model qualifies, so none is served or published.{_others(refused)}"


def _others(refused: Mapping[str, str]) -> str:
    shown = {name: why for name, why in refused.items() if name not in COMPARED_ONLY}
    return "".join(f" `{name}` does not qualify: {why}." for name, why in shown.items())
