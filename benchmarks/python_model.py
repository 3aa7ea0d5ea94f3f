"""What a worker costs: `python benchmarks/python_model.py`. A class called here, by way of a worker, and over HTTP.

The class adds numbers, or keeps its core busy for half a millisecond a row. It takes about half a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from penstock.workers.pool import Limits, WorkerPool
from penstock.workers.process import WorkerSpec

BODY = b'{"inputs":{"x":[[1.0,2.0,3.0,4.0]]}}'


class Double:
    inputs = "x:FP32:-1,4"
    outputs = "y:FP32:-1,4"

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": inputs["x"] * 2}


class Busy(Double):
    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        for _ in inputs["x"]:
            sum(range(30_000))
        return super().predict(inputs)


def p50_us(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e6


def runs(pool: WorkerPool) -> None:
    model = Double()
    for rows in (1, 32):
        x = {"x": np.ones((rows, 4), np.float32)}
        here = p50_us(lambda x=x: model.predict(x), 5000)
        before = time.process_time()
        there = p50_us(lambda x=x, rows=rows: pool.run(x, rows, None), 5000)
        cpu = (time.process_time() - before) / 5000 * 1e6
        print(f"{rows} rows: {here:.1f} us here, {there:.0f} us in a worker, {cpu:.0f} us of CPU of the server")
    for size in (1, 4, 16):
        rows = size * 62_500
        x = {"x": np.ones((rows, 4), np.float32)}
        there = p50_us(lambda x=x, rows=rows: pool.run(x, rows, None), 20) / 1000
        here = p50_us(lambda x=x: model.predict(x), 20) / 1000
        print(f"{size} MB each way: {there:.2f} ms in a worker, {here:.2f} here")


def replacements(pool: WorkerPool) -> None:
    taken = []
    for number in range(1, 6):
        started = time.perf_counter()
        os.kill(pool.pids()[0], signal.SIGKILL)
        while pool.figures() != {"ready": 1, "failures": number}:
            time.sleep(0.002)
        pool.run({"x": np.ones((1, 4), np.float32)}, 1, None)
        taken.append(time.perf_counter() - started)
    print(f"a killed worker is replaced within {statistics.median(taken) * 1000:.0f} ms")


@contextmanager
def served(name: str, workers: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "penstock", "serve", f"{Path(__file__).stem}:{name}", "--port", "0"]
        command += ["--python-workers", str(workers), "--python-path", str(Path(__file__).parent)]
        log = Path(directory, "log")
        with log.open("wb") as out, subprocess.Popen(command, cwd=directory, stderr=out) as server:
            try:
                while '"event":"ready"' not in log.read_text():
                    time.sleep(0.05)
                yield int(re.findall(r"http://[^\s;]+:(\d+)", log.read_text())[0])
            finally:
                server.terminate()


async def client(port: int, until: float, taken: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(BODY)}\r\n\r\n"
    while time.perf_counter() < until:
        started = time.perf_counter()
        writer.write(head.encode() + BODY)
        reply = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in reply[:20], reply
        await reader.readexactly(int(re.findall(rb"content-length: (\d+)", reply)[0]))
        taken.append(time.perf_counter() - started)
    writer.close()


async def load(port: int, connections: int, seconds: float) -> list[float]:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, until, taken) for _ in range(connections)))
    return taken


def throughput(name: str, workers: int) -> None:
    with served(name, workers) as port:
        for connections in (1, 32):
            asyncio.run(load(port, connections, 0.5))
            taken = sorted(asyncio.run(load(port, connections, 3.0)))
            figures = {"req_s": round(len(taken) / 3), "p50_ms": taken[len(taken) // 2] * 1000}
            figures |= {"p99_ms": taken[len(taken) * 99 // 100] * 1000}
            shown = json.dumps({name: round(value, 2) for name, value in figures.items()})
            print(f"{name}, {workers} workers, {connections} connections: {shown}", flush=True)


def main() -> None:
    path = str(Path(__file__).parent)
    spec = WorkerSpec("Double", {"target": f"{Path(__file__).stem}:Double", "python_path": [path]})
    pool = WorkerPool(spec, Limits())
    pool.open()
    runs(pool)
    replacements(pool)
    pool.close()
    for name in ("Double", "Busy"):
        for workers in (1, 2):
            throughput(name, workers)


if __name__ == "__main__":
    main()
