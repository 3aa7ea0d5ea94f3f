"""How long a worker that has ended waits for its replacement, and who accepts connections meanwhile."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.gateway.process import supervisor
from penstock.gateway.process.channel import Channel, Duty, Place, Report, State
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
    group = _group(tmp_path, 3)
    group._was_ready = True
    group._workers = [worker(8.0, ready=True), worker(8.0, ready=False), worker(8.0, ready=True)]
    group._replace_ended()
    assert [(due.at - clock.now, due.pause_s) for due in group._due] == [(16, 16), (16, 16), (FIRST_PAUSE_S, 16)]


class Alive(SpawnProcess):
    """A process that runs as far as its supervisor sees."""

    def is_alive(self) -> bool:
        return True


class Member(NamedTuple):
    """A worker as its supervisor sees it, and its own end of the pipe."""

    worker: supervisor._Worker
    channel: Channel
    pipe: Connection


STATES: tuple[State, ...] = ("alive", "ready", "partial", "draining")


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.lists(st.sampled_from(STATES), min_size=3, max_size=3), min_size=1, max_size=6),
    sockets=st.sampled_from((0, 1, 3)),
)
def test_who_lacks_a_model_accepts_connections_only_while_nobody_serves_all(
    steps: list[list[State]], sockets: int
) -> None:
    with ExitStack() as ending:
        bound = tuple(ending.enter_context(socket.socket()) for _ in range(sockets))
        group, members = _group(Path(), 3, bound), [_member(index, bound) for index in range(3)]
        for member in members:
            ending.callback(member.worker.pipe.close)
            ending.callback(member.pipe.close)
        group._workers = [member.worker for member in members]
        accepted: dict[int, list[socket.socket]] = {}
        for index, member in enumerate(members):
            member.channel._serve = partial(accepted.__setitem__, index)
        for states in steps:
            for member, state in zip(members, states, strict=True):
                member.pipe.send(Report(state))
                member.channel._state = state
                member.worker.read_reports()
            group._hand_over()
            for member in members:
                if member.pipe.poll():
                    member.channel._read()
            first = "ready" if "ready" in states else "partial"
            for index, (member, state) in enumerate(zip(members, states, strict=True)):
                if state in ("ready", "partial"):
                    assert member.channel.accepts == (state == first)
                    shown = accepted.get(index, [member.channel.place.own] if state == "ready" else [])
                    assert bool(shown) == (state == first) or not sockets
            if sockets and first in states:  # every socket has somebody
                serving = [index for index, state in enumerate(states) if state == first]
                taken = [accepted.get(index, [members[index].channel.place.own]) for index in serving]
                assert {sock for socks in taken for sock in socks} == set(bound)


async def test_a_worker_that_lacks_a_model_waits_until_it_is_told_or_has_it() -> None:
    for told in (True, False):
        worker, channel, pipe = _member(0, ())
        channel.follow()
        channel.loaded(complete=False)
        waiting = asyncio.create_task(channel.until_it_accepts())
        await asyncio.sleep(0)
        assert not waiting.done()
        if told:
            worker.read_reports()
            worker.tell(Duty(accept=True))
        else:
            channel.loaded(complete=True)
        await waiting
        assert channel.accepts
        channel.draining()
        channel.loaded(complete=True)
        worker.read_reports()
        assert worker.state == "draining"
        asyncio.get_running_loop().remove_reader(pipe.fileno())
        pipe.close()
        worker.pipe.close()


def _member(index: int, sockets: tuple[socket.socket, ...]) -> Member:
    context = multiprocessing.get_context("spawn")
    pipe, child_end = context.Pipe()
    found = supervisor._Worker(Alive(), pipe, index, FIRST_PAUSE_S)
    return Member(found, Channel(child_end, Place(index, Path(), sockets)), child_end)


def _group(directory: Path, count: int, sockets: tuple[socket.socket, ...] = ()) -> supervisor._Supervisor:
    settings = Settings(workers=str(count))
    return supervisor._Supervisor(settings, (), directory, _never, sockets, Reload(lambda: settings, settings))


def _never(settings: Settings, refs: tuple[str, ...], place: Place, pipe: Connection) -> None:
    raise AssertionError
