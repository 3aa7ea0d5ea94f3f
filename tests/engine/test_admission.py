"""Admission: what is refused, by which model's queue, and that each refusal is observed once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from linear_models import FEATURES, Publish
from waiting import until

from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.engine.observation import Observation, Prediction
from penstock.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PenstockError,
)
from penstock.registry.registry import Registry

X = np.random.default_rng(3).standard_normal((8, FEATURES)).astype(np.float32)


@pytest.fixture
async def engine(registry: Registry, publish: Publish) -> AsyncIterator[InferenceEngine]:
    """`a` 1 and 2, and `b` 1, with queues of 2 rows."""
    for name, version in (("a", "1"), ("a", "2"), ("b", "1")):
        publish(name, version)
    engine = InferenceEngine(InferenceConfig(max_queue_size=2, batch_size=1, model_path="a:1"), registry=registry)
    await engine.start(["a:2", "b"])
    yield engine
    await engine.close()


@pytest.fixture
def seen(engine: InferenceEngine) -> list[Observation]:
    found: list[Observation] = []
    engine.observers.append(found.append)
    return found


class Held:
    """A model whose run blocks until it is released."""

    def __init__(self, model: LoadedModel) -> None:
        self.batcher = model.batcher
        self._gate = threading.Event()
        run = model.backend.run

        def held(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self._gate.wait(10)
            return run(inputs)

        self.batcher.runner.run = held
        self.batcher._inline = False
        self.batcher._concurrency = 1

    async def fill(self, engine: InferenceEngine, ref: str | None) -> list[asyncio.Task[Prediction]]:
        """A running request, and a full queue."""
        inside = [asyncio.create_task(engine.predict(X[0], ref=ref))]
        await until(lambda: self.batcher.running_rows == 1)
        inside += [asyncio.create_task(engine.predict(X[1], ref=ref)) for _ in range(2)]
        await until(lambda: self.batcher.queued_rows == 2)
        return inside

    def let_go(self) -> None:
        self._gate.set()


@pytest.fixture
async def held(engine: InferenceEngine) -> AsyncIterator[Held]:
    """The default model, held."""
    held = Held(await engine.model())
    yield held
    held.let_go()


async def test_a_full_queue_of_one_model_refuses_nothing_of_another(engine: InferenceEngine, held: Held) -> None:
    inside = await held.fill(engine, None)
    with pytest.raises(Overloaded):
        engine.admission.request().check()
    assert engine.admission.request("b").check() is await engine.model("b")
    assert (await engine.predict(X[0], ref="b")).model == "b"
    (answer,) = await engine.predict_batch([X[0]], ref="b")
    assert isinstance(answer, Prediction)
    assert (await engine.infer("b", {"x": X})).model == "b"
    with pytest.raises(Overloaded):
        await engine.infer(None, {"x": X[:1]})
    held.let_go()
    assert {(await task).version for task in inside} == {"1"}


async def test_a_higher_priority_is_admitted_to_a_full_queue(engine: InferenceEngine, held: Held) -> None:
    inside = await held.fill(engine, None)
    urgent = asyncio.create_task(engine.infer(None, {"x": X[:1]}, priority=5))
    await until(lambda: any(task.done() for task in inside))
    held.let_go()
    assert (await urgent).version == "1"
    results = await asyncio.gather(*inside, return_exceptions=True)
    assert [type(result) for result in results].count(Prediction) == 2
    assert sum(isinstance(result, Overloaded) for result in results) == 1


async def test_draining_refuses_all_kinds_of_requests_and_finishes_those_in_flight(
    engine: InferenceEngine, held: Held
) -> None:
    inside = await held.fill(engine, None)
    engine.begin_drain()
    for refused in (engine.predict(X[0], ref="b"), engine.predict_batch([X[0]]), engine.infer("b", {"x": X})):
        with pytest.raises(ModelNotReady, match="accepts no more requests"):
            await refused
    assert engine.inflight == 3
    held.let_go()
    assert await engine.drain(5)
    assert len([await task for task in inside]) == 3
    engine.end_drain()
    assert (await engine.infer("b", {"x": X})).model == "b"


async def test_a_batch_in_flight_is_finished_while_draining(engine: InferenceEngine, held: Held) -> None:
    batch = asyncio.create_task(engine.predict_batch(list(X)))
    await until(lambda: held.batcher.running_rows == 1)
    engine.begin_drain()
    held.let_go()
    assert all(isinstance(answer, Prediction) for answer in await batch)
    assert engine.inflight == 0


async def test_each_refusal_is_observed_once_with_its_outcome(
    engine: InferenceEngine, held: Held, seen: list[Observation]
) -> None:
    async def refused(error: type[PenstockError], **how: object) -> None:
        with pytest.raises(error):
            await engine.infer(**{"ref": None, "arrays": {"x": X[:1]}, "key": "k", **how})  # type: ignore[arg-type]

    inside = await held.fill(engine, None)
    await refused(Overloaded)
    await refused(ModelNotFound, ref="missing")
    await refused(InvalidInput, ref="b", arrays={"y": X})
    await refused(DeadlineExceeded, ref="b", deadline=time.monotonic() - 1)
    engine.begin_drain()
    await refused(ModelNotReady, ref="b")
    expected = [("overloaded", "a"), ("not_found", ""), ("invalid", "b"), ("deadline", "b"), ("not_ready", "b")]
    assert [(each.outcome, each.model) for each in seen] == expected
    assert {(each.task, each.key, each.protocol) for each in seen} == {("tensor", "k", "python")}
    assert [type(each.error) for each in seen[:2]] == [Overloaded, ModelNotFound]
    held.let_go()
    await asyncio.gather(*inside)
    assert engine.inflight == 0


async def test_an_item_of_a_batch_that_is_evicted_and_answered_later_is_observed_once(
    engine: InferenceEngine, held: Held, seen: list[Observation]
) -> None:
    batch = asyncio.create_task(engine.predict_batch([X[0], X[1], X[2]]))
    await until(lambda: held.batcher.running_rows == 1 and held.batcher.queued_rows == 1)
    urgent = [asyncio.create_task(engine.predict(X[3], priority=9)) for _ in range(2)]
    await asyncio.sleep(0.05)
    held.let_go()
    assert all(isinstance(answer, Prediction) for answer in await batch)
    await asyncio.gather(*urgent)
    assert [each.outcome for each in seen] == ["ok"] * 5


async def test_fields_of_an_observation_are_read_by_name(engine: InferenceEngine, seen: list[Observation]) -> None:
    answer = await engine.infer("b", {"x": X}, request_id="id", key="customer-7", protocol="grpc")
    (found,) = seen
    assert (found.task, found.protocol, found.key, found.request_id) == ("tensor", "grpc", "customer-7", "id")
    assert (found.rows, found.error, found.outcome) == (8, None, "ok")
    assert found.inputs is not None
    assert found.outputs is not None
    np.testing.assert_array_equal(found.inputs["x"], X)
    np.testing.assert_array_equal(found.outputs["logits"], answer.outputs["logits"])


async def test_a_lease_moves_to_another_version_and_holds_only_that(engine: InferenceEngine) -> None:
    one, two = await engine.model("a:1"), await engine.model("a:2")
    with engine.admission.request("a:1") as lease:
        assert lease.hold()
        await lease.move_to("a:2")
        assert (lease.model, one.leases, two.leases, engine.inflight) == (two, 0, 1, 1)
        with pytest.raises(ModelNotFound):
            await lease.move_to("a:3")
        assert (lease.model, two.leases) == (two, 1)
    assert (two.leases, engine.inflight) == (0, 0)


async def test_the_model_of_a_lease_stays_open_until_the_lease_is_left(engine: InferenceEngine) -> None:
    model = await engine.model("b")
    with engine.admission.request("b") as lease:
        assert lease.hold()
        engine.manager.unload("b:1")
        assert (await engine.pipeline.predict(lease, X[0])).model == "b"
    await until(lambda: not model._closing.acquire(blocking=False) or model._closing.release() is not None)


async def test_a_model_that_is_not_loaded_is_loaded_before_it_is_leased(engine: InferenceEngine) -> None:
    engine.manager.unload("b:1")
    with engine.admission.request("b") as lease:
        assert not lease.hold()
        await lease.load()
        assert (lease.model.key, lease.model.leases) == ("b:1", 1)


async def test_the_timeout_of_the_server_is_the_deadline_of_a_request_without_one(engine: InferenceEngine) -> None:
    before = time.monotonic()
    with engine.admission.request("b") as lease:
        assert lease.hold()
        assert lease.deadline - before == pytest.approx(engine.config.request_timeout_ms / 1000, abs=1)
        lease.model.batcher.timeout_s = 0.5
        with engine.admission.request("b", deadline=before + 100) as other:
            assert other.hold()
            assert other.deadline - before == pytest.approx(0.5, abs=0.4)


async def test_a_task_the_model_does_not_have_is_refused_before_the_model_is_held(engine: InferenceEngine) -> None:
    with pytest.raises(InvalidInput, match="it has vector-classification, tensor"):
        engine.admission.request("b", task="poetry").check()
    assert engine.inflight == 0


@pytest.fixture
def served_file(tmp_path: Path, onnx_file: Path) -> InferenceEngine:
    return InferenceEngine(InferenceConfig(model_path=str(onnx_file), registry=str(tmp_path / "empty")))


async def test_a_bare_file_is_leased_like_any_other_model(served_file: InferenceEngine) -> None:
    await served_file.start()
    for ref in (None, "linear", "linear:v1.0"):
        assert (await served_file.infer(ref, {"x": X})).model == "linear"
    await served_file.close()
