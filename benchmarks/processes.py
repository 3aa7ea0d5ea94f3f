"""Servers as child processes on loopback, with their CPU time and memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A running server. `ready_s` is the time from the command to the first successful response to `probe`."""

    name: str
    url: str
    process: psutil.Process
    ready_s: float

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        return sum(sum(p.cpu_times()[:2]) for p in self.family())

    def rss_mb(self) -> float:
        return sum(p.memory_info().rss for p in self.family()) / 1e6


@contextmanager
def server(name: str, command: list[str], port: int, probe: str, env: dict[str, str]) -> Iterator[Running]:
    """Start, wait until `probe` answers 200 to a GET (or anything but a refused connection), stop at the end."""
    url = f"http://127.0.0.1:{port}"
    log = Path(env.get("BENCH_LOG", os.devnull)).open("ab")  # noqa: SIM115
    started = time.monotonic()
    child = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log, cwd=HERE)
    try:
        while not _answers(url + probe):
            if child.poll() is not None or time.monotonic() - started > 30:
                raise RuntimeError(f"{name} did not start: {' '.join(command)}")
            time.sleep(0.005)
        yield Running(name, url, psutil.Process(child.pid), time.monotonic() - started)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        log.close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # loopback only
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (404, 405, 422)
    except (OSError, ValueError):
        return False


def penstock(model: Path, **settings: object) -> tuple[str, list[str], int, str, dict[str, str]]:
    port = free_port()
    command = [sys.executable, "-m", "penstock.cli.main", "serve", str(model), "--port", str(port)]
    env = {f"PENSTOCK_{key.upper()}": str(value) for key, value in settings.items()}
    return "penstock", command, port, "/health/ready", {"PENSTOCK_LOG_LEVEL": "error", **env}


def plain_fastapi(model: Path) -> tuple[str, list[str], int, str, dict[str, str]]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "peers.fastapi_plain:app", "--port", str(port), "--no-access-log"]
    return "fastapi+uvicorn", [*command, "--log-level", "error"], port, "/openapi.json", {"BENCH_MODEL": str(model)}


def mosec(model: Path, json_library: str = "orjson") -> tuple[str, list[str], int, str, dict[str, str]]:
    port = free_port()
    command = [sys.executable, "peers/mosec_server.py", "--port", str(port), "--address", "127.0.0.1"]
    return "mosec", command, port, "/metrics", {"BENCH_MODEL": str(model), "BENCH_JSON": json_library}


def asgi(server_name: str, model: Path) -> tuple[str, list[str], int, str, dict[str, str]]:
    """The same gateway under an ASGI server, to measure the cost of the interface."""
    port = free_port()
    app = "penstock.gateway.process.asgi:create_app"
    commands = {
        "granian": ["granian", "--interface", "asgi", "--factory", "--no-ws", "--port", str(port), app],
        "uvicorn": ["uvicorn", "--factory", "--no-access-log", "--port", str(port), app],
    }
    env = {"PENSTOCK_MODEL_PATH": str(model), "PENSTOCK_LOG_LEVEL": "error"}
    return f"{server_name} asgi", [sys.executable, "-m", *commands[server_name]], port, "/health/ready", env
