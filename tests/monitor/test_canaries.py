"""What `/metrics` shows of canaries, over all processes of a server."""

from __future__ import annotations

from penstock.monitor.alerts.history import History, Sample
from penstock.monitor.alerts.rules import RULES
from penstock.monitor.canaries import STATES, CanaryFamilies


def page(*everyone: dict[str, list[tuple[str, str]]]) -> list[Sample]:
    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in CanaryFamilies(everyone).collect()
        for sample in family.samples
    ]


def test_each_canary_has_its_state_once_over_all_processes() -> None:
    found = page({"m": [("v2.0", "paused")]}, {"m": [("v2.0", "paused")]}, {})
    assert {sample.labels["state"]: sample.value for sample in found} == {
        state: float(state == "paused") for state in STATES
    }
    assert page({}, {}) == []


def test_a_canary_that_is_paused_or_was_rolled_back_is_an_alert_until_it_is_gone() -> None:
    rules = {rule.name: rule for rule in RULES}
    for name, state in (("PenstockCanaryPaused", "paused"), ("PenstockCanaryRolledBack", "rolled_back")):
        history = History(rules[name].measure.needs)
        history.add(0.0, page({"m": [("v2.0", state)]}))
        assert rules[name].measure.read(history).values == {(("model", "m"), ("version", "v2.0")): 1.0}
        history.add(15.0, page({}))
        assert rules[name].measure.read(history) == ({}, 0.0)
