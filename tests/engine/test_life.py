"""Loading and unloading under load: many models, many requests, other processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from leases import lease_of, release
from linear_models import CLASSES, FEATURES, SIGNATURE, Publish, linear, weights
from onnx import TensorProto, helper, numpy_helper
from waiting import LONG_S

from penstock import InferenceConfig, InferenceEngine, ModelManager, Predictor, Registry
from penstock.engine.loading import memory
from penstock.engine.loading.loaded_model import LoadedModel
from penstock.errors import ModelNotReady, PenstockError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

ROW = np.ones(FEATURES, np.float32)


def truth(seed: int) -> int:
    return int((ROW @ weights(seed)).argmax())


def resident_bytes() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def heavy(path: Path, megabytes: int) -> Path:
    """logits = (x @ a) @ b, with most of its bytes in the weights."""
    width = megabytes * 2**20 // 4 // (FEATURES + CLASSES)
    random = np.random.default_rng(0)
    shapes = {"a": (FEATURES, width), "b": (width, CLASSES)}
    arrays = {name: random.random(shape, dtype=np.float32) for name, shape in shapes.items()}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["logits"])],
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def wait_for(true: Callable[[], bool], what: str, seconds: float = LONG_S) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def no_unloading() -> bool:
    return all(thread.name != "penstock-unload" for thread in threading.enumerate())


# Budgets


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_an_evicted_model_returns_its_memory(tmp_path: Path) -> None:
    with_model = Registry(tmp_path / "none")
    warm = ModelManager(with_model)
    warm.load_model(linear(tmp_path / "small.onnx"))  # the runtime keeps memory that it allocated once
    manager = ModelManager(with_model, max_models=1, batch_size=2)
    manager.load_model(heavy(tmp_path / "one.onnx", 24))
    before = resident_bytes()
    for number in range(3):
        manager.load_model(heavy(tmp_path / f"more{number}.onnx", 24))
        wait_for(no_unloading, "the unloading never ended")
    after = resident_bytes()
    assert after - before < 48 * 2**20, f"{(after - before) / 2**20:.0f} MiB more after three models came and went"
    manager.close()
    assert before - resident_bytes() > 16 * 2**20, "the last model's 24 MiB stayed"
    warm.close()


def test_concurrent_callers_share_one_trim_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    release = threading.Event()

    def slow_trim(pad: int) -> int:
        trims.append(pad)
        release.wait(5)
        return 1

    monkeypatch.setattr(memory, "_malloc_trim", lambda: slow_trim)
    asking = [threading.Thread(target=memory.trim_memory) for _ in range(10)]
    asking[0].start()
    wait_for(lambda: len(trims) == 1, "memory was not trimmed")
    for thread in asking[1:]:
        thread.start()
    time.sleep(0.05)
    release.set()
    for thread in asking:
        thread.join()
    assert len(trims) == 2


def test_without_malloc_trim_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    memory.trim_memory()


def test_a_budget_counts_what_models_take_in_memory(tmp_path: Path) -> None:
    manager = ModelManager(Registry(tmp_path / "none"), max_bytes="5MiB")
    for name in ("a", "b"):
        manager.load_model(heavy(tmp_path / f"{name}.onnx", 4))
    assert [info.name for info in manager.list_cached_models()] == ["b"]
    assert manager.get_model_info("b").memory_bytes == pytest.approx(4 * 2**20, rel=0.05)
    manager.close()


def test_a_model_in_use_by_an_engine_is_not_the_least_recently_used(registry: Registry, publish: Publish) -> None:
    for name in ("a", "b", "c"):
        publish(name)
    manager = ModelManager(registry, max_models=2)
    a = manager.load_model("a")
    manager.load_model("b")
    release(lease_of(manager, a))
    manager.load_model("c")
    assert [info.name for info in manager.list_cached_models()] == ["a", "c"]
    manager.close()


def test_two_hundred_models_are_served_under_a_budget_for_five(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "many")
    names = [f"m{number}" for number in range(200)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _fd: None)  # 200 durable artifacts would take most of the time
        write_many(tmp_path, registry, names)

    async def ask_all() -> int:
        engine = InferenceEngine(InferenceConfig(max_models=5, batch_size=2, threads=1), registry=registry)
        await engine.start()
        most = 0
        try:
            for name in [*names, *names[:5]]:
                prediction = await engine.predict({"input_data": ROW.tolist()}, ref=name)
                assert prediction.model == name
                assert prediction.response.predictions == [truth(int(name[1:]))]
                most = max(most, len(engine.loaded()))
        finally:
            await engine.close()
        return most

    assert asyncio.run(ask_all()) <= 6


def write_many(tmp_path: Path, registry: Registry, names: list[str]) -> None:
    from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact

    for name in names:
        artifact = write_artifact(
            tmp_path / f"source-{name}",
            name=name,
            version="1",
            task=TaskEntry(kind="vector-classification", config={}),
            signature=SIGNATURE,
            variants=[VariantSource("onnx", "fp32", linear(tmp_path / "model.onnx", seed=int(name[1:])))],
            golden=None,
            card="",
        )
        (registry.path / name).mkdir(parents=True)
        artifact.path.rename(registry.path / name / "1")


# Swaps


def test_no_request_fails_or_is_answered_wrongly_while_models_are_swapped(registry: Registry, publish: Publish) -> None:
    swaps = 10
    publish(version="1", seed=1)
    registry.set_alias("m", "live", "1")

    async def load_and_swap() -> tuple[int, set[str]]:
        engine = InferenceEngine(registry=registry)
        await engine.start(["m@live"])
        done, answers, versions = asyncio.Event(), 0, set()

        async def ask() -> None:
            nonlocal answers
            while not done.is_set():
                prediction = await engine.predict({"input_data": ROW.tolist()})
                assert prediction.response.predictions == [truth(int(prediction.version))]
                answers += 1
                versions.add(prediction.version)

        callers = [asyncio.create_task(ask()) for _ in range(8)]
        for number in range(2, swaps + 2):
            await asyncio.to_thread(lambda n=number: publish(version=str(n), seed=n))
            await asyncio.to_thread(registry.set_alias, "m", "live", str(number))
            await engine.reconcile()
        done.set()
        await asyncio.gather(*callers)
        assert [model.version for model in engine.loaded()] == [str(swaps + 1)]
        await engine.close()
        return answers, versions

    answers, versions = asyncio.run(load_and_swap())
    assert answers > swaps
    assert str(swaps) in versions


def test_a_fresh_load_does_not_share_a_load_that_began_before(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.engine.loading import manager as manager_module

    publish(seed=1)
    manager = ModelManager(registry)
    real, begun, go_on = manager_module.load_artifact, threading.Event(), threading.Event()

    def slow(*args: Any, **more: Any) -> LoadedModel:
        model = real(*args, **more)
        begun.set()
        go_on.wait(10)
        return model

    monkeypatch.setattr(manager_module, "load_artifact", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(manager.load_model, "m")
        begun.wait(10)
        registry.remove("m:1.0.0")
        publish(seed=2, again=True)
        second = pool.submit(manager.load_model, "m", fresh=True)
        time.sleep(0.1)
        go_on.set()
        assert first.result(10).info.sha256 != second.result(10).info.sha256
    assert manager.get_model("m") is second.result()
    manager.close()


def test_a_load_with_overrides_does_not_get_the_failure_of_a_plain_one(registry: Registry, publish: Publish) -> None:
    publish(golden_seed=5)
    manager = ModelManager(registry)
    for overrides in ({}, {"variant": "onnx-int8"}):
        with pytest.raises(PenstockError) as refused:
            manager.load_model("m", **overrides)  # type: ignore[arg-type]
        assert ("golden samples" in str(refused.value)) is (not overrides)


# The end


@pytest.mark.parametrize("kind", ["manager", "predictor", "engine"])
def test_a_closed_object_raises_one_sentence(registry: Registry, publish: Publish, kind: str) -> None:
    publish()

    def manager() -> None:
        it = ModelManager(registry)
        it.load_model("m")
        it.close()
        it.close()
        it.load_model("m")

    def predictor() -> None:
        it = Predictor("m", registry=registry)
        it.close()
        it.close()
        it.predict(ROW)

    async def ask() -> None:
        it = InferenceEngine(registry=registry)
        await it.start(["m"])
        await it.close()
        await it.predict(ROW)

    calls = {"manager": manager, "predictor": predictor, "engine": lambda: asyncio.run(ask())}
    with pytest.raises(ModelNotReady) as refused:
        calls[kind]()
    assert "\n" not in str(refused.value)
    assert any(word in str(refused.value) for word in ("closed", "shutting down", "no more requests"))


# Other processes


def in_fork(work: Callable[[], object]) -> str:
    """The result or error of `work` in a forked child."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            output = repr(work())
        except BaseException as error:
            output = f"{type(error).__name__}: {error}"
        os.write(write, output.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        output = pipe.read().decode()
    os.waitpid(pid, 0)
    return output


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
def test_a_predictor_raises_one_sentence_in_a_forked_process(registry: Registry, publish: Publish) -> None:
    publish()
    with Predictor("m", registry=registry) as predictor:
        output = in_fork(lambda: predictor.predict(ROW))
        assert output.startswith("ModelNotReady: ")
        assert "belongs to the process that was forked; make one in this process" in output
        assert in_fork(predictor.close) == "None"
        assert predictor.predict(ROW).predictions == [truth(0)], "the parent still works"


@needs_fork
def test_an_engine_raises_one_sentence_in_a_forked_process(registry: Registry, publish: Publish) -> None:
    publish()
    engine = InferenceEngine(registry=registry)
    asyncio.run(engine.start(["m"]))
    for work in (lambda: engine.predict(ROW), lambda: engine.model("m:1.0.0"), engine.reconcile):
        output = in_fork(lambda work=work: asyncio.run(work()))
        assert output.startswith("ModelNotReady: "), output
        assert "belongs to the process that was forked" in output
    assert in_fork(lambda: asyncio.run(engine.close())) == "None"
    assert asyncio.run(engine.predict(ROW)).response.predictions == [truth(0)]
    asyncio.run(engine.close())


@needs_fork
def test_a_fork_in_the_middle_of_a_load_does_not_hang(registry: Registry, publish: Publish) -> None:
    publish()
    manager = ModelManager(registry)
    with manager.cache._lock, manager._flights._lock:  # as another thread may hold it at the moment of the fork
        output = in_fork(lambda: manager.load_model("m"))
    assert "belongs to the process that was forked" in output
    manager.close()


@needs_fork
def test_a_forked_process_can_have_its_own_manager(registry: Registry, publish: Publish) -> None:
    publish()
    with Predictor("m", registry=registry) as predictor:
        predictor.predict(ROW)

        def own() -> Any:
            with Predictor("m", registry=Registry(registry.path, registry.database_url)) as mine:
                return mine.predict(ROW).predictions

        assert in_fork(own) == repr([truth(0)])


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_predictor_sent_to_other_processes_works_there(registry: Registry, publish: Publish, method: str) -> None:
    publish()
    rows = [ROW * scale for scale in (1, -1, 2, -2)]
    with Predictor("m", registry=registry) as predictor:
        expected = [answer.predictions for answer in predictor.predict_batch(rows)]
        with multiprocessing.get_context(method).Pool(2) as pool:
            answers = pool.map(predictor.predict, rows, chunksize=1)
    assert [answer.predictions for answer in answers] == expected


def test_a_predictor_that_is_unpickled_often_loads_its_model_once(registry: Registry, publish: Publish) -> None:
    import pickle

    publish()

    with Predictor("m", registry=registry, batch_size=4) as predictor:
        sent = pickle.dumps(predictor)
        copies = [pickle.loads(sent) for _ in range(3)]
        assert len({id(copy) for copy in copies}) == 1
        assert copies[0] is not predictor
        assert copies[0].predict(ROW).predictions == [truth(0)]
        copies[0].close()
        assert pickle.loads(sent).predict(ROW).predictions == [truth(0)]


@pytest.fixture(autouse=True)
def _no_copies_left() -> Iterator[None]:
    yield
    from penstock.engine.predictor import predictor

    for copy in predictor._copies.values():
        copy.close()
    predictor._copies.clear()


def test_the_synchronous_calls_work_where_an_event_loop_runs(registry: Registry, publish: Publish) -> None:
    """Runs in an event loop, like a notebook cell."""
    publish()

    async def cell() -> list[int]:
        with Predictor("m", registry=registry) as predictor:
            (answer,) = predictor.predict_batch([ROW], num_workers=2)
            assert answer.predictions == predictor.predict(ROW).predictions
            return answer.predictions

    assert asyncio.run(cell()) == [truth(0)]
