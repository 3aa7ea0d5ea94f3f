"""How long a worker that has ended waits for its replacement."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from penstock.gateway.process import supervisor
from penstock.gateway.process.channel import Place, Report
from penstock.gateway.process.reload import Reload
from penstock.gateway.process.supervisor import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_AFTER_S
from penstock.settings import Settings


class Clock:
    """The time of the supervisor."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(supervisor, "time", clock)
    return clock


def worker(pause_s: float, *, ready: bool) -> supervisor._Worker:
    """One that started after this pause, and has reported."""
    context = multiprocessing.get_context("spawn")
    pipe, child_end = context.Pipe()
    found = supervisor._Worker(context.Process(), pipe, 0, pause_s)
    child_end.send(Report("ready" if ready else "alive"))
    found.read_reports()
    return found


@pytest.mark.parametrize(
    ("ready", "after_s", "pause_s"),
    [
        (True, STEADY_AFTER_S + 0.1, FIRST_PAUSE_S),
        (True, STEADY_AFTER_S - 0.1, 8.0),
        (False, STEADY_AFTER_S + 0.1, 8.0),
        (False, 10 * LONGEST_PAUSE_S, 8.0),
    ],
)
def test_the_pause_doubles_unless_the_worker_was_ready_for_a_while(
    clock: Clock, ready: bool, after_s: float, pause_s: float
) -> None:
    ended = worker(4.0, ready=ready)
    clock.now += after_s
    assert ended.next_pause_s() == pause_s


def test_later_reports_do_not_begin_the_time_anew(clock: Clock) -> None:
    ended = worker(4.0, ready=True)
    clock.now += STEADY_AFTER_S - 1
    context = multiprocessing.get_context("spawn")
    ended.pipe, child_end = context.Pipe()
    child_end.send(Report("ready"))
    ended.read_reports()
    clock.now += 1.1
    assert ended.next_pause_s() == FIRST_PAUSE_S


def test_while_no_worker_is_left_the_next_one_that_answered_before_waits_the_shortest_pause(
    clock: Clock, tmp_path: Path
) -> None:
    settings = Settings(workers="3")
    group = supervisor._Supervisor(settings, (), tmp_path, _never, (), Reload(lambda: settings, settings))
    group._was_ready = True
    group._workers = [worker(8.0, ready=True), worker(8.0, ready=False), worker(8.0, ready=True)]
    group._replace_ended()
    assert [(due.at - clock.now, due.pause_s) for due in group._due] == [(16, 16), (16, 16), (FIRST_PAUSE_S, 16)]


def _never(settings: Settings, refs: tuple[str, ...], place: Place, pipe: Connection) -> None:
    raise AssertionError
