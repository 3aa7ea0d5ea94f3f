"""The server: every figure of its table in docs/benchmarks.md, with the other servers in the same turns."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydraulics
import models
import numpy as np
import onnxruntime as ort
import processes
from load import body, closed, closed_on, open_loop, steady, wrk
from processes import Service, Unavailable, server
from turns import Result, in_turn

Side = Callable[[], Result]
CONNECTIONS = (1, 64, 1_000, 10_000)
DEADLINE_MS = 1000.0
SELF = "Penstock"


@dataclass(frozen=True)
class Plan:
    """What a run measures: `baseline` is another checkout of Penstock, `everyone` all other servers in every row."""

    folder: Path
    rounds: int
    seconds: float
    baseline: Path | None = None
    everyone: bool = False
    sides: tuple[str, ...] = ()

    def in_turn(self, sides: dict[str, Side]) -> dict[str, Result]:
        """The chosen sides (`sides`: beginnings of names; what is bare is always measured)."""
        chosen = {n: s for n, s in sides.items() if n.startswith(("bare", "peak", *self.sides)) or not self.sides}
        return in_turn(chosen, self.rounds)


def lazy(make: Callable[[], Service], measure: Callable[[Service], Result]) -> Side:
    """A side whose service is made when its turn comes, so that a missing environment skips that side only."""
    return lambda: measure(make())


def others(model: Path, workers: int = 1) -> dict[str, Callable[[], Service]]:
    """The other servers in their best forms."""
    return {
        "mosec with orjson": lambda: processes.mosec(model, "orjson", workers),
        "mosec with pysimdjson": lambda: processes.mosec(model, "simdjson", workers),
        "LitServe": lambda: processes.litserve(model, workers),
        "BentoML": lambda: processes.bentoml(model, workers),
        "FastAPI": lambda: processes.fastapi(model, workers),
    }


def ours(plan: Plan, model: Path | str, name: str = "Penstock", **settings: Any) -> dict[str, Callable[[], Service]]:
    """Penstock, and that of the baseline if one is given."""
    made = {name: lambda: processes.penstock(model, **settings)}
    if plan.baseline is not None:
        made[f"{name} before"] = lambda: processes.penstock(model, checkout=plan.baseline, **settings)
    return made


def measured(plan: Plan, made: dict[str, Callable[[], Service]], connections: int, seconds: float) -> dict[str, Side]:
    return {
        name: lazy(make, lambda service: closed(service, plan.folder, connections, seconds))
        for name, make in made.items()
    }


def ratios(found: dict[str, Result], name: str = "Penstock") -> Result:
    """Requests/s of `name` relative to every other side, and CPU a request as a share of theirs."""
    if "rps" not in found.get(name, {}):
        return {}
    us = found[name]
    against = {other: side for other, side in found.items() if other != name and "cpu_us" in side}
    return {
        "times_rps": {other: round(us["rps"] / side["rps"], 2) for other, side in against.items()},
        "share_of_cpu": {other: round(us["cpu_us"] / side["cpu_us"], 2) for other, side in against.items()},
    }


def small_model(plan: Plan) -> Result:
    """The MLP over JSON and over bytes on 64 connections, one process: Penstock and every other server."""
    model = models.mlp(plan.folder)
    made = {
        **ours(plan, model),
        "Penstock, binary body": lambda: processes.penstock(model, body="binary"),
        "mosec, its own JSON": lambda: processes.mosec(model, "json"),
        **others(model),
    }
    found = plan.in_turn(measured(plan, made, 64, plan.seconds))
    return {**found, **ratios(found)}


def two_processes(plan: Plan) -> Result:
    """The same with two processes; mosec also with one worker and its Rust front, which are two processes as well."""
    model = models.mlp(plan.folder)
    made = {**ours(plan, model, workers=2), "mosec with orjson, one worker": lambda: processes.mosec(model, "orjson")}
    peers = others(model, 2)
    made |= peers if plan.everyone else {"mosec with orjson": peers["mosec with orjson"]}
    found = plan.in_turn(measured(plan, made, 64, plan.seconds))
    return {**found, **ratios(found)}


def cnn(plan: Plan) -> Result:
    """A CNN of 0.7 ms a sample over JSON, 96 connections, compared with the best bare loop; where the rest goes."""
    model = models.cnn(plan.folder)
    cores = len(os.sched_getaffinity(0))
    forms = {f"bare, {cores} loops of one thread, batch {batch}": (cores, 1, batch) for batch in (8, 32)}
    forms[f"bare, one loop of {cores} threads, batch 8"] = (1, cores, 8)
    sides: dict[str, Side] = {
        name: (lambda form=form: bare(model, *form, seconds=plan.seconds / 2)) for name, form in forms.items()  # type: ignore[misc]
    }
    made = {**ours(plan, model), **(others(model) if plan.everyone else {})}
    found = plan.in_turn({**sides, **measured(plan, made, 96, plan.seconds)})
    best = max((found[name] for name in forms), key=lambda side: float(side["rps"]))
    shares = {name: round(found[name]["rps"] / best["rps"], 3) for name in made if "rps" in found.get(name, {})}
    return {**found, "best_bare": best["rps"], "share_of_bare": shares, "rest_us": rest(found["Penstock"], best)}


def rest(served: Result, best: Result) -> Result:
    """Where the time of both cores goes, in µs of CPU a served sample."""
    if "cpu_us" not in served:
        return {}
    machine = served["cpu_us"] / served["server_share"]
    return {
        "both cores": round(machine),
        "the model, as in the bare loop": round(best["cpu_us"]),
        "the server": round(served["cpu_us"] - best["cpu_us"]),
        "the load generator": round(served["load_us"]),
        "other processes": round(served["others_share"] * machine),
        "idle": round(machine * (1 - served["server_share"] - served["load_share"] - served["others_share"])),
    }


def session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bare(path: Path, loops: int, threads: int, batch: int, *, seconds: float) -> Result:
    """Samples/s of `loops` threads that only call `session.run`, and the CPU of a sample."""
    run, x = session(path, threads).run, np.random.default_rng(0).random((batch, models.FEATURES), np.float32)
    run(None, {"input": x})
    counts = [0] * loops
    end = time.perf_counter() + seconds

    def loop(number: int) -> None:
        while time.perf_counter() < end:
            run(None, {"input": x})
            counts[number] += batch

    started, cpu = time.perf_counter(), time.process_time()
    workers = [threading.Thread(target=loop, args=(number,)) for number in range(loops)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - started
    return {"rps": sum(counts) / took, "cpu_us": (time.process_time() - cpu) / sum(counts) * 1e6}


def latency(plan: Plan) -> Result:
    """One connection: median latency that the server adds to a bare run."""
    model = models.mlp(plan.folder)
    made = {**ours(plan, model), **(others(model) if plan.everyone else {"FastAPI": others(model)["FastAPI"]})}
    sides = {"bare": lambda: {"p50_ms": bare_p50_ms(model)}, **measured(plan, made, 1, min(2.0, plan.seconds))}
    found = plan.in_turn(sides)
    floor = found["bare"]["p50_ms"]
    return {
        **found,
        "added_ms": {n: round(found[n]["p50_ms"] - floor, 3) for n in made if "p50_ms" in found.get(n, {})},
    }


def bare_p50_ms(path: Path) -> float:
    """The median time of `session.run` for one sample."""
    run, x = session(path, 1).run, np.zeros((1, models.FEATURES), np.float32)
    times = []
    for _ in range(2000):
        started = time.perf_counter()
        run(None, {"input": x})
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def hydraulics_64(plan: Plan) -> Result:
    """A hydraulic diagnosis on 64 connections, one process, in turn with the baseline and the model that it ships."""
    registry = hydraulics.registry_of(plan.folder)
    options = {"path": "/predict", "body": str(hydraulics.body(plan.folder, "rig", hydraulics.request_of(1)))}
    made = {SELF: lambda: processes.penstock("hydraulics", registry=registry, **options)}
    if plan.baseline is not None:
        before = {"checkout": plan.baseline, "registry": plan.folder / "registry before"}
        made[f"{SELF} before"] = lambda: processes.penstock("hydraulics", **before, **options)
    found = plan.in_turn(measured(plan, made, 64, plan.seconds))
    return {**found, **ratios(found)}


def connections(plan: Plan) -> Result:
    """The MLP on 1, 64, 1,000 and 10,000 connections, one after the other on one server: CPU a request.

    The load generator is that of the open loop, which counts from when every connection has had an answer.
    """
    processes.raise_file_limit(max(CONNECTIONS) + 1000)
    model = models.mlp(plan.folder)
    peers = others(model)
    made = {**ours(plan, model), **(peers if plan.everyone else {"mosec with orjson": peers["mosec with orjson"]})}
    found = plan.in_turn({name: lazy(make, lambda service: _each(plan, service)) for name, make in made.items()})
    return {**found, "cpu_relative_to_64": {name: _relative(side) for name, side in found.items()}}


def _each(plan: Plan, service: Service) -> Result:
    found: Result = {}
    with server(service) as running:
        wrk(running.url + service.path, body(plan.folder, service.body), connections=64, seconds=1)
        for number in CONNECTIONS:
            run = steady(running, service, plan.folder, number, plan.seconds)
            found |= {f"{key}@{number}": run[key] for key in ("rps", "cpu_us", "p50_ms", "p99_ms", "failed")}
        return {**found, "rss_mb": running.rss_mb()}


def _relative(side: Result) -> Result:
    if "cpu_us@64" not in side:
        return side
    return {str(number): round(side[f"cpu_us@{number}"] / side["cpu_us@64"], 2) for number in CONNECTIONS}


def overload(plan: Plan) -> Result:
    """A constant rate at the peak and at three times the peak; each request has a deadline of a second.

    The peak is that of the same server in the same round, found with 64 connections in a closed loop. Two models: the
    CNN of 0.7 ms a sample, where the model is the limit, and the MLP, where the server is.
    """
    return {name: _overload(plan, made) for name, made in (("cnn", models.cnn), ("mlp", models.mlp))}


def _overload(plan: Plan, model_of: Callable[[Path], Path]) -> Result:
    model = model_of(plan.folder)
    peers = others(model) if plan.everyone else {}
    made = {**ours(plan, model, max_queue_size=64), **peers}
    return plan.in_turn({name: lazy(make, lambda service: _thrice(plan, service)) for name, make in made.items()})


def _thrice(plan: Plan, service: Service) -> Result:
    request = body(plan.folder, service.body)
    with server(service) as running:
        url = running.url + service.path
        wrk(url, request, connections=8, seconds=1)
        peak = closed_on(running, service, plan.folder, 64, plan.seconds / 2)["rps"]
        found: Result = {"peak_closed_rps": peak}
        for factor in (1, 3):
            run = open_loop(url, request, rate=peak * factor, seconds=plan.seconds, limit_ms=DEADLINE_MS)
            found |= {f"{key}@{factor}x": value for key, value in run.items()}
    best = max(found["good_rps@1x"], found["good_rps@3x"])
    return {**found, "share_of_peak": found["good_rps@3x"] / best, "share_of_closed_peak": found["good_rps@3x"] / peak}


def start(plan: Plan) -> Result:
    """From the command to the first 200 of the readiness probe, with the CPU time until then, and the memory of all
    processes after some requests. What any server of the kind has to import is measured beside it.
    """
    model = models.mlp(plan.folder)
    made = {**ours(plan, model), **ours(plan, model, "Penstock, two processes", workers=2)}
    made |= others(model) if plan.everyone else {}

    def once(service: Service) -> Result:
        with server(service) as running:
            cpu = running.cpu_s()
            wrk(running.url + service.path, body(plan.folder, service.body), connections=8, seconds=1)
            return {"ready_s": running.ready_s, "ready_cpu_s": cpu, "rss_mb": running.rss_mb()}

    floors = {
        "bare: pass": "pass",
        "bare: the runtime": "import onnxruntime, numpy",
        "bare: the libraries of the front": "import pydantic, orjson, uvloop, httptools",
    }
    sides: dict[str, Side] = {name: (lambda code=code: processes.plain(code)) for name, code in floors.items()}  # type: ignore[misc]
    sides |= {name: lazy(make, once) for name, make in made.items()}
    for side in sides.values():  # writes the bytecode, which an installation has from the beginning
        with suppress(Unavailable):
            side()
    return plan.in_turn(sides)


def interfaces(plan: Plan) -> Result:
    """The same gateway over its own server and under two ASGI servers."""
    model = models.mlp(plan.folder)
    made = {
        **ours(plan, model),
        "granian asgi": lambda: processes.asgi("granian", model),
        "uvicorn asgi": lambda: processes.asgi("uvicorn", model),
    }
    return plan.in_turn(measured(plan, made, 64, plan.seconds))


FRONT: dict[str, Callable[[Plan], Result]] = {
    "small_model": small_model,
    "two_processes": two_processes,
    "cnn": cnn,
    "latency": latency,
    "hydraulics_64": hydraulics_64,
    "connections": connections,
    "overload": overload,
    "start": start,
}
"""The rows of the table; `interfaces` is not one of them."""

__all__ = ["FRONT", "Plan", "Unavailable", "interfaces"]
