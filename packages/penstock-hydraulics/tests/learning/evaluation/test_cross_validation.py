from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from synthetic_recordings import synthetic_recordings

from penstock.errors import InvalidInput
from penstock_hydraulics.learning.data.recordings import SENSORS
from penstock_hydraulics.learning.data.splits import run_grouped_folds
from penstock_hydraulics.learning.evaluation.cross_validation import (
    ALL,
    COOLER,
    FEW,
    GROUPED,
    RANDOM,
    collect,
    coverage_sets,
    measure,
    protocols,
)
from penstock_hydraulics.machine.states import HEADS, LEVELS

RECORDINGS = synthetic_recordings()


@dataclass
class Oracle:
    """Answers with the labels and records its training data."""

    name: str = "oracle"
    settings: str = "the truth"
    seen: list = field(default_factory=list)

    def fit(self, recordings, seed=0):
        self.seen.append(recordings.runs)
        return self

    def levels(self, recordings, sensors=()):
        found = np.zeros((len(recordings), LEVELS))
        for place, head in enumerate(HEADS):
            found[np.arange(len(recordings)), head.start + recordings.labels[:, place]] = 1
        return found


def plan(**options):
    return {protocol.name: protocol for protocol in protocols(RECORDINGS, **{"grouped": 3, **options})}


def test_the_three_protocols_split_as_documented():
    found = plan()
    assert [len(found[name].folds) for name in (RANDOM, GROUPED, COOLER)] == [3, 3, 3]
    for fold in found[COOLER].folds:
        assert len(set(RECORDINGS.labels[fold.test, 0])) == 1
    assert set(plan(random=0, grouped=0)) == {COOLER}


def test_only_the_run_grouped_protocol_hides_sensors():
    found = plan()
    assert set(found[RANDOM].sensors) == {ALL}
    assert found[GROUPED].sensors[ALL] == tuple(SENSORS.values())
    assert len(found[GROUPED].sensors[FEW]) == 3
    assert len(found[GROUPED].sensors["8_0"]) == 8
    assert found[GROUPED].sensors["8_0"] != found[GROUPED].sensors["8_1"]
    assert coverage_sets().items() <= found[GROUPED].sensors.items()
    assert not coverage_sets().keys() & plan(coverage=False)[GROUPED].sensors.keys()


def test_every_answer_comes_from_a_model_that_never_saw_its_run(tmp_path):
    oracle, grouped = Oracle(), plan()[GROUPED]
    measure(oracle, grouped, RECORDINGS, tmp_path, echo=str)
    answers = collect("oracle", grouped, RECORDINGS, tmp_path)
    for place, seen in enumerate(oracle.seen):
        assert not set(seen) & set(RECORDINGS.runs[answers.fold == place])
    assert np.isfinite(answers.probabilities[ALL]).all()
    for place in range(len(HEADS)):
        assert (answers.of(place).argmax(axis=1) == RECORDINGS.labels[:, place]).all()


def test_an_evaluation_resumes(tmp_path):
    oracle, grouped = Oracle(), plan()[GROUPED]
    measure(oracle, grouped, RECORDINGS, tmp_path, echo=str)
    next((tmp_path / "answers").glob("*fold_1.npz")).unlink()
    assert collect("oracle", grouped, RECORDINGS, tmp_path) is None
    measure(oracle, grouped, RECORDINGS, tmp_path, echo=str)
    assert len(oracle.seen) == 4
    assert collect("oracle", grouped, RECORDINGS, tmp_path) is not None


def test_other_settings_or_recordings_are_evaluated_again(tmp_path):
    oracle, grouped = Oracle(), plan()[GROUPED]
    measure(oracle, grouped, RECORDINGS, tmp_path, echo=str)
    oracle.settings = "another truth"
    measure(oracle, grouped, RECORDINGS, tmp_path, echo=str)
    assert len(oracle.seen) == 6
    others = replace(RECORDINGS, readings=RECORDINGS.readings + 1)
    assert collect("oracle", grouped, others, tmp_path) is None


def test_a_damaged_file_is_named(tmp_path):
    grouped = plan()[GROUPED]
    measure(Oracle(), grouped, RECORDINGS, tmp_path, echo=str)
    path = tmp_path / "answers" / "oracle.run_grouped.fold_0.npz"
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InvalidInput, match=r"fold_0.npz: the file of answers is damaged"):
        collect("oracle", grouped, RECORDINGS, tmp_path)


def test_folds_are_the_same_for_every_model():
    one, two = (run_grouped_folds(RECORDINGS.runs, 3) for _ in range(2))
    assert all((a.test == b.test).all() for a, b in zip(one, two, strict=True))
