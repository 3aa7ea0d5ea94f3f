"""Requests that are sent again: which, when and how many."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_replies import Scripted

from penstock import Client
from penstock.client.retries import BURST, FIRST_PAUSE_S, LONGEST_PAUSE_S, Retries, RetryBudget
from penstock.errors import ConfigError, ModelNotReady, Overloaded, PenstockError


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    server.headers = {"Retry-After": "0"}
    with Client(server.url, timeout_s=10) as found:
        yield found


@pytest.mark.parametrize("first", [[503], [429, 503], [0], [0, 429]])
def test_a_refused_request_and_one_that_lost_its_connection_are_sent_again(
    server: Scripted, client: Client, first: list[int]
) -> None:
    server.first = [*first]
    assert client.predict("m", x=1) == {}
    assert [received.body for received in server.received] == [b'{"x": 1}'] * (len(first) + 1)
    left = [int(received.headers["x-request-timeout-ms"]) for received in server.received]
    assert left == sorted(left, reverse=True)  # one deadline for all attempts
    assert left[0] <= 10_000


def test_no_more_often_than_asked_for(server: Scripted, client: Client) -> None:
    server.status = 503
    with pytest.raises(ModelNotReady):
        client.models()
    assert len(server.received) == 3
    with Client(server.url, retries=0) as once, pytest.raises(ModelNotReady):
        once.models()
    assert len(server.received) == 4


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 502, 504])
def test_what_another_attempt_does_not_change_is_sent_once(server: Scripted, client: Client, status: int) -> None:
    server.status = status
    with pytest.raises(PenstockError):
        client.predict("m", x=1)
    assert len(server.received) == 1


@pytest.mark.parametrize("call", [lambda c: c.load("m"), lambda c: c.set_alias("m", "a", "1"), lambda c: c.drain()])
def test_commands_are_sent_once(server: Scripted, call: Callable[[Client], object]) -> None:
    server.status = 503
    with Client(server.url, admin_key="key") as client, pytest.raises(ModelNotReady):
        call(client)
    assert len(server.received) == 1


def test_the_state_of_a_server_is_asked_once(server: Scripted, client: Client) -> None:
    server.status = 503
    assert client.health() == {}
    assert len(server.received) == 1


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_wait_beyond_the_deadline_is_not_begun(server: Scripted, client: Client, kind: str) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server.say(429, {}, Retry_After="60" if kind == "seconds" else later)
    began = time.monotonic()
    with pytest.raises(Overloaded):
        client.predict("m", x=1)
    assert time.monotonic() - began < 5
    assert len(server.received) == 1


def test_retries_cannot_double_an_overload(server: Scripted) -> None:
    server.say(429, {}, Retry_After="0")
    with Client(server.url, retries=2, retry_budget=0.1) as client:
        for _ in range(60):
            with pytest.raises(Overloaded):
                client.stats()
    assert 60 < len(server.received) <= 60 + BURST + 6


@given(attempt=st.integers(0, 9), retry_after_s=st.floats(0, 100), left_s=st.floats(0, 200), seed=st.integers(0, 2**32))
def test_a_pause_is_random_after_what_the_server_asked_for_and_within_the_time_left(
    attempt: int, retry_after_s: float, left_s: float, seed: int
) -> None:
    retries = Retries(10, 0.5, random.Random(seed))
    pause = retries.pause_s(attempt, retry_after_s, left_s)
    limit = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
    if pause is None:
        assert left_s <= retry_after_s + limit
        assert [retries.budget.spend() for _ in range(int(BURST))] == [True] * int(BURST)  # it cost nothing
    else:
        assert retry_after_s <= pause <= retry_after_s + limit
        assert pause < left_s


def test_pauses_of_many_clients_are_spread_over_the_whole_range() -> None:
    pauses = [Retries(3, 0.1, random.Random(seed)).pause_s(2, 0.0, 60.0) or 0.0 for seed in range(400)]
    parts = [sum(low <= pause / (4 * FIRST_PAUSE_S) < low + 0.25 for pause in pauses) for low in (0, 0.25, 0.5, 0.75)]
    assert min(parts) > 60


@given(share=st.floats(0, 1), requests=st.lists(st.integers(0, 9), max_size=200))
def test_the_budget_bounds_retries_by_a_share_of_the_requests(share: float, requests: list[int]) -> None:
    budget, spent = RetryBudget(share), 0
    for sent, wanted in enumerate(requests, start=1):
        budget.earn()
        spent += sum(budget.spend() for _ in range(wanted))
        assert spent <= BURST + share * sent + 1e-6


@pytest.mark.parametrize(
    ("more", "match"), [({"retries": -1}, "retries=-1"), ({"retry_budget": 1.5}, "retry_budget=1.5")]
)
def test_options_out_of_range_are_refused_by_name(more: dict[str, int], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Client("http://127.0.0.1:1", **more)  # type: ignore[arg-type]
