"""`python -m penstock_hydraulics`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from hydraulic_models import hydraulic_registry

from penstock.gateway.process.sockets import free_address

COMMAND = [sys.executable, "-m", "penstock_hydraulics"]


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_it_serves_with_the_settings(tmp_path: Path) -> None:
    _, port = free_address("127.0.0.1", 0)
    settings = {"PENSTOCK_PORT": str(port), "PENSTOCK_REGISTRY": str(hydraulic_registry(tmp_path))}
    with subprocess.Popen(COMMAND, env={**os.environ, **settings}, stderr=subprocess.DEVNULL) as server:
        try:
            http, until = httpx.Client(base_url=f"http://127.0.0.1:{port}"), time.monotonic() + 60
            with http:
                while not _ready(http):
                    assert server.poll() is None
                    assert time.monotonic() < until
                    time.sleep(0.05)
                assert http.get("/model/info").json()["version"] == "1.0"
                assert http.get("/hydraulics").status_code == 200
        finally:
            server.terminate()


def test_a_wrong_setting_stops_it_with_one_line() -> None:
    done = subprocess.run(
        COMMAND, env={**os.environ, "PENSTOCK_PORT": "many"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "PENSTOCK_PORT" in done.stderr
