"""The time-to-failure estimate on runs to failure: NASA's turbofan engines C-MAPSS FD001 (simulated).

Saxena, Goebel, Simon and Eklund 2008, doi:10.1109/PHM.2008.4711414, with their asymmetric score. They are no hydraulic
machines; of a health index that ends in failure the estimator sees the same as of a machine's own health.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_hydraulics.diagnosis.trend import MAX_RESULTS, degradation

Float = NDArray[np.float64]

PLACE = os.environ.get("PENSTOCK_HYDRAULICS_CMAPSS")
pytestmark = pytest.mark.skipif(
    PLACE is None, reason="PENSTOCK_HYDRAULICS_CMAPSS names no directory with the files of C-MAPSS FD001"
)
LONGEST = 125.0
"""Maximum time to failure in cycles, as in the literature (Heimes 2008, doi:10.1109/PHM.2008.4711422)."""
SENSORS = slice(5, 26)


class Engines(NamedTuple):
    """`train`, `test` [rows, 26]: engine, cycle, 3 settings, 21 sensors; `left` [100] cycles after those of `test`."""

    train: Float
    test: Float
    left: Float


@pytest.fixture(scope="module")
def engines() -> Engines:
    return Engines(*(_read(name) for name in ("train", "test", "RUL")))


def _read(name: str) -> Float:
    plain = Path(PLACE or "") / f"{name}_FD001.txt"
    packed = plain.with_name(f"{plain.name}.gz")
    with gzip.open(packed, "rt") if packed.exists() else plain.open() as lines:
        return np.loadtxt(lines)


class Index:
    """Health by linear regression of the sensors on the cycles left, up to 125: 1 far from failure, near 0 at it."""

    def __init__(self, train: Float) -> None:
        sensors = train[:, SENSORS]
        self.varying = sensors.std(axis=0) > 1e-6
        self.mean, self.std = sensors[:, self.varying].mean(axis=0), sensors[:, self.varying].std(axis=0)
        last = {engine: train[train[:, 0] == engine, 1].max() for engine in np.unique(train[:, 0])}
        left = np.array([last[engine] for engine in train[:, 0]]) - train[:, 1]
        self.weights = np.linalg.lstsq(self._terms(train), np.minimum(left, LONGEST) / LONGEST, rcond=None)[0]
        self.at_failure = float(np.median(self.health(train[left == 0])))

    def _terms(self, rows: Float) -> Float:
        return np.c_[(rows[:, SENSORS][:, self.varying] - self.mean) / self.std, np.ones(len(rows))]

    def health(self, rows: Float) -> Float:
        return self._terms(rows) @ self.weights


def _by_trend(hours: Float, health: Float, at_failure: float) -> float:
    found = degradation(hours * 3600.0, health, float(hours[-1]) * 3600.0, at_failure).time_to_failure_hours
    return LONGEST if found is None else min(found, LONGEST)


def _by_least_squares(hours: Float, health: Float, at_failure: float) -> float:
    slope, start = np.polyfit(hours - hours[-1], health, 1)
    return LONGEST if slope >= 0 else float(np.clip((start - at_failure) / -slope, 0, LONGEST))


def _scores(predicted: Float, left: Float) -> tuple[float, float]:
    """RMSE in cycles, and NASA's score: a late alarm costs more than an early one, exponentially."""
    error = predicted - left
    return float(np.sqrt((error**2).mean())), float(
        np.where(error < 0, np.expm1(-error / 13), np.expm1(error / 10)).sum()
    )


def test_the_trend_predicts_the_time_to_failure_better_than_a_straight_line(
    engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Index(engines.train)
    predicted: dict[str, list[float]] = {"trend": [], "least squares": [], "regression of the sensors": []}
    for engine in np.unique(engines.test[:, 0]):
        rows = engines.test[engines.test[:, 0] == engine][-MAX_RESULTS:]
        hours, health = rows[:, 1], index.health(rows)
        predicted["trend"].append(_by_trend(hours, health, index.at_failure))
        predicted["least squares"].append(_by_least_squares(hours, health, index.at_failure))
        predicted["regression of the sensors"].append(float(np.clip(health[-1] * LONGEST, 0, LONGEST)))
    scores = {name: _scores(np.array(values), engines.left) for name, values in predicted.items()}
    with capsys.disabled():
        for name, (rmse, score) in scores.items():
            print(f"\nC-MAPSS FD001, {name}: RMSE {rmse:.1f} cycles, NASA score {score:.0f}", end="")
    assert scores["trend"][0] < scores["least squares"][0]
    assert scores["trend"][1] < scores["least squares"][1]
    assert scores["trend"][0] < 35


def test_the_prediction_improves_near_the_failure(engines: Engines) -> None:
    index = Index(engines.train)
    errors = {10: [], 30: [], 50: []}  # type: dict[int, list[float]]
    for engine in np.unique(engines.train[:, 0]):
        rows = engines.train[engines.train[:, 0] == engine]
        for left, found in errors.items():
            seen = rows[: len(rows) - left][-MAX_RESULTS:]
            found.append(_by_trend(seen[:, 1], index.health(seen), index.at_failure) - left)
    assert np.median(np.abs(errors[10])) < 12
    assert np.median(np.abs(errors[10])) < np.median(np.abs(errors[30])) < np.median(np.abs(errors[50]))
