"""Load on a local server: closed loop with wrk, open loop (constant rate) with `open_loop.c`. Bounded in time."""

from __future__ import annotations

import json
import math
import re
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from processes import Running, Service, Unavailable, answer_of, server

FEATURES = 784
JSON = {"Content-Type": "application/json"}

_WRK_SCRIPT = """
wrk.method = "POST"
{headers}
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
class Input:
    """One request body in a file, with its headers."""

    path: Path
    headers: dict[str, str]


def pixels() -> np.ndarray[Any, np.dtype[np.float64]]:
    """One input with four decimals, like that of a client that divides by 255."""
    return np.random.default_rng(7).random(FEATURES).round(4)


def body(folder: Path, form: str = "json") -> Input:
    """The same pixels as `json`, as `rows` (nested, for servers that take batches only) or as `binary` (float32).

    Any other `form` is the path of a file with a JSON body.
    """
    path = folder / f"body-{form}"
    if form not in ("json", "rows", "binary"):
        return Input(Path(form), JSON)
    if form == "binary":
        path.write_bytes(pixels().astype("<f4").tobytes())
        return Input(path, BINARY)
    numbers: Any = pixels().tolist()
    content = {"input_data": [numbers] if form == "rows" else numbers}
    path.write_text(json.dumps(content, separators=(",", ":")))
    return Input(path, JSON)


BINARY = {
    "Content-Type": "application/octet-stream",
    "X-Penstock-Dtype": "FP32",
    "X-Penstock-Shape": f"1,{FEATURES}",
}


def need_wrk() -> None:
    """Raises Unavailable without wrk."""
    if shutil.which("wrk") is None:
        raise Unavailable("the load generator wrk is missing: apt-get install wrk")


def wrk(url: str, request: Input, *, connections: int, seconds: float) -> dict[str, Any]:
    """What wrk counted: `requests` (successful ones), `failed`, `took_s`, latencies in ms, and its own `load_cpu_s`."""
    script = request.path.with_suffix(".lua")
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers.items())
    script.write_text(_WRK_SCRIPT.format(body=request.path, headers=headers))
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        url,
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    match = re.search(r"RESULT (\{.*\})", output)
    if match is None:
        raise RuntimeError(f"wrk said: {output}")
    r = json.loads(match[1])
    return {
        "requests": r["requests"] - r["bad"],
        "failed": r["bad"] + r["socket"],
        "took_s": r["us"] / 1e6,
        "p50_ms": r["p50"] / 1000,
        "p99_ms": r["p99"] / 1000,
        "load_cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def busy_s() -> float:
    """CPU seconds of everything on this machine since it started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def closed_on(running: Running, service: Service, folder: Path, connections: int, seconds: float) -> dict[str, float]:
    """One closed-loop run: requests/s, latency, CPU of the server's processes and of wrk, and who used the machine.

    `load_share` and `others_share` are shares of all cores: those of wrk, and of processes that are neither of both.
    """
    request = body(folder, service.body)
    server_before, busy_before, started = running.cpu_s(), busy_s(), time.monotonic()
    run = wrk(running.url + service.path, request, connections=connections, seconds=seconds)
    cpu, busy, took = running.cpu_s() - server_before, busy_s() - busy_before, time.monotonic() - started
    machine = psutil.cpu_count() * took
    requests = run["requests"] or math.nan  # none was answered in time
    return {
        "rps": run["requests"] / run["took_s"],
        "cpu_us": cpu / requests * 1e6,
        "p50_ms": run["p50_ms"],
        "p99_ms": run["p99_ms"],
        "failed": run["failed"],
        "load_us": run["load_cpu_s"] / requests * 1e6,
        "server_share": cpu / machine,
        "load_share": run["load_cpu_s"] / machine,
        "others_share": max(0.0, (busy - cpu - run["load_cpu_s"]) / machine),
    }


def closed(service: Service, folder: Path, connections: int, seconds: float) -> dict[str, float]:
    """One closed-loop run on a new server, after a warm-up of a second; also the time to ready and the memory."""
    request = body(folder, service.body)
    with server(service) as running:
        answer_of(running, service, request.path.read_bytes(), request.headers)
        wrk(running.url + service.path, request, connections=connections, seconds=1)
        run = closed_on(running, service, folder, connections, seconds)
        return {**run, "ready_s": running.ready_s, "rss_mb": running.rss_mb()}


def steady(running: Running, service: Service, folder: Path, connections: int, seconds: float) -> dict[str, float]:
    """One closed-loop run without its beginning: counted from when every connection has had an answer."""
    request = body(folder, service.body)
    path = running.url.removeprefix("http://").split(":")[1]
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    command = [str(open_loop_program(folder)), path, service.path, str(request.path)]
    command += ["0", f"{seconds:g}", "0", str(connections), lines]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        load.stdout.readline()
        before = running.cpu_s()
        run: dict[str, Any] = json.loads(load.stdout.readline())
        cpu = running.cpu_s() - before
    good = run["statuses"].get("200", 0)
    return {
        "rps": good / run["took_s"],
        "cpu_us": cpu / (good or math.nan) * 1e6,
        "p50_ms": run["p50_ms"],
        "p99_ms": run["p99_ms"],
        "failed": run["answered"] - good + run["unanswered"],
    }


def open_loop_program(folder: Path) -> Path:
    """The compiled open-loop generator. Raises Unavailable without a C compiler."""
    program = folder / "open_loop"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("the open-loop generator is C and there is no compiler: apt-get install gcc libc6-dev")
    if not program.exists():
        subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("open_loop.c")], check=True)
    return program


def open_loop(
    url: str, request: Input, *, rate: float, seconds: float, limit_ms: float, connections: int = 4000
) -> dict[str, Any]:
    """Open-loop requests at a constant rate with the deadline `limit_ms`: replies a second by status, and latencies.

    Latencies are of 200s, from the planned time of sending. `good_rps`: 200 within the deadline.
    """
    program = open_loop_program(request.path.parent)
    host, path = url.removeprefix("http://").split("/", 1)
    headers = {**request.headers, "X-Request-Timeout-Ms": f"{limit_ms:g}"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    command = [str(program), host.split(":")[1], f"/{path}", str(request.path)]
    command += [f"{rate:.0f}", f"{seconds:g}", f"{limit_ms:g}", str(connections), lines]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + limit_ms / 1e3 + 60)
    run: dict[str, Any] = json.loads(done.stdout)
    took = max(run["took_s"], seconds)
    rates = {int(status): count / took for status, count in run["statuses"].items()}
    return {
        "sent_rps": run["sent"] / seconds,
        "good_rps": (run["statuses"].get("200", 0) - run["late"]) / took,
        "refused_rps": rates.get(429, 0.0) + rates.get(503, 0.0),
        "other_rps": sum(rate for status, rate in rates.items() if status not in (200, 429, 503)),
        "late": run["late"],
        "unanswered": run["unanswered"],
        "retry_after_missing": run["retry_after_missing"],
        "p50_ms": run["p50_ms"],
        "p99_ms": run["p99_ms"],
        "max_ms": run["max_ms"],
        "load_share": run["cpu_s"] / (psutil.cpu_count() * took),
    }
