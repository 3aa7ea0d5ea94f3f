"""Rates: against a model in exact arithmetic, shared by processes, and what a killed process leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.limits.gcra import Gcra
from penstock.gateway.limits.slots import SETS, WAYS, Limit, OwnSlots, SharedSlots, Slots

BEGIN = 1_000_000.0


class Bucket:
    """A bucket of tokens, which fills by one each interval: what a rate means."""

    def __init__(self, requests: int, seconds: int, at_once: int) -> None:
        self.rate = Fraction(requests, seconds)
        self.most = self.tokens = Fraction(at_once)
        self.at = Fraction(BEGIN)

    def take(self, now: float) -> Fraction:
        """0 if there is a token, else the time until there is one."""
        self.tokens = min(self.most, self.tokens + (Fraction(now) - self.at) * self.rate)
        self.at = Fraction(now)
        if self.tokens >= 1 - self.rate / 10**6:  # what rounding may cost
            self.tokens -= 1
            return Fraction(0)
        return (1 - self.tokens) / self.rate


@given(
    requests=st.integers(1, 1000),
    seconds=st.sampled_from([1, 10, 60, 3600, 86400]),
    at_once=st.integers(1, 50),
    steps=st.lists(st.floats(0, 100), max_size=60),
)
def test_a_rate_admits_what_a_bucket_of_tokens_does(
    requests: int, seconds: int, at_once: int, steps: list[float]
) -> None:
    limit = Limit(OwnSlots(), "key a", Gcra.of(requests, seconds, at_once))
    bucket, now = Bucket(requests, seconds, at_once), BEGIN
    for step in steps:
        now += step * seconds / requests / 10
        wait, expected = limit.take(now), float(bucket.take(now))
        assert wait == pytest.approx(expected, abs=3e-6, rel=1e-6)
        if wait:
            now += wait  # whoever waits as long as told is admitted
            assert limit.take(now) == 0
            bucket.take(now)


@given(st.floats(allow_nan=True), st.integers(1, 10**6), st.integers(1, 1000))
def test_no_state_in_the_table_can_lock_a_key_out(state: float, requests: int, at_once: int) -> None:
    rate = Gcra.of(requests, 60, at_once)
    _, wait = rate.take(state, BEGIN)
    assert 0 <= wait <= 60 / requests + 1e-6


def test_a_set_that_is_full_gives_the_slot_of_the_idlest() -> None:
    slots = OwnSlots()
    rate = Gcra.of(1, 3600, 1)
    limits = []
    number = 0
    while len(limits) <= WAYS:
        limit = Limit(slots, f"address {number}", rate)
        limit._start = limit._at = 0  # in one set
        limits.append(limit)
        number += 1
    for place, limit in enumerate(limits[:WAYS]):
        assert limit.take(BEGIN + place) == 0
    assert all(limit.take(BEGIN + 20) for limit in limits[:WAYS])
    assert limits[WAYS].take(BEGIN + 20) == 0  # in the slot of the first
    assert all(limit.take(BEGIN + 21) for limit in limits[1:])


def test_limits_with_different_names_do_not_share() -> None:
    slots, rate = OwnSlots(), Gcra.of(1, 3600, 1)
    limits = [Limit(slots, f"key {number}", rate) for number in range(2 * SETS)]
    assert not any(limit.take(BEGIN) for limit in limits)
    assert sum(limit.take(BEGIN + 1) == 0 for limit in limits) < SETS // 100


# Processes


def in_child(work: Callable[[Slots], int], directory: Path) -> int:
    """What `work` returns in another process, with the same table."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work(SharedSlots(directory))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_processes_share_a_rate(tmp_path: Path) -> None:
    rate = Gcra.of(50, 3600, 50)

    def take(slots: Slots) -> int:
        limit = Limit(slots, "key a", rate)
        return sum(limit.take(BEGIN) == 0 for _ in range(20))

    assert [in_child(take, tmp_path) for _ in range(4)] == [20, 20, 10, 0]
    assert take(SharedSlots(tmp_path)) == 0


def test_a_process_that_is_killed_within_a_slot_keeps_nobody_waiting(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    limit = Limit(SharedSlots(tmp_path), "key a", Gcra.of(10, 3600, 10))
    child = os.fork()
    if child == 0:
        slots = SharedSlots(tmp_path)
        slots.lock(limit._start)
        os.write(writing, b"locked")
        signal.pause()
    assert os.read(reading, 6) == b"locked"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert limit.take(BEGIN) == 0
    os.close(reading)
    os.close(writing)
