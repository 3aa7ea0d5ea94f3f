"""One look at all rules: what each alert is now, and what is to be told. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from penstock.monitor.alerts.history import History
from penstock.monitor.alerts.measures import Reading
from penstock.monitor.alerts.messages import Event, rendered
from penstock.monitor.alerts.rules import RULES, Rule, Severity
from penstock.monitor.alerts.states import AlertState, Limits, Step, fingerprint, step

NO_DATA_S = 300.0


class Notice(NamedTuple):
    """The texts of an alert that has no measure."""

    name: str
    severity: Severity
    summary: str
    action: str


Described: TypeAlias = Rule | Notice

NO_DATA = Notice(
    "PenstockNoData", "warning",
    "{{ $labels.rule }} has had no data for {{ $value | humanizeDuration }}; it stays as it was.",
    "See whether what it is about still runs: a model that gets no requests, a GPU, a process.",
)  # fmt: skip
"""Of an alert that is pending or firing and whose data are missing."""
_SILENCE = Limits(NO_DATA_S, NO_DATA_S, 0.0, 0.0)


class Evaluated(NamedTuple):
    """The alerts that there are now, by fingerprint, and what is to be told."""

    states: dict[str, AlertState]
    events: list[Event]


def needs_of(rules: Iterable[Rule]) -> dict[str, float]:
    """The metrics that rules read, and for how many seconds back."""
    found: dict[str, float] = {}
    for rule in rules:
        for metric, seconds in rule.measure.needs.items():
            found[metric] = max(seconds, found.get(metric, 0.0))
    return found


def evaluate(
    rules: Sequence[Rule], history: History, states: Mapping[str, AlertState], server: str, now: float
) -> Evaluated:
    """What follows from the newest page of a server. Alerts of rules, or servers, that are no more end."""
    look = _Look(states, server, now)
    for rule in rules:
        limits = Limits(rule.above, rule.clear, rule.minutes * 60, rule.keep_minutes * 60)
        look.take(rule, limits, rule.measure.read(history))
    silent = {
        tuple(sorted({**_measured(state), "rule": state.labels["alertname"]}.items())): state.silent_s
        for state in look.found.states.values()
    }
    look.take(NO_DATA, _SILENCE, Reading(silent, 0.0))
    look.end_others()
    return look.found


class _Look:
    """One look at one rule after another."""

    def __init__(self, states: Mapping[str, AlertState], server: str, now: float) -> None:
        self.found = Evaluated({}, [])
        self._before = dict(states)
        self._server = server
        self._now = now

    def take(self, rule: Described, limits: Limits, reading: Reading) -> None:
        """Step the alerts of one rule: those that there are, and those of the values."""
        values: dict[str, tuple[Mapping[str, str], float | None]] = {}
        for measured, value in reading.values.items():
            named = {**dict(measured), "alertname": rule.name, "severity": rule.severity, "instance": self._server}
            values[fingerprint(named)] = (named, value)
        for known, state in self._of(rule.name):
            labels, now = values.pop(known, (state.labels, reading.lacking))
            self._keep(rule, known, state, step(limits, state, labels, now, self._now))
        for name, (labels, now) in values.items():
            self._keep(rule, name, None, step(limits, None, labels, now, self._now))

    def _of(self, name: str) -> Iterator[tuple[str, AlertState]]:
        for known, state in list(self._before.items()):
            if state.labels["alertname"] == name and state.labels["instance"] == self._server:
                yield known, self._before.pop(known)

    def _keep(self, rule: Described, name: str, before: AlertState | None, after: Step) -> None:
        if after.state is not None:
            self.found.states[name] = after.state
        shown = after.state or before
        if after.news is not None and shown is not None:
            ended = self._now if after.news == "resolved" else None
            self.found.events.append(Event(after.news, shown.labels, texts_of(rule, shown), shown.since, ended))

    def end_others(self) -> None:
        """End the alerts of rules that are no more, and of servers that are gone."""
        for state in self._before.values():
            if state.phase == "firing":
                texts = {"summary": "Its rule, or its server, is no more."}
                self.found.events.append(Event("resolved", state.labels, texts, state.since, self._now))


def texts_of(rule: Described, state: AlertState) -> dict[str, str]:
    """The texts of an alert."""
    texts = {"summary": rule.summary, "description": rule.action}
    return {name: rendered(text, state.labels, state.value) for name, text in texts.items()}


def described(state: AlertState) -> dict[str, str]:
    """The texts of a stored alert; none if its rule is no more."""
    rules: dict[str, Described] = {NO_DATA.name: NO_DATA, **{rule.name: rule for rule in RULES}}
    rule = rules.get(state.labels["alertname"])
    return {} if rule is None else texts_of(rule, state)


def _measured(state: AlertState) -> dict[str, str]:
    return {name: text for name, text in state.labels.items() if name not in ("alertname", "severity", "instance")}
