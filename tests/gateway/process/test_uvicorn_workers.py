"""Several processes of a server that is not ours: their figures are one set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from linear_models import linear
from live_servers import children
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from waiting import wait_until

from penstock.gateway.process.sockets import free_address

GOOD = {"input_data": [1, 2, 3, 4]}


def ask(url: str, path: str = "/stats") -> httpx.Response | None:
    try:
        if path == "/predict":
            return httpx.post(url + path, json=GOOD)
        return httpx.get(url + path)
    except httpx.TransportError:
        return None


def figures(url: str) -> tuple[int, int]:
    """How many processes and predictions the process that answers counts."""
    reply = ask(url)
    if reply is None or reply.status_code != 200:
        return 0, 0
    stats = reply.json()
    return stats["processes"], stats["models"].get("vec:v1.0", {"requests": 0})["requests"]


def test_each_worker_of_uvicorn_has_the_figures_of_all(tmp_path: Path) -> None:
    port = free_address("127.0.0.1", 0)[1]
    url = f"http://127.0.0.1:{port}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    settings = {"PENSTOCK_MODEL_PATH": str(linear(tmp_path / "vec.onnx")), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "uvicorn", "penstock.gateway.process.asgi:AsgiApp", "--factory", "--workers", "2"]
    with subprocess.Popen(
        [*command, "--port", str(port)], env={**clean, **settings}, stderr=subprocess.DEVNULL
    ) as uvicorn:
        try:
            wait_until(lambda: figures(url)[0] == 2, 0.2)
            for _ in range(10):
                reply = ask(url, "/predict")
                assert reply is not None
                assert reply.status_code == 200, reply.text
            wait_until(lambda: {figures(url) for _ in range(6)} == {(2, 10)}, 0.6)
            victim = children(uvicorn.pid)[-1]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: len(set(children(uvicorn.pid)) - {victim}) == 2)  # uvicorn has started another one
            wait_until(lambda: {figures(url) for _ in range(6)} == {(2, 10)}, 0.6)
            page = ask(url, "/metrics")
            assert page is not None
            assert "\npenstock_processes 2.0\n" in page.text
            assert 'penstock_requests_total{model="vec",outcome="ok",version="v1.0"} 10.0' in page.text
            assert '\npenstock_model_state{ref="' in page.text
            assert ',state="serving"} 2.0\n' in page.text
            assert "\npenstock_ready_processes 2.0\n" in page.text
            open_page = httpx.get(f"{url}/metrics", headers={"accept": "application/openmetrics-text"})
            assert open_page.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
            assert {family.name for family in text_string_to_metric_families(open_page.text)} >= {"penstock_requests"}
        finally:
            uvicorn.terminate()
    assert not list(tmp_path.glob("penstock-*"))
