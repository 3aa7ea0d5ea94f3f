"""Signals of an operator (SIGHUP, SIGUSR1), and what systemd is told."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from linear_models import linear
from live_servers import Process
from waiting import LONG_S, wait_until

Serve = Callable[..., Process]
ALIVE = ["h1", "1"], ["h1", "2"], ["granian", "1"]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens with."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(LONG_S)
        yield listening


def told(manager: socket.socket, *but: str) -> dict[str, str]:
    """The next datagram that begins with none of these."""
    while True:
        lines = manager.recv(4096).decode().splitlines()
        if not lines[0].startswith(but or ("nothing",)):
            return dict(line.split("=", 1) for line in lines)


def configured(place: Path, **settings: str) -> None:
    (place / "penstock.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))


@pytest.mark.parametrize(("server", "workers"), ALIVE)
def test_a_hangup_reads_the_settings_again_all_or_nothing(
    serve: Serve, tmp_path: Path, server: str, workers: str
) -> None:
    linear(tmp_path / "m.onnx")
    configured(tmp_path, log_level="info")
    process = serve("m.onnx", "--server", server, "--workers", workers)
    process.wait_for()
    wait_until(lambda: process.log.count('"event":"ready"') == int(workers))
    configured(tmp_path, log_level="warning", max_body_bytes="many")
    process.send(signal.SIGHUP)
    wait_until(lambda: "all stays as it was: max_body_bytes" in process.log)
    assert "were read again" not in process.log
    configured(tmp_path, log_level="warning", cors_origins="https://example.org")
    process.send(signal.SIGHUP)
    for _ in range(int(workers)):
        wait_until(lambda: process.log.count("cors_origins changed, which takes effect at the next start") >= 1)
    assert httpx.post(f"{process.url}/predict", json={"input_data": [1, 2, 3, 4]}).status_code == 200
    process.send()
    code, _, err = process.finish()
    assert code == 0
    assert '"draining"' not in err  # of level info


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_shows_the_stacks_of_all_threads_and_the_server_goes_on(
    serve: Serve, tmp_path: Path, workers: str
) -> None:
    linear(tmp_path / "m.onnx")
    process = serve("m.onnx", "--workers", workers)
    process.wait_for()
    wait_until(lambda: process.log.count('"event":"ready"') == int(workers))
    process.send(signal.SIGUSR1)
    wait_until(lambda: process.log.count("Current thread") >= int(workers))
    assert "in run" in process.log
    assert httpx.post(f"{process.url}/predict", json={"input_data": [1, 2, 3, 4]}).status_code == 200
    process.send()
    assert process.finish()[0] == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_systemd_is_told_what_the_service_does(
    serve: Serve, tmp_path: Path, manager: socket.socket, workers: str
) -> None:
    linear(tmp_path / "m.onnx")
    process = serve("m.onnx", "--workers", workers, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="3000000")
    ready = told(manager, "WATCHDOG")
    assert ready["READY"] == "1"
    assert "serving" in ready["STATUS"]
    assert httpx.get(f"{process.url}/health/ready").status_code == 200
    assert told(manager) == {"WATCHDOG": "1"}
    process.send(signal.SIGHUP)
    assert told(manager, "WATCHDOG").keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert told(manager, "WATCHDOG")["READY"] == "1"
    process.send()
    stopping = told(manager, "WATCHDOG")
    assert stopping["STOPPING"] == "1"
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) >= 30_000_000
    assert process.finish()[0] == 0


def test_a_service_manager_that_is_gone_does_not_matter(serve: Serve, tmp_path: Path) -> None:
    linear(tmp_path / "m.onnx")
    process = serve("m.onnx", NOTIFY_SOCKET=str(tmp_path / "nobody"), WATCHDOG_USEC="3000000")
    process.wait_for()
    process.send()
    assert process.finish()[0] == 0
