"""`python benchmarks/layers.py [--model mlp|cnn|hydraulics] …`: where the CPU of a request goes in `penstock serve`.

Two views of the same load. By library, from perf (kernel, interpreter, JSON, ONNX Runtime, event loop and parser), in
µs a request: exact, but it cannot see Python code. By module and by function, from py-spy (in the environment of
`make peers`): shares of the time in which a thread held the interpreter lock, C code called from a function included.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hydraulics
import models
import processes
from load import body, need_wrk, wrk
from processes import Running, Service, Unavailable, server

LAYERS = (
    ("kernel", r"kernel|\[vdso\]|\[vmlinux|^\[.*\]$"),
    ("JSON", r"simdjson|orjson|msgspec|pydantic_core|_json\."),
    ("ONNX Runtime", r"onnxruntime"),
    ("numpy", r"numpy|_multiarray|openblas"),
    ("HTTP parser and event loop", r"httptools|parser\.c|uvloop|loop\.c|granian|_asyncio|_socket|select\."),
    ("interpreter", r"libpython|python3"),
    ("C library", r"libc[.-]|libm[.-]|libstdc|libpthread|libgcc|ld-linux"),
)


def layer_of(library: str) -> str:
    return next((name for name, pattern in LAYERS if re.search(pattern, library)), library)


def under_load(
    running: Running, service: Service, folder: Path, connections: int, seconds: int
) -> subprocess.Popen[str]:
    """wrk in the background, for a few seconds more than what measures."""
    request = body(folder, service.body)
    wrk(running.url + service.path, request, connections=connections, seconds=1)  # writes the script as well
    script = str(request.path.with_suffix(".lua"))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, running.url + service.path]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def by_library(running: Running, folder: Path, seconds: int) -> Counter[str]:
    """Samples of perf by layer, of all processes of the server."""
    if shutil.which("perf") is None:
        raise Unavailable("perf is missing (apt-get install linux-perf): no shares by library")
    data, pids = folder / "perf.data", ",".join(str(process.pid) for process in running.family())
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "2000", "-o", str(data), "-p", pids]
    subprocess.run([*record, "--", "sleep", str(seconds)], check=True, capture_output=True)
    fields = ["perf", "report", "-i", str(data), "--sort", "dso", "--stdio", "-g", "none", "-n", "-t", "|"]
    told = subprocess.run(fields, check=True, capture_output=True, text=True).stdout
    samples: Counter[str] = Counter()
    for line in told.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == 3 and parts[1].isdigit():
            samples[layer_of(parts[2])] += int(parts[1])
    return samples


def stacks(running: Running, folder: Path, seconds: int) -> list[tuple[list[str], int]]:
    """Python stacks of the process that answers, with their number of samples."""
    spy = Path(processes.peers_python()).with_name("py-spy")
    busiest = max(running.family(), key=lambda process: sum(process.cpu_times()[:2]))
    out = folder / "stacks.txt"
    command = [str(spy), "record", "--format", "raw", "--gil", "--nonblocking", "--rate", "500", "--full-filenames"]
    subprocess.run(
        [*command, "--duration", str(seconds), "--output", str(out), "--pid", str(busiest.pid)],
        check=True,
        capture_output=True,
    )
    lines = (line.rsplit(" ", 1) for line in out.read_text().splitlines())
    return [(stack.split(";"), int(count)) for stack, count in lines]


def module_of(frame: str) -> str:
    """`penstock/engine/batching/queue.py` → `penstock/engine/batching`; others by their package."""
    path = re.sub(r":\d+\)$", ")", frame).rpartition("(")[2].rstrip(")")
    inside = re.search(r"(penstock(?:_hydraulics)?/.*)/[^/]+$", path)
    if inside:
        return inside[1]
    package = re.search(r"site-packages/([^/]+)|python3\.\d+/([^/]+)", path)
    return (package[1] or package[2]) if package else path


def function_of(frame: str) -> str:
    return re.sub(r"\((?:.*/)?((?:[^/]+/)?[^/]+):\d+\)$", r"(\1)", frame)


def table(title: str, counts: Counter[str], rows: int, unit: Callable[[float], str]) -> None:
    total = sum(counts.values()) or 1
    print(f"\n{title}")
    for name, count in counts.most_common(rows):
        print(f"  {unit(count / total):>16}  {name}")


def show(services: Service, folder: Path, connections: int, seconds: int, rows: int) -> None:
    with server(services) as running:
        load = under_load(running, services, folder, connections, 2 * seconds + 3)
        before = running.cpu_s()
        try:
            samples = by_library(running, folder, seconds)
        except Unavailable as reason:
            print(reason)
            samples = Counter()
        try:
            found = stacks(running, folder, seconds)
        except (Unavailable, subprocess.CalledProcessError) as reason:
            print(f"no view by function: {reason}")
            found = []
        told = load.communicate(timeout=2 * seconds + 60)[0]
        requests = int(re.search(r"(\d+) requests in", told)[1])  # type: ignore[index]
        cost = (running.cpu_s() - before) / requests * 1e6
    print(f"{requests} requests, {cost:.1f} µs of CPU a request")
    table("by library", samples, rows, lambda share: f"{share * cost:.1f} µs {share:6.1%}")
    views: dict[str, Counter[str]] = {"module": Counter(), "function, its own time": Counter()}
    inclusive: Counter[str] = Counter()
    for stack, count in found:
        views["module"][module_of(stack[-1])] += count
        views["function, its own time"][function_of(stack[-1])] += count
        inclusive.update(dict.fromkeys({function_of(frame) for frame in stack}, count))
    for name, counts in views.items():
        table(f"by {name}", counts, rows, lambda share: f"{share:.1%}")
    total = sum(count for _, count in found) or 1
    print("\nby function, with what it calls")
    for name, count in inclusive.most_common(3 * rows):
        print(f"  {count / total:>16.1%}  {name}")


def service_of(arguments: argparse.Namespace, folder: Path) -> Service:
    settings = {"checkout": arguments.checkout, "workers": arguments.workers}
    if arguments.model == "hydraulics":
        registry = hydraulics.registry_of(folder)
        request = hydraulics.body(folder, "rig", hydraulics.request_of(1))
        return processes.penstock("hydraulics", path="/predict", body=str(request), registry=registry, **settings)
    model = models.mlp(folder) if arguments.model == "mlp" else models.cnn(folder)
    return processes.penstock(model, body=arguments.body, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(prog="layers", description=__doc__)
    parser.add_argument("--model", choices=("mlp", "cnn", "hydraulics"), default="mlp")
    parser.add_argument("--body", choices=("json", "binary"), default="json")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=5, help="for each of the two views")
    parser.add_argument("--rows", type=int, default=25, help="lines of a table")
    parser.add_argument("--checkout", type=Path, help="another checkout of this project")
    arguments = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    with tempfile.TemporaryDirectory() as folder:
        try:
            need_wrk()
            service = service_of(arguments, Path(folder))
            show(service, Path(folder), arguments.connections, arguments.seconds, arguments.rows)
        except Unavailable as reason:
            sys.exit(f"layers: {reason}")


if __name__ == "__main__":
    main()
