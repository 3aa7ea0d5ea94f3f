"""Baselines: scikit-learn classifiers on segment statistics, with the interface of the network.

Features are positional, so a baseline serves the topology of the rig only. Each state has its own classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from penstock_hydraulics.learning.data.recordings import RIG, ROWS, SENSORS, Recordings, rows_of
from penstock_hydraulics.machine.states import HEADS, LEVELS
from penstock_hydraulics.signals.features import STATISTICS, Float, Layout, Scale, Scales, encode_all

Indices = NDArray[np.int64]
Rows = NDArray[np.bool_]
"""[ROWS] or [n, ROWS]: visible rows of the recordings."""

EVERY_ROW: Final[Rows] = np.ones(len(ROWS), dtype=np.bool_)
EXTREMES: Final[Rows] = np.array([channel.endswith(("_max", "_min")) for _, channel in ROWS])
"""The rows that a flow has only from 10 Hz on."""
EVERY_SENSOR: Final = tuple(SENSORS.values())
FEW_SENSORS: Final = ("pressure_pump_main", "temperature_pump_main", "vibration_pump_main")
SOME_SENSORS: Final = (*FEW_SENSORS, "flow_pump_main", "power_pump_main")
AT_1HZ: Final = 0.5
"""Share of the cycles with missing sensors whose flows have no extremes."""
EPSILON: Final = 0.005
"""Share of each answer that is spread over all levels, since a forest's probability of 0 is no certainty."""


class Fitted(Protocol):
    """A trained model."""

    def levels(self, recordings: Recordings, sensors: tuple[str, ...] = EVERY_SENSOR) -> NDArray[np.float64]:
        """Uncalibrated probabilities [n, LEVELS] of all cycles, from `sensors` only."""
        ...


class Learner(Protocol):
    """A training procedure; the comparison compares these."""

    @property
    def name(self) -> str:
        """Name in tables and files."""
        ...

    @property
    def settings(self) -> str:
        """All hyperparameters; identifies the procedure apart from data and seed."""
        ...

    def fit(self, recordings: Recordings, seed: int = 0) -> Fitted:
        """Train on all cycles of `recordings`."""
        ...


@dataclass(frozen=True)
class FittedClassifiers:
    """One classifier for each of `HEADS`, and the scales of their features."""

    scales: Scales
    classifiers: tuple[Any, ...]

    def levels(self, recordings: Recordings, sensors: tuple[str, ...] = EVERY_SENSOR) -> NDArray[np.float64]:
        """Probabilities [n, LEVELS], with a share of `EPSILON` spread evenly."""
        features = features_of(recordings, self.scales, rows_of(sensors))
        found = np.full((len(features), LEVELS), 0.0)
        for head, classifier in zip(HEADS, self.classifiers, strict=True):
            with threadpool_limits(1):
                found[:, head.start + classifier.classes_] = classifier.predict_proba(features)
            found[:, head.columns] = (1 - EPSILON) * found[:, head.columns] + EPSILON / len(head.levels)
        return found


@dataclass(frozen=True)
class Baseline:
    """Classifiers trained on all complete cycles, and on `copies` copies with random missing sensors.

    `make(seed)` returns an untrained scikit-learn classifier. The copies cost little accuracy with all sensors and give
    most of the accuracy with few.
    """

    name: str
    make: Callable[[int], Any] = field(repr=False)
    copies: int = 2

    @property
    def settings(self) -> str:
        """The classifier's parameters."""
        return f"{self.make(0)!r}, {self.copies} copies, {AT_1HZ} of them with flows at 1 Hz, {EPSILON} spread"

    def fit(self, recordings: Recordings, seed: int = 0) -> FittedClassifiers:
        """Train on all cycles, single-threaded: OpenMP threads are slower on small data and on a busy machine."""
        scales = rig_scales(recordings)
        rng = np.random.default_rng(seed)
        masks = [EVERY_ROW, *(some_rows(len(recordings), rng) for _ in range(self.copies))]
        features = np.concatenate([features_of(recordings, scales, rows) for rows in masks])
        labels = np.tile(recordings.labels, (len(masks), 1))
        with threadpool_limits(1):
            fitted = [self.make(seed).fit(features, labels[:, place]) for place in range(len(HEADS))]
        return FittedClassifiers(scales, tuple(fitted))


def gradient_boosting(iterations: int = 60) -> Baseline:
    """Histogram gradient boosting: small trees, a third of the features at each split."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    def make(seed: int) -> Any:
        return HistGradientBoostingClassifier(
            max_iter=iterations,
            learning_rate=0.15,
            max_leaf_nodes=12,
            max_features=0.3,
            early_stopping=False,
            random_state=seed,
        )

    return Baseline("gradient_boosting", make)


def extra_trees(trees: int = 16) -> Baseline:
    """Extremely randomised trees (Geurts, Ernst and Wehenkel 2006), few and pruned: 0.8 MB as an ONNX graph."""
    from sklearn.ensemble import ExtraTreesClassifier

    def make(seed: int) -> Any:
        return ExtraTreesClassifier(trees, max_features=0.5, min_samples_leaf=4, random_state=seed, n_jobs=1)

    return Baseline("extra_trees", make)


def logistic_regression(strength: float = 1.0) -> Baseline:
    """Multinomial logistic regression with an L2 penalty; the features are standardised."""
    from sklearn.linear_model import LogisticRegression

    def make(seed: int) -> Any:
        return LogisticRegression(C=strength, max_iter=300, tol=1e-3, random_state=seed)

    return Baseline("logistic_regression", make)


def rig_scales(recordings: Recordings) -> Scales:
    """Scales of each row of the rig; none by kind, since a baseline serves no other machine."""
    names = [f"{RIG.components[node].id}.{channel}" for node, channel in ROWS]
    table = {name: Scale.of(recordings.readings[:, place]) for place, name in enumerate(names)}
    return Scales({RIG.name: table}, {})


def features_of(recordings: Recordings, scales: Scales, rows: Rows = EVERY_ROW) -> Float:
    """[n, ROWS * STATISTICS + ROWS] standardised statistics, 0 for hidden rows; then the mask of visible rows."""
    layout = Layout.make(RIG, ROWS, scales)
    count = len(recordings)
    statistics = np.asarray(encode_all(recordings.readings, layout)["statistics"])
    seen = np.broadcast_to(rows, (count, len(ROWS))).astype(np.float32)
    found = statistics.reshape(count, -1, STATISTICS)[:, layout.slots] * seen[..., None]
    return np.concatenate([found.reshape(count, -1), seen], axis=1)


def some_rows(count: int, rng: np.random.Generator) -> Rows:
    """[count, ROWS] random masks with up to 80 % missing sensors; one cycle in seven keeps only `FEW_SENSORS`.

    Every second cycle has its flows at 1 Hz, without extremes: otherwise a classifier meets a flow without them for the
    first time when it is served, and does not tell the leakage.
    """
    sensors = list(SENSORS.values())
    members = np.stack([rows_of((sensor,)) for sensor in sensors])
    kept = rng.random((count, len(sensors))) >= rng.uniform(0, 0.8, (count, 1))
    kept[rng.random(count) < 1 / 7] = np.isin(sensors, FEW_SENSORS)
    rows: Rows = kept @ members
    rows[np.ix_(rng.random(count) < AT_1HZ, EXTREMES)] = False
    return rows
