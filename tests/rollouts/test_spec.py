"""The plan of a canary as people write it."""

import pytest

from penstock.errors import InvalidInput
from penstock.rollouts.spec import CanarySpec

PLAN = {"to": "v2.0"}


def test_a_plan_needs_a_version_only():
    spec = CanarySpec.of(PLAN, "v1.0")
    assert (spec.steps, spec.hold_s, spec.max_hold_s, spec.min_requests) == ((1, 5, 25, 50, 100), 600.0, 3600.0, 100)
    assert spec.checks == ("max_error_rate",)


def test_times_that_are_not_given_follow_from_the_hold():
    spec = CanarySpec.of(PLAN | {"hold_s": 10}, "v1.0")
    assert (spec.max_hold_s, spec.warmup_s, spec.bake_s) == (60.0, 1.0, 10.0)


def test_the_chance_of_a_false_alarm_is_split_over_the_checks():
    spec = CanarySpec.of(PLAN | {"max_p99_ratio": 1.1, "max_disagreement": 0.05, "max_error_ratio": 2}, "v1.0")
    assert spec.alpha_each == pytest.approx(0.0125)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"to": None}, "to: names the version"),
        ({"to": "v1.0"}, "to: v1.0 answers already"),
        ({"steps": []}, "steps: give rising whole percentages"),
        ({"steps": [1, 5, 50]}, "steps: give rising"),
        ({"steps": [5, 1, 100]}, "steps: give rising"),
        ({"steps": [0, 100]}, "steps: give rising"),
        ({"steps": [1, 100, 200]}, "steps: give rising"),
        ({"steps": [1.5, 100]}, "steps: give rising"),
        ({"steps": "1,5,100"}, "steps: give rising"),
        ({"steps": [True, 100]}, "steps: give rising"),
        ({"steps": list(range(1, 101))}, "steps: give rising"),
        ({"hold_s": 0}, "hold_s: give seconds, more than 0"),
        ({"hold_s": float("nan")}, "hold_s: give seconds"),
        ({"hold_s": "10m"}, "hold_s: give seconds"),
        ({"hold_s": 60, "max_hold_s": 30}, "max_hold_s: give at least hold_s, 60, not 30"),
        ({"hold_s": 60, "warmup_s": 90}, "warmup_s: give at most hold_s, 60, not 90"),
        ({"min_requests": 0}, "min_requests: give a whole number"),
        ({"min_requests": 1.5}, "min_requests: give a whole number"),
        ({"max_error_rate": 0}, "max_error_rate: give a share above 0"),
        ({"max_error_rate": 1}, "max_error_rate: give a share above 0"),
        ({"max_error_rate": True}, "max_error_rate: give a share above 0"),
        ({"max_p99_ratio": 0.5}, "max_p99_ratio: give a ratio from 1"),
        ({"max_disagreement": -1}, "max_disagreement: give a share"),
        ({"shadow": 0}, "shadow: give a share"),
        ({"alpha": 0.5}, "alpha: give a chance"),
        ({"strict": "yes"}, "strict: give true or false"),
        ({"on_inconclusive": "panic"}, "on_inconclusive: give pause, rollback or advance"),
        ({"max_error_rate": None}, "at least one limit is needed"),
        ({"hold": 5}, "hold: there is no such field; there are alpha, bake_s"),
        ({"stable": "v0"}, "stable: there is no such field"),
    ],
)
def test_each_mistake_is_one_sentence_that_names_the_field(fields, words):
    with pytest.raises(InvalidInput, match=words) as refused:
        CanarySpec.of(PLAN | fields, "v1.0")
    assert "\n" not in str(refused.value)
