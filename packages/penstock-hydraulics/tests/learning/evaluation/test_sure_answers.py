import numpy as np
import pytest
from synthetic_recordings import synthetic_recordings

from penstock_hydraulics.learning.data.recordings import SENSORS
from penstock_hydraulics.learning.evaluation.coverage import coverage_table
from penstock_hydraulics.learning.evaluation.cross_validation import MEASURED_SETS, at_1hz, coverage_sets
from penstock_hydraulics.learning.evaluation.report import sure_answer_tables
from penstock_hydraulics.learning.evaluation.sure_answers import FAMILIES, counts, evidence_of, family_of, sure_answers
from penstock_hydraulics.machine.states import HEADS, LEVELS

RECORDINGS = synthetic_recordings(runs=40)
NAMES = tuple(SENSORS.values())


def levels(wrong=0.0, seed=0):
    """Sure answers, wrong in this share of runs."""
    runs = np.unique(RECORDINGS.runs)
    chosen = np.random.default_rng(seed).permutation(runs)[: round(wrong * len(runs))]
    found = np.full((len(RECORDINGS), LEVELS), 0.01)
    for place, head in enumerate(HEADS):
        answer = (RECORDINGS.labels[:, place] + np.isin(RECORDINGS.runs, chosen)) % len(head.levels)
        found[np.arange(len(found)), head.start + answer] = 0.97
    return found


@pytest.fixture(scope="module")
def answers():
    """Right with all sensors, wrong in a tenth of the runs with fewer, and in half of them with one."""
    share = {1: 0.5, len(NAMES): 0.0}
    return {key: levels(share.get(len(sensors), 0.1)) for key, sensors in coverage_sets().items()}


def test_every_measured_set_is_in_one_family():
    found = [FAMILIES[family_of(sensors)] for sensors in MEASURED_SETS]
    assert (found.count("single"), found.count("pair"), found.count("all, flows at 10 Hz")) == (14, 91, 1)
    assert FAMILIES[family_of(at_1hz(NAMES))] == "all, flows at 1 Hz"
    assert FAMILIES[family_of(at_1hz(NAMES[:-1]))] == "usual"


def test_without_coverage_wrong_answers_are_sure_and_with_it_they_are_not_given(answers):
    without = counts(answers, RECORDINGS)
    assert (without[..., 0] == without[..., 1]).all()
    assert without[0, 0, 2] / without[0, 0, 1] == 0.5
    served = counts(answers, RECORDINGS, evidence_of(coverage_table(answers, RECORDINGS)))
    assert not served[:3, :, 1].any()
    assert (served[3:] == without[3:]).all()


def test_the_figures_of_held_out_runs_have_the_worst_draw(answers):
    found = sure_answers(answers, RECORDINGS, coverage_table(answers, RECORDINGS), draws=3)
    every = found["all, flows at 10 Hz"]["pump_leakage"]
    assert every == {"without": [1.0, 1.0], "served": [1.0, 1.0], "held_out": [1.0, 1.0, 1.0]}
    assert found["single"]["pump_leakage"]["without"] == [1.0, 0.5]
    assert found["single"]["pump_leakage"]["served"] == [0.0, None]
    text = sure_answer_tables({"sure_answers": {"trees": found}}, ["trees", "unknown"])
    assert "| single | without | 100.0, 50.0 right |" in text
    assert "| single | served | never |" in text
    assert "| all, flows at 1 Hz | held out | 100.0, 100.0 right (100.0) |" in text
