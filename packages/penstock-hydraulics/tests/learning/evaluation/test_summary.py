import json

import numpy as np
import pytest
from synthetic_recordings import synthetic_recordings

from penstock_hydraulics.learning.evaluation import summary
from penstock_hydraulics.learning.evaluation.cross_validation import ALL, COOLER, FEW, GROUPED, SOME, OutOfFold
from penstock_hydraulics.learning.evaluation.report import details, report
from penstock_hydraulics.learning.evaluation.selection import MISSING
from penstock_hydraulics.machine.states import HEADS, LEVELS

RECORDINGS = synthetic_recordings(runs=60)
FOLD = RECORDINGS.runs % 5


def answers(name, wrong_runs=(), confidence=0.9, protocol=GROUPED):
    """Correct levels with `confidence`, but the next level in `wrong_runs`."""
    found = np.zeros((len(RECORDINGS), LEVELS))
    wrong = np.isin(RECORDINGS.runs, wrong_runs)
    for place, head in enumerate(HEADS):
        count = len(head.levels)
        answer = np.where(wrong, (RECORDINGS.labels[:, place] + 1) % count, RECORDINGS.labels[:, place])
        found[:, head.columns] = (1 - confidence) / (count - 1)
        found[np.arange(len(found)), head.start + answer] = confidence
    sets = {ALL: found, FEW: found, SOME: found, "2_0": found, "2_1": found}
    return OutOfFold(name, protocol, sets, FOLD, 10.0)


def calibrations(*models):
    return {model.learner: summary.calibrations(model, RECORDINGS) for model in models}


def test_figures_are_of_settled_runs_and_of_all_cycles():
    found = summary.figures(answers("network", [0, 5]), RECORDINGS)  # run 0 is not settled
    for head in HEADS:
        assert found["settled"][head.name]["runs"] == 59
        assert found["all"][head.name]["runs"] == 60
        assert found["settled"][head.name]["accuracy"][0] == pytest.approx(58 / 59, abs=1e-4)
        assert found["all"][head.name]["accuracy"][0] == pytest.approx(58 / 60, abs=1e-4)
        value, low, high = found["settled"][head.name]["macro_f1"]
        assert low < value <= high
        assert np.sum(found["all"][head.name]["confusion"]) == len(RECORDINGS)


def test_the_cooler_is_not_judged_where_a_cooler_level_is_left_out():
    found = summary.figures(answers("network", protocol=COOLER), RECORDINGS)
    assert "cooler_condition" not in found["all"]
    assert set(found["all"]) == {head.name for head in HEADS[1:]}


def test_a_threshold_keeps_the_rate_of_false_alarms():
    model = answers("network", range(3, 60, 6))
    found = summary.detections(model, RECORDINGS, summary.calibrations(model, RECORDINGS))
    assert set(found) == {"overheating", "valve_stiction", "leakage", "pressure_drop"}
    for one in found.values():
        assert one["at_threshold"]["false_alarms"] <= 0.01
        assert one["at_half"]["false_alarms"] > 0.01
        assert one["threshold"] >= 0.5


def test_the_selection_gets_every_part_of_every_model():
    network, trees = answers("network", [3]), answers("trees", range(1, 60, 6))
    measured = {
        GROUPED: {"network": network, "trees": trees},
        COOLER: {"network": answers("network", [5], protocol=COOLER)},
    }
    found = summary.results(measured, RECORDINGS, calibrations(network, trees))
    assert [len(found["network"].parts[name]) for name in (GROUPED, MISSING, COOLER)] == [1, 4, 1]
    assert len(found["network"].parts[COOLER][0]) == 3
    assert COOLER not in found["trees"].parts
    assert found["trees"].parts[GROUPED][0][0].shape == (59, 3, 3)
    assert found["trees"].calibration_errors.keys() == {head.name for head in HEADS}


def test_the_report_shows_every_model_and_marks_those_not_run():
    network, trees = answers("network", [3], 0.98), answers("trees", [3, 4], 0.9)
    measured = {
        GROUPED: {"network": network, "trees": trees},
        COOLER: {"trees": answers("trees", [7], protocol=COOLER)},
    }
    figures = json.loads(json.dumps(summary.summarise(measured, RECORDINGS, "network")))
    text = report(figures, ["network", "trees", "logistic_regression"])
    assert "| logistic_regression | not run | not run | not run | not run |  |" in text
    assert "| trees | – |" in text
    assert figures["selection"]["sentence"] in text
    assert "2 at random" in text
    shown = details(figures, "network")
    for head in HEADS:
        assert head.name in shown
    assert "| **130** |" in shown
    tables = [block for block in f"{text}\n\n{shown}".split("\n\n") if block.startswith("|")]
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_sensor_curves_average_their_draws():
    found = summary.sensor_curve(answers("network"), RECORDINGS)
    assert set(found) == {ALL, SOME, FEW, "2"}
    assert found["2"] == {head.name: 1.0 for head in HEADS}
