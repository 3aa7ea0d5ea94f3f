"""`penstock serve` with a model that never returns: what still answers, and how the process ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from endless_models import ENDLESS, counted_loop, install_stubborn, publish_stubborn
from linear_models import linear
from live_servers import Process, children
from waiting import LONG_S, wait_until

from penstock.registry.registry import Registry

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, free_port: int) -> Iterator[Start]:
    """Start a server in `tmp_path`, with the tasks whose own code hangs on request."""
    install_stubborn(tmp_path / "site")
    started: list[Process] = []

    def start(*arguments: str, **environ: str) -> Process:
        started.append(Process(tmp_path, free_port, *arguments, PYTHONPATH=str(tmp_path / "site"), **environ))
        started[-1].wait_for()
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def stubborn(start: Start, tmp_path: Path) -> Start:
    """As `start`, with a registry of their models."""
    with Registry(tmp_path / "registry") as registry:
        publish_stubborn(registry, tmp_path)
    return start


def begin(server: Process, place: Path, model: str, do: str) -> None:
    """Send a request, and return when the task is at it; of the reply, if there is one, nothing is expected."""

    def post() -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(f"{server.url}/models/{model}/predict", json={"do": do}, timeout=LONG_S)

    threading.Thread(target=post, daemon=True).start()
    wait_until((place / do).exists)


def ask(server: Process, model: str, body: object, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/models/{model}/predict", json=body, headers=headers, timeout=LONG_S)


def is_live(server: Process) -> bool:
    return httpx.get(f"{server.url}/health/live", timeout=LONG_S).status_code == 200


def test_a_loop_that_never_ends_costs_only_its_own_requests(start: Start, tmp_path: Path) -> None:
    counted_loop(tmp_path / "loop.onnx")
    linear(tmp_path / "vec.onnx")
    server = start("loop.onnx", "vec.onnx", PENSTOCK_THREADS="1")
    assert ask(server, "loop", {"inputs": {"x": [[3]]}}).json()["outputs"] == {"y": [[3]]}
    for _ in range(3):
        reply = ask(server, "loop", {"inputs": {"x": [[ENDLESS]]}}, **{"x-request-timeout-ms": "200"})
        assert reply.status_code == 504, reply.text
        assert is_live(server)
        assert ask(server, "vec", {"input_data": [1, 2, 3, 4]}).status_code == 200
    assert ask(server, "loop", {"inputs": {"x": [[7]]}}).json()["outputs"] == {"y": [[7]]}  # the runs were stopped
    server.send()
    assert server.finish()[0] == 0


def test_a_task_that_never_ends_in_a_thread_delays_no_exit(stubborn: Start, tmp_path: Path) -> None:
    server = stubborn(PENSTOCK_DRAIN_TIMEOUT_S="0.3")
    for do in ("spin", "sleep"):
        begin(server, tmp_path, "endless", do)
    assert ask(server, "stubborn", {"do": "nothing"}).json() == {"done": "nothing"}
    server.send()
    assert server.finish()[0] == 0


def test_a_process_whose_loop_is_blocked_ends_and_says_where(stubborn: Start, tmp_path: Path) -> None:
    server = stubborn(PENSTOCK_HANG_TIMEOUT_S="3")
    begin(server, tmp_path, "stubborn", "block")
    code, _, err = server.finish()
    assert code == 1
    assert "in preprocess" in err


def test_one_signal_ends_a_process_whose_interpreter_is_blocked(stubborn: Start, tmp_path: Path) -> None:
    server = stubborn(PENSTOCK_HANG_TIMEOUT_S="3")
    begin(server, tmp_path, "endless", "hold")
    server.send()
    code, _, err = server.finish()
    assert code == 1
    assert "in preprocess" in err


@pytest.mark.parametrize(
    ("model", "do", "signum"),
    [("stubborn", "hold", signal.SIGTERM), ("endless", "hold", signal.SIGINT), ("stubborn", "block", signal.SIGTERM)],
)
def test_a_second_signal_ends_a_process_that_stands_still(
    stubborn: Start, tmp_path: Path, model: str, do: str, signum: int
) -> None:
    server = stubborn(PENSTOCK_HANG_TIMEOUT_S="0")
    begin(server, tmp_path, model, do)
    server.send(signum)
    wait_until(lambda: not _caught(server.pid, signum))
    server.send(signum)
    assert server.finish()[0] == -signum


def _caught(pid: int, signum: int) -> bool:
    """True while the process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught & 1 << (signum - 1))


ENDLESS_SCRIPT = """
import sys
import torch

class Endless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x[0, 0]) == 12345.0:
            while float(x.sum()) > 0.0:
                x = x * 1.0
        return x * 2.0

torch.jit.script(Endless()).save(sys.argv[1])
"""


def test_a_process_with_a_run_that_does_not_end_is_not_ready_and_then_ends(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # TorchScript reads its source
    script.write_text(ENDLESS_SCRIPT, encoding="utf-8")
    subprocess.run([sys.executable, str(script), str(tmp_path / "endless.pt")], check=True)
    server = start(
        "endless.pt", "--trust", "code", PENSTOCK_HANG_TIMEOUT_S="9", PENSTOCK_MODEL_INPUTS="x:FP32:-1,2"
    )  # fmt: skip
    body = {"inputs": {"x": [[1.0, 2.0]]}}
    assert ask(server, "endless", body).status_code == 200
    body["inputs"]["x"] = [[12345.0, 2.0]]
    assert ask(server, "endless", body, **{"x-request-timeout-ms": "300"}).status_code == 504

    def is_ready() -> bool:
        reply = httpx.get(f"{server.url}/health/ready", timeout=LONG_S)
        return reply.status_code == 200 or "a run of endless" not in reply.text

    wait_until(lambda: not is_ready())
    code, _, err = server.finish()
    assert code == 1
    assert "a run of endless:v1.0 has not ended" in err


# Several processes


def test_a_worker_that_stands_still_is_replaced(stubborn: Start, tmp_path: Path) -> None:
    server = stubborn("--workers", "2", PENSTOCK_HANG_TIMEOUT_S="5")
    first = set(children(server.pid))
    begin(server, tmp_path, "stubborn", "hold")
    wait_until(lambda: len(children(server.pid)) == 2 and set(children(server.pid)) != first)
    server.send()
    code, _, err = server.finish()
    assert code == 0
    assert "a worker exited and will be replaced" in err


def test_a_stopped_worker_is_replaced(stubborn: Start) -> None:
    server = stubborn("--workers", "2")
    victim = children(server.pid)[0]
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: len(set(children(server.pid)) - {victim}) == 2)
    server.send()
    code, _, err = server.finish()
    assert code == 0
    assert "a signal has stopped it for" in err


def test_a_second_signal_ends_workers_that_stand_still(stubborn: Start, tmp_path: Path) -> None:
    server = stubborn("--workers", "2", PENSTOCK_HANG_TIMEOUT_S="0")
    workers = children(server.pid)
    begin(server, tmp_path, "stubborn", "hold")
    server.send()
    wait_until(lambda: len(children(server.pid)) == 1)  # the other one has ended
    server.send()
    assert server.finish()[0] == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_connections_of_a_stopped_worker_are_answered_before_it_is_replaced(stubborn: Start) -> None:
    server = stubborn("--workers", "2")
    victim = children(server.pid)[0]
    os.kill(victim, signal.SIGSTOP)
    # every other connection waits in the queue of the stopped worker until the other one accepts it
    for _ in range(20):
        assert ask(server, "stubborn", {"do": "nothing"}).status_code == 200
    wait_until(lambda: len(set(children(server.pid)) - {victim}) == 2)
    server.send()
    assert server.finish()[0] == 0


def test_a_worker_that_is_told_to_end_is_replaced_while_all_connections_are_answered(stubborn: Start) -> None:
    server = stubborn("--workers", "2")
    wait_until(lambda: server.log.count('"event":"ready"') == 2)  # before, a signal ends a worker at once
    first = set(children(server.pid))
    for victim in first:
        os.kill(victim, signal.SIGTERM)
        for _ in range(10):
            assert ask(server, "stubborn", {"do": "nothing"}).status_code == 200
        wait_until(lambda gone=victim: len({*children(server.pid), gone}) == 3 and gone not in children(server.pid))
    server.send(signal.SIGINT)
    code, _, err = server.finish()
    assert code == 0
    ends = [line for line in err.splitlines() if "a worker exited" in line]
    assert ["exit code 0" in line for line in ends] == [True, True], err
