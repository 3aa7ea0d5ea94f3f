from dataclasses import replace

import numpy as np
import pytest
from synthetic_recordings import synthetic_recordings

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import ROWS, rows_of
from penstock_hydraulics.learning.models.baselines import (
    EVERY_SENSOR,
    FEW_SENSORS,
    extra_trees,
    features_of,
    gradient_boosting,
    logistic_regression,
    rig_scales,
    some_rows,
)
from penstock_hydraulics.machine.states import HEADS
from penstock_hydraulics.signals.features import STATISTICS

RECORDINGS = synthetic_recordings()


@pytest.mark.parametrize(
    "learner",
    [extra_trees(6), replace(gradient_boosting(3), copies=0), replace(logistic_regression(), copies=0)],
    ids=lambda x: x.name,
)
def test_a_baseline_learns_the_states_and_answers_in_probabilities(learner):
    levels = learner.fit(RECORDINGS).levels(synthetic_recordings(seed=1))
    for place, head in enumerate(HEADS):
        own = levels[:, head.columns]
        np.testing.assert_allclose(own.sum(axis=1), 1.0, atol=1e-6)
        assert (own > 0).all()
        assert (own.argmax(axis=1) == RECORDINGS.labels[:, place]).mean() > 0.7


def test_the_same_seed_gives_the_same_answers():
    few = FEW_SENSORS
    answers = [extra_trees(3).fit(RECORDINGS, seed=5).levels(RECORDINGS, few) for _ in range(2)]
    assert (answers[0] == answers[1]).all()
    assert (answers[0] != extra_trees(3).fit(RECORDINGS, seed=6).levels(RECORDINGS, few)).any()


def test_hidden_rows_do_not_change_an_answer():
    fitted = extra_trees(3).fit(RECORDINGS)
    other = synthetic_recordings(noise=3.0, seed=2)
    mixed = other.readings.copy()
    mixed[:, rows_of(FEW_SENSORS)] = RECORDINGS.readings[:, rows_of(FEW_SENSORS)]
    changed = type(other)(mixed, other.labels, other.runs, other.settled)
    assert (fitted.levels(changed, FEW_SENSORS) == fitted.levels(RECORDINGS, FEW_SENSORS)).all()
    assert (fitted.levels(changed) != fitted.levels(RECORDINGS)).any()


def test_features_include_the_mask_of_visible_rows():
    scales = rig_scales(RECORDINGS)
    features = features_of(RECORDINGS, scales, rows_of(FEW_SENSORS))
    assert features.shape == (len(RECORDINGS), len(ROWS) * STATISTICS + len(ROWS))
    assert (features[:, -len(ROWS) :] == rows_of(FEW_SENSORS)).all()
    unseen = features[:, : -len(ROWS)].reshape(len(RECORDINGS), len(ROWS), STATISTICS)[:, ~rows_of(FEW_SENSORS)]
    assert not unseen.any()


def test_extremes_are_lost_with_their_flow_and_half_of_them_without_it():
    kept = some_rows(2000, np.random.default_rng(0))
    for place, (_, channel) in enumerate(ROWS):
        if channel == "flow":
            flow, highest, lowest = kept[:, place : place + 3].T
            assert (highest == lowest).all()
            assert not highest[~flow].any()
            assert 0.4 < highest[flow].mean() < 0.6
    assert 0.35 < kept.mean() < 0.65


def test_an_unknown_sensor_is_named():
    with pytest.raises(InvalidInput, match="pressure_nowhere"):
        extra_trees(1).fit(RECORDINGS).levels(RECORDINGS, (*EVERY_SENSOR, "pressure_nowhere"))
