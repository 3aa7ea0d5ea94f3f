"""Bundles of requests in a real engine: the same answers as one by one, and each member's own fate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
import pytest
from linear_models import FEATURES, Publish

from penstock.engine.batching.flows.flow import Flow
from penstock.engine.bundling.bundle import Answer, Bundle, Member, Times
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import AnsweredRun, Observation
from penstock.errors import DeadlineExceeded, InferenceError, InvalidInput, ModelNotReady, OutOfRange, Overloaded
from penstock.registry.registry import Registry
from penstock.tasks.vector import VectorClassification, VectorRequest
from penstock.tensors import Arrays

X = np.random.default_rng(3).standard_normal((200, FEATURES))
Started = Callable[..., Any]


class Collected:
    """Takes the place of the replies: keeps what each caller gets."""

    def __init__(self) -> None:
        self.got: dict[Any, Any] = {}
        self.times: dict[Any, Times] = {}

    def answered(self, bundle: Bundle, members: Sequence[Member], answers: Sequence[Answer], times: Times) -> None:
        for member, answer in zip(members, answers, strict=True):
            self._add(member, orjson.loads(answer + b"}") if isinstance(answer, bytes) else answer.model_dump())
            self.times[member.caller] = times

    def declined(self, member: Member) -> None:
        raise AssertionError("an answer is large")

    def failed(self, member: Member, error: Exception) -> None:
        self._add(member, error)

    def _add(self, member: Member, what: Any) -> None:
        assert member.caller not in self.got, "answered twice"
        self.got[member.caller] = what

    async def all(self, count: int) -> dict[Any, Any]:
        await until_async(lambda: len(self.got) == count)
        return self.got


async def until_async(done: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if done():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen within a minute")


class Gate:
    """Holds the runs of a model until it opens; counts the rows of each run."""

    def __init__(self, model: LoadedModel, *, bad: float | None = None) -> None:
        self.open = threading.Event()
        self.runs: list[int] = []
        self._inner = model.batcher.runner.run
        self._bad = bad
        model.batcher.runner.run = self
        model.batcher._inline, model.batcher._concurrency = False, 1

    def __call__(self, arrays: Arrays) -> Arrays:
        rows = arrays["x"]
        self.runs.append(len(rows))
        assert self.open.wait(60)
        if self._bad is not None and (rows[:, 0] == self._bad).any():
            raise ValueError("a bad row")
        return self._inner(arrays)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """One kind of database is enough here: bundles do not touch it."""
    with Registry(tmp_path / "registry", f"sqlite:///{tmp_path / 'registry.db'}") as registry:
        yield registry


@pytest.fixture
async def started(registry: Registry, publish: Publish) -> AsyncIterator[Started]:
    engines: list[InferenceEngine] = []

    async def start(observers: Sequence[Any] = (), **config: Any) -> tuple[InferenceEngine, LoadedModel, Collected]:
        publish()
        engines.append(
            InferenceEngine(
                InferenceConfig(**{"max_queue_size": 512, **config}), registry=registry, observers=observers
            )
        )
        await engines[-1].start()
        return engines[-1], await engines[-1].model(), Collected()

    yield start
    for engine in engines:
        await engine.close()


def member(caller: Any, request: Any, timeout_s: float = 60.0) -> Member:
    now = time.monotonic()
    return Member(caller, request, now, now + timeout_s, f"id-{caller}")


def submit(
    engine: InferenceEngine, model: LoadedModel, replies: Collected, members: Sequence[Member], priority: int = 0
) -> None:
    assert engine.bundler.submit(engine.bundler.begin(model, model.runner, replies, priority), members)


def without_times(response: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in response.items() if name in ("predictions", "confidence_scores")}


def outcomes(engine: InferenceEngine) -> dict[str, int]:
    return dict(engine.get_stats()["models"]["m:1.0.0"]["outcomes"])


async def settled(engine: InferenceEngine, model: LoadedModel) -> None:
    await until_async(lambda: engine.inflight == 0)
    assert model.leases == 0
    assert model.batcher.queued_rows == 0
    assert not model.batcher._deadlines.pending


@pytest.mark.parametrize("as_numbers", [True, False], ids=["numbers", "requests"])
async def test_a_bundle_gives_each_member_the_answer_that_it_would_get_alone(
    started: Started, as_numbers: bool
) -> None:
    engine, model, replies = await started()
    requests = [row if as_numbers else VectorRequest(input_data=row.tolist()) for row in X]
    submit(engine, model, replies, [member(index, request) for index, request in enumerate(requests)])
    got = await replies.all(len(X))
    for index, row in enumerate(X):
        alone = await engine.predict(row)
        assert without_times(got[index]) == without_times(alone.response.model_dump())
    await settled(engine, model)
    assert outcomes(engine) == {"ok": 2 * len(X)}


async def test_requests_of_several_rows_share_a_bundle(started: Started) -> None:
    engine, model, replies = await started(batch_size=8)
    sizes = [1, 3, 2, 5, 8, 1]
    starts = np.cumsum([0, *sizes])
    parts = [X[start : start + size] for start, size in zip(starts, sizes, strict=False)]
    requests = [VectorRequest(input_data=part.ravel().tolist(), batch_size=len(part)) for part in parts]
    submit(engine, model, replies, [member(index, request) for index, request in enumerate(requests)])
    got = await replies.all(len(sizes))
    for index, part in enumerate(parts):
        alone = await engine.predict(part)
        assert without_times(got[index]) == without_times(alone.response.model_dump())
    await settled(engine, model)


async def test_an_invalid_member_fails_alone(started: Started) -> None:
    engine, model, replies = await started()
    requests = [X[0], np.array([1.0, 2.0]), X[1], np.full(FEATURES, 1e39), np.ones(1)]
    submit(engine, model, replies, [member(index, request) for index, request in enumerate(requests)])
    got = await replies.all(len(requests))
    assert isinstance(got[1], InvalidInput)
    assert "2 numbers given, the model takes 4" in str(got[1])
    assert isinstance(got[3], InvalidInput)
    assert "input_data[0]" in str(got[3])
    assert isinstance(got[4], InvalidInput), "one number is no row of four"
    for index in (0, 2):
        assert got[index]["predictions"]
    await settled(engine, model)
    assert outcomes(engine) == {"ok": 2, "invalid": 3}


async def test_of_a_run_that_fails_only_the_member_at_fault_gets_the_error(started: Started) -> None:
    engine, model, replies = await started()
    rows = X[:13].copy()
    rows[9, 0] = 7.0
    gate = Gate(model, bad=7.0)
    gate.open.set()
    submit(engine, model, replies, [member(index, row) for index, row in enumerate(rows)])
    got = await replies.all(len(rows))
    assert [index for index, what in got.items() if isinstance(what, InferenceError)] == [9]
    for index in set(range(13)) - {9}:
        assert without_times(got[index]) == without_times((await engine.predict(rows[index])).response.model_dump())
    await settled(engine, model)
    assert outcomes(engine)["error"] == 1


async def test_a_member_whose_outputs_are_not_finite_fails_alone(started: Started) -> None:
    engine, model, replies = await started()
    rows = X[:5].copy()
    rows[3] = 3.4e38  # finite, and its products are not
    submit(engine, model, replies, [member(index, row) for index, row in enumerate(rows)])
    got = await replies.all(len(rows))
    assert [index for index, what in got.items() if isinstance(what, OutOfRange)] == [3]
    await settled(engine, model)


async def test_members_keep_the_deadlines_they_came_with_when_their_run_is_repeated(started: Started) -> None:
    engine, model, replies = await started(batch_size=4)
    gate = Gate(model, bad=7.0)
    rows = X[:2].copy()
    rows[0, 0] = 7.0
    due = [member(index, row, timeout_s=0.3) for index, row in enumerate(rows)]
    submit(engine, model, replies, due)
    got = await replies.all(2)
    assert all(isinstance(what, DeadlineExceeded) for what in got.values())
    assert time.monotonic() >= due[0].deadline - 0.01
    gate.open.set()
    await settled(engine, model)
    assert outcomes(engine) == {"deadline": 2}


async def test_a_member_past_its_own_deadline_gets_no_answer(started: Started) -> None:
    engine, model, replies = await started()
    gate = Gate(model)
    late, early = member("late", X[0], timeout_s=0.05), member("in time", X[1])
    submit(engine, model, replies, [late, early])
    await asyncio.sleep(0.06)
    gate.open.set()
    got = await replies.all(2)
    assert isinstance(got["late"], DeadlineExceeded)
    assert "m:1.0.0" in str(got["late"])
    assert got["in time"]["predictions"]
    assert outcomes(engine) == {"ok": 1, "deadline": 1}


async def test_a_cancelled_member_leaves_the_queue_and_is_counted_as_cancelled(started: Started) -> None:
    engine, model, replies = await started(batch_size=4)
    gate = Gate(model)
    submit(engine, model, replies, [member("running", X[0])])
    await until_async(lambda: gate.runs == [1])
    waiting = [member(index, X[index]) for index in range(4)]
    submit(engine, model, replies, waiting)
    engine.bundler.cancel(waiting[1])
    engine.bundler.cancel(waiting[1])
    assert model.batcher.queued_rows == 3
    gate.open.set()
    got = await replies.all(4)
    assert 1 not in got
    for index in (0, 2, 3):
        assert without_times(got[index]) == without_times((await engine.predict(X[index])).response.model_dump())
    assert gate.runs[:2] == [1, 3]
    await settled(engine, model)
    assert outcomes(engine)["cancelled"] == 1


async def test_a_bundle_whose_members_have_all_left_does_not_run(started: Started) -> None:
    engine, model, replies = await started()
    gate = Gate(model)
    submit(engine, model, replies, [member("running", X[0])])
    await until_async(lambda: gate.runs == [1])
    waiting = [member(index, X[index]) for index in range(3)]
    submit(engine, model, replies, waiting)
    for each in waiting:
        engine.bundler.cancel(each)
    assert model.batcher.queued_rows == 0
    gate.open.set()
    await replies.all(1)
    await settled(engine, model)
    assert gate.runs == [1]


async def test_a_member_that_leaves_while_its_run_is_on_gets_no_answer(started: Started) -> None:
    engine, model, replies = await started()
    gate = Gate(model)
    running = [member(index, X[index]) for index in range(3)]
    submit(engine, model, replies, running)
    await until_async(lambda: gate.runs == [3])
    engine.bundler.cancel(running[0])
    gate.open.set()
    got = await replies.all(2)
    assert set(got) == {1, 2}
    for index in (1, 2):
        assert without_times(got[index]) == without_times((await engine.predict(X[index])).response.model_dump())
    await settled(engine, model)


async def test_a_full_queue_takes_as_many_members_as_it_has_room_for(started: Started) -> None:
    engine, model, replies = await started(batch_size=4, max_queue_size=8)
    gate = Gate(model)
    submit(engine, model, replies, [member("running", X[0])])
    await until_async(lambda: gate.runs == [1])
    submit(engine, model, replies, [member(index, X[index]) for index in range(11)])
    refused = [index for index, what in replies.got.items() if isinstance(what, Overloaded)]
    assert len(refused) == 3
    assert model.batcher.queued_rows == 8
    gate.open.set()
    await replies.all(12)
    await settled(engine, model)
    assert outcomes(engine) == {"ok": 9, "overloaded": 3}


async def test_a_bundle_of_higher_priority_evicts_one_of_lower(started: Started) -> None:
    engine, model, replies = await started(batch_size=4, max_queue_size=4)
    gate = Gate(model)
    submit(engine, model, replies, [member("running", X[0])])
    await until_async(lambda: gate.runs == [1])
    submit(engine, model, replies, [member(("low", index), X[index]) for index in range(4)])
    submit(engine, model, replies, [member(("high", index), X[index]) for index in range(4)], priority=5)
    gate.open.set()
    got = await replies.all(9)
    assert all(isinstance(got["low", index], Overloaded) for index in range(4))
    assert all(got["high", index]["predictions"] for index in range(4))
    await settled(engine, model)


async def test_a_bundle_that_gives_way_loses_only_as_many_members_as_are_needed(started: Started) -> None:
    """To a flow with less in the full queue, and to a higher priority; the others keep their place."""
    engine, model, replies = await started(batch_size=16, max_queue_size=16)
    gate = Gate(model)
    submit(engine, model, replies, [member("running", X[0])])
    await until_async(lambda: bool(gate.runs))
    submit(engine, model, replies, [member(index, X[index]) for index in range(16)])
    bundle = engine.bundler.begin(model, model.runner, replies)
    bundle.flow = Flow("small")
    assert engine.bundler.submit(bundle, [member("fair", X[20]), member("fair too", X[21])])
    submit(engine, model, replies, [member("urgent", X[22])], priority=1)
    assert model.batcher.queued_rows == 16
    gate.open.set()
    got = await replies.all(20)
    refused = {caller: str(answer) for caller, answer in got.items() if isinstance(answer, Exception)}
    assert refused == {
        13: "evicted by requests of a higher priority",
        14: "evicted by requests of callers with fewer of them in the full queue",
        15: "evicted by requests of callers with fewer of them in the full queue",
    }
    assert outcomes(engine) == {"ok": 17, "overloaded": 3}
    await settled(engine, model)


async def test_the_members_of_an_unloaded_model_get_an_error(started: Started) -> None:
    engine, model, replies = await started()
    gate = Gate(model)
    submit(engine, model, replies, [member("running", X[0])])
    await until_async(lambda: gate.runs == [1])
    submit(engine, model, replies, [member(index, X[index]) for index in range(3)])
    gate.open.set()
    model.batcher.close()
    got = await replies.all(4)
    assert {index for index, what in got.items() if isinstance(what, ModelNotReady)} <= {0, 1, 2}
    await settled(engine, model)
    model.retired = True
    assert not engine.bundler.submit(engine.bundler.begin(model, model.runner, replies), [member("after", X[0])])
    assert engine.inflight == 0


async def test_an_observer_sees_each_member_with_its_own_rows(started: Started) -> None:
    seen: list[Observation] = []
    engine, model, replies = await started(observers=[seen.append])
    submit(engine, model, replies, [member(index, X[index]) for index in range(5)])
    await replies.all(5)
    assert [each.request_id for each in seen] == [f"id-{index}" for index in range(5)]
    for index, each in enumerate(seen):
        assert each.outcome == "ok"
        assert each.inputs is not None
        np.testing.assert_array_equal(each.inputs["x"], X[index : index + 1].astype(np.float32))
        assert each.outputs is not None
        assert each.outputs["logits"].shape == (1, 3)
        assert each.total_ms >= each.pre_ms + each.queue_ms + each.run_ms + each.post_ms - 1e-6


async def test_an_observer_of_runs_gets_the_answers_of_a_run_once_and_failures_one_by_one(started: Started) -> None:
    class Observer:
        def __init__(self) -> None:
            self.runs: list[AnsweredRun] = []
            self.alone: list[Observation] = []

        def __call__(self, seen: Observation) -> None:
            self.alone.append(seen)

        def answered(self, run: AnsweredRun) -> None:
            self.runs.append(run)

    together, one_by_one = Observer(), list[Observation]()
    engine, model, replies = await started(observers=[together, one_by_one.append])
    late = Member("late", X[5], time.monotonic() - 1, time.monotonic() - 0.5)
    submit(engine, model, replies, [*(member(index, X[index]) for index in range(5)), late])
    await replies.all(6)
    assert [seen.outcome for seen in together.alone] == ["deadline"]
    assert [request.request_id for run in together.runs for request in run.requests] == [f"id-{i}" for i in range(5)]
    found = [seen for run in together.runs for seen in run.observations()]
    assert [seen.request_id for seen in found] == [seen.request_id for seen in one_by_one if seen.outcome == "ok"]
    for index, (run_seen, seen) in enumerate(zip(found, one_by_one[-5:], strict=True)):
        assert run_seen.inputs is not None
        np.testing.assert_array_equal(run_seen.inputs["x"], X[index : index + 1].astype(np.float32))
        assert (run_seen.total_ms, run_seen.batch_rows, run_seen.rows) == (seen.total_ms, seen.batch_rows, 1)
    assert outcomes(engine) == {"ok": 5, "deadline": 1}


async def test_an_observer_is_called_in_the_context_of_its_request(started: Started) -> None:
    name: ContextVar[str] = ContextVar("name", default="none")
    seen: list[str] = []
    engine, model, replies = await started(observers=[lambda _: seen.append(name.get())])
    members = [member(index, X[index]) for index in range(3)]
    for each in members[:2]:
        each.context = copy_context()
        each.context.run(name.set, each.request_id)
    submit(engine, model, replies, members)
    await replies.all(3)
    assert seen == ["id-0", "id-1", "none"]


async def test_the_wait_for_the_turn_is_time_in_the_queue(started: Started) -> None:
    engine, model, replies = await started()
    early = Member("early", X[0], time.monotonic() - 0.5, time.monotonic() + 60)
    submit(engine, model, replies, [early, member("now", X[1])])
    await replies.all(2)
    times = replies.times["early"]
    assert times.queues_ms[0] >= 500
    assert times.pre_ms < 500
    stats = engine.get_stats()["models"]["m:1.0.0"]
    assert stats["requests"] == 2
    assert stats["p99_ms"] >= 450


async def test_figures_of_a_bundle_equal_those_of_single_requests(started: Started) -> None:
    engine, model, replies = await started()
    submit(engine, model, replies, [member(index, X[index]) for index in range(40)])
    await replies.all(40)
    figures = engine.snapshot()["models"][0]
    assert figures["outcomes"] == {"ok": 40}
    assert all(sum(counts) == 40 for counts in figures["histograms"])
    assert sum(figures["batches"].values()) == 40
    assert sum(part["count"] for part in figures["recent"].values()) == 40
    total, pre, queue, run, post = figures["sums"]
    assert total >= pre + queue + run + post - 1e-6
    assert min(pre, queue, run, post) > 0


async def test_random_bundles_cancellations_and_faults_leave_nothing_behind(started: Started) -> None:
    engine, model, replies = await started(batch_size=4, max_queue_size=16)
    random = np.random.default_rng(11)
    rows = X.copy()
    rows[::17, 0] = 7.0
    alone = [(await engine.predict(row)).response.model_dump() for row in X]
    gate = Gate(model, bad=7.0)
    gate.open.set()
    cancelled = sent = 0
    for _ in range(150):
        picks = random.integers(0, len(X), size=random.integers(1, 9))
        members = [member((sent + place, int(pick)), rows[pick]) for place, pick in enumerate(picks)]
        sent += len(members)
        submit(engine, model, replies, members, int(random.integers(0, 2)))
        if random.random() < 0.5:
            gone = members[int(random.integers(len(members)))]
            cancelled += not gone.ended
            engine.bundler.cancel(gone)
        if random.random() < 0.5:
            await asyncio.sleep(0)
    await settled(engine, model)
    assert len(replies.got) == sent - cancelled
    for (_, pick), what in replies.got.items():
        if isinstance(what, dict):
            assert without_times(what) == without_times(alone[pick])
            assert pick % 17
        else:
            assert isinstance(what, Overloaded) or (isinstance(what, InferenceError) and pick % 17 == 0)
    counted = outcomes(engine)
    assert sum(counted.values()) == sent + len(X)
    assert counted.get("cancelled", 0) == cancelled


class Joining(VectorClassification):
    """Prepares its requests together, and counts how often."""

    inline = True
    calls: ClassVar[list[int]] = []

    def preprocess_all(self, requests: Sequence[Any]) -> Arrays | None:
        self.calls.append(len(requests))
        if any(request.batch_size != 1 for request in requests):
            return None
        parts = [self.preprocess(request) for request in requests]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("kind", ["all fit", "one is of two rows", "one is invalid"])
async def test_requests_that_their_task_prepares_together_get_the_answers_of_each_alone(
    started: Started, kind: str
) -> None:
    engine, model, replies = await started()
    model.runner.task.__class__ = Joining
    Joining.calls.clear()
    requests = [VectorRequest(input_data=row.tolist()) for row in X[:20]]
    if kind == "one is of two rows":
        requests[3] = VectorRequest(input_data=X[3:5].ravel().tolist(), batch_size=2)
    if kind == "one is invalid":
        requests[3] = VectorRequest(input_data=[1.0, 2.0])
    submit(engine, model, replies, [member(index, request) for index, request in enumerate(requests)])
    got = await replies.all(len(requests))
    assert Joining.calls == [20]
    for index, request in enumerate(requests):
        if kind == "one is invalid" and index == 3:
            assert isinstance(got[index], InvalidInput)
            continue
        alone = await engine.predict(request)
        assert without_times(got[index]) == without_times(alone.response.model_dump())
    await settled(engine, model)


async def test_a_bug_while_a_bundle_is_prepared_fails_its_members_and_leaves_nothing_behind(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model, replies = await started()

    def broken(requests: Any) -> Any:
        raise RuntimeError(f"a bug with {len(requests)} requests")

    monkeypatch.setattr(model.task, "rows_into", broken)
    submit(engine, model, replies, [member(index, X[index]) for index in range(3)])
    got = await replies.all(3)
    assert all(isinstance(what, InferenceError) for what in got.values())
    await settled(engine, model)
    assert outcomes(engine) == {"error": 3}
