"""Several processes of a server that is not ours: their figures are one set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
from linear_models import linear
from live_servers import children
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from waiting import wait_until

from penstock.gateway.process.sockets import free_address
from penstock_digits.data import features_of, load_split

GOOD = {"input_data": [1, 2, 3, 4]}
COMMAND = [sys.executable, "-m", "uvicorn", "penstock.gateway.process.asgi:AsgiApp", "--factory", "--workers", "2"]


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
    with subprocess.Popen(
        [*COMMAND, "--port", str(port)], env={**clean, **settings}, stderr=subprocess.DEVNULL
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


def test_drift_and_predictions_of_workers_of_uvicorn_are_those_of_all(tmp_path: Path) -> None:
    port = free_address("127.0.0.1", 0)[1]
    url = f"http://127.0.0.1:{port}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    settings = {
        "PENSTOCK_MODEL_PATH": "digits",
        "PENSTOCK_REGISTRY": str(tmp_path / "registry"),
        "TMPDIR": str(tmp_path),
    }
    drift = {"PENSTOCK_DRIFT_WINDOW_S": "2", "PENSTOCK_DRIFT_MIN_ROWS": "60"}
    rows = [{"input_data": row.tolist()} for row in features_of(load_split().held_out.counts[:60]).round(3)]
    with subprocess.Popen(
        [*COMMAND, "--port", str(port)], env={**clean, **settings, **drift}, stderr=subprocess.DEVNULL
    ) as uvicorn:
        try:
            wait_until(lambda: figures(url)[0] == 2, 0.2)
            answers = Counter(str(_predicted(url, row)) for row in rows)  # each over a connection of its own
            wait_until(lambda: all(_classes(url) == answers for _ in range(6)), 0.6)
            wait_until(lambda: {_watched(url) for _ in range(6)} == {len(rows)}, 0.6)
            page = httpx.get(f"{url}/metrics").text
            for label, count in answers.items():
                assert f'penstock_predictions_total{{class="{label}",model="digits",version="v1.0"}} {count}.0' in page
            assert 'penstock_drift_verdict{model="digits",verdict="ok",version="v1.0"} 1.0' in page
        finally:
            uvicorn.terminate()


def _predicted(url: str, row: dict[str, list[float]]) -> int:
    reply = httpx.post(f"{url}/models/digits/predict", json=row)
    assert reply.status_code == 200, reply.text
    return int(reply.json()["predictions"][0])


def _classes(url: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"{url}/stats").json()["models"]["digits:v1.0"]["predictions"]["classes"]
    return found


def _watched(url: str) -> int:
    """The rows of closed windows, as the process that answers knows them."""
    windows = httpx.get(f"{url}/models/digits/drift").json()["windows"]
    return sum(window["rows"] for window in windows if window["closed"])
