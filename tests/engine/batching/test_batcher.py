"""Batching with real threads and event loops: each caller gets its own result."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import LONG_S, until

from penstock.engine.batching import batcher as batcher_module
from penstock.engine.batching.batcher import Batcher
from penstock.engine.batching.collation import ArrayCollator
from penstock.engine.batching.flows.item import Item
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.outcome import Batched, Preempted
from penstock.engine.batching.padding import ArrayBatcher
from penstock.errors import DeadlineExceeded, InferenceError, ModelNotReady, OutOfMemory, Overloaded, WorkerDied
from penstock.tensors import Arrays

MakeBatcher = Callable[..., ArrayBatcher]


class Doubler:
    """A backend that doubles its input, records its batches, and can be blocked or made to fail."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.poison: float | None = None
        self.max_rows = 10**9

    def __call__(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        self.running.set()
        self.gate.wait(5)
        self.batches.append(len(x))
        if len(x) > self.max_rows:
            raise OutOfMemory("too large a batch")
        if self.poison is not None and (x == self.poison).any():
            raise ValueError("poison")
        return {"y": x * 2}


def rows(*values: float) -> Arrays:
    return {"x": np.array([[v] for v in values], np.float32)}


@pytest.fixture
def backend() -> Doubler:
    return Doubler()


@pytest.fixture(params=["inline", "threaded"])
def make(request: pytest.FixtureRequest, backend: Doubler) -> Iterator[MakeBatcher]:
    made: list[ArrayBatcher] = []

    def make(full_batch_s: float | None = None, **limits: float) -> ArrayBatcher:
        seconds = full_batch_s or (1e-6 if request.param == "inline" else 0.01)
        made.append(Batcher(backend, ArrayCollator(), BatchLimits(**limits), full_batch_s=seconds, steady=True))  # type: ignore[arg-type]
        return made[-1]

    yield make
    backend.gate.set()
    for batcher in made:
        batcher.close()


@pytest.fixture
def threaded(backend: Doubler) -> Iterator[MakeBatcher]:
    made: list[ArrayBatcher] = []

    def make(**limits: float) -> ArrayBatcher:
        made.append(Batcher(backend, ArrayCollator(), BatchLimits(**limits), full_batch_s=0.01))  # type: ignore[arg-type]
        return made[-1]

    yield make
    backend.gate.set()
    for batcher in made:
        batcher.close()


async def held(batcher: ArrayBatcher, backend: Doubler, value: float = 0.0) -> asyncio.Task[Batched[Arrays]]:
    """A first request that blocks the backend until `backend.gate` is set."""
    backend.gate.clear()
    first = asyncio.create_task(batcher.submit(rows(value)))
    await until(backend.running.is_set)
    return first


async def test_every_caller_gets_the_result_of_its_own_request(make: MakeBatcher) -> None:
    batcher = make(batch_rows=8)
    answers = await asyncio.gather(*(batcher.submit(rows(i)) for i in range(100)))
    assert [a.outputs["y"][0, 0] for a in answers] == [2 * i for i in range(100)]


async def test_concurrent_requests_share_a_run_within_the_row_limit(make: MakeBatcher, backend: Doubler) -> None:
    batcher = make(batch_rows=8)
    if not batcher.inline:  # on the loop they share a turn; for the thread they queue behind a first request
        first = await held(batcher, backend)
    tasks = [asyncio.create_task(batcher.submit(rows(i, i))) for i in range(20)]
    if not batcher.inline:
        await until(lambda: batcher.queued_rows == 40)
        backend.gate.set()
        await first
        del backend.batches[0]
    answers = await asyncio.gather(*tasks)
    assert backend.batches == [8] * 5
    assert {answer.batch_rows for answer in answers} == {8}


async def test_an_idle_thread_takes_all_requests_of_one_turn_of_the_loop(
    threaded: MakeBatcher, backend: Doubler
) -> None:
    batcher = threaded(batch_rows=8)
    await batcher.submit(rows(0))
    await until(lambda: batcher._idle == 1)
    await asyncio.gather(*(batcher.submit(rows(i)) for i in range(5)))
    assert backend.batches == [1, 5]


async def test_an_idle_thread_does_not_wait_when_a_batch_is_full(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=4)
    await batcher.submit(rows(0))
    await until(lambda: batcher._idle == 1)
    backend.running.clear()
    tasks = [asyncio.ensure_future(batcher.submit(rows(i))) for i in range(4)]
    for task in tasks:  # as the loop would, but that this turn does not end before the thread runs
        task.get_loop().call_soon(backend.running.wait, 5)
    await asyncio.gather(*tasks)
    assert backend.running.is_set()
    assert backend.batches == [1, 4]


async def test_several_threads_run_several_batches_at_once(backend: Doubler) -> None:
    batcher = Batcher(backend, ArrayCollator(), BatchLimits(batch_rows=2), full_batch_s=1, concurrency=3)
    backend.gate.clear()
    tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(10)]
    await until(lambda: batcher.running_rows + batcher.queued_rows == 10 and batcher.running_rows >= 4)
    backend.gate.set()
    answers = await asyncio.gather(*tasks)
    assert [a.outputs["y"][0, 0] for a in answers] == [2 * i for i in range(10)]
    await until(lambda: batcher.running_rows == 0)
    batcher.close()


async def test_the_parts_of_a_large_request_run_at_once_if_several_threads_are_idle(backend: Doubler) -> None:
    batcher = Batcher(backend, ArrayCollator(), BatchLimits(batch_rows=2), full_batch_s=1, concurrency=2)
    await batcher.submit(rows(0))
    await until(lambda: batcher._idle == 2)
    backend.gate.clear()
    large = asyncio.create_task(batcher.submit(rows(1, 2, 3, 4)))
    try:
        await until(lambda: batcher.running_rows == 4)
    finally:
        backend.gate.set()
        await large
        batcher.close()


async def test_a_single_request_starts_at_once(threaded: MakeBatcher) -> None:
    batcher = threaded(batch_rows=8)
    await batcher.submit(rows(1))
    answer = await batcher.submit(rows(1))
    assert answer.batch_rows == 1
    assert answer.queue_s < 0.25  # a batcher that waits for a full batch never answers at all


async def test_max_wait_collects_the_requests_that_arrive_within_it(make: MakeBatcher, backend: Doubler) -> None:
    batcher = make(batch_rows=4, max_wait_ms=2000)

    async def later(delay: float) -> Batched[Arrays]:
        await asyncio.sleep(delay)
        return await batcher.submit(rows(1))

    await asyncio.wait_for(asyncio.gather(*(later(0.01 * i) for i in range(4))), 1.5)
    assert backend.batches == [4]


async def test_max_wait_ends_with_a_partial_batch(make: MakeBatcher, backend: Doubler) -> None:
    batcher = make(batch_rows=4, max_wait_ms=20)
    answer = await asyncio.wait_for(batcher.submit(rows(1)), LONG_S)
    assert backend.batches == [1]
    assert answer.queue_s >= 0.015


async def test_a_request_larger_than_a_batch_is_cut_and_its_results_are_joined(
    make: MakeBatcher, backend: Doubler
) -> None:
    batcher = make(batch_rows=4)
    answer = await batcher.submit(rows(*range(10)))
    assert answer.outputs["y"][:, 0].tolist() == [2 * i for i in range(10)]
    assert max(backend.batches) == 4


async def test_an_empty_queue_admits_a_request_larger_than_its_limit(make: MakeBatcher) -> None:
    answer = await make(batch_rows=4, queue_rows=10).submit(rows(*range(20)))
    assert answer.outputs["y"][:, 0].tolist() == [2 * i for i in range(20)]


async def test_a_single_request_that_does_not_fit_into_memory_is_halved_by_rows(
    make: MakeBatcher, backend: Doubler
) -> None:
    backend.max_rows = 3
    answer = await make(batch_rows=32).submit(rows(*range(16)))
    assert answer.outputs["y"][:, 0].tolist() == [2 * i for i in range(16)]


async def test_a_single_row_that_does_not_fit_into_memory_is_an_error(make: MakeBatcher, backend: Doubler) -> None:
    backend.max_rows = 0
    with pytest.raises(OutOfMemory):
        await make().submit(rows(1, 2))


async def test_waiting_for_capacity_ends_when_the_queue_has_room(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=1, queue_rows=1)
    first = await held(batcher, backend)
    second = asyncio.create_task(batcher.submit(rows(1)))
    await until(lambda: batcher.queued_rows == 1)
    with pytest.raises(DeadlineExceeded):
        await batcher.wait_for_capacity(rows(1), time.monotonic() + 0.02)
    waiting = asyncio.create_task(batcher.wait_for_capacity(rows(1), time.monotonic() + LONG_S))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    backend.gate.set()
    await asyncio.wait_for(asyncio.gather(first, second, waiting), LONG_S)


async def test_waiting_for_capacity_considers_bytes(threaded: MakeBatcher, backend: Doubler) -> None:
    one = rows(1)
    batcher = threaded(batch_rows=1, queue_bytes=one["x"].nbytes)
    first = await held(batcher, backend)
    second = asyncio.create_task(batcher.submit(one))
    await until(lambda: batcher.queued_rows == 1)
    waiting = asyncio.create_task(batcher.wait_for_capacity(one, time.monotonic() + LONG_S))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    backend.gate.set()
    await asyncio.wait_for(asyncio.gather(first, second, waiting), LONG_S)


def test_deadlines_of_one_event_loop_survive_the_end_of_another(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=1)
    backend.gate.clear()
    other_ended = threading.Event()

    async def ask(seconds: float, wait_for: threading.Event | None = None) -> float:
        started = time.monotonic()
        task = asyncio.create_task(batcher.submit(rows(1), started + seconds))
        if wait_for is not None:
            await asyncio.to_thread(wait_for.wait, 5)
            task.cancel()
            return 0.0
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(task, LONG_S)
        return time.monotonic() - started

    took: list[float] = []
    one = threading.Thread(target=lambda: took.append(asyncio.run(ask(0.4))))
    two = threading.Thread(target=lambda: asyncio.run(ask(0.2, other_ended)))
    one.start()
    two.start()
    other_ended.set()
    two.join(5)
    one.join(5)
    assert len(took) == 1
    assert 0.39 <= took[0] < 1.5


def test_many_event_loops_start_one_thread(backend: Doubler) -> None:
    before = set(threading.enumerate())
    batcher = Batcher(backend, ArrayCollator(), BatchLimits(), full_batch_s=1)
    barrier = threading.Barrier(4)

    async def ask() -> None:
        barrier.wait()
        await batcher.submit(rows(1))

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    started = (thread for thread in threading.enumerate() if thread.name.startswith("penstock-run"))
    (thread,) = (thread for thread in started if thread not in before)
    batcher.close()
    assert not thread.is_alive()


async def test_a_request_without_rows_gets_outputs_without_rows(make: MakeBatcher) -> None:
    answer = await make().submit({"x": np.zeros((0, 1), np.float32)})
    assert answer.outputs["y"].shape == (0, 1)


async def test_only_the_request_at_fault_fails(make: MakeBatcher, backend: Doubler) -> None:
    backend.poison = 13
    batcher = make(batch_rows=32)
    if not batcher.inline:  # they queue behind a first request: an idle thread could run each alone
        await held(batcher, backend)
    tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(32)]
    if not batcher.inline:
        await until(lambda: batcher.queued_rows == 32)
        backend.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [i for i, answer in enumerate(answers) if isinstance(answer, BaseException)]
    assert failed == [13]
    assert isinstance(answers[13], InferenceError)
    assert "poison" not in str(answers[13])
    assert max(backend.batches) > 16


async def test_a_batch_that_ends_its_processes_is_not_halved(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=8)
    await held(batcher, backend)
    tasks = [asyncio.create_task(batcher.submit(rows(i))) for i in range(8)]
    await until(lambda: batcher.queued_rows == 8)
    batcher.runner.run = died = _Died()
    backend.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [WorkerDied] * 8
    assert died.batches == [8]


class _Died:
    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        self.batches.append(len(inputs["x"]))
        raise WorkerDied("two workers died")


async def test_a_model_that_calls_exit_fails_one_request_and_runs_the_next() -> None:
    def run(inputs: Arrays) -> Arrays:
        if (inputs["x"] == 9).any():
            raise SystemExit(1)
        return {"y": inputs["x"] * 2}

    batcher = Batcher(run, ArrayCollator(), BatchLimits(), full_batch_s=1)
    with pytest.raises(InferenceError, match="the model failed"):
        await batcher.submit(rows(9), time.monotonic() + LONG_S)
    assert (await batcher.submit(rows(4), time.monotonic() + LONG_S)).outputs["y"][0, 0] == 8
    batcher.close()


async def test_a_batch_that_does_not_fit_into_memory_is_halved(make: MakeBatcher, backend: Doubler) -> None:
    backend.max_rows = 5
    batcher = make(batch_rows=16)
    answers = await asyncio.gather(*(batcher.submit(rows(i)) for i in range(16)))
    assert [a.outputs["y"][0, 0] for a in answers] == [2 * i for i in range(16)]


async def test_a_full_queue_refuses_until_it_has_room(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=2, queue_rows=3)
    first = await held(batcher, backend)
    waiting = [asyncio.create_task(batcher.submit(rows(i))) for i in range(3)]
    await until(lambda: batcher.queued_rows == 3)
    with pytest.raises(Overloaded) as refused:
        await batcher.submit(rows(9))
    assert refused.value.retry_after_s > 0
    with pytest.raises(Overloaded):
        batcher.admit()
    backend.gate.set()
    await asyncio.gather(first, *waiting)
    assert (await batcher.submit(rows(4))).outputs["y"][0, 0] == 8


async def test_a_cancelled_request_frees_its_place_and_is_not_run(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=2, queue_rows=2)
    first = await held(batcher, backend)
    gone = asyncio.create_task(batcher.submit(rows(100)))
    stays = asyncio.create_task(batcher.submit(rows(1)))
    await until(lambda: batcher.queued_rows == 2)
    gone.cancel()
    await until(lambda: batcher.queued_rows == 1)
    replacement = asyncio.create_task(batcher.submit(rows(2)))
    await until(lambda: batcher.queued_rows == 2)
    backend.gate.set()
    answers = await asyncio.gather(first, stays, replacement)
    assert [a.outputs["y"][0, 0] for a in answers] == [0, 2, 4]
    assert sum(backend.batches) == 3


async def test_a_deadline_ends_the_wait_in_the_queue(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=2)
    first = await held(batcher, backend)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(batcher.submit(rows(1), time.monotonic() + 0.05), LONG_S)
    assert batcher.queued_rows == 0
    backend.gate.set()
    await first
    assert backend.batches == [1]


async def test_a_deadline_ends_the_wait_for_a_run_that_hangs(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded()
    backend.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(batcher.submit(rows(1), time.monotonic() + 0.05), LONG_S)
    backend.gate.set()
    assert (await batcher.submit(rows(2))).outputs["y"][0, 0] == 4


async def test_each_request_ends_at_its_own_deadline(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=1)
    first = await held(batcher, backend)
    started = time.monotonic()
    ended: dict[float, float] = {}

    async def wait(seconds: float) -> None:
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(rows(1), started + seconds)
        ended[seconds] = time.monotonic() - started

    await asyncio.wait_for(asyncio.gather(*(wait(s) for s in (0.3, 0.05, 0.15))), LONG_S)
    assert list(ended) == [0.05, 0.15, 0.3]
    assert all(took >= asked - 0.001 for asked, took in ended.items())
    backend.gate.set()
    await first


async def test_a_deadline_shorter_than_the_expected_wait_is_refused_at_once(
    threaded: MakeBatcher, backend: Doubler
) -> None:
    batcher = threaded(batch_rows=1, queue_rows=1000)  # 10 ms a row, as measured
    first = await held(batcher, backend)
    waiting = [asyncio.create_task(batcher.submit(rows(i), None, 1)) for i in range(100)]
    await until(lambda: batcher.queued_rows == 100)
    with pytest.raises(Overloaded, match="the wait is about"):
        await batcher.submit(rows(1), time.monotonic() + 0.5)
    backend.gate.set()
    await asyncio.gather(first, *waiting)


async def test_a_short_deadline_that_goes_before_queued_requests_is_admitted(
    threaded: MakeBatcher, backend: Doubler
) -> None:
    batcher = threaded(batch_rows=1, queue_rows=1000)
    first = await held(batcher, backend)
    late = time.monotonic() + 60
    waiting = [asyncio.create_task(batcher.submit(rows(i), late)) for i in range(100)]
    await until(lambda: batcher.queued_rows == 100)
    soon = asyncio.create_task(batcher.submit(rows(-7), time.monotonic() + 0.9))  # the others take a second
    await until(lambda: batcher.queued_rows == 101)
    order: list[asyncio.Task[Batched[Arrays]]] = []
    for task in (*waiting, soon):
        task.add_done_callback(order.append)
    backend.gate.set()
    await asyncio.gather(first, *waiting)
    assert order[0] is soon


async def test_the_higher_priority_goes_first(make: MakeBatcher, backend: Doubler) -> None:
    batcher = make(batch_rows=1)
    order: list[float] = []

    async def submit(value: float, priority: int) -> None:
        await batcher.submit(rows(value), time.monotonic() + 60, priority)
        order.append(value)

    first = None if batcher.inline else await held(batcher, backend)
    tasks = [asyncio.create_task(submit(value, priority)) for value, priority in ((1, 0), (2, -5), (3, 7), (4, 0))]
    if first is not None:
        await until(lambda: batcher.queued_rows == 4)
        backend.gate.set()
        await first
    await asyncio.gather(*tasks)
    assert order == [3, 1, 4, 2]


async def test_a_higher_priority_evicts_the_last_of_a_lower_one_from_a_full_queue(
    threaded: MakeBatcher, backend: Doubler
) -> None:
    batcher = threaded(batch_rows=1, queue_rows=2)
    first = await held(batcher, backend)
    stays, goes = (asyncio.create_task(batcher.submit(rows(i))) for i in (1, 2))
    await until(lambda: batcher.queued_rows == 2)
    with pytest.raises(Overloaded, match="the queue is full"):
        batcher.admit(1, 0)
    batcher.admit(1, 1)
    urgent = asyncio.create_task(batcher.submit(rows(3), None, 1))
    with pytest.raises(Preempted, match="evicted by requests of a higher priority") as refused:
        await goes
    assert refused.value.retry_after_s > 0
    with pytest.raises(Overloaded, match=r"the queue is full \(2 rows\)"):
        await batcher.submit(rows(4))
    backend.gate.set()
    assert [(await task).outputs["y"][0, 0] for task in (first, stays, urgent)] == [0, 2, 6]


async def test_max_wait_is_at_most_half_of_the_time_to_the_deadline(make: MakeBatcher) -> None:
    batcher = make(batch_rows=8, max_wait_ms=30_000)
    waiting = asyncio.create_task(batcher.submit(rows(1)))
    await asyncio.sleep(0)
    answer = await batcher.submit(rows(2), time.monotonic() + 4)
    assert answer.outputs["y"][0, 0] == 4
    assert (await waiting).batch_rows == 2


async def test_urgent_requests_do_not_extend_the_max_wait_of_others(make: MakeBatcher) -> None:
    batcher = make(batch_rows=100, max_wait_ms=200)
    plain = asyncio.create_task(batcher.submit(rows(0)))
    urgent: list[asyncio.Task[Batched[Arrays]]] = []
    started = time.monotonic()
    while not plain.done():  # a request every 10 ms never becomes the longest-waiting one
        assert time.monotonic() - started < 2
        urgent.append(asyncio.create_task(batcher.submit(rows(1), None, 1)))
        await asyncio.sleep(0.01)
    await asyncio.gather(*urgent)


async def test_a_request_past_its_deadline_is_refused_without_a_run(make: MakeBatcher, backend: Doubler) -> None:
    with pytest.raises(DeadlineExceeded):
        await make().submit(rows(1), time.monotonic() - 1)
    assert backend.batches == []


async def test_closing_refuses_queued_requests(threaded: MakeBatcher, backend: Doubler) -> None:
    batcher = threaded(batch_rows=1)
    first = await held(batcher, backend)
    waiting = asyncio.create_task(batcher.submit(rows(1)))
    await until(lambda: batcher.queued_rows == 1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(ModelNotReady):
        await asyncio.wait_for(waiting, LONG_S)
    backend.gate.set()
    assert (await asyncio.wait_for(first, LONG_S)).outputs["y"][0, 0] == 0
    closing.join()
    with pytest.raises(ModelNotReady):
        await batcher.submit(rows(1))
    batcher.close()


@pytest.mark.parametrize(("limit_s", "at_once"), [(LONG_S, 5), (0.0, 1)])
async def test_quick_batches_run_before_the_loop_takes_more_requests(
    backend: Doubler, monkeypatch: pytest.MonkeyPatch, limit_s: float, at_once: int
) -> None:
    monkeypatch.setattr(batcher_module, "FLUSH_S", limit_s)
    batcher = Batcher(backend, ArrayCollator(), BatchLimits(batch_rows=8), full_batch_s=1e-6, steady=True)
    requests = [asyncio.create_task(batcher.submit(rows(value))) for value in range(40)]
    seen: list[int] = []
    await asyncio.sleep(0)  # all are in the queue, and the first flush is due
    asyncio.get_running_loop().call_soon(lambda: seen.append(len(backend.batches)))
    answers = await asyncio.gather(*requests)
    assert [answer.outputs["y"][0, 0] for answer in answers] == [2 * value for value in range(40)]
    assert seen == [at_once]
    assert backend.batches == [8] * 5
    batcher.close()


async def test_a_model_that_became_slow_moves_to_a_thread(backend: Doubler) -> None:
    def slow(inputs: Arrays) -> Arrays:
        time.sleep(0.02)
        return backend(inputs)

    batcher = Batcher(slow, ArrayCollator(), BatchLimits(batch_rows=8), full_batch_s=1e-5, steady=True)
    assert batcher.inline
    for _ in range(20):
        await batcher.submit(rows(1))
    assert not batcher.inline
    assert (await batcher.submit(rows(3))).outputs["y"][0, 0] == 6
    batcher.close()


def test_one_batcher_serves_event_loops_of_several_threads(make: MakeBatcher) -> None:
    batcher = make(batch_rows=8, queue_rows=1000)
    wrong: list[float] = []

    async def ask(base: int) -> None:
        values = range(base, base + 200)
        answers = await asyncio.gather(*(batcher.submit(rows(v), time.monotonic() + LONG_S) for v in values))
        wrong.extend(v for v, a in zip(values, answers, strict=True) if a.outputs["y"][0, 0] != 2 * v)

    threads = [threading.Thread(target=lambda b=b: asyncio.run(ask(b))) for b in (0, 1000, 2000, 3000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_an_event_loop_that_ended_with_a_request_queued_does_not_block_the_next_one(make: MakeBatcher) -> None:
    batcher = make(batch_rows=8)

    async def leave_early() -> None:
        task = asyncio.create_task(batcher.submit(rows(1), time.monotonic() + 0.2))
        await asyncio.sleep(0)
        task.cancel()

    async def ask() -> float:
        return float(
            (await asyncio.wait_for(batcher.submit(rows(4), time.monotonic() + LONG_S), LONG_S)).outputs["y"][0, 0]
        )

    asyncio.run(leave_early())
    assert asyncio.run(ask()) == 8


@pytest.mark.parametrize("call", ["submit", "admit", "wait_for_capacity"])
def test_a_refused_request_wakes_a_batcher_that_waits_for_a_closed_loop(make: MakeBatcher, call: str) -> None:
    batcher = make(batch_rows=32, queue_rows=32)
    asyncio.run(batcher.submit(rows(1)))
    if not batcher.inline:
        ended = time.monotonic() + 5
        while not batcher._idle and time.monotonic() < ended:
            time.sleep(0.001)
    gone = asyncio.new_event_loop()
    submission = batcher.submit(rows(*range(20)))

    async def leave() -> None:
        submission.send(None)
        gone.stop()  # before the callback that the submission scheduled for the next turn of the loop

    left = gone.create_task(leave())
    gone.run_forever()
    gone.close()
    assert left.done()
    assert batcher.queued_rows == 20

    async def refused_then_served() -> Batched[Arrays]:
        with contextlib.suppress(Overloaded):
            if call == "wait_for_capacity":
                await batcher.wait_for_capacity(rows(*range(20)), time.monotonic() + LONG_S)
            elif call == "admit":
                batcher.admit(20)
            else:
                await batcher.submit(rows(*range(20)))
        await until(lambda: not batcher.queued_rows)
        return await batcher.submit(rows(*range(20)))

    assert asyncio.run(refused_then_served()).outputs["y"][-1, 0] == 38


def test_the_end_of_one_loop_keeps_the_max_wait_timer_of_another(make: MakeBatcher) -> None:
    batcher = make(max_wait_ms=100)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(asyncio.run(batcher.submit(rows(1)))), daemon=True)
    waiting.start()
    ended = time.monotonic() + 5
    while not batcher.queued_rows and time.monotonic() < ended:
        time.sleep(0.001)

    async def come_and_go() -> None:
        task = asyncio.ensure_future(batcher.submit(rows(2)))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(come_and_go())
    waiting.join(5)
    assert [answer.outputs["y"][0, 0] for answer in answers] == [2.0]


def test_timers_of_event_loops_in_several_threads_do_not_conflict(
    threaded: MakeBatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = threaded(batch_rows=8)
    asyncio.run(batcher.submit(rows(1), time.monotonic() + LONG_S))
    (ended, timer), other = next(iter(batcher._deadlines.next.items())), asyncio.new_event_loop()
    other.close()

    def is_closed() -> bool:  # meanwhile the loop of another thread sets its timer
        monkeypatch.undo()
        batcher._deadlines.next[other] = timer
        return True

    monkeypatch.setattr(ended, "is_closed", is_closed)
    assert asyncio.run(batcher.submit(rows(2), time.monotonic() + LONG_S)).outputs["y"][0, 0] == 4


async def test_a_loop_that_closes_during_delivery_does_not_block_the_other_results() -> None:
    class Closing(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *_: object, **__: object) -> asyncio.Handle:
            raise RuntimeError("Event loop is closed")

    other = Closing()
    gone = Item(rows(1), *ArrayCollator().measure(rows(1)), other.create_future(), other, time.monotonic())
    batcher = Batcher(
        lambda inputs: {"y": inputs["x"] * 2}, ArrayCollator(), BatchLimits(), full_batch_s=1e-6, steady=True
    )
    batcher.queue.offer([gone], 1, gone.bytes)
    answer = await asyncio.wait_for(batcher.submit(rows(2)), LONG_S)
    assert answer.outputs["y"][0, 0] == 4
    batcher.close()
    other.close()


async def test_outputs_with_the_wrong_number_of_rows_are_an_error() -> None:
    batcher = Batcher(
        lambda inputs: {"y": inputs["x"][:1]}, ArrayCollator(), BatchLimits(), full_batch_s=1e-6, steady=True
    )
    answers = await asyncio.gather(*(batcher.submit(rows(1, 2)) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(answer, InferenceError) for answer in answers)
    batcher.close()


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    cancelled=st.sets(st.integers(0, 39)),
    batch_rows=st.integers(1, 8),
    inline=st.booleans(),
)
def test_no_mix_of_sizes_and_cancellations_swaps_or_loses_a_result(
    sizes: list[int], cancelled: set[int], batch_rows: int, inline: bool
) -> None:
    async def play() -> None:
        batcher = Batcher(
            lambda inputs: {"y": inputs["x"] * 2},
            ArrayCollator(),
            BatchLimits(batch_rows=batch_rows),
            full_batch_s=1e-6 if inline else 1,
            steady=inline,
            concurrency=2,
        )
        values = [rows(*(100 * i + j for j in range(size))) if size else empty for i, size in enumerate(sizes)]
        tasks = [asyncio.create_task(batcher.submit(v)) for v in values]
        await asyncio.sleep(0)
        for index in cancelled:
            if index < len(tasks):
                tasks[index].cancel()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LONG_S)
        for value, answer in zip(values, answers, strict=True):
            if isinstance(answer, Batched):
                assert np.array_equal(answer.outputs["y"], value["x"] * 2)
                assert answer.batch_rows <= max(batch_rows, 1)
            else:
                assert isinstance(answer, asyncio.CancelledError), repr(answer)
        assert batcher.queued_rows == 0
        batcher.close()

    empty = {"x": np.zeros((0, 1), np.float32)}
    asyncio.run(play())
