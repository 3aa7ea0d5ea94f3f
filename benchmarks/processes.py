"""Servers as child processes on loopback, with their CPU time and memory.

The servers that Penstock is compared with run in an environment of their own, which `make peers` creates.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).parent
PREDICT = "/inference/predict"


class Unavailable(Exception):
    """This side cannot be measured here; the message says why and what would change that."""


@dataclass(frozen=True)
class Service:
    """How to start a server, with `{port}` in its command, and what to ask it; `body` names a form of the input."""

    name: str
    command: list[str]
    probe: str
    path: str = PREDICT
    body: str = "json"
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class Running:
    """A running server. `ready_s` is the time from the command to the first successful response to `probe`."""

    url: str
    process: psutil.Process
    ready_s: float

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        return sum(sum(p.cpu_times()[:2]) for p in self.family())

    def rss_mb(self) -> float:
        return sum(p.memory_info().rss for p in self.family()) / 1e6


def peers_python() -> str:
    """The interpreter of the environment of the other servers. Raises Unavailable if `make peers` has not made it."""
    folder = Path(os.environ.get("PEERS") or Path.home() / ".cache" / "penstock-peers")
    python = folder / "bin" / "python"
    if not python.exists():
        raise Unavailable(
            f"the servers to compare with are not in {folder}; run `make peers` (PEERS=… chooses the folder)"
        )
    return str(python)


def raise_file_limit(needed: int) -> None:
    """Allow this process and its children `needed` open files. Raises Unavailable where the machine forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
        except (ValueError, OSError):
            raise Unavailable(f"it needs {needed:,} open files and the limit is {hard:,} (ulimit -Hn)") from None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(more: dict[str, str]) -> dict[str, str]:
    """The environment of a child that keeps its bytecode, as an installed package does, outside of the checkouts.

    With PYTHONDONTWRITEBYTECODE, as containers and CI set it, every start of a checkout would compile its source again.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "penstock-bytecode"), **more}


def plain(code: str) -> dict[str, float]:
    """Time, CPU time and peak memory of a Python that only runs `code`: the floor for a server that needs the same."""
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, "-c", code], env=environment({}))
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    took = time.monotonic() - started
    return {"ready_s": took, "ready_cpu_s": used.ru_utime + used.ru_stime, "rss_mb": used.ru_maxrss * 1024 / 1e6}


@contextmanager
def server(service: Service) -> Iterator[Running]:
    """Start, wait until `probe` answers 200 to a GET, stop the whole family of processes at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [part.replace("{port}", str(port)) for part in service.command]
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        child = subprocess.Popen(command, env=environment(service.env), stdout=log, stderr=log, cwd=HERE)
        process = psutil.Process(child.pid)
        family = [process]
        try:
            while not _answers(url + service.probe):
                if child.poll() is not None or time.monotonic() - started > 60:
                    log.seek(0)
                    said = log.read()[-600:].decode(errors="replace")
                    raise Unavailable(f"{service.name} did not start ({' '.join(command)}); it said: {said}")
                time.sleep(0.005)
            running = Running(url, process, time.monotonic() - started)
            family = running.family()
            yield running
            family = running.family()
        finally:
            _stop(child, family)


def _stop(child: subprocess.Popen[bytes], family: list[psutil.Process]) -> None:
    """SIGTERM to the parent; what is left of its family then is killed (some servers leave children behind)."""
    with suppress(psutil.NoSuchProcess):
        family = list({*family, *psutil.Process(child.pid).children(recursive=True)})
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # loopback only
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def penstock(
    model: Path | str, *, checkout: Path | None = None, path: str = PREDICT, body: str = "json", **settings: object
) -> Service:
    """`penstock serve` with the default configuration and `settings`; of another `checkout` of the project if given."""
    env = {f"PENSTOCK_{key.upper()}": str(value) for key, value in settings.items()}
    if checkout is not None:
        places = [checkout / "src", checkout / "packages" / "penstock-hydraulics" / "src"]
        if not places[0].is_dir():
            raise Unavailable(f"{checkout} is no checkout of Penstock: it has no src")
        env["PYTHONPATH"] = os.pathsep.join(map(str, places))
    command = [sys.executable, "-m", "penstock", "serve", str(model), "--port", "{port}"]
    name = "penstock" if checkout is None else "penstock before"
    return Service(name, command, "/health/ready", path, body, {"PENSTOCK_LOG_LEVEL": "error", **env})


def fastapi(model: Path, workers: int = 1) -> Service:
    command = [peers_python(), "-m", "uvicorn", "peers.fastapi_plain:app", "--port", "{port}", "--no-access-log"]
    command += ["--log-level", "error", *(["--workers", str(workers)] if workers > 1 else [])]
    return Service("fastapi", command, "/openapi.json", env={"BENCH_MODEL": str(model)})


def mosec(model: Path, library: str = "orjson", workers: int = 1) -> Service:
    command = [peers_python(), "peers/mosec_server.py", "--port", "{port}", "--address", "127.0.0.1"]
    env = {"BENCH_MODEL": str(model), "BENCH_JSON": library, "BENCH_WORKERS": str(workers)}
    return Service("mosec", command, "/metrics", "/inference", env=env)


def litserve(model: Path, workers: int = 1) -> Service:
    env = {"BENCH_MODEL": str(model), "BENCH_WORKERS": str(workers)}
    return Service("litserve", [peers_python(), "peers/litserve_server.py", "{port}"], "/health", "/predict", env=env)


def bentoml(model: Path, workers: int = 1) -> Service:
    command = [peers_python(), "-m", "bentoml", "serve", "peers.bentoml_service:Inference"]
    env = {
        "BENCH_MODEL": str(model),
        "BENCH_WORKERS": str(workers),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(model.parent / "bentoml"),
    }
    return Service("bentoml", [*command, "--host", "127.0.0.1", "--port", "{port}"], "/readyz", "/predict", "rows", env)


def peers(model: Path, workers: int = 1) -> dict[str, Service]:
    """Every other server in its best form."""
    return {
        "mosec with orjson": mosec(model, "orjson", workers),
        "mosec with pysimdjson": mosec(model, "simdjson", workers),
        "LitServe": litserve(model, workers),
        "BentoML": bentoml(model, workers),
        "FastAPI": fastapi(model, workers),
    }


def asgi(server_name: str, model: Path) -> Service:
    """The same gateway under an ASGI server, to measure the cost of the interface."""
    app = "penstock.gateway.process.asgi:create_app"
    commands = {
        "granian": ["granian", "--interface", "asgi", "--factory", "--no-ws", "--port", "{port}", app],
        "uvicorn": ["uvicorn", "--factory", "--no-access-log", "--port", "{port}", app],
    }
    env = {"PENSTOCK_MODEL_PATH": str(model), "PENSTOCK_LOG_LEVEL": "error"}
    return Service(server_name, [sys.executable, "-m", *commands[server_name]], "/health/ready", env=env)


def answer_of(running: Running, service: Service, body: bytes, headers: dict[str, str]) -> object:
    """One answer, to see that a server takes this form of the input. Raises Unavailable with what it said instead."""
    request = urllib.request.Request(running.url + service.path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read()[:300].decode(errors="replace")
        raise Unavailable(f"{service.name} answers this request with {error.code}: {said}") from None
