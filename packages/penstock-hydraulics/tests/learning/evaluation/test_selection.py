from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_hydraulics.learning.evaluation.cross_validation import COOLER, GROUPED
from penstock_hydraulics.learning.evaluation.selection import (
    COMPARED_ONLY,
    ECE_LIMIT,
    MIN_F1,
    MISSING,
    WEIGHTS,
    Result,
    select,
)
from penstock_hydraulics.machine.states import HEADS

RUNS = 60
NAMES = [head.name for head in HEADS]
CALM = dict.fromkeys(NAMES, 0.01)


def confusions(wrong, states=4):
    """For each state: each run has one cycle of each level; in the first `wrong` runs the answer is the next level."""
    found = []
    for head in HEADS[4 - states :]:
        count = len(head.levels)
        right, next_one = np.eye(count), np.roll(np.eye(count), 1, axis=1)
        found.append(np.stack([next_one if run < wrong else right for run in range(RUNS)]))
    return found


def result(grouped=0, missing=0, cooler=0, errors=CALM):
    parts = {
        GROUPED: [confusions(grouped)],
        MISSING: [confusions(missing), confusions(missing)],
        COOLER: [confusions(cooler, states=3)],
    }
    return Result(parts, errors)


def test_the_score_is_the_weighted_sum_of_three_parts():
    chosen = select({"trees": result(grouped=6, missing=12, cooler=30)}, "network")
    parts = {GROUPED: 0.9, MISSING: 0.8, COOLER: 0.5}
    assert sum(WEIGHTS.values()) == 1.0
    assert chosen.scores["trees"] == pytest.approx(parts | {"score": sum(WEIGHTS[n] * v for n, v in parts.items())})
    assert (chosen.served, chosen.best, chosen.difference) == ("trees", "trees", None)


@pytest.mark.parametrize("part", ["grouped", "missing", "cooler"])
def test_every_part_can_decide(part):
    worse = result(**{part: 11})
    assert select({"network": worse, "trees": result()}, "network").served == "trees"
    assert select({"network": result(), "trees": worse}, "network").served == "network"


def test_the_universal_model_is_preferred_unless_it_is_significantly_worse():
    chosen = select({"network": result(grouped=1), "trees": result()}, "network")
    assert (chosen.served, chosen.best) == ("network", "trees")
    assert chosen.difference.value < 0 <= chosen.difference.high
    assert "not significantly lower, and is served." in chosen.sentence
    clear = select({"network": result(grouped=11, missing=11), "trees": result()}, "network")
    assert clear.difference.high < 0
    assert "significantly lower, so `trees` is served." in clear.sentence


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (result(errors=CALM | {NAMES[1]: 0.2}), f"its calibration error of {NAMES[1]} is 0.200 after scaling"),
        (result(grouped=30), "its macro-F1 of cooler_condition is 0.500, below 0.8"),
        (replace(result(), parts={GROUPED: [confusions(0)]}), "it was not evaluated by missing_sensors, leave_one_c"),
    ],
)
def test_a_model_that_does_not_qualify_is_not_served_and_the_reason_is_told(bad, why):
    chosen = select({"network": result(missing=40), "trees": bad}, "network")
    assert chosen.served == "network"
    assert why in chosen.refused["trees"]
    assert why in chosen.sentence


def test_where_no_model_qualifies_none_is_served():
    every = {"network": result(grouped=30), "trees": result(errors=CALM | {NAMES[3]: 0.1}), COMPARED_ONLY[0]: result()}
    chosen = select(every, "network")
    assert (chosen.served, chosen.best, chosen.eligible) == (None, None, ())
    assert chosen.sentence.startswith("No model qualifies, so none is served or published. `network` does not qualify:")
    assert COMPARED_ONLY[0] not in chosen.sentence
    assert chosen.refused.keys() == every.keys()


WRONG = st.integers(0, 20)
RESULTS = st.builds(
    lambda grouped, missing, cooler, error: result(grouped, missing, cooler, dict.fromkeys(NAMES, error)),
    WRONG,
    WRONG,
    WRONG,
    st.sampled_from([0.0, ECE_LIMIT, 0.031]),
)


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(["network", "trees", "boosting", *COMPARED_ONLY]), RESULTS, min_size=1))
def test_the_served_model_qualifies_and_none_that_qualifies_beats_it_but_the_universal_one(results):
    chosen = select(results, "network")
    assert {*chosen.eligible, *chosen.refused} == {*results}
    assert set(chosen.eligible).isdisjoint(chosen.refused)
    if not chosen.eligible:
        assert chosen.served is None
        return
    highest = max(chosen.scores[name]["score"] for name in chosen.eligible)
    assert chosen.served in chosen.eligible
    assert chosen.scores[chosen.best]["score"] == highest
    assert chosen.served in {chosen.best, "network"}
    for name in chosen.eligible:
        assert max(results[name].calibration_errors.values()) <= ECE_LIMIT
        assert chosen.scores[name][GROUPED] >= MIN_F1
