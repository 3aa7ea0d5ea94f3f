"""One look after another at a table of rules: what is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from penstock.monitor.alerts.evaluation import NO_DATA_S, described, evaluate, needs_of
from penstock.monitor.alerts.history import History, Sample
from penstock.monitor.alerts.measures import Counter, Level, Share
from penstock.monitor.alerts.rules import RULES, Rule
from penstock.monitor.alerts.states import AlertState, fingerprint

ERRORS = Rule(
    "Errors", "critical", Share(Counter("all_total", {"outcome": "error"}), Counter("all_total"), ("model",), "1m"),
    0.1, 0.5, 0.5, "percentunit", "{{ $labels.model }}: {{ $value | humanizePercentage }}", "look",
)  # fmt: skip
FAILED = Rule("Failed", "critical", Level("state", ("ref",), counts=True), 0, 0, 0, "short", "{{ $labels.ref }}", "x")
HEAT = Rule("Heat", "warning", Level("heat", ("gpu",)), 90, 0, 0, "short", "GPU {{ $labels.gpu }}", "x")
TABLE = (ERRORS, FAILED, HEAT)
STEP_S = 15.0


class Server:
    """Looks at pages, as the leader of a server does. The time is that of the pages."""

    def __init__(self, table: Sequence[Rule] = TABLE, name: str = "host:1") -> None:
        self.states: dict[str, AlertState] = {}
        self.now = 0.0
        self.name = name
        self._table = table
        self._history = History(needs_of(table))

    def restart(self) -> None:
        self._history = History(needs_of(self._table))

    def look(self, *page: Sample) -> list[tuple[str, str]]:
        self.now += STEP_S
        self._history.add(self.now, page)
        self.states, self.events = evaluate(self._table, self._history, self.states, self.name, self.now)
        return [(event.labels["alertname"], event.news) for event in self.events]

    def phases(self) -> dict[str, str]:
        return {state.labels["alertname"]: state.phase for state in self.states.values()}


def counts(ok: float, error: float, model: str = "m") -> list[Sample]:
    return [Sample("all_total", {"model": model, "outcome": o}, v) for o, v in (("ok", ok), ("error", error))]


def state_of(ref: str, count: float) -> Sample:
    return Sample("state", {"ref": ref, "state": "failed"}, count)


def test_errors_fire_after_their_minutes_and_end_when_requests_are_answered_again() -> None:
    server = Server()
    told = [server.look(*counts(100 * n, 50 * n)) for n in range(4)]
    assert told == [[], [], [], [("Errors", "firing")]]  # two pages for a rate, then 30 s
    (event,) = server.events
    assert event.labels == {"model": "m", "alertname": "Errors", "severity": "critical", "instance": "host:1"}
    assert event.annotations == {"summary": "m: 33.33%", "description": "look"}
    assert (event.began, event.ended) == (60.0, None)
    told = [server.look(*counts(1000 + 100 * n, 150)) for n in range(8)]
    assert told.count([("Errors", "resolved")]) == 1
    assert server.states == {}


def test_of_too_few_requests_an_alert_ends_and_none_begins() -> None:
    server = Server()
    assert [server.look(*counts(n, n)) for n in range(8)] == [[]] * 8
    for n in range(8):
        server.look(*counts(100 * n, 50 * n))
    assert server.phases() == {"Errors": "firing"}
    assert [("Errors", "resolved")] in [server.look(*counts(700, 350)) for _ in range(8)]


def test_two_models_are_two_alerts() -> None:
    server = Server()
    assert server.look(state_of("a", 1), state_of("b", 2), state_of("c", 0)) == [("Failed", "firing")] * 2
    assert [event.annotations["summary"] for event in server.events] == ["a", "b"]
    assert server.look(state_of("a", 1), state_of("b", 0)) == [("Failed", "resolved")]


def test_what_is_counted_and_gone_has_ended_and_what_is_measured_and_gone_is_silent() -> None:
    server = Server()
    server.look(state_of("a", 1), Sample("heat", {"gpu": "0"}, 99.0))
    assert server.look() == [("Failed", "resolved")]
    assert server.phases() == {"Heat": "firing"}


def test_missing_data_are_an_alert_of_their_own_after_five_minutes() -> None:
    server = Server()
    server.look(Sample("heat", {"gpu": "0"}, 99.0))
    told = [server.look() for _ in range(int(NO_DATA_S / STEP_S) + 1)]
    assert told == [[]] * 20 + [[("PenstockNoData", "firing")]]
    (event,) = server.events
    assert event.labels["rule"] == "Heat"
    assert event.labels["gpu"] == "0"
    assert event.annotations["summary"] == "Heat has had no data for 5m 15s; it stays as it was."
    assert server.phases() == {"Heat": "firing", "PenstockNoData": "firing"}
    assert server.look(Sample("heat", {"gpu": "0"}, 99.0)) == [("PenstockNoData", "resolved")]
    assert server.look(Sample("heat", {"gpu": "0"}, 20.0)) == [("Heat", "resolved")]


def test_an_alert_whose_data_never_come_back_ends_with_its_silence() -> None:
    server = Server()
    server.look(Sample("heat", {"gpu": "0"}, 99.0))
    told = [one for _ in range(1000) for one in server.look()]
    assert told == [("PenstockNoData", "firing"), ("Heat", "resolved"), ("PenstockNoData", "resolved")]
    assert server.states == {}


def test_a_restart_neither_repeats_nor_ends_an_alert() -> None:
    server = Server()
    for n in range(6):
        server.look(*counts(100 * n, 50 * n))
    server.restart()
    server.now += 3600.0
    assert [server.look(*counts(100 * n, 50 * n)) for n in range(10)] == [[]] * 10
    assert server.phases() == {"Errors": "firing"}


def test_alerts_of_a_rule_that_is_no_more_and_of_a_server_that_is_gone_end() -> None:
    server = Server()
    server.look(Sample("heat", {"gpu": "0"}, 99.0))
    other = Server((FAILED,))
    other.states = server.states
    assert other.look() == [("Heat", "resolved")]
    gone = Server(name="host:2")
    gone.states = server.states
    assert gone.look() == [("Heat", "resolved")]
    assert gone.states == {}


def test_every_state_is_named_by_its_labels() -> None:
    server = Server()
    server.look(state_of("a", 1), Sample("heat", {"gpu": "0"}, 99.0))
    assert {name: fingerprint(state.labels) for name, state in server.states.items()} == {n: n for n in server.states}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_a_lower_threshold_to_end_at(rule: Any) -> None:
    assert rule.clear <= rule.above
    assert (rule.clear < rule.above) == (rule.above > 0)


def test_a_stored_alert_is_described_by_its_rule() -> None:
    labels = {"alertname": "PenstockModelFailed", "ref": "digits"}
    state = AlertState(labels=labels, phase="firing", since=0, value=1, looked_at=0)
    assert described(state)["summary"] == "digits should be served, and nothing answers for it."
    assert described(AlertState(labels={"alertname": "Old"}, phase="firing", since=0, value=1, looked_at=0)) == {}
