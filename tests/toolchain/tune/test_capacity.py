"""How the highest rate within an objective is found, on a queue whose capacity is known."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.toolchain.tune.capacity import CLOSE, Drive, Figures, capacity


def queue(most: float, service_ms: float = 1.0) -> Drive:
    """An M/M/1 queue that carries `most` requests a second: its p99 by the rate, and the share that it serves."""

    def drive(rate: float) -> Figures:
        room = 1 - rate / most
        p99 = 4.6 * service_ms / room if room > 0 else 10_000.0
        return Figures(rate, p50_ms=p99 / 6, p99_ms=p99, served=min(1.0, most / rate))

    return drive


@given(st.floats(5, 50_000), st.floats(1, 50_000))
def test_the_highest_rate_within_the_objective_is_found_from_any_start(most: float, start: float) -> None:
    found = capacity(queue(most), 20.0, start, lowest=0.5)
    right = most * (1 - 4.6 / 20.0)
    assert right / (CLOSE * 1.001) <= found.rate <= right
    assert len(found.runs) <= 60
    assert found.best is not None
    assert found.best.p99_ms <= 20.0


def test_an_objective_out_of_reach_gives_no_rate_and_the_lowest_p99() -> None:
    found = capacity(queue(100.0, service_ms=50.0), 20.0, 80.0, lowest=2.0)
    assert found.best is None
    assert found.rate == 0
    assert min(run.rate for run in found.runs) == 2.0
    assert found.lowest_p99_ms == pytest.approx(234.7, abs=0.1)


def test_a_rate_that_is_not_answered_does_not_count_however_quick_the_others_are() -> None:
    def half(rate: float) -> Figures:
        return Figures(rate, 1.0, 2.0, served=1.0 if rate <= 100 else 0.9)

    assert 100 / CLOSE <= capacity(half, 20.0, 300.0, lowest=1.0).rate <= 100


def test_failed_replies_do_not_count_as_carried() -> None:
    def failing(rate: float) -> Figures:
        return Figures(rate, 1.0, 2.0, failed=int(rate > 100))

    assert capacity(failing, 20.0, 300.0, lowest=1.0).rate <= 100


def test_one_pause_of_the_machine_does_not_lower_the_result() -> None:
    calls = itertools.count()
    steady = queue(1000.0)

    def pausing(rate: float) -> Figures:
        figures = steady(rate)
        return figures._replace(p99_ms=35.0) if next(calls) == 1 else figures

    assert capacity(pausing, 20.0, 500.0, lowest=1.0).rate > 700


def test_it_ends_when_the_time_is_up_with_what_is_known() -> None:
    left = iter([True, False])
    found = capacity(queue(1000.0), 20.0, 100.0, lowest=1.0, time_left=lambda: next(left, False))
    assert found.rate == pytest.approx(160.0)
    assert len(found.runs) == 2


def test_when_time_is_up_the_lowest_rate_is_still_tried() -> None:
    found = capacity(queue(1000.0), 20.0, 5000.0, lowest=50.0, time_left=lambda: False)
    assert [run.rate for run in found.runs] == [5000.0, 50.0]
    assert found.rate == 50.0


def test_no_run_without_failures_has_no_lowest_p99() -> None:
    found = capacity(lambda rate: Figures(rate, 1.0, 2.0, failed=3), 20.0, 8.0, lowest=4.0)
    assert math.isinf(found.lowest_p99_ms)
