"""Outputs are cached by model and inputs."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import LONG_S

from penstock.engine.batching.outcome import Batched
from penstock.engine.cache import PredictionCache
from penstock.errors import DeadlineExceeded, InferenceError, Overloaded
from penstock.tensors import Arrays


def test_keys_differ_by_model_name_dtype_shape_order_and_content() -> None:
    x = np.arange(4, dtype=np.float32)
    keys = {
        PredictionCache.key("m:1/onnx-fp32", {"x": x}),
        PredictionCache.key("m:2/onnx-fp32", {"x": x}),
        PredictionCache.key("m:1/onnx-fp32", {"y": x}),
        PredictionCache.key("m:1/onnx-fp32", {"x": x.astype(np.float64)}),
        PredictionCache.key("m:1/onnx-fp32", {"x": x.view(np.int32)}),
        PredictionCache.key("m:1/onnx-fp32", {"x": x.reshape(2, 2)}),
        PredictionCache.key("m:1/onnx-fp32", {"x": x + 1}),
        PredictionCache.key("m:1/onnx-fp32", {"a": x[:2], "b": x[2:]}),
        PredictionCache.key("m:1/onnx-fp32", {"a": x[:1], "b": x[1:]}),
    }
    assert len(keys) == 9
    assert PredictionCache.key("m", {"x": x}) == PredictionCache.key("m", {"x": x.copy()})


def test_keys_of_different_texts_differ() -> None:
    one = np.array(["ab", "c"], dtype=object)
    other = np.array(["a", "bc"], dtype=object)
    assert PredictionCache.key("m", {"x": one}) != PredictionCache.key("m", {"x": other})


def test_the_least_recently_used_entry_is_evicted_first() -> None:
    cache = PredictionCache(2)
    for name in (b"a", b"b"):
        cache.put(name, {"y": np.zeros(1)})
    assert cache.get(b"a") is not None
    cache.put(b"c", {"y": np.zeros(1)})
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
    cache.clear()
    assert cache.get(b"a") is None


def test_entries_are_copies_and_do_not_keep_the_batch_alive() -> None:
    batch = np.zeros((32, 2))
    cache = PredictionCache(2)
    cache.put(b"a", {"y": batch[:1]})
    batch += 1
    found = cache.get(b"a")
    assert found is not None
    assert found["y"].base is None
    assert found["y"].sum() == 0


def test_changing_returned_outputs_does_not_change_the_entry() -> None:
    cache = PredictionCache(2)
    cache.put(b"a", {"y": np.zeros(2)})
    first = cache.get(b"a")
    assert first is not None
    first["y"] += 100
    again = cache.get(b"a")
    assert again is not None
    assert again["y"].sum() == 0


# Bounds


def outputs(n: int) -> dict[str, np.ndarray]:
    return {"y": np.zeros(n, np.uint8)}


def test_entries_take_no_more_memory_than_the_limit() -> None:
    cache = PredictionCache(max_bytes=100_000)
    for number in range(100):
        cache.put(bytes([number]), outputs(10_000))
    figures = cache.figures()
    assert figures.bytes <= 100_000
    assert figures.entries == 9
    assert cache.get(bytes([99])) is not None
    assert cache.get(bytes([0])) is None


def test_outputs_that_would_evict_most_others_are_not_cached() -> None:
    cache = PredictionCache(max_bytes=100_000)
    cache.put(b"small", outputs(10))
    cache.put(b"large", outputs(20_000))
    assert cache.get(b"large") is None
    assert cache.get(b"small") is not None


def test_the_same_key_again_replaces_its_entry() -> None:
    cache = PredictionCache(10)
    cache.put(b"a", outputs(100), "m")
    before = cache.figures().bytes
    cache.put(b"a", outputs(100), "m")
    assert cache.figures().bytes == before
    cache.put(b"a", outputs(200), "m")
    assert cache.figures().bytes == before + 100


def test_text_counts_its_characters() -> None:
    cache = PredictionCache(10)
    cache.put(b"a", {"y": np.array(["x" * 5000], dtype=object)})
    assert cache.figures().bytes > 5000


def test_forgetting_a_model_drops_its_entries_and_no_others() -> None:
    cache = PredictionCache(10)
    cache.put(b"a", outputs(1), "m:1")
    cache.put(b"b", outputs(1), "m:1")
    cache.put(b"c", outputs(1), "m:2")
    cache.forget("m:1")
    cache.forget("unknown")
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [False, False, True]
    assert cache.figures().entries == 1
    cache.forget("m:2")
    assert cache.figures().bytes == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("pgf"), st.integers(0, 15), st.integers(0, 3000), st.sampled_from(["m:1", "m:2"])),
        max_size=60,
    )
)
def test_its_counters_match_its_contents_after_any_use(uses: list[tuple[str, int, int, str]]) -> None:
    cache = PredictionCache(8, 20_000)
    for verb, key, size, identity in uses:
        if verb == "p":
            cache.put(bytes([key]), outputs(size), identity)
        elif verb == "g":
            cache.get(bytes([key]))
        else:
            cache.forget(identity)
        figures = cache.figures()
        assert figures.entries <= 8
        assert figures.bytes <= 20_000
        assert figures.bytes == sum(entry.bytes for entry in cache._entries.values())
        assert {k for keys in cache._owned.values() for k in keys} == set(cache._entries)


# Concurrent equal requests


class Runs:
    """Runs that end when the gate opens, and their number."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> Batched[Arrays]:
        self.count += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Batched({"y": np.full(3, self.count)}, 4, 0.001, 0.002)


def soon(seconds: float = LONG_S) -> float:
    return time.monotonic() + seconds


async def test_concurrent_equal_requests_share_one_run() -> None:
    cache, run = PredictionCache(10), Runs()
    tasks = [asyncio.create_task(cache.outputs("m", b"k", soon(), run)) for _ in range(20)]
    other = asyncio.create_task(cache.outputs("m", b"other", soon(), run))
    await asyncio.sleep(0.01)
    assert run.count == 2
    run.gate.set()
    answers = await asyncio.gather(*tasks)
    await other
    assert run.count == 2
    assert [answer.batch_rows for answer in answers] == [4] + [0] * 19
    answers[0].outputs["y"] += 100
    assert {int(answer.outputs["y"][0]) for answer in answers[1:]} == {2}
    assert cache.figures()[2:] == (19, 2)
    assert len(cache._flights) == 0


async def test_an_error_of_the_input_is_shared_and_not_cached() -> None:
    cache, run = PredictionCache(10), Runs()
    run.error = InferenceError("no")
    tasks = [asyncio.create_task(cache.outputs("m", b"k", soon(), run)) for _ in range(5)]
    await asyncio.sleep(0.01)
    run.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, InferenceError) for result in results)
    assert run.count == 1
    run.error = None
    assert (await cache.outputs("m", b"k", soon(), run)).batch_rows == 4


async def test_if_the_request_that_runs_is_cancelled_another_one_runs() -> None:
    cache, run = PredictionCache(10), Runs()
    tasks = [asyncio.create_task(cache.outputs("m", b"k", soon(), run)) for _ in range(5)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    run.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, Batched) for result in results[1:])
    assert run.count == 2


async def test_a_refusal_of_the_request_that_runs_is_not_shared() -> None:
    cache = PredictionCache(10)
    gate = asyncio.Event()

    async def refused() -> Batched[Arrays]:
        await gate.wait()
        raise Overloaded("full")

    async def run() -> Batched[Arrays]:
        return Batched(outputs(1), 1, 0.0, 0.0)

    first = asyncio.create_task(cache.outputs("m", b"k", soon(), refused))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(cache.outputs("m", b"k", soon(), run))
    await asyncio.sleep(0.01)
    gate.set()
    with pytest.raises(Overloaded):
        await first
    assert (await second).batch_rows == 1


async def test_a_waiting_request_keeps_its_own_deadline() -> None:
    cache, run = PredictionCache(10), Runs()
    first = asyncio.create_task(cache.outputs("m", b"k", soon(), run))
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceeded):
        await cache.outputs("m", b"k", soon(0.05), run)
    run.gate.set()
    assert (await first).batch_rows == 4


async def test_a_cancelled_waiting_request_affects_no_other() -> None:
    cache, run = PredictionCache(10), Runs()
    first, gone, last = (asyncio.create_task(cache.outputs("m", b"k", soon(), run)) for _ in range(3))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.sleep(0.01)
    run.gate.set()
    assert (await first).batch_rows == 4
    assert (await last).batch_rows == 0


async def test_a_request_on_another_event_loop_shares_the_run_as_well() -> None:
    cache, run = PredictionCache(10), Runs()
    first = asyncio.create_task(cache.outputs("m", b"k", soon(), run))
    await asyncio.sleep(0.01)
    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(cache.outputs("m", b"k", soon(), run))))
    await asyncio.sleep(0.05)
    run.gate.set()
    assert (await other).batch_rows == 0
    assert (await first).batch_rows == 4
    assert run.count == 1
