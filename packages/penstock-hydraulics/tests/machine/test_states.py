from __future__ import annotations

import numpy as np
import pytest

from penstock_hydraulics.machine.states import (
    ANOMALIES,
    HEAD_OF_KIND,
    HEADS,
    LEVELS,
    SUPERVISED,
    equipment_health,
    severity,
)


def test_the_columns_of_the_states_are_contiguous():
    columns = [column for head in HEADS for column in range(head.start, head.stop)]
    assert columns == list(range(LEVELS)) == list(range(14))


def test_each_kind_has_one_state_and_every_supervised_anomaly_is_an_anomaly():
    assert len(HEAD_OF_KIND) == len(HEADS)
    assert {found.anomaly for found in SUPERVISED} < set(ANOMALIES)
    assert len(set(ANOMALIES)) == 9


def test_severity_is_the_expected_level_between_best_and_worst():
    valve = HEADS[1]
    answers = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0.5, 0.5, 0]], np.float32)
    assert severity(answers, valve) == pytest.approx([0, 1, 0.5])


@pytest.mark.parametrize(
    ("components", "health"),
    [([2 / 3, 1, 1, 1], 0.79), ([0.5, 1, 1, 1], 0.69), ([1 / 3, 1, 1, 1], 0.58), ([0, 1, 1, 1], 0.375), ([], 1.0)],
)
def test_machine_health_is_half_the_worst_and_half_the_mean(components, health):
    assert equipment_health(np.array(components, np.float32)) == pytest.approx(health, abs=0.01)
