"""Concurrent calls for one key share one run, its result and the errors that concern all of them."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future

import pytest
from waiting import until

from penstock.engine.single_flight import SingleFlight


async def test_threads_that_ask_for_one_key_share_one_run() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    gate = threading.Event()
    runs: list[int] = []

    def work() -> int:
        runs.append(1)
        gate.wait(5)
        return 7

    tasks = [asyncio.create_task(asyncio.to_thread(flights.run, "k", work)) for _ in range(3)]
    await until(lambda: len(runs) == 1)
    assert await asyncio.to_thread(flights.run, "other", lambda: 8) == 8
    gate.set()
    assert await asyncio.gather(*tasks) == [7, 7, 7]
    assert len(flights) == 0


async def test_threads_share_an_error_and_the_next_call_runs_again() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    gate = threading.Event()
    waiting = threading.Event()

    def fail() -> int:
        waiting.set()
        gate.wait(5)
        raise KeyError("broken")

    first = asyncio.create_task(asyncio.to_thread(flights.run, "k", fail))
    await until(waiting.is_set)
    shared = flights.share("k", Future)
    gate.set()
    with pytest.raises(KeyError, match="broken"):
        await first
    assert isinstance(shared.exception(1), KeyError)
    assert flights.run("k", lambda: 1) == 1


def test_a_future_of_another_executor_is_shared_until_it_is_done() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    started: list[Future[int]] = []

    def start() -> Future[int]:
        started.append(Future())
        return started[-1]

    assert flights.share("k", start) is flights.share("k", start)
    assert len(started) == 1
    started[0].set_result(1)
    assert flights.share("k", start) is not started[0]
    flights.clear()
    assert len(flights) == 0


async def test_an_error_that_is_not_shared_makes_a_waiting_task_run_its_own_work() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    gate = asyncio.Event()

    async def refused() -> int:
        await gate.wait()
        raise KeyError("refused")

    async def work() -> int:
        return 3

    deadline = time.monotonic() + 5
    first = asyncio.create_task(flights.run_async("k", refused, deadline=deadline, shared_errors=ValueError))
    await asyncio.sleep(0)
    second = asyncio.create_task(flights.run_async("k", work, deadline=deadline, shared_errors=ValueError))
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(KeyError):
        await first
    assert await second == 3
    assert len(flights) == 0
