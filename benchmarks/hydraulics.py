"""Hydraulic diagnostics over HTTP and in one process: 14 sensors of 60 samples each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import processes
from load import JSON, Input, wrk
from turns import Result, in_turn

TEMPLATE = "zema_rig"
SAMPLES = 60
BATCH = 32
CONNECTIONS = 64

_COLD = """
import json, sys, time
started = time.perf_counter()
from penstock import ModelManager
from penstock.registry.registry import Registry
import onnxruntime, pydantic, penstock.engine.engine, penstock.gateway.gateway
imported = time.perf_counter()
registry = Registry(sys.argv[1])
registry.get("hydraulics")
opened = time.perf_counter()
manager = ModelManager(registry, attach=True)
manager.load_model("hydraulics")
loaded = time.perf_counter()
manager.warmup("hydraulics", 32)
warm = time.perf_counter()
manager.close()
steps = {"imports_s": imported - started, "registry_s": opened - imported}
print(json.dumps({**steps, "load_s": loaded - opened, "warmup_s": warm - loaded}))
"""
"""Imports and opening the registry are not part of the load: a server does both before its first model."""


def window(seed: int) -> dict[str, list[float]]:
    """One work cycle of the test rig at 1 Hz: the mean of those that the shipped model was trained on, and some noise.

    Simulated cycles are out of distribution, and what an answer then says about each sensor takes 0.15 ms.
    """
    import penstock_hydraulics

    shipped = Path(penstock_hydraulics.__file__).parent / "artifacts" / "hydraulics"
    manifest = shipped / (shipped / "champion").read_text(encoding="utf-8").strip() / "manifest.json"
    config = json.loads(manifest.read_text(encoding="utf-8"))["task"]["config"]
    reference, chance, readings = config["reference"][TEMPLATE]["rows"], np.random.default_rng(seed), {}
    for row, known in config["scales"]["machines"][TEMPLATE].items():
        component, channel = row.split(".")
        if channel not in ("flow_max", "flow_min"):
            low, high = map(float, reference[f"{channel}_{component}"]["roughness"].split())
            noise = chance.normal(0, low / 2 + high / 8, SAMPLES)
            cycle = np.array(known["mean"].split(), float) + noise
            readings[f"{channel}_{component}"] = np.maximum(cycle, 0).round(3).tolist()
    return readings


def request_of(machine: int) -> dict[str, Any]:
    return {"equipment_id": f"rig_{machine:03}", "topology": TEMPLATE, "sensor_data": window(machine)}


def body(folder: Path, name: str, content: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, separators=(",", ":")))
    return path


def registry_of(folder: Path) -> Path:
    """A registry with the shipped artifacts, so that no run publishes them."""
    from penstock import Registry

    with Registry(folder / "hydraulics-registry") as registry:
        registry.ensure("hydraulics")
        return registry.path


def start(registry: Path, workers: int = 1) -> processes.Service:
    return processes.penstock("hydraulics", registry=registry, workers=workers)


def closed(registry: Path, path: str, request: Path, connections: int, seconds: float, workers: int = 1) -> Result:
    """One closed-loop run on a fresh server, after a warm-up: rate, latency, CPU time per request."""
    with processes.server(start(registry, workers)) as running:
        wrk(running.url + path, Input(request, JSON), connections=connections, seconds=1)
        before, started = running.cpu_s(), time.monotonic()
        found = wrk(running.url + path, Input(request, JSON), connections=connections, seconds=seconds)
        cpu_s, took = running.cpu_s() - before, time.monotonic() - started
        if found["failed"]:
            raise RuntimeError(f"{found['failed']} requests to {path} failed")
        return {
            "rps": found["requests"] / found["took_s"],
            "p50_ms": found["p50_ms"],
            "p99_ms": found["p99_ms"],
            "cpu_ms": cpu_s / found["requests"] * 1e3,
            "cores": cpu_s / took,
        }


def cold(registry: Path) -> Result:
    """A new process: seconds for imports, registry, loading the model with its imports, and warm-up."""
    command = [sys.executable, "-c", _COLD, str(registry)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def ready(registry: Path) -> Result:
    """Time from the command to the first 200 of /health/ready, and resident memory."""
    with processes.server(start(registry)) as running:
        return {"ready_s": running.ready_s, "rss_mb": running.rss_mb()}


def hydraulics(folder: Path, rounds: int, seconds: float) -> Result:
    """Hydraulic diagnostics: one request, a batch of 32, 64 connections, and the start-up time."""
    registry = registry_of(folder)
    one = body(folder, "rig", request_of(1))
    many = body(folder, "rigs", {"requests": [request_of(machine) for machine in range(BATCH)]})
    sides: dict[str, Callable[[], Result]] = {
        "single": lambda: closed(registry, "/predict", one, 1, seconds),
        f"batch of {BATCH}": lambda: closed(registry, "/predict/batch", many, 1, seconds),
        f"{CONNECTIONS} connections": lambda: closed(registry, "/predict", one, CONNECTIONS, seconds),
        f"{CONNECTIONS} connections, 2 processes": lambda: closed(registry, "/predict", one, CONNECTIONS, seconds, 2),
        "cold": lambda: cold(registry),
        "server": lambda: ready(registry),
    }
    return {"body_bytes": one.stat().st_size, **in_turn(sides, rounds)}


BENCHMARKS = {"hydraulics": hydraulics}
