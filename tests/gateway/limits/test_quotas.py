"""Quotas in several processes: nothing is lost or counted twice, whatever fails in between."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.gateway.limits.quotas import Counted, KeyQuota, Quotas
from penstock.registry.access.quota import Quota

DAY = 86400
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 1)),
        st.tuples(st.just("save"), st.integers(0, 1)),
        st.tuples(st.just("lose"), st.integers(0, 1)),
        st.tuples(st.just("clock"), st.sampled_from([3600, DAY, -DAY])),
        st.tuples(st.just("replace"), st.integers(0, 1)),
    ),
    max_size=60,
)


class Servers:
    """Two processes with one key, and their database."""

    def __init__(self, requests: int) -> None:
        self.now = 10 * DAY
        self.works = True
        self.stored: Counter[Counted] = Counter()
        self.quota = Quota(requests, "day")
        self.processes = [Quotas(self.save, lambda: self.now) for _ in range(2)]
        self.keys: list[KeyQuota] = []
        for process in self.processes:
            made = process.of_key("k", self.quota)
            assert made is not None
            self.keys.append(made)

    def save(self, counts: Mapping[Counted, int], wanted: Iterable[Counted]) -> dict[Counted, int]:
        if not self.works:
            raise ConfigError("the database is away")
        self.stored.update(counts)
        return {each: self.stored[each] for each in wanted}

    def ask(self, which: int) -> Counted | None:
        """Send a request; the period that it counts towards, None if it is refused."""
        key = self.keys[which]
        if key.wait(self.now):
            return None
        key.left -= 1
        return ("k", key.period)


@given(st.integers(1, 8), STEPS)
def test_every_admitted_request_is_counted_once_whatever_fails(requests: int, steps: list[tuple[str, int]]) -> None:
    servers, admitted = Servers(requests), Counter[Counted]()
    for what, which in steps:
        if what == "ask":
            counted = servers.ask(which)
            admitted.update([counted] if counted is not None else [])
        elif what == "clock":
            servers.now += which
        elif what == "replace":
            made = servers.processes[which].of_key("k", servers.quota)
            assert made is not None
            servers.keys[which] = made
        else:
            servers.works = what == "save"
            asyncio.run(servers.processes[which].save())
    servers.works = True
    for _ in range(2):
        for process in servers.processes:
            asyncio.run(process.save())
    assert +servers.stored == +admitted
    for key in servers.keys:
        assert key.left == requests - servers.stored["k", key.period]


@given(st.integers(1, 8), st.lists(st.booleans(), max_size=40))
def test_a_process_alone_admits_exactly_its_quota(requests: int, saves: list[bool]) -> None:
    servers, admitted = Servers(requests), 0
    for save in saves:
        if save:
            asyncio.run(servers.processes[0].save())
        admitted += servers.ask(0) is not None
    assert admitted == min(requests, len(saves))


def test_who_is_refused_knows_when_the_next_period_begins_and_is_admitted_then() -> None:
    servers = Servers(1)
    servers.now += 100
    assert servers.ask(0) is not None
    wait_s = servers.keys[0].wait(servers.now)
    assert wait_s == DAY - 100
    servers.now += int(wait_s) - 1
    assert servers.ask(0) is None
    servers.now += 1
    assert servers.ask(0) is not None


def test_processes_that_have_saved_admit_no_more_together_than_the_quota() -> None:
    servers = Servers(3)
    for which in (0, 1, 0):
        assert servers.ask(which) is not None
        for process in servers.processes:
            asyncio.run(process.save())
    assert [servers.ask(which) for which in (0, 1)] == [None, None]


def test_a_lost_database_is_logged_once_and_the_quota_goes_on_here(caplog: pytest.LogCaptureFixture) -> None:
    servers = Servers(2)
    servers.works = False
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            asyncio.run(servers.processes[0].save())
        assert [record.message for record in caplog.records] == [
            "the quotas of API keys are counted here alone until they can be saved: the database is away"
        ]
        assert [servers.ask(0) is not None for _ in range(3)] == [True, True, False]
        servers.works = True
        asyncio.run(servers.processes[0].save())
    assert caplog.records[-1].message == "the quotas of API keys are saved again"
    assert sum(servers.stored.values()) == 2
