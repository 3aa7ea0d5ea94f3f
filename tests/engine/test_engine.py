"""The engine with real models: predictions, versions, readiness, overload, and observations."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_models import FEATURES, Publish, weights
from waiting import until

from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading import manager as manager_module
from penstock.engine.observation import Observation, Prediction
from penstock.engine.routing import choose
from penstock.errors import (
    ConfigError,
    DeadlineExceeded,
    GoldenMismatch,
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
)
from penstock.registry.registry import Registry
from penstock.tasks.vector import VectorClassification

MakeEngine = Callable[..., InferenceEngine]
X = np.random.default_rng(3).standard_normal((200, FEATURES)).astype(np.float32)


def classes(seed: int, x: np.ndarray = X) -> list[int]:
    return [int(c) for c in (x @ weights(seed)).argmax(axis=1)]


@pytest.fixture
async def make(registry: Registry) -> AsyncIterator[MakeEngine]:
    made: list[InferenceEngine] = []

    def make(**config: Any) -> InferenceEngine:
        made.append(InferenceEngine(InferenceConfig(**{"max_queue_size": 512, **config}), registry=registry))
        return made[-1]

    yield make
    for engine in made:
        await engine.close()


async def answer(engine: InferenceEngine, row: np.ndarray, **options: Any) -> int:
    prediction = await engine.predict(row, **options)
    return int(prediction.response.predictions[0])  # type: ignore[attr-defined]


async def test_concurrent_requests_get_their_own_predictions(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    assert await asyncio.gather(*(answer(engine, row) for row in X)) == classes(0)


async def test_a_field_of_the_first_request_says_which_version_answers_a_batch(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish()
    publish(version="2.0.0", seed=1)
    sticky = {"by": "field", "name": "batch_size"}
    arms = [{"version": f"{number}.0.0", "weight": 50} for number in (1, 2)]
    route = registry.routes.set("m", {"arms": arms, "sticky": sticky}, force=True).route
    engine = make()
    await engine.start()
    chosen = {size: choose(route, None, None, "", str(size)) for size in range(1, 9)}
    assert {choice.version for choice in chosen.values() if choice} == {"1.0.0", "2.0.0"}
    for size, choice in chosen.items():
        first = {"input_data": X[:size].ravel().tolist(), "batch_size": size}
        answers = await engine.predict_batch(iter([first, X[0]]))
        assert choice is not None
        assert {each.version for each in answers if isinstance(each, Prediction)} == {choice.version}
    assert await engine.predict_batch(iter([])) == []


async def test_a_prediction_has_model_version_variant_and_phase_times(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    p = await engine.predict(X[0])
    assert (p.model, p.version, p.variant, p.batch_rows) == ("m", "1.0.0", "onnx-fp32", 1)
    assert min(p.pre_ms, p.run_ms, p.post_ms) > 0
    assert p.total_ms >= p.pre_ms + p.queue_ms + p.run_ms + p.post_ms - 1e-6
    assert p.response.model_version == "1.0.0"  # type: ignore[attr-defined]
    assert p.response.inference_time_ms == round(p.run_ms, 4)  # type: ignore[attr-defined]


async def test_an_overridden_stamp_of_a_response_is_called(
    make: MakeEngine, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of packages override `stamp`, to store results."""
    publish()
    engine = make()
    await engine.start()
    stamped: list[tuple[str, float]] = []

    def stamp(self: Any, version: str, pre_ms: float = 0.0, run_ms: float = 0.0, post_ms: float = 0.0) -> None:
        stamped.append((version, run_ms))

    monkeypatch.setattr(VectorClassification.Response, "stamp", stamp)
    prediction = await engine.predict(X[0])
    assert stamped == [("1.0.0", prediction.run_ms)]


async def test_a_prediction_does_not_depend_on_the_other_requests_of_its_batch(
    make: MakeEngine, publish: Publish
) -> None:
    publish()
    engine = make()
    await engine.start()
    alone = await engine.predict(X[0])
    outlier = np.full(FEATURES, 1e30, np.float32)
    together = await asyncio.gather(*(engine.predict(row) for row in (outlier, X[0], outlier)))
    assert together[1].batch_rows == 3
    assert together[1].response.predictions == alone.response.predictions  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        together[1].response.confidence_scores, alone.response.confidence_scores, rtol=1e-5  # type: ignore[attr-defined]
    )


async def test_an_invalid_request_fails_alone_before_batching(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    bad = np.array([1.0, np.nan, 0.0, 0.0])
    results = await asyncio.gather(*(engine.predict(r) for r in (X[0], bad, X[1])), return_exceptions=True)
    assert isinstance(results[1], InvalidInput)
    assert results[1].errors[0].field == "input_data[1]"
    assert [type(r) for r in (results[0], results[2])] == [Prediction, Prediction]


async def test_predict_batch_answers_in_order_and_gives_a_bad_item_its_own_error(
    make: MakeEngine, publish: Publish
) -> None:
    publish()
    engine = make(max_queue_size=40, batch_size=8)
    await engine.start()
    items: list[Any] = [*X, np.zeros(2)]
    results = await engine.predict_batch(items)
    assert [r.response.predictions[0] for r in results[:-1]] == classes(0)  # type: ignore[union-attr]
    assert isinstance(results[-1], InvalidInput)


async def test_versions_and_aliases_are_answered_by_the_model_they_name(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish(version="1.0.0", seed=1)
    publish(version="2.0.0", seed=2)
    registry.set_alias("m", "stable", "1.0.0")
    engine = make()
    await engine.start()
    for ref, version in ((None, "2.0.0"), ("m", "2.0.0"), ("m:1.0.0", "1.0.0"), ("m@stable", "1.0.0")):
        assert (await engine.predict(X[0], ref=ref)).version == version


async def test_only_named_models_are_served(make: MakeEngine, publish: Publish) -> None:
    publish("a", "1")
    publish("a", "2")
    publish("b", "1")
    engine = make()
    await engine.start(["a:1"])
    assert (await engine.predict(X[0], ref="a")).version == "1"
    assert (await engine.predict(X[0])).version == "1"
    for ref in ("a:2", "b", "b:1"):
        with pytest.raises(ModelNotFound, match="not served here"):
            await engine.predict(X[0], ref=ref)


async def test_a_bare_file_is_served_under_its_file_name(make: MakeEngine, onnx_file: Path) -> None:
    engine = make()
    await engine.start([str(onnx_file)])
    assert await asyncio.gather(*(answer(engine, row, ref="linear") for row in X[:20])) == classes(0)[:20]
    assert await answer(engine, X[0]) == classes(0)[0]


async def test_the_server_is_ready_only_when_every_model_passed_its_golden_samples(
    make: MakeEngine, publish: Publish
) -> None:
    publish("good")
    publish("bad", golden_seed=9)
    engine = make()
    assert engine.ready() == (False, ["models are being loaded"])
    await engine.start(strict=False)
    ready, reasons = engine.ready()
    assert not ready
    assert "bad" in reasons[0]
    assert "golden" in reasons[0]
    assert await answer(engine, X[0], ref="good") == classes(0)[0]
    with pytest.raises(GoldenMismatch):
        await engine.predict(X[0], ref="bad")


async def test_a_strict_start_raises_the_error_of_a_model(make: MakeEngine, publish: Publish) -> None:
    publish(golden_seed=9)
    with pytest.raises(GoldenMismatch):
        await make().start(["m"])


async def test_an_empty_registry_is_not_ready_and_says_what_to_do(make: MakeEngine) -> None:
    engine = make()
    await engine.start()
    ready, reasons = engine.ready()
    assert not ready
    assert "penstock models publish" in reasons[0]
    with pytest.raises(ModelNotFound, match="penstock models publish"):
        await engine.predict(X[0])


async def test_moving_an_alias_swaps_the_model_without_refusing_requests(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish(version="1.0.0", seed=1)
    publish(version="2.0.0", seed=2)
    registry.set_alias("m", "live", "1.0.0")
    engine = make()
    await engine.start(["m@live"])
    seen: list[tuple[str, int, int]] = []
    stop = asyncio.Event()

    async def ask(index: int) -> None:
        while not stop.is_set():
            p = await engine.predict(X[index])
            seen.append((p.version, index, p.response.predictions[0]))  # type: ignore[attr-defined]

    askers = [asyncio.create_task(ask(i)) for i in range(8)]
    await until(lambda: len(seen) >= 8)
    for version in ("2.0.0", "1.0.0", "2.0.0"):
        registry.set_alias("m", "live", version)
        await engine.reconcile()
        await until(lambda version=version: seen and seen[-1][0] == version)
    stop.set()
    await asyncio.gather(*askers)
    assert {version for version, _, _ in seen} == {"1.0.0", "2.0.0"}
    truth = {"1.0.0": classes(1), "2.0.0": classes(2)}
    assert all(truth[version][index] == got for version, index, got in seen)
    assert [model.key for model in engine.loaded()] == ["m:2.0.0"]


async def test_a_new_version_that_is_broken_leaves_the_old_one_answering(make: MakeEngine, publish: Publish) -> None:
    publish(version="1.0.0")
    engine = make()
    await engine.start()
    publish(version="2.0.0", golden_seed=9)
    await engine.reconcile()
    assert (await engine.predict(X[0])).version == "1.0.0"


async def test_a_removed_model_is_no_longer_found(make: MakeEngine, publish: Publish, registry: Registry) -> None:
    publish("a")
    publish("b")
    engine = make()
    await engine.start()
    registry.remove("b:1.0.0")
    await engine.reconcile()
    with pytest.raises(ModelNotFound):
        await engine.predict(X[0], ref="b")
    assert await answer(engine, X[0], ref="a") == classes(0)[0]


async def test_other_content_under_the_same_version_is_followed_and_not_answered_from_the_cache(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish(seed=1)
    engine = make(cache_size=100)
    await engine.start(["m"])
    before = await engine.predict(X[0])
    registry.remove("m:1.0.0")
    publish(seed=2, again=True)
    await engine.reconcile()
    after = await engine.predict(X[0])
    assert after.batch_rows == 1
    assert after.response.confidence_scores != before.response.confidence_scores  # type: ignore[attr-defined]
    assert await answer(engine, X[0]) == classes(2)[0]


async def test_a_server_started_on_an_empty_registry_serves_what_is_published_later(
    make: MakeEngine, publish: Publish
) -> None:
    engine = make()
    await engine.start()
    assert not engine.ready()[0]
    publish()
    await engine.reconcile()
    assert engine.ready() == (True, [])
    assert await answer(engine, X[0]) == classes(0)[0]


async def test_a_served_model_that_was_removed_makes_the_server_not_ready(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish("a")
    publish("b")
    engine = make()
    await engine.start(["a", "b"])
    registry.remove("b:1.0.0")
    await engine.reconcile()
    ready, reasons = engine.ready()
    assert not ready
    assert reasons[0].startswith("b: ")


async def test_the_default_is_served_in_addition_to_the_named_models_or_fails_the_start(
    make: MakeEngine, publish: Publish
) -> None:
    publish("a")
    publish("b")
    engine = make(model_path="b")
    await engine.start(["a"])
    assert (await engine.predict(X[0])).model == "b"
    assert (await engine.predict(X[0], ref="a")).model == "a"
    with pytest.raises(ModelNotFound):
        await make(model_path="zz").start(["a"])


async def test_a_registry_larger_than_the_budget_is_served_on_demand(make: MakeEngine, publish: Publish) -> None:
    for name in "abcde":
        publish(name)
    engine = make(max_models=2)
    await engine.start()
    assert engine.ready() == (True, [])
    assert [model.name for model in engine.loaded()] == ["a", "b"]
    for name in "abcde":
        assert (await engine.predict(X[0], ref=name)).model == name
    assert [model.name for model in engine.loaded()] == ["a", "e"]


async def test_more_named_models_than_the_budget_stay_loaded(make: MakeEngine, publish: Publish) -> None:
    for name in "abc":
        publish(name)
    engine = make(max_models=1)
    await engine.start(["a", "b", "c"])
    assert {model.name for model in engine.loaded()} == {"a", "b", "c"}


async def test_a_load_that_failed_for_a_while_is_tried_again(make: MakeEngine, publish: Publish) -> None:
    publish(version="1.0.0", seed=1)
    engine = make()
    await engine.start(["m"])
    artifact = publish(version="2.0.0", seed=2)
    path = artifact.variant_path(artifact.variants[0])
    good = path.read_bytes()
    path.write_bytes(b"damaged")
    await engine.reconcile()
    assert (await engine.predict(X[0])).version == "1.0.0"
    assert "m" in engine.get_stats()["problems"]
    path.write_bytes(good)
    engine.manager._backoff.clear()
    await engine.reconcile()
    assert (await engine.predict(X[0])).version == "2.0.0"
    assert engine.get_stats()["problems"] == {}


async def test_a_slow_load_respects_deadlines_and_delays_no_other_request(
    make: MakeEngine, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("quick")
    publish("slow")
    engine = make(max_models=1)
    await engine.start(["quick", "slow:1.0.0"][:1])
    engine.deployment._plan = replace(engine.deployment._plan, arguments=())
    gate = threading.Event()
    real = manager_module.load_artifact
    monkeypatch.setattr(manager_module, "load_artifact", lambda *args: gate.wait(5) and real(*args))
    waiting = [asyncio.create_task(engine.predict(X[0], ref="slow")) for _ in range(4)]
    await asyncio.sleep(0.05)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await engine.predict(X[0], ref="slow", deadline=started + 0.1)
    with pytest.raises(ModelNotFound):
        await engine.predict(X[0], ref="missing")
    await engine.reconcile()
    assert (await engine.predict(X[0], ref="quick:1.0.0")).model == "quick"
    assert time.monotonic() - started < 2
    gate.set()
    assert {(await task).model for task in waiting} == {"slow"}


async def test_a_batch_waits_for_room_instead_of_refusing_its_own_items(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make(max_queue_size=64, batch_size=8)
    await engine.start()
    results = await engine.predict_batch([X[:50]] * 40)
    assert all(isinstance(result, Prediction) for result in results)


async def test_closing_the_engine_fails_requests_that_wait_for_a_load(
    make: MakeEngine, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a", "b", "c", "d")
    for name in names:
        publish(name)
    engine, gate = make(max_models=1), threading.Event()
    await engine.start()
    real = manager_module.load_artifact

    def slow(*args: Any, **more: Any) -> Any:
        gate.wait(5)
        return real(*args, **more)

    monkeypatch.setattr(manager_module, "load_artifact", slow)
    waiting = [asyncio.create_task(engine.predict(X[0], ref=name)) for name in names[1:]]
    await until(lambda: len(engine.deployment._loader._loads) == 3)
    await engine.close()
    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [ModelNotReady] * 3


async def test_a_fresh_load_does_not_wait_for_an_earlier_load(
    make: MakeEngine, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    engine, gate = make(), threading.Event()
    await engine.start()
    real, asked = engine.manager.load_model, list[bool]()

    def slow(ref: str, *, fresh: bool) -> Any:
        asked.append(fresh)
        gate.wait(5)
        return real(ref, fresh=fresh)

    monkeypatch.setattr(engine.manager, "load_model", slow)
    loads = [asyncio.create_task(engine.deployment._loader.load("m:1.0.0", fresh=fresh)) for fresh in (False, True)]
    await asyncio.sleep(0.05)
    gate.set()
    await asyncio.gather(*loads)
    assert sorted(asked) == [False, True]


async def test_a_model_unloaded_while_the_registry_is_followed_stays_unloaded(
    make: MakeEngine, publish: Publish, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    engine, asked, gate = make(), threading.Event(), threading.Event()
    await engine.start()
    publish("other")
    real = engine.manager.load_model

    def slow(ref: str, **more: Any) -> Any:
        asked.set()
        gate.wait(5)
        return real(ref, **more)

    monkeypatch.setattr(engine.manager, "load_model", slow)
    following = asyncio.create_task(engine.reconcile())
    await asyncio.to_thread(asked.wait, 5)
    await engine.unload("m")
    gate.set()
    await following
    with pytest.raises(ModelNotFound, match="unloaded"):
        await engine.predict(X[0], ref="m")
    assert "m:1.0.0" not in [model.key for model in engine.loaded()]


async def test_an_observer_that_fails_does_not_fail_the_request(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()

    def broken(_: Observation) -> None:
        raise RuntimeError("boom")

    seen: list[Observation] = []
    engine.observers += [broken, seen.append]
    assert await answer(engine, X[0]) == classes(0)[0]
    assert len(seen) == 1


async def test_a_large_request_may_be_prepared_in_a_thread(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    threads: set[str] = set()
    task = type((await engine.model()).task)
    preprocess = task.preprocess

    def noted(self: Any, request: Any) -> Any:
        threads.add(threading.current_thread().name)
        return preprocess(self, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "preprocess", noted)
        assert await answer(engine, X[0], in_thread=True) == classes(0)[0]
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


async def test_a_registry_that_disappears_leaves_the_loaded_models_answering(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish()
    registry.set_alias("m", "live", "1.0.0")
    engine = make()
    await engine.start(["m@live"])
    away = registry.path.with_name("away")
    registry.path.rename(away)
    with pytest.raises(ConfigError, match="is gone; the loaded models go on answering"):
        await engine.reconcile()
    for ref in (None, "m", "m@live", "m:1.0.0"):
        assert await answer(engine, X[0], ref=ref) == classes(0)[0]
    away.rename(registry.path)
    await engine.reconcile()
    assert engine.ready() == (True, [])


async def test_after_a_failed_promotion_every_route_keeps_the_working_version(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish(version="1.0.0")
    registry.set_alias("m", "live", "1.0.0")
    engine = make()
    await engine.start(["m@live"])
    publish(version="2.0.0", golden_seed=9)
    registry.set_alias("m", "live", "2.0.0", force=True)
    await engine.reconcile()
    for ref in (None, "m", "m@live"):
        assert (await engine.predict(X[0], ref=ref)).version == "1.0.0"
    assert "golden" in engine.get_stats()["problems"]["m@live"]


async def test_a_route_that_kept_an_unloaded_model_does_not_hide_the_one_that_took_its_place(
    make: MakeEngine, publish: Publish, registry: Registry
) -> None:
    publish(seed=1)
    engine = make()
    await engine.start(["m"])
    await engine.predict(X[0], ref="m:1.0.0")
    registry.remove("m:1.0.0")
    publish(seed=2, again=True)
    await engine.reconcile()
    registry.path.rename(registry.path.with_name("away"))
    for ref in ("m", "m:1.0.0"):
        assert await answer(engine, X[0], ref=ref) == classes(2)[0]


async def test_a_model_has_statistics_from_its_load_on(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    assert engine.get_stats()["models"]["m:1.0.0"]["requests"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("max_queue_size", 0),
        ("max_wait_ms", float("nan")),
        ("max_wait_ms", -1),
        ("request_timeout_ms", 0),
        ("cache_size", -1),
        ("max_models", 0),
        ("threads", 0),
        ("precision", "fp99"),
        ("device", "tpu"),
        ("compile_mode", "fastest"),
    ],
)
def test_an_invalid_configuration_is_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        InferenceConfig(**{field: value})


async def test_draining_refuses_new_requests_and_finishes_those_in_flight(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    hold_up(engine)
    inside = asyncio.create_task(engine.predict(X[0]))
    await asyncio.sleep(0.05)
    assert not await engine.drain(0.05)
    with pytest.raises(ModelNotReady, match="accepts no more requests"):
        await engine.predict(X[1])
    with pytest.raises(ModelNotReady):
        engine.admission.request().check()
    assert engine.ready()[0] is False
    release(engine)
    assert await engine.drain(2)
    assert (await inside).response.predictions == classes(0)[:1]  # type: ignore[attr-defined]


async def test_overload_is_refused_early_and_counted(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make(max_queue_size=2, batch_size=1)
    await engine.start()
    hold_up(engine)
    batcher = engine.loaded()[0].batcher
    inside = [asyncio.create_task(engine.predict(X[0]))]
    await until(lambda: batcher.running_rows == 1)
    inside += [asyncio.create_task(engine.predict(X[i])) for i in (1, 2)]
    await until(lambda: batcher.queued_rows == 2)
    with pytest.raises(Overloaded):
        engine.admission.request().check()
    with pytest.raises(Overloaded):
        await engine.predict(X[4])
    release(engine)
    await asyncio.gather(*inside)
    stats = engine.get_stats()["models"]["m:1.0.0"]
    assert stats["outcomes"] == {"ok": 3, "overloaded": 1}
    assert stats["errors"] == 1


async def test_a_passed_deadline_is_answered_in_time_while_the_model_hangs(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make(request_timeout_ms=80)
    await engine.start()
    hold_up(engine)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await engine.predict(X[0])
    assert time.monotonic() - started < 2
    release(engine)


async def test_observers_see_every_outcome_once(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    seen: list[Observation] = []
    engine.observers.append(seen.append)
    await engine.predict(X[0], request_id="r1")
    with pytest.raises(InvalidInput):
        await engine.predict(np.zeros(1), request_id="r2")
    with pytest.raises(ModelNotFound):
        await engine.predict(X[0], ref="missing", request_id="r3")
    assert [(o.request_id, o.outcome, o.model) for o in seen] == [
        ("r1", "ok", "m"),
        ("r2", "invalid", "m"),
        ("r3", "not_found", ""),
    ]


async def test_a_cancelled_request_is_counted_as_such_and_frees_its_place(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    hold_up(engine)
    first = asyncio.create_task(engine.predict(X[0]))
    await asyncio.sleep(0.05)
    gone = asyncio.create_task(engine.predict(X[1]))
    await asyncio.sleep(0.05)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert engine.queue_rows == 0
    release(engine)
    await first
    assert engine.get_stats()["models"]["m:1.0.0"]["outcomes"] == {"cancelled": 1, "ok": 1}
    assert engine.inflight == 0


async def test_equal_inputs_are_answered_from_the_cache_and_other_versions_are_not(
    make: MakeEngine, publish: Publish
) -> None:
    publish(version="1.0.0", seed=1)
    publish(version="2.0.0", seed=2)
    engine = make(cache_size=100)
    await engine.start()
    first = await engine.predict(X[0], ref="m:1.0.0")
    again = await engine.predict(X[0], ref="m:1.0.0")
    other = await engine.predict(X[0], ref="m:2.0.0")
    assert (first.batch_rows, again.batch_rows, other.batch_rows) == (1, 0, 1)
    assert again.response.confidence_scores == first.response.confidence_scores  # type: ignore[attr-defined]
    assert other.response.confidence_scores != first.response.confidence_scores  # type: ignore[attr-defined]


async def test_a_bug_in_a_task_is_a_server_error_without_details(
    make: MakeEngine, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    engine = make()
    await engine.start()
    model = await engine.model()

    def broken(*_: object) -> None:
        raise KeyError("secret detail")

    for method in ("preprocess", "postprocess"):
        with monkeypatch.context() as patch:
            patch.setattr(type(model.task), method, broken)
            with pytest.raises(InferenceError) as error:
                await engine.predict(X[0])
            assert "secret" not in str(error.value)
    assert await answer(engine, X[0]) == classes(0)[0]


async def test_without_dynamic_batching_every_request_runs_alone(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make(use_dynamic_batching=False)
    await engine.start()
    predictions = await asyncio.gather(*(engine.predict(row) for row in X[:20]))
    assert {p.batch_rows for p in predictions} == {1}
    assert (await engine.predict(X[:20])).batch_rows == 20


async def test_stats_have_the_fields_of_the_contract(make: MakeEngine, publish: Publish) -> None:
    publish()
    engine = make()
    await engine.start()
    await asyncio.gather(*(engine.predict(row) for row in X[:10]))
    stats = engine.get_stats()
    assert {
        "model_path",
        "device",
        "batch_size",
        "model_device",
        "model_parameters",
        "queue_size",
        "processing",
        "uptime_s",
    } < set(stats)
    one = stats["models"]["m:1.0.0"]
    assert one["requests"] == 10
    assert one["error_rate"] == 0
    assert 0 < one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
    assert sum(one["batch_size_histogram"].values()) == 10
    assert one["throughput"] > 0


GATE: dict[int, threading.Event] = {}


def hold_up(engine: InferenceEngine) -> None:
    """Block the model's run, in the batcher's thread, until `release`."""
    model = engine.loaded()[0]
    gate = GATE[id(engine)] = threading.Event()
    run = model.backend.run

    def held(inputs: Any) -> Any:
        gate.wait(5)
        return run(inputs)

    model.batcher.runner.run = held
    model.batcher._inline = False
    model.batcher._concurrency = 1


def release(engine: InferenceEngine) -> None:
    GATE.pop(id(engine)).set()


async def test_a_model_file_may_be_given_as_a_path(onnx_file: Path, tmp_path: Path) -> None:
    config = InferenceConfig(model_path=onnx_file, registry=str(tmp_path / "registry"))
    engine = InferenceEngine(config)
    await engine.start()
    assert await answer(engine, X[0]) == classes(0)[0]
    assert engine.get_stats()["model_path"] == str(onnx_file)
    await engine.close()
