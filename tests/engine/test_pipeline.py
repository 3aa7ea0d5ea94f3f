"""Deadlines to the end of a request, and work that is moved off the event loop by its measured time."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from linear_models import FEATURES, SIGNATURE, linear
from pydantic import BaseModel
from wide_models import wide

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.tasks import task_runner
from penstock.engine.tasks.task_runner import SLOW_S, TaskRunner
from penstock.errors import DeadlineExceeded
from penstock.registry.registry import Registry
from penstock.tasks import catalog
from penstock.tasks.base import Task
from penstock.tensors import Arrays


class Wait(BaseModel):
    before_s: float = 0.0
    after_s: float = 0.0


class Waited(BaseModel):
    threads: tuple[str, str]


class Sleepy(Task):
    """Claims to be quick, and takes as long as its request says."""

    kind: ClassVar[str] = "sleepy"
    Request: ClassVar[type[BaseModel]] = Wait
    Response: ClassVar[type[BaseModel]] = Waited
    inline: ClassVar[bool] = True
    thread: ClassVar[str] = ""

    def preprocess(self, request: Any) -> Arrays:
        time.sleep(request.before_s)
        Sleepy.thread = threading.current_thread().name
        return {"x": np.zeros((1, FEATURES), np.float32)}

    def postprocess(self, outputs: Arrays, request: Any) -> Any:
        time.sleep(request.after_s)
        return Waited(threads=(Sleepy.thread, threading.current_thread().name))


class Patient(Sleepy):
    """The same in a thread."""

    inline: ClassVar[bool] = False


@pytest.fixture(params=[Sleepy, Patient], ids=["inline", "thread"])
async def engine(
    request: pytest.FixtureRequest, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[InferenceEngine]:
    monkeypatch.setattr(sys.modules[__name__], "Chosen", request.param, raising=False)
    entry = EntryPoint("sleepy", f"{__name__}:Chosen", catalog.GROUP)
    monkeypatch.setattr(catalog, "entry_points", lambda *, group: [entry] if group == catalog.GROUP else [])
    artifact = write_artifact(
        tmp_path / "source",
        name="m",
        version="1",
        task=TaskEntry(kind="sleepy"),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", linear(tmp_path / "m.onnx"))],
        golden=None,
        card="",
    )
    registry.publish(artifact.path, prove=False)
    async with _started(registry) as engine:
        yield engine


class _started:
    def __init__(self, registry: Registry) -> None:
        self._engine = InferenceEngine(InferenceConfig(), registry=registry)

    async def __aenter__(self) -> InferenceEngine:
        await self._engine.start()
        return self._engine

    async def __aexit__(self, *_: object) -> None:
        await self._engine.close()


def outcomes(engine: InferenceEngine) -> list[str]:
    seen: list[str] = []
    engine.observers.append(lambda observation: seen.append(observation.outcome))
    return seen


@pytest.mark.parametrize("phase", ["before_s", "after_s"])
async def test_an_answer_after_the_deadline_is_refused_and_counted_as_one(engine: InferenceEngine, phase: str) -> None:
    seen = outcomes(engine)
    with pytest.raises(DeadlineExceeded, match="the deadline"):
        await engine.predict(Wait(**{phase: 0.3}), deadline=time.monotonic() + 0.1)
    assert seen == ["deadline"]
    await engine.predict(Wait())
    assert seen == ["deadline", "ok"]


async def test_the_late_items_of_a_batch_fail_alone(engine: InferenceEngine) -> None:
    seen = outcomes(engine)
    late = Wait(after_s=0.4)
    results = await engine.predict_batch([Wait(), late], deadline=time.monotonic() + 0.3)
    assert isinstance(results[1], DeadlineExceeded)
    assert not isinstance(results[0], Exception)
    assert sorted(seen) == ["deadline", "ok"]


async def test_a_task_that_proves_slow_is_moved_off_the_loop_and_the_log_says_so_once(
    engine: InferenceEngine, caplog: pytest.LogCaptureFixture
) -> None:
    threads = [(await engine.predict(Wait(before_s=0.01))).response.threads for _ in range(8)]
    assert threads[-1] == ("penstock-task", "penstock-task")
    moved = [record for record in caplog.records if "are prepared in a thread" in record.getMessage()]
    assert len(moved) == engine.loaded()[0].runner.inline
    assert all("the task sleepy of m:1 takes" in record.getMessage() for record in moved)


@pytest.fixture
def runner() -> TaskRunner:
    return TaskRunner(Sleepy({}, SIGNATURE), "m:1", BatchLimits())


def test_only_the_sizes_that_are_slow_are_moved(runner: TaskRunner) -> None:
    for _ in range(20):
        runner.measure(100, 2 * SLOW_S)
        runner.measure(5_000, SLOW_S / 2)
    assert set(runner.moved) == {(100).bit_length()}


def test_interruptions_by_a_busy_machine_move_nothing_and_are_forgotten(runner: TaskRunner) -> None:
    for pause_s in (0.09, 0.005, 0.02, 0.004) * 5:  # the longest seen on a virtual machine
        runner.measure(100, pause_s)
        for _ in range(6):
            runner.measure(100, SLOW_S / 50)
    assert not runner.moved
    for _ in range(60):
        runner.measure(100, SLOW_S / 50)
    assert not runner.means


def test_work_that_is_slow_every_third_time_is_moved(runner: TaskRunner) -> None:
    for _ in range(20):
        runner.measure(100, 0.02)
        runner.measure(100, SLOW_S / 50)
        runner.measure(100, SLOW_S / 50)
    assert runner.moved


def test_one_second_is_enough_to_be_moved(runner: TaskRunner) -> None:
    runner.measure(0, 1.0)
    assert 0 in runner.moved


def test_work_returns_to_the_loop_only_when_it_is_quick_by_far(
    runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.measure(100, 1.0)
    monkeypatch.setattr(task_runner, "_RETURN_AFTER_S", 0.0)
    for _ in range(100):
        runner.measure(100, SLOW_S / 2)
    assert runner.moved
    for _ in range(100):
        runner.measure(100, SLOW_S / 50)
    assert not runner.moved


@pytest.fixture
async def wide_engine(tmp_path: Path, registry: Registry) -> AsyncIterator[InferenceEngine]:
    registry.publish(wide(tmp_path))
    async with _started(registry) as engine:
        yield engine


async def test_a_large_answer_is_made_off_the_loop(
    wide_engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Callable[..., Any]] = []
    pool = wide_engine.loaded()[0].runner.pool
    run = pool.run

    def noted(work: Callable[..., Any], *given: Any, **more: Any) -> Any:
        found.append(work)
        return run(work, *given, **more)

    monkeypatch.setattr(pool, "run", noted)
    small = await wide_engine.predict({"inputs": {"x": [[10.0]]}})
    assert not found
    assert small.response.outputs["y"] == [[10.0] * 10]
    large = await wide_engine.predict({"inputs": {"x": [[20_000.0]]}})
    assert len(found) == 2  # looks for NaN, then makes the response
    assert large.response.outputs["y"] == [[20_000.0] * 20_000]


async def test_the_items_of_a_batch_leave_the_loop_to_others(wide_engine: InferenceEngine) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    results = await wide_engine.predict_batch([{"inputs": {}}] * 1_000)
    counting.cancel()
    assert all(isinstance(result, Exception) for result in results)
    assert turns > 3  # it was 1
