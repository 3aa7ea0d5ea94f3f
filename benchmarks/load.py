"""Load on a local server: closed loop with wrk, open loop (constant rate) with asyncio. Bounded in time."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {{"requests":%d,"us":%d,"bad":%d,"socket":%d,"p50":%.1f,"p99":%.1f}}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Closed:
    """A closed-loop run: successful requests per second, latencies in milliseconds."""

    rps: float
    p50_ms: float
    p99_ms: float
    failed: int


def body(folder: Path, features: int = 784) -> Path:
    """One JSON request: pixels with four decimals, like those of a client that divides by 255."""
    path = folder / "body.json"
    pixels = np.random.default_rng(7).random(features).round(4).tolist()
    path.write_text(json.dumps({"input_data": pixels}, separators=(",", ":")))
    return path


def wrk(url: str, request: Path, *, connections: int, seconds: float, threads: int = 1) -> Closed:
    script = request.with_suffix(".lua")
    script.write_text(_WRK_SCRIPT.format(body=request))
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    match = re.search(r"RESULT (\{.*\})", output)
    if match is None:
        raise RuntimeError(f"wrk said: {output}")
    r = json.loads(match[1])
    good = r["requests"] - r["bad"]
    return Closed(good / (r["us"] / 1e6), r["p50"] / 1000, r["p99"] / 1000, r["bad"] + r["socket"])


@dataclass(frozen=True)
class Open:
    """An open-loop run: replies per second by status; latency of successful ones from the planned send time, in ms."""

    rps: dict[int, float]
    p50_ms: float
    p99_ms: float
    max_ms: float
    retry_after_missing: int


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bool]] | None = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, gap, rest = self.buffer.partition(b"\r\n\r\n")
        if not gap or self.answer is None:
            return
        lower = head.lower()
        length = re.search(rb"content-length: (\d+)", lower)
        if length is not None and len(rest) >= int(length[1]) and not self.answer.done():
            self.buffer = b""
            self.answer.set_result((int(head[9:12]), b"retry-after:" in lower))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  the name that asyncio calls
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((0, False))


async def _open_loop(
    host: str, port: int, path: str, payload: bytes, rate: float, seconds: float, headers: str
) -> Open:
    loop = asyncio.get_running_loop()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}"
    message = f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload
    idle: list[_Connection] = []
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    missing = 0

    async def send(planned: float) -> None:
        nonlocal missing
        connection = idle.pop() if idle else (await loop.create_connection(_Connection, host, port))[1]
        connection.answer = loop.create_future()
        connection.transport.write(message)  # type: ignore[attr-defined]
        status, retry_after = await connection.answer
        statuses[status] += 1
        if status == 200:
            latencies.append(time.perf_counter() - planned)
        elif status in (429, 503) and not retry_after:
            missing += 1
        if connection.transport.is_closing():  # type: ignore[attr-defined]
            return
        idle.append(connection)

    tasks: set[asyncio.Task[None]] = set()
    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        planned = started + number / rate
        ahead = planned - time.perf_counter()
        if ahead > 0.001:
            await asyncio.sleep(ahead)
        task = asyncio.create_task(send(planned))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if number % 16 == 0:
            await asyncio.sleep(0)
    while tasks:
        await asyncio.wait(tasks, timeout=30)
    took = time.perf_counter() - started
    for connection in idle:
        connection.transport.close()  # type: ignore[attr-defined]
    ms = np.array(latencies or [float("nan")]) * 1000
    return Open(
        {status: count / took for status, count in sorted(statuses.items())},
        float(np.percentile(ms, 50)),
        float(np.percentile(ms, 99)),
        float(ms.max()),
        missing,
    )


def open_loop(url: str, request: Path, *, rate: float, seconds: float, headers: str = "") -> Open:
    """Open-loop requests at a constant rate, from a separate process."""
    command = [sys.executable, __file__, url, str(request), str(rate), str(seconds), headers]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    found = json.loads(output)
    found["rps"] = {int(status): rate for status, rate in found["rps"].items()}
    return Open(**found)


def _main(url: str, request: str, rate: str, seconds: str, headers: str) -> None:
    import uvloop

    match = re.fullmatch(r"http://([\d.]+):(\d+)(/.*)", url)
    if match is None:
        raise SystemExit(f"not a loopback address: {url}")
    run = _open_loop(
        match[1], int(match[2]), match[3], Path(request).read_bytes(), float(rate), float(seconds), headers
    )
    print(json.dumps(vars(uvloop.run(run))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
