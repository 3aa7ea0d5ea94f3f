"""`python benchmarks [NAME…] [--rounds N] [--seconds S]`: every published figure, measured in turn with its baseline.

Servers run one at a time, in turn, for several rounds on the same machine, and medians are compared, so that drift of
the machine's speed affects all of them. The load generator shares the cores with the server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydraulics
import inprocess
import models
import numpy as np
import onnxruntime as ort
import processes
from load import body, open_loop, wrk
from turns import Result, in_turn

PREDICT = "/inference/predict"


def session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bare_samples_s(path: Path, threads: int, batch: int, seconds: float) -> float:
    """Samples per second of a loop that only calls `session.run`."""
    run, x = session(path, threads).run, np.random.default_rng(0).random((batch, models.FEATURES), np.float32)
    run(None, {"input": x})
    count, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        run(None, {"input": x})
        count += batch
    return count / took


def bare_p50_ms(path: Path) -> float:
    """The median time of `session.run` for one sample."""
    run, x = session(path, 1).run, np.zeros((1, models.FEATURES), np.float32)
    times = []
    for _ in range(2000):
        started = time.perf_counter()
        run(None, {"input": x})
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def closed(start: tuple[Any, ...], request: Path, connections: int, seconds: float, path: str = PREDICT) -> Result:
    """One closed-loop run on a new server, after a warm-up: rate, latency, CPU per request, memory."""
    with processes.server(*start) as running:
        wrk(running.url + path, request, connections=connections, seconds=1)
        before = running.cpu_s()
        started = time.monotonic()
        result = wrk(running.url + path, request, connections=connections, seconds=seconds)
        took = time.monotonic() - started
        cpu_us = (running.cpu_s() - before) / (result.rps * took) * 1e6
        return {**vars(result), "cpu_us": cpu_us, "rss_mb": running.rss_mb()}


def small_model(folder: Path, rounds: int, seconds: float) -> Result:
    """The MLP over JSON on 64 connections: Penstock, the hand-written route and mosec."""
    model, request = models.mlp(folder), body(folder)
    sides: dict[str, Callable[[], Result]] = {
        "penstock": lambda: closed(processes.penstock(model), request, 64, seconds),
        "fastapi+uvicorn": lambda: closed(processes.plain_fastapi(model), request, 64, seconds),
        "mosec": lambda: closed(processes.mosec(model, "json"), request, 64, seconds, "/inference"),
        "mosec with orjson": lambda: closed(processes.mosec(model), request, 64, seconds, "/inference"),
    }
    found = in_turn(sides, rounds)
    ours = found["penstock"]["rps"]
    return {**found, **{f"times {name}": round(ours / found[name]["rps"], 2) for name in sides if name != "penstock"}}


def interfaces(folder: Path, rounds: int, seconds: float) -> Result:
    """The same gateway over RSGI in its own process and under two ASGI servers."""
    model, request = models.mlp(folder), body(folder)
    sides: dict[str, Callable[[], Result]] = {
        "rsgi": lambda: closed(processes.penstock(model), request, 64, seconds),
        "granian asgi": lambda: closed(processes.asgi("granian", model), request, 64, seconds),
        "uvicorn asgi": lambda: closed(processes.asgi("uvicorn", model), request, 64, seconds),
    }
    return in_turn(sides, rounds)


def cnn(folder: Path, rounds: int, seconds: float) -> Result:
    """A model that is the bottleneck: samples per second over JSON, compared with the best bare loop."""
    model, request = models.cnn(folder), body(folder)
    cores = len(os.sched_getaffinity(0))
    bare = {
        f"bare {threads} threads batch {batch}": (
            lambda threads=threads, batch=batch: {"rps": bare_samples_s(model, threads, batch, seconds / 2)}  # type: ignore[misc]
        )
        for threads in (1, cores)
        for batch in (1, 8, 32)
    }
    serve = {"penstock": lambda: closed(processes.penstock(model), request, 96, seconds)}
    found = in_turn({**bare, **serve}, rounds)  # type: ignore[arg-type]
    best = max(found[name]["rps"] for name in bare)
    return {**found, "best_bare": best, "share_of_bare": round(found["penstock"]["rps"] / best, 3)}


def latency(folder: Path, rounds: int, seconds: float) -> Result:
    """One connection: median latency that the server adds to a bare run."""
    model, request = models.mlp(folder), body(folder)
    sides: dict[str, Callable[[], Result]] = {
        "bare": lambda: {"p50_ms": bare_p50_ms(model)},
        "penstock": lambda: closed(processes.penstock(model), request, 1, seconds),
        "fastapi+uvicorn": lambda: closed(processes.plain_fastapi(model), request, 1, seconds),
    }
    found = in_turn(sides, rounds)
    return {**found, "added_ms": round(found["penstock"]["p50_ms"] - found["bare"]["p50_ms"], 3)}


def start(folder: Path, rounds: int, _: float) -> Result:
    """From the command to the first 200 of /health/ready, and the memory after some requests."""
    model, request = models.mlp(folder), body(folder)

    def once() -> Result:
        with processes.server(*processes.penstock(model)) as running:
            wrk(running.url + PREDICT, request, connections=8, seconds=2)
            return {"ready_s": running.ready_s, "rss_mb": running.rss_mb()}

    return in_turn({"penstock": once}, max(rounds, 3))


def overload(folder: Path, rounds: int, seconds: float) -> Result:
    """Constant rates below, at and three times above the saturation of a CNN; each request has a deadline of a second.

    A refusal costs the same for any model, and the load generator shares the cores: a model of 0.7 ms per sample and
    one of 2.3 ms show how much goodput this takes.
    """
    return {f"cnn{width}": _overload(folder, rounds, seconds, width) for width in (36, 64)}


def _overload(folder: Path, rounds: int, seconds: float, width: int) -> Result:
    model, request = models.cnn(folder, width), body(folder)
    deadline = "X-Request-Timeout-Ms: 1000\r\n"
    peak = closed(processes.penstock(model), request, 64, seconds)["rps"]

    def at(factor: float) -> Result:
        with processes.server(*processes.penstock(model, max_queue_size=64)) as running:
            wrk(running.url + PREDICT, request, connections=8, seconds=1)
            run = open_loop(running.url + PREDICT, request, rate=peak * factor, seconds=seconds, headers=deadline)
        other = sum(rate for status, rate in run.rps.items() if status not in (200, 429))
        return {
            "good_rps": run.rps.get(200, 0.0),
            "refused_rps": run.rps.get(429, 0.0),
            "other_rps": other,
            "p50_ms": run.p50_ms,
            "p99_ms": run.p99_ms,
            "max_ms": run.max_ms,
            "retry_after_missing": run.retry_after_missing,
        }

    found = in_turn({f"{factor}x": (lambda f=factor: at(f)) for factor in (0.8, 1.0, 3.0)}, rounds)  # type: ignore[misc]
    best = max(side["good_rps"] for side in found.values())
    return {"peak_rps": round(peak, 1), **found, "goodput_at_3x": round(found["3.0x"]["good_rps"] / best, 3)}


BENCHMARKS = {
    "small_model": small_model,
    "interfaces": interfaces,
    "cnn": cnn,
    "latency": latency,
    "start": start,
    "overload": overload,
    **inprocess.BENCHMARKS,
    **hydraulics.BENCHMARKS,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--out", type=Path, help="write the medians there as JSON")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {unknown.pop()!r}")
    results: Result = {
        "machine": f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "rounds": arguments.rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names or BENCHMARKS:
            print(f"{name}: {BENCHMARKS[name].__doc__}", flush=True)
            results[name] = BENCHMARKS[name](Path(folder), arguments.rounds, arguments.seconds)
            print(json.dumps(results[name], indent=2), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
