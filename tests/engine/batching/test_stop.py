"""A run that nobody waits for any more is stopped, where its runtime can."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from endless_models import ENDLESS, counted_loop
from waiting import LONG_S, until

from penstock.backends.base import run_in_progress
from penstock.engine.batching.batcher import Batcher
from penstock.engine.batching.collation import ArrayCollator
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.errors import DeadlineExceeded
from penstock.tensors import Arrays


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[InferenceEngine]:
    """Serves a model whose loop has as many iterations as its input says, one run at a time."""
    path = counted_loop(tmp_path / "loop.onnx")
    engine = InferenceEngine(InferenceConfig(registry=tmp_path / "registry", threads=64))
    await engine.start([str(path)])
    yield engine
    async with asyncio.timeout(LONG_S):
        await engine.close()


def loop_of(engine: InferenceEngine) -> LoadedModel:
    return engine.loaded()[0]


async def count(engine: InferenceEngine, iterations: float, timeout_s: float = LONG_S) -> float:
    deadline = time.monotonic() + timeout_s
    done = await engine.infer("loop", {"x": [[iterations]]}, deadline=deadline)
    return float(done.outputs["y"][0, 0])


def test_a_graph_with_a_loop_never_runs_on_the_event_loop(tmp_path: Path) -> None:
    async def check() -> bool:
        engine = InferenceEngine(InferenceConfig(registry=tmp_path / "registry"))
        await engine.start([str(counted_loop(tmp_path / "loop.onnx"))])
        try:
            return loop_of(engine).batcher.inline
        finally:
            await engine.close()

    assert asyncio.run(check()) is False


async def test_a_run_ends_with_the_deadline_of_its_last_request(engine: InferenceEngine) -> None:
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            await count(engine, ENDLESS, 0.1)
    assert await count(engine, 5) == 5


async def test_a_run_ends_when_its_last_caller_leaves(engine: InferenceEngine) -> None:
    caller = asyncio.create_task(count(engine, ENDLESS))
    await until(lambda: loop_of(engine).batcher.running_rows)
    caller.cancel()
    await until(lambda: not loop_of(engine).batcher.running_rows)
    assert await count(engine, 5) == 5
    assert caller.cancelled()


async def test_a_run_goes_on_while_one_request_waits_for_it() -> None:
    stopped, began = threading.Event(), threading.Event()

    def run(inputs: Arrays) -> Arrays:
        stop = run_in_progress.stop
        assert stop is not None
        stop.how = stopped.set
        began.set()
        stopped.wait(LONG_S)
        return {"y": inputs["x"]}

    batcher = Batcher(run, ArrayCollator(), BatchLimits(batch_rows=2, max_wait_ms=60_000))
    x = {"x": np.zeros((1, 1), np.float32)}
    callers = [asyncio.create_task(batcher.submit(x)) for _ in range(2)]
    await until(began.is_set)
    for caller in callers:
        assert not stopped.is_set()
        caller.cancel()
        await asyncio.wait((caller,))
    assert stopped.is_set()
    await asyncio.to_thread(batcher.close)
