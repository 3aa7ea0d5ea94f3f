from __future__ import annotations

import numpy as np
import pytest
from synthetic_recordings import synthetic_recordings

from penstock_hydraulics.learning.data.recordings import SENSORS
from penstock_hydraulics.learning.evaluation.coverage import (
    MIN_RIGHT,
    combined,
    compact,
    coverage_table,
    state_evidence,
)
from penstock_hydraulics.learning.evaluation.cross_validation import MEASURED_SETS, coverage_sets
from penstock_hydraulics.machine.states import HEADS, LEVELS
from penstock_hydraulics.signals.evidence import SURE, Evidence, EvidenceTable

LABELS = np.arange(400) % 4
RUNS = LABELS // 10


def answers(sure, wrong=0, doubt=0.0):
    """`sure` in the truth, the first `wrong` answers with `doubt` less in another level."""
    found = np.full((len(LABELS), 4), (1 - sure) / 3)
    found[np.arange(len(LABELS)), LABELS] = sure
    if wrong:
        found[:wrong] = np.roll(found[:wrong], 1, axis=1) * (1 - doubt) + doubt / 4
    return found


def test_right_and_sure_answers_are_told_as_they_are():
    found = state_evidence(answers(0.95), LABELS, RUNS, 1)
    assert (found.temperature, found.threshold, found.sure, found.right) == (1.0, 0.5, 1.0, 1.0)


def test_confidence_is_lowered_until_sure_answers_are_right():
    doubtful = answers(0.99, wrong=20, doubt=0.15)
    assert doubtful[:20].max() > SURE
    found = state_evidence(doubtful, LABELS, RUNS, 1)
    assert found.temperature > 1
    assert found.right >= MIN_RIGHT
    assert found.sure == pytest.approx(0.95)
    assert found.threshold >= 0.5


@pytest.mark.parametrize(
    "probabilities",
    [
        answers(0.99, wrong=20),  # as sure when wrong
        answers(0.6),  # never sure
        answers(0.95, wrong=200, doubt=0.5),  # too often wrong
    ],
)
def test_a_state_is_not_told_without_sure_and_right_answers(probabilities):
    assert state_evidence(probabilities, LABELS, RUNS, 1) is None


def test_every_sensor_every_pair_and_the_usual_sets_are_measured_with_fast_and_slow_flows():
    sizes = [len(sensors) for sensors in MEASURED_SETS]
    assert (sizes.count(1), sizes.count(2)) == (14, 91)
    assert {tuple(SENSORS.values()), *((name,) for name in SENSORS.values())} <= {*MEASURED_SETS}
    keys = coverage_sets()
    assert keys["flow_pump_main@1hz"] == ("flow_pump_main@1hz",)
    assert len({frozenset(sensors) for sensors in keys.values()}) == len(keys)


def test_a_table_tells_what_every_part_of_it_tells():
    recordings = synthetic_recordings(runs=8)
    right = np.full((len(recordings), LEVELS), 0.01)
    for place, head in enumerate(HEADS):
        right[np.arange(len(right)), head.start + recordings.labels[:, place]] = 0.97
    flat = np.full_like(right, 0.25)
    every = dict.fromkeys(coverage_sets(), right)
    own = every | {"flow_pump_main": flat, "pressure_pump_main": np.where(np.arange(LEVELS) < 3, flat, right)}
    table = combined([coverage_table(every, recordings), coverage_table(own, recordings)])
    evidence = Evidence(EvidenceTable.model_validate(compact(table)["zema_rig"]))
    assert evidence.states({"flow_pump_main"}) == {}
    assert evidence.states({"flow_pump_main@1hz"}).keys() == {head.name for head in HEADS}
    assert evidence.states({"pressure_pump_main"}).keys() == {head.name for head in HEADS[1:]}
    assert evidence.states({*SENSORS.values()}).keys() == {head.name for head in HEADS}
