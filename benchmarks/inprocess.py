"""The engine without HTTP: its cost in this process, compared with the bare runtime in the same run."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnxruntime as ort
import uvloop
from turns import Result, in_turn

from penstock import InferenceConfig, InferenceEngine, ModelManager, Registry
from penstock.engine.cache import PredictionCache
from penstock.errors import PenstockError

CALLERS = 64


def rate(
    ask: Callable[[int], Awaitable[Any]], seconds: float, callers: int = CALLERS
) -> Callable[[], Awaitable[Result]]:
    """`callers` concurrent callers in a closed loop: responses per second and CPU time per response."""

    async def measure() -> Result:
        until = time.monotonic() + seconds
        count = 0

        async def caller(number: int) -> None:
            nonlocal count
            while time.monotonic() < until:
                await ask(number)
                count += 1

        started, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(caller(number) for number in range(callers)))
        took, cpu = time.monotonic() - started, time.process_time() - cpu
        return {"rps": count / took, "cpu_us": cpu / count * 1e6}

    return measure


def engine_of(path: Path, **settings: Any) -> InferenceEngine:
    return InferenceEngine(InferenceConfig(model_path=str(path), max_queue_size=512, **settings))


def ask_engine(path: Path, rows: Sequence[Any], seconds: float, callers: int = CALLERS, **settings: Any) -> Result:
    """One closed loop on a fresh engine with a bare model file, after a warm-up."""

    async def work() -> Result:
        engine = engine_of(path, **settings)
        await engine.start()
        try:
            await rate(lambda number: engine.predict(rows[number % len(rows)]), 0.5, callers)()
            return await rate(lambda number: engine.predict(rows[number % len(rows)]), seconds, callers)()
        finally:
            await engine.close()

    return uvloop.run(work())


def bare_loop(session: Any, threads: int, batch: int, seconds: float) -> Result:
    """`threads` loops that only call `session.run`: samples per second and CPU time per sample."""
    x = np.random.default_rng(0).random((batch, models.FEATURES), np.float32)
    session.run(None, {"input": x})
    counts = [0] * threads
    until = time.monotonic() + seconds

    def loop(number: int) -> None:
        while time.monotonic() < until:
            session.run(None, {"input": x})
            counts[number] += batch

    workers = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    started, cpu = time.monotonic(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took, cpu = time.monotonic() - started, time.process_time() - cpu
    return {"rps": sum(counts) / took, "cpu_us": cpu / sum(counts) * 1e6}


def swap_under_load(folder: Path, swaps: int) -> Result:
    """An alias alternates between two versions under load: every response must match one version."""
    registry = Registry(folder / "swap")
    for number in (1, 2):
        registry.publish(models.linear(folder / f"swap-{number}", "swap", f"{number}.0", bias=float(number)))
    registry.set_alias("swap", "live", "1.0")

    async def work() -> Result:
        engine = InferenceEngine(InferenceConfig(max_queue_size=512), registry=registry)
        await engine.start(["swap@live"])
        seen = {"answered": 0, "failed": 0, "wrong": 0}
        versions: set[str] = set()
        done = False

        async def caller() -> None:
            while not done:
                try:
                    answer = await engine.predict({"inputs": {"x": [[0.0] * models.NARROW]}}, ref="swap@live")
                except PenstockError:
                    seen["failed"] += 1
                    continue
                seen["answered"] += 1
                versions.add(answer.version)
                if answer.response.outputs["y"] != [[float(answer.version)]]:
                    seen["wrong"] += 1

        callers = [asyncio.create_task(caller()) for _ in range(16)]
        started = time.monotonic()
        for swap in range(swaps):
            await asyncio.to_thread(registry.set_alias, "swap", "live", f"{2 - swap % 2}.0")
            await engine.reconcile()
        took = time.monotonic() - started
        done = True
        await asyncio.gather(*callers)
        await engine.close()
        return {"swaps": swaps, **seen, "versions": len(versions), "ms_a_swap": round(took / swaps * 1000, 1)}

    return uvloop.run(work())


def crowd(folder: Path, registered: int, loaded: int, seconds: float) -> Callable[[], Result]:
    """CPU time of a request to one model while many models are registered and loaded."""
    registry = Registry(folder / f"crowd-{registered}")
    template = models.linear(folder / f"crowd-template-{registered}", "m0", "1.0", bias=1.0)
    registry.publish(template)
    for number in range(1, registered):
        registry.publish(models.renamed(template, folder / f"crowd-{registered}-{number}", f"m{number}"))

    def measure() -> Result:
        async def work() -> Result:
            engine = InferenceEngine(InferenceConfig(max_queue_size=512, max_models=max(loaded, 1)), registry=registry)
            await engine.start()
            for number in range(loaded):
                await engine.model(f"m{number}")
            row = {"inputs": {"x": [[0.0] * models.NARROW]}}
            try:
                await rate(lambda _: engine.predict(row, ref="m0"), 0.5)()
                return await rate(lambda _: engine.predict(row, ref="m0"), seconds)()
            finally:
                await engine.close()

        return uvloop.run(work())

    return measure


def cold_ms(path: Path, times: int) -> Result:
    """Time to the first response of a model that is not loaded yet, in a process that has run others."""
    x = np.zeros((1, models.FEATURES), np.float32)
    took: list[float] = []
    for _ in range(times):
        manager = ModelManager()
        started = time.perf_counter()
        manager.load_model(path).backend.run({"input": x})
        took.append((time.perf_counter() - started) * 1000)
        manager.clear_cache()
    return {"first_ms": took[0], "median_ms": statistics.median(took), "max_ms": max(took)}


def engine(folder: Path, rounds: int, seconds: float) -> Result:
    """64 callers in this process: samples per second of a CNN, compared with the best bare loop; Python time per
    request of the MLP.
    """
    cores = len(os.sched_getaffinity(0))
    random = np.random.default_rng(0)
    rows = [random.random(models.FEATURES, np.float32) for _ in range(CALLERS)]
    cnn, mlp = models.cnn(folder), models.mlp(folder)
    one, all_threads = session(cnn, 1), session(cnn, cores)
    sides: dict[str, Callable[[], Result]] = {"engine cnn": lambda: ask_engine(cnn, rows, seconds)}
    for batch in (1, 8, 32):
        sides[f"bare cnn, {cores} loops of 1 thread, batch {batch}"] = lambda batch=batch: bare_loop(
            one, cores, batch, seconds / 2
        )  # type: ignore[misc]
        sides[f"bare cnn, 1 loop of {cores} threads, batch {batch}"] = lambda batch=batch: bare_loop(
            all_threads, 1, batch, seconds / 2
        )  # type: ignore[misc]
    small = session(mlp, 1)
    sides["engine mlp"] = lambda: ask_engine(mlp, rows, seconds)
    sides["bare mlp, batch 32"] = lambda: bare_loop(small, 1, 32, seconds / 2)
    found = in_turn(sides, rounds)
    best = max(side["rps"] for name, side in found.items() if name.startswith("bare cnn"))
    python_us = found["engine mlp"]["cpu_us"] - found["bare mlp, batch 32"]["cpu_us"]
    share = round(found["engine cnn"]["rps"] / best, 3)
    return {**found, "best_bare": best, "share_of_bare": share, "python_us_a_request": round(python_us, 1)}


def swap(folder: Path, _: int, __: float) -> Result:
    """100 updates of the version behind an alias under 16 callers."""
    return swap_under_load(folder, 100)


def many_models(folder: Path, rounds: int, seconds: float) -> Result:
    """CPU time of a request with 1,000 registered and 50 loaded models, and with one."""
    sides = {"1 model": crowd(folder, 1, 1, seconds), "1,000 registered, 50 loaded": crowd(folder, 1000, 50, seconds)}
    found = in_turn(sides, rounds)
    ratio = found["1,000 registered, 50 loaded"]["cpu_us"] / found["1 model"]["cpu_us"]
    return {**found, "cost_ratio": round(ratio, 3)}


def bucketing(folder: Path, rounds: int, seconds: float) -> Result:
    """A transformer encoder over 4 to 128 tokens: padded to buckets and batched, compared with one at a time."""
    registry = Registry(folder / "encoders")
    registry.publish(models.encoder(folder / "encoder"))
    random = np.random.default_rng(0)
    rows = [{"tokens": random.integers(1, 1000, (1, length))} for length in random.integers(4, 129, 256)]

    def side(**settings: Any) -> Callable[[], Result]:
        async def work() -> Result:
            one = InferenceEngine(InferenceConfig(max_queue_size=512, **settings), registry=registry)
            await one.start(["encoder"])
            turn = itertools.count()
            try:
                await rate(lambda _: one.predict(rows[next(turn) % len(rows)]), 0.5)()
                return await rate(lambda _: one.predict(rows[next(turn) % len(rows)]), seconds)()
            finally:
                await one.close()

        return lambda: uvloop.run(work())

    found = in_turn({"buckets": side(), "one at a time": side(use_dynamic_batching=False)}, rounds)
    return {**found, "times": round(found["buckets"]["rps"] / found["one at a time"]["rps"], 2)}


def cache_hit(folder: Path, rounds: int, seconds: float) -> Result:
    """The same request repeatedly: from the cache, and computed each time."""
    mlp = models.mlp(folder)
    rows = [np.random.default_rng(0).random(models.FEATURES, np.float32)]
    found = in_turn(
        {
            "cached": lambda: ask_engine(mlp, rows, seconds, callers=1, cache_size=100),
            "computed": lambda: ask_engine(mlp, rows, seconds, callers=1),
        },
        rounds,
    )
    return {**found, "hit_us": round(hit_us(), 2)}


def hit_us() -> float:
    """The cost of a cache hit alone: digest of 784 numbers, look-up, copy of the outputs."""
    x = {"input": np.random.default_rng(0).random((1, models.FEATURES), np.float32)}
    cache = PredictionCache(100)
    cache.put(cache.key("m:1/onnx-fp32/0", x), {"logits": np.zeros((1, models.CLASSES), np.float32)})
    started = time.perf_counter()
    for _ in range(20_000):
        cache.get(cache.key("m:1/onnx-fp32/0", x))
    return (time.perf_counter() - started) / 20_000 * 1e6


def cold(folder: Path, rounds: int, _: float) -> Result:
    """Time from the call to the first response of a model of 400 kB that is not loaded yet."""
    path = models.mlp(folder)
    session(path, 1)  # in a server the runtime is already imported and started
    return in_turn({"cold": lambda: cold_ms(path, 10)}, rounds)


def session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


BENCHMARKS: dict[str, Callable[[Path, int, float], Result]] = {
    "engine": engine,
    "swap": swap,
    "many_models": many_models,
    "bucketing": bucketing,
    "cache_hit": cache_hit,
    "cold": cold,
}
