"""Tasks in an engine: several for one model, misbehaving tasks, ranges, and the cache."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from linear_models import FEATURES, SIGNATURE, linear, weights
from pydantic import BaseModel
from waiting import until

from penstock.artifacts.artifact import Artifact, Range, Ranges, TaskEntry, VariantSource, write_artifact
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.observation import Observation
from penstock.engine.tasks import task_thread_pool as aside_module
from penstock.engine.tasks.ranges import Flag
from penstock.errors import (
    ConfigError,
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    ModelLoadError,
    OutOfRange,
)
from penstock.registry.registry import Registry
from penstock.tasks import catalog
from penstock.tasks.base import Task
from penstock.tasks.vector import VectorClassification
from penstock.tensors import Arrays

X = np.random.default_rng(3).standard_normal((20, FEATURES)).astype(np.float32)
VECTOR = TaskEntry(kind="vector-classification", config={"output": "logits"})
TENSOR = TaskEntry(kind="tensor")

Publish = Callable[..., Artifact]
MakeEngine = Callable[..., Any]


class Order(BaseModel):
    do: str = "answer"


class Done(BaseModel):
    thread: str


class Moody(Task):
    """Behaves as its request sets: answers, raises, hangs, returns a wrong shape, exits."""

    kind: ClassVar[str] = "moody"
    Request: ClassVar[type[BaseModel]] = Order
    Response: ClassVar[type[BaseModel]] = Done
    gate: ClassVar[threading.Event]

    def preprocess(self, request: Any) -> Arrays:
        made: dict[str, Callable[[], Any]] = {
            "raise": lambda: [][0],
            "hang": lambda: self.gate.wait(20),
            "exit": lambda: sys.exit(3),
            "stop": lambda: next(iter(())),
            "shape": lambda: {"x": np.zeros((1, FEATURES + 1), np.float32)},
            "name": lambda: {"z": np.zeros((1, FEATURES), np.float32)},
            "none": lambda: None,
        }
        if request.do in made:
            return made[request.do]()  # type: ignore[no-any-return]
        return {"x": np.zeros((1, FEATURES), np.float32)}

    def postprocess(self, outputs: Arrays, request: Any) -> Any:
        after: dict[str, Callable[[], Any]] = {
            "raise after": lambda: {}["secret"],
            "hang after": lambda: self.gate.wait(20),
            "wrong after": lambda: {"thread": "a dict"},
        }
        if request.do in after:
            return after[request.do]()
        return Done(thread=threading.current_thread().name)

    def coerce(self, value: Any) -> BaseModel:
        return Order(do=value)


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Moody.gate = threading.Event()
    entry = EntryPoint("moody", f"{__name__}:Moody", catalog.GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules["__main__"])
    monkeypatch.setattr(sys.modules[__name__], "Moody", Moody, raising=False)
    monkeypatch.setattr(catalog, "entry_points", lambda *, group: [entry] if group == catalog.GROUP else [])
    yield
    Moody.gate.set()


@pytest.fixture
def add(tmp_path: Path, registry: Registry) -> Publish:
    def add(name: str = "m", task: TaskEntry = VECTOR, seed: int = 0, **more: Any) -> Artifact:
        artifact = write_artifact(
            tmp_path / f"source-{name}",
            name=name,
            version="1",
            task=task,
            signature=SIGNATURE,
            variants=[VariantSource("onnx", "fp32", linear(tmp_path / f"{name}.onnx", seed))],
            golden=None,
            card="",
            **more,
        )
        return registry.publish(artifact.path, prove=False)  # some name tasks that fail

    return add


@pytest.fixture
async def make(registry: Registry) -> AsyncIterator[MakeEngine]:
    made: list[InferenceEngine] = []

    async def make(**config: Any) -> InferenceEngine:
        made.append(InferenceEngine(InferenceConfig(**config), registry=registry))
        await made[-1].start()
        return made[-1]

    yield make
    for engine in made:
        await engine.close()


# Several tasks


async def test_a_model_serves_each_of_its_tasks(make: MakeEngine, add: Publish) -> None:
    add(more_tasks=[TENSOR])
    engine = await make()
    as_class = await engine.predict(X[0])
    as_tensor = await engine.predict({"x": X[:1]}, task="tensor")
    expected = X[:1] @ weights(0)
    np.testing.assert_allclose(as_tensor.response.outputs["logits"], expected, rtol=1e-5)
    assert as_class.response.predictions == [int(expected.argmax())]
    named = await engine.predict(X[0], task="vector-classification")
    assert named.response.predictions == as_class.response.predictions


async def test_a_task_the_model_does_not_have_is_refused_by_name(make: MakeEngine, add: Publish) -> None:
    add(more_tasks=[TENSOR])
    engine = await make()
    with pytest.raises(InvalidInput, match="m:1 has no task 'poetry'; it has vector-classification, tensor") as caught:
        await engine.predict(X[0], task="poetry")
    assert caught.value.errors[0].field == "task"


async def test_a_batch_may_name_another_task(make: MakeEngine, add: Publish) -> None:
    add(more_tasks=[TENSOR])
    engine = await make()
    results = await engine.predict_batch([{"x": X[:1]}, {"x": X[1:2]}], task="tensor")
    assert [len(result.response.outputs["logits"]) for result in results] == [1, 1]


def test_a_manifest_cannot_list_a_task_twice(add: Publish) -> None:
    with pytest.raises(InvalidInput, match="the task 'tensor' is listed twice"):
        add(task=TENSOR, more_tasks=[TENSOR])


async def test_a_further_task_that_cannot_be_loaded_fails_the_load(add: Publish, registry: Registry) -> None:
    add(more_tasks=[TaskEntry(kind="poetry")])
    engine = InferenceEngine(InferenceConfig(), registry=registry)
    with pytest.raises(ModelLoadError, match="no task of the kind 'poetry'"):
        await engine.start(["m"])
    await engine.close()


# Tasks that misbehave


async def test_a_task_of_a_third_party_runs_in_a_thread(make: MakeEngine, add: Publish) -> None:
    add(task=TaskEntry(kind="moody"))
    engine = await make()
    assert (await engine.predict("answer")).response.thread == "penstock-task"


def test_a_task_that_overrides_an_inline_one_is_not_inline_by_default() -> None:
    vector = catalog.task_class("vector-classification")
    assert vector.inline

    class Slow(vector):  # type: ignore[misc, valid-type]
        def preprocess(self, request: Any) -> Arrays:
            time.sleep(1)
            return super().preprocess(request)  # type: ignore[no-any-return]

    class Quick(vector):  # type: ignore[misc, valid-type]
        inline = True

        def preprocess(self, request: Any) -> Arrays:
            return super().preprocess(request)  # type: ignore[no-any-return]

    class Renamed(vector):  # type: ignore[misc, valid-type]
        kind = "renamed"

    assert (Slow.inline, Quick.inline, Renamed.inline) == (False, True, True)


@pytest.mark.parametrize(
    ("order", "error", "message"),
    [
        ("raise", InferenceError, "the task moody of m:1 failed to prepare the request"),
        ("stop", InferenceError, "failed to prepare"),
        ("exit", InferenceError, "the task moody of m:1 failed to prepare the request"),
        ("none", InferenceError, "failed to prepare"),
        ("shape", InferenceError, "the task moody of m:1 failed to prepare the request"),
        ("name", InferenceError, "the task moody of m:1 failed to prepare the request"),
        ("raise after", InferenceError, "failed on the model's outputs"),
        ("wrong after", InferenceError, "returned a dict"),
    ],
)
async def test_a_failing_task_fails_its_own_request_with_one_sentence(
    make: MakeEngine, add: Publish, order: str, error: type[Exception], message: str
) -> None:
    add(task=TaskEntry(kind="moody"))
    engine = await make()
    good, bad, also_good = await asyncio.gather(
        *(engine.predict(each) for each in ("answer", order, "answer")), return_exceptions=True
    )
    assert isinstance(bad, error)
    with pytest.raises(error, match=message):
        raise bad
    assert "secret" not in str(bad)
    assert (good.response.thread, also_good.response.thread) == ("penstock-task", "penstock-task")


@pytest.mark.parametrize("order", ["hang", "hang after"])
async def test_a_task_that_hangs_fails_its_own_request_at_the_deadline_and_no_other(
    make: MakeEngine, add: Publish, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside_module, "STUCK_AFTER_S", 0.05)
    add("a", TaskEntry(kind="moody"))
    add("b", VECTOR)
    add("c", TaskEntry(kind="moody"))
    engine = await make()
    started = time.monotonic()
    hung = [asyncio.create_task(engine.predict(order, ref="a", deadline=started + 1)) for _ in range(6)]
    await asyncio.sleep(0.02)
    others = [await engine.predict(X[0], ref="b"), await engine.predict("answer", ref="c")]
    assert [other.model for other in others] == ["b", "c"]
    assert not any(task.done() for task in hung)
    results = await asyncio.gather(*hung, return_exceptions=True)
    assert all(isinstance(result, DeadlineExceeded) for result in results)
    assert (await engine.predict("answer", ref="a")).model == "a"
    assert engine.inflight == 0


async def test_a_model_whose_task_hangs_can_be_unloaded(make: MakeEngine, add: Publish) -> None:
    add("a", TaskEntry(kind="moody"))
    engine = await make()
    with pytest.raises(DeadlineExceeded):
        await engine.predict("hang", deadline=time.monotonic() + 0.05)
    model = engine.loaded()[0]
    engine.manager.unload("a:1")
    await until(lambda: model.runner.pool._closed)


# Ranges


RANGES = Ranges(inputs={"x": Range(minimum=-10, maximum=10)}, outputs={"logits": Range(minimum=-50, maximum=50)})


async def observed(engine: InferenceEngine, request: Any, **options: Any) -> Observation:
    seen: list[Observation] = []
    engine.observers.append(seen.append)
    try:
        await engine.predict(request, **options)
    except InvalidInput:
        pass
    finally:
        engine.observers.remove(seen.append)
    return seen[0]


async def test_a_request_outside_the_expected_range_succeeds_with_a_flag(make: MakeEngine, add: Publish) -> None:
    add(ranges=RANGES)
    engine = await make()
    assert (await engine.predict(X[0])).flags == ()
    far = await engine.predict(np.full(FEATURES, 11.0))
    assert far.flags[0] == Flag("input", "x", "above")
    assert (await observed(engine, np.full(FEATURES, 11.0))).flags == far.flags


@pytest.mark.parametrize("source", ["manifest", "server"])
async def test_a_request_outside_the_expected_range_is_refused_by_policy(
    make: MakeEngine, add: Publish, source: str
) -> None:
    by_manifest = source == "manifest"
    add(ranges=RANGES.model_copy(update={"on_input": "refuse"}) if by_manifest else RANGES)
    engine = await make(**({} if by_manifest else {"on_input_range": "refuse"}))
    with pytest.raises(OutOfRange, match="x: 11 is above 10"):
        await engine.predict(np.full(FEATURES, 11.0))
    seen = await observed(engine, np.full(FEATURES, 11.0))
    assert (seen.outcome, seen.flags) == ("out_of_range", (Flag("input", "x", "above"),))
    assert (await engine.predict(X[0])).flags == ()


async def test_an_output_that_is_not_finite_is_flagged_by_raw_tensors_and_refused_by_a_classifier(
    make: MakeEngine, add: Publish
) -> None:
    add(more_tasks=[TENSOR])
    engine = await make()
    huge = np.full((1, FEATURES), 3e38, np.float32)
    assert (await engine.predict({"x": huge}, task="tensor")).flags == (Flag("output", "logits", "not_finite"),)
    with pytest.raises(OutOfRange, match="not finite"):
        await engine.predict(huge[0])
    assert (await observed(engine, huge[0])).flags == (Flag("output", "logits", "not_finite"),)


async def test_outputs_that_are_not_finite_are_refused_by_policy(make: MakeEngine, add: Publish) -> None:
    add(task=TENSOR)
    engine = await make(on_nan_output="refuse")
    with pytest.raises(OutOfRange, match="the model's output logits"):
        await engine.predict({"x": np.full((1, FEATURES), 3e38, np.float32)})


async def test_cached_outputs_are_flagged_like_fresh_ones(make: MakeEngine, add: Publish) -> None:
    add(ranges=RANGES)
    engine = await make(cache_size=10)
    fresh, again = [await engine.predict(np.full(FEATURES, 11.0)) for _ in range(2)]
    assert again.batch_rows == 0
    assert again.flags == fresh.flags != ()


def test_an_unknown_policy_is_refused_by_field() -> None:
    with pytest.raises(ConfigError, match=r"on_nan_output: 'explode'"):
        InferenceConfig(on_nan_output="explode")  # type: ignore[arg-type]


# The cache in the engine


async def test_concurrent_equal_requests_share_one_run(make: MakeEngine, add: Publish) -> None:
    add()
    engine = await make(cache_bytes=1_000_000)
    answers = await asyncio.gather(*(engine.predict(X[0]) for _ in range(30)))
    assert len({tuple(answer.response.confidence_scores) for answer in answers}) == 1
    assert [answer.batch_rows for answer in answers].count(0) == 29
    assert engine.get_stats()["cache"] == {**engine.cache.figures()._asdict(), "entries": 1, "hits": 29, "misses": 1}


async def test_models_with_the_same_file_do_not_share_cache_entries(make: MakeEngine, add: Publish) -> None:
    add("a", seed=1)
    add("b", seed=1)
    engine = await make(cache_size=10)
    await engine.predict(X[0], ref="a")
    assert (await engine.predict(X[0], ref="b")).batch_rows == 1


async def test_unloading_a_model_drops_its_cache_entries(make: MakeEngine, add: Publish) -> None:
    add("a", seed=1)
    add("b", seed=2)
    engine = await make(cache_size=10)
    for ref in ("a", "b"):
        await engine.predict(X[0], ref=ref)
    engine.manager.unload("a:1")
    await until(lambda: engine.cache.figures().entries == 1)
    assert (await engine.predict(X[0], ref="a")).batch_rows == 1
    assert (await engine.predict(X[0], ref="b")).batch_rows == 0


async def test_large_requests_are_cached_as_well(make: MakeEngine, add: Publish) -> None:
    add()
    engine = await make(cache_size=10)
    assert [(await engine.predict(X[0], in_thread=True)).batch_rows for _ in range(2)] == [1, 0]


async def test_without_a_cache_there_are_no_cache_figures(make: MakeEngine, add: Publish) -> None:
    add()
    engine = await make()
    assert engine.cache is None
    assert engine.get_stats()["cache"] is None


def test_a_task_that_gives_requests_another_meaning_answers_each_alone_by_default() -> None:
    class Together(VectorClassification):
        bundles = True

        def preprocess_all(self, requests: Sequence[Any]) -> Arrays | None:
            return self.rows_into([request.input_data for request in requests])

    class Renamed(Together):
        kind = "renamed"

    class Rounded(Together):
        inline = True

        def postprocess(self, outputs: Arrays, request: Any) -> BaseModel:
            return super().postprocess({name: array.round(1) for name, array in outputs.items()}, request)

    class Halved(Together):
        inline = True

        def preprocess(self, request: Any) -> Arrays:
            return {name: array / 2 for name, array in super().preprocess(request).items()}

    assert (VectorClassification.bundles, Renamed.bundles, Rounded.bundles, Halved.bundles) == (
        True,
        True,
        False,
        False,
    )
    assert Renamed.preprocess_all is Rounded.preprocess_all is Together.preprocess_all
    assert Halved.preprocess_all is Task.preprocess_all
