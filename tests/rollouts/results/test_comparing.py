"""Verdicts about versions that share the requests of a route."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.monitor.key_sample import KeySample
from penstock.rollouts.evidence import ArmEvidence
from penstock.rollouts.results.comparing import ArmFigures, Comparison, Labels, compared, notes

NO_LABELS = Labels()


def arm(
    version: str = "v1",
    requests: int = 0,
    failures: int = 0,
    sure: int = 0,
    unsure: int = 0,
    labels: Labels = NO_LABELS,
    weight: int = 50,
    clients: int = 0,
) -> ArmFigures:
    evidence = ArmEvidence(requests, failures)
    evidence.confidences.update({19: sure, 9: unsure})
    evidence.keys.add(f"{version}-{number}" for number in range(clients))
    return ArmFigures(version, weight, evidence, labels)


def verdict(first: ArmFigures, other: ArmFigures, measure: str = "errors") -> Comparison:
    return next(each for each in compared([first, other], placed_by_key=True) if each.measure == measure)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((10_000, 10), (10_000, 60), "worse"),  # rare: by the share of the failures
        ((10_000, 60), (10_000, 10), "better"),
        ((9_000, 90), (1_000, 40), "worse"),
        ((10_000, 10), (10_000, 15), "open"),
        ((10_000, 0), (10_000, 0), "open"),
        ((10_000, 10), (19, 19), "no_data"),
        ((0, 0), (0, 0), "no_data"),
    ],
)
def test_failures_are_compared_also_where_they_are_rare(
    before: tuple[int, int], now: tuple[int, int], expected: str
) -> None:
    found = verdict(arm("v1", *before), arm("v2", *now))
    assert found.verdict == expected, found
    assert f"failed: v2 {now[1]:,} of {now[0]:,}" in found.sentence
    assert ("\n" in found.sentence) is False


def test_unsure_answers_are_compared_with_bounds_of_the_difference() -> None:
    found = verdict(arm("v1", sure=4_800, unsure=200), arm("v2", sure=4_500, unsure=500), "unsure")
    assert found.verdict == "worse"
    assert found.difference == pytest.approx(0.06)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 0.06 < found.high
    assert found.ratio == pytest.approx(2.5)
    assert "difference +6.00 points (+" in found.sentence


def test_accuracy_is_compared_by_labels() -> None:
    before, now = Labels(5_000, 2_500, 2_500, 2_325), Labels(5_000, 2_500, 2_500, 2_450)
    found = verdict(arm("v1", labels=before), arm("v2", labels=now), "wrong")
    assert found.verdict == "better"
    assert verdict(arm("v1"), arm("v2"), "wrong").sentence.endswith("predictions with a label (POST /feedback)")


def test_without_as_many_labels_for_both_there_is_no_verdict_about_accuracy() -> None:
    before, now = Labels(5_000, 2_500, 2_500, 2_325), Labels(5_000, 1_500, 1_500, 1_470)
    found = verdict(arm("v1", 9, labels=before), arm("v2", 9, labels=now), "wrong")
    assert found.verdict == "refused"
    assert "30.0% of the predictions of v2 have a label and 50.0% of those of v1" in found.sentence
    assert verdict(arm("v1", 9, labels=before), arm("v2", 9, labels=now)).verdict == "no_data"  # of others there may be


def test_other_clients_than_those_of_the_weights_allow_no_verdict_at_all() -> None:
    first, other = arm("v1", 9_000, 9, weight=80, clients=5_000), arm("v2", 9_000, 900, weight=20, clients=2_000)
    found = verdict(first, other)
    assert found.verdict == "refused"
    assert "v2 has 2" in found.sentence
    assert "of the clients of both, not 20.0%" in found.sentence
    right = arm("v2", 9_000, 900, weight=20, clients=1_250)
    assert verdict(first, right).verdict == "worse"
    assert compared([first, other], placed_by_key=False)[0].verdict == "worse"


def test_several_versions_share_the_chance_of_a_false_verdict() -> None:
    arms = [arm(version, 1_000, 10) for version in ("v1", "v2", "v3")]
    found = compared(arms, placed_by_key=True)
    assert [(each.version, each.measure) for each in found[:4]] == [
        ("v2", "errors"), ("v2", "unsure"), ("v2", "wrong"), ("v3", "errors"),
    ]  # fmt: skip
    assert {each.needed for each in found} == {240.0}


def test_the_reader_hears_what_the_figures_leave_out() -> None:
    few, many = arm("v1", clients=10), arm("v2", clients=5_000)
    few.evidence.dropped = 3
    assert "from about 1,000 clients on" in "".join(notes([few, many], placed_by_key=True, rules=False))
    found = list(notes([many, many], placed_by_key=True, rules=True))
    assert found == ["requests that a rule sends to a version count for it, although they are not drawn"]
    assert len(list(notes([few, many], placed_by_key=False, rules=True))) == 3


def test_equal_versions_get_no_verdict_however_often_one_looks() -> None:
    draw, alarms = np.random.default_rng(7), 0
    for _ in range(50):
        sums = (draw.random((2, 4_000)) < 0.03).cumsum(axis=1)
        looks = range(99, 4_000, 100)
        found = (
            verdict(arm("v1", look + 1, int(sums[0, look])), arm("v2", look + 1, int(sums[1, look]))) for look in looks
        )
        alarms += any(each.verdict in ("better", "worse") for each in found)
    assert alarms <= 2


def test_a_sample_of_clients_with_another_bound_is_brought_to_the_same_one() -> None:
    first, other = arm("v1", clients=40_000, weight=90), arm("v2", clients=4_444, weight=10)
    assert first.evidence.keys.halvings > other.evidence.keys.halvings >= 0
    assert verdict(first, other).verdict == "no_data"
    assert isinstance(first.evidence.keys, KeySample)
