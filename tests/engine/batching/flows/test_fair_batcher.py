"""Flows in front of a backend that is busy: who runs, who is refused, and who waits for how long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from waiting import LONG_S, until

from penstock.engine.batching.batcher import Batcher
from penstock.engine.batching.collation import ArrayCollator
from penstock.engine.batching.flows.flow import Flow
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.batching.outcome import Batched, Preempted
from penstock.engine.batching.padding import ArrayBatcher
from penstock.errors import Overloaded
from penstock.tensors import Arrays

FLOOD, TRICKLE = Flow("flood"), Flow("trickle")
Asked = asyncio.Task[Batched[Arrays]]


class Busy:
    """A batcher whose backend is inside a first run until `gate` is set; the values of each run."""

    def __init__(self, queue_rows: int) -> None:
        self.runs: list[list[float]] = []
        self.gate = threading.Event()
        limits = BatchLimits(batch_rows=4, queue_rows=queue_rows)
        self.batcher: ArrayBatcher = Batcher(self._run, ArrayCollator(), limits, full_batch_s=1000.0)

    def _run(self, inputs: Arrays) -> Arrays:
        self.runs.append(inputs["x"][:, 0].tolist())
        self.gate.wait(LONG_S)
        return {"y": inputs["x"]}

    def ask(self, value: float, flow: Flow | None, timeout_s: float | None = None) -> Asked:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        payload = {"x": np.array([[value]], np.float32)}
        return asyncio.create_task(self.batcher.submit(payload, deadline, 0, flow))

    async def flood(self, count: int) -> list[Asked]:
        """A running request, and so many that wait."""
        asked = [self.ask(0, FLOOD)]
        await until(lambda: self.batcher.running_rows == 1)
        asked += [self.ask(number, FLOOD, timeout_s=4100) for number in range(1, count + 1)]
        await until(lambda: self.batcher.queued_rows == count)
        return asked


@pytest.fixture
async def busy() -> AsyncIterator[Busy]:
    made = Busy(queue_rows=16)
    yield made
    made.gate.set()
    made.batcher.close()


async def test_a_small_flow_is_in_the_next_run_and_takes_places_of_a_full_queue(busy: Busy) -> None:
    flood = await busy.flood(16)
    small = busy.ask(100, TRICKLE)
    with pytest.raises(Preempted, match="callers with fewer of them in the full queue") as refused:
        await flood.pop()
    assert refused.value.retry_after_s > 1
    with pytest.raises(Overloaded, match="the queue is full"):
        busy.batcher.admit(1, 0, FLOOD)
    busy.batcher.admit(1, 0, TRICKLE)
    busy.gate.set()
    assert (await small).outputs["y"].tolist() == [[100]]
    await asyncio.gather(*flood)
    assert 100 in busy.runs[1]


async def test_a_request_is_refused_for_the_wait_of_its_own_flow(busy: Busy) -> None:
    """A run of 4 rows is expected to take 1,000 s: the flood waits for four, the others for less than one."""
    flood = await busy.flood(16)
    with pytest.raises(Overloaded, match=r"the wait is about 4250000 ms, longer than the 4\d+ ms left") as refused:
        await busy.ask(50, FLOOD, timeout_s=4200)
    assert refused.value.retry_after_s == 4250
    quick = busy.ask(100, TRICKLE, timeout_s=600)
    await until(lambda: flood[-1].done())  # it gave way
    assert not quick.done()
    busy.gate.set()
    assert (await quick).outputs["y"].tolist() == [[100]]
    await asyncio.gather(*flood[:-1])


async def test_an_item_of_a_batch_request_takes_the_share_of_its_flow_instead_of_waiting(busy: Busy) -> None:
    flood = await busy.flood(16)
    payload = {"x": np.ones((1, 1), np.float32)}
    await asyncio.wait_for(busy.batcher.wait_for_capacity(payload, time.monotonic() + LONG_S, 0, TRICKLE), LONG_S)
    waiting = asyncio.create_task(busy.batcher.wait_for_capacity(payload, time.monotonic() + LONG_S, 0, FLOOD))
    await asyncio.sleep(0)
    assert not waiting.done()
    busy.gate.set()
    await waiting
    await asyncio.gather(*flood)
