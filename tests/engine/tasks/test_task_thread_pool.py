"""Threads for task code: results, refusals, deadlines, and work that never returns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from waiting import until

from penstock.engine.tasks import task_thread_pool as aside_module
from penstock.engine.tasks.task_thread_pool import MOST_STUCK, TaskThreadPool
from penstock.errors import DeadlineExceeded, InferenceError, ModelNotReady, Overloaded


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work past its deadline counts as stuck at once."""
    monkeypatch.setattr(aside_module, "STUCK_AFTER_S", 0.02)


def make(threads: int = 2, most: int = 100, most_bytes: int = 1000) -> TaskThreadPool:
    return TaskThreadPool("the task t of m:1", most=most, most_bytes=most_bytes, threads=threads)


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


async def test_work_runs_in_a_thread_and_returns_its_result_or_error() -> None:
    pool = make()
    assert await pool.run(lambda: threading.current_thread().name, soon()) == "penstock-task"
    with pytest.raises(KeyError, match="lost"):
        await pool.run(lambda: {}["lost"], soon())
    pool.close()


async def test_work_that_calls_exit_is_an_error() -> None:
    pool = make()
    with pytest.raises(InferenceError, match="the task t of m:1 failed: SystemExit"):
        await pool.run(lambda: (_ for _ in ()).throw(SystemExit(3)).__next__(), soon())
    assert await pool.run(lambda: 7, soon()) == 7
    pool.close()


async def test_at_most_one_job_runs_per_thread(gate: threading.Event) -> None:
    pool = make(threads=3)
    inside = [0, 0]

    def work() -> None:
        inside[0] += 1
        inside[1] = max(inside)
        gate.wait(5)
        inside[0] -= 1

    tasks = [asyncio.create_task(pool.run(work, soon())) for _ in range(9)]
    await until(lambda: inside[0] == 3)
    gate.set()
    await asyncio.gather(*tasks)
    assert inside == [0, 3]
    pool.close()


async def test_idle_threads_are_reused_and_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make()
    used = {await pool.run(threading.get_ident, soon()) for _ in range(20)}
    assert len(used) <= 2
    pool.close()
    monkeypatch.setattr(aside_module, "IDLE_S", 0.02)
    pool = make()
    await pool.run(lambda: None, soon())
    await until(lambda: pool._alive == 0)
    assert await pool.run(lambda: 1, soon()) == 1
    pool.close()


async def test_waiting_jobs_are_bounded_in_number_and_in_bytes(gate: threading.Event) -> None:
    pool = make(threads=1, most=2, most_bytes=1000)
    tasks = [asyncio.create_task(pool.run(gate.wait, soon(), 10))]
    await until(lambda: len(pool._working) == 1)
    tasks += [asyncio.create_task(pool.run(gate.wait, soon(), 10)) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded, match="2 requests are being prepared"):
        pool.admit()
    with pytest.raises(Overloaded):
        await pool.run(gate.wait, soon())
    gate.set()
    await asyncio.gather(*tasks)
    pool.admit()
    gate.clear()
    heavy = asyncio.create_task(pool.run(gate.wait, soon(), 1001))
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        pool.admit()
    gate.set()
    await heavy
    assert pool._bytes == 0
    pool.close()


async def test_work_past_its_deadline_is_dropped_and_does_not_begin(gate: threading.Event) -> None:
    pool = make(threads=1)
    begun: list[int] = []
    first = asyncio.create_task(pool.run(gate.wait, soon()))
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceeded):
        await pool.run(lambda: begun.append(1), soon(0.05))
    gate.set()
    await first
    assert await pool.run(lambda: 1, soon()) == 1
    assert begun == []
    pool.close()


@pytest.mark.usefixtures("hasty")
async def test_a_stuck_thread_is_replaced_and_waiting_jobs_run(gate: threading.Event) -> None:
    pool = make(threads=1)
    for hung in (1, 2, 3):
        with pytest.raises(DeadlineExceeded):
            await pool.run(gate.wait, soon(0.03))
        assert await pool.run(lambda: "well", soon()) == "well"
        assert pool.stuck == hung
    gate.set()
    await until(lambda: pool.stuck == 0)
    assert await pool.run(lambda: "well", soon()) == "well"
    pool.close()


@pytest.mark.usefixtures("hasty")
async def test_a_cancelled_job_that_hangs_blocks_no_thread(gate: threading.Event) -> None:
    pool = make(threads=1)
    gone = asyncio.create_task(pool.run(gate.wait, soon(0.1)))
    await until(lambda: len(pool._working) == 1)
    gone.cancel()
    assert await pool.run(lambda: "well", soon()) == "well"
    assert pool.stuck == 1
    pool.close()


@pytest.mark.usefixtures("hasty")
async def test_a_task_with_many_stuck_threads_is_refused_until_they_return(gate: threading.Event) -> None:
    pool = make(threads=2)
    for _ in range(MOST_STUCK):
        with pytest.raises(DeadlineExceeded):
            await pool.run(gate.wait, soon(0.03))
    await until(lambda: pool.stuck == MOST_STUCK)
    with pytest.raises(ModelNotReady, match="the task t of m:1 hangs in 8 requests"):
        pool.admit()
    with pytest.raises(ModelNotReady):
        await pool.run(lambda: 1, soon())
    gate.set()
    await until(lambda: pool.stuck == 0)
    assert await pool.run(lambda: 1, soon()) == 1
    pool.close()


async def test_slow_work_within_a_second_is_not_stuck(gate: threading.Event) -> None:
    pool = make(threads=1)
    with pytest.raises(DeadlineExceeded):
        await pool.run(lambda: gate.wait(0.2), soon(0.01))
    assert await pool.run(lambda: 1, soon()) == 1
    assert pool.stuck == 0
    pool.close()


async def test_closing_refuses_waiting_and_new_jobs(gate: threading.Event) -> None:
    pool = make(threads=1)
    first = asyncio.create_task(pool.run(gate.wait, soon()))
    waiting = asyncio.create_task(pool.run(lambda: 1, soon()))
    await until(lambda: len(pool._waiting) == 1)
    pool.close()
    with pytest.raises(ModelNotReady, match="unloaded"):
        await waiting
    with pytest.raises(ModelNotReady, match="unloaded"):
        await pool.run(lambda: 1, soon())
    gate.set()
    assert await first is True
    await until(lambda: pool._alive == 0)
