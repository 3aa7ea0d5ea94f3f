"""`penstock serve` as a process: start, shutdown, and failures to start."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from linear_models import linear
from live_servers import Process, children
from waiting import LONG_S, wait_until

from penstock.registry.registry import Registry

GOOD = {"input_data": [1, 2, 3, 4]}
Serve = Callable[..., Process]
Database = Callable[[Path], str]


class Slow(threading.Thread):
    """A request that keeps the slow model busy."""

    def __init__(self, url: str, rounds: int) -> None:
        super().__init__(daemon=True)
        self._url, self._body = url, {"input_data": [float(rounds), 0, 0, 0]}
        self.reply: httpx.Response | None = None
        self.error: Exception | None = None
        self.start()
        wait_until(lambda: httpx.get(f"{url}/stats").json()["processing"])

    def run(self) -> None:
        try:
            self.reply = httpx.post(f"{self._url}/models/slow/predict", json=self._body, timeout=LONG_S)
        except httpx.HTTPError as error:
            self.error = error


def requests(server: Process) -> int:
    """How many requests to the model the server counts, over all processes."""
    return int(httpx.get(f"{server.url}/stats").json()["models"].get("vec:v2.0", {"requests": 0})["requests"])


def log_lines(err: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.splitlines() if line.startswith("{")]


def test_a_bare_file_is_served_under_its_name(serve: Serve, tmp_path: Path) -> None:
    linear(tmp_path / "my model.onnx")
    server = serve("my model.onnx")
    server.wait_for()
    assert httpx.post(f"{server.url}/predict", json=GOOD).status_code == 200
    reply = httpx.post(f"{server.url}/models/my model/predict", json=GOOD)
    assert reply.status_code == 200
    assert reply.headers["x-penstock-model"] == "my model:v1.0/onnx-fp32"
    assert httpx.get(f"{server.url}/model/info").json()["name"] == "my model"
    assert httpx.get(f"{server.url}/models/my model/versions/v1.0").json()["digest"] is None
    assert httpx.get(f"{server.url}/models/my model/card").status_code == 404
    server.send()
    code, out, err = server.finish()
    assert (code, out) == (0, "")
    assert log_lines(err)[0]["event"].startswith("listening on http://127.0.0.1:")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_requests_in_flight_and_refuses_new_ones(
    serve: Serve, registry_path: Path, signum: int
) -> None:
    server = serve("slow", "vec", "--registry", str(registry_path))
    server.wait_for()
    with httpx.Client(base_url=server.url) as kept:
        assert kept.post("/models/vec/predict", json=GOOD).status_code == 200
        inside = Slow(server.url, 800)
        server.send(signum)
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
        ready = kept.get("/health/ready")
        refused = httpx.post(f"{server.url}/models/vec/predict", json=GOOD)
        live = httpx.get(f"{server.url}/health/live")
    assert ready.status_code == refused.status_code == 503
    assert live.status_code == 200
    for reply in (ready, refused):
        assert reply.headers["connection"] == "close"
        assert int(reply.headers["retry-after"]) >= 1
    code, _, err = server.finish()
    inside.join(LONG_S)
    assert inside.reply is not None, inside.error
    assert inside.reply.status_code == 200
    assert code == 0
    assert "Traceback" not in err


def test_the_drain_is_bounded(serve: Serve, registry_path: Path) -> None:
    server = serve("slow", "--registry", str(registry_path), PENSTOCK_DRAIN_TIMEOUT_S="0.3")
    server.wait_for()
    inside = Slow(server.url, 8000)
    server.send()
    code, _, err = server.finish()
    assert code == 0
    inside.join(LONG_S)
    assert inside.reply is not None, inside.error
    assert inside.reply.status_code == 503
    assert any("were cancelled" in line["event"] for line in log_lines(err))


def test_a_second_signal_stops_it_at_once(serve: Serve, registry_path: Path) -> None:
    server = serve("slow", "--registry", str(registry_path))
    server.wait_for()
    Slow(server.url, 8000)
    server.send()
    wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
    server.send()
    code, _, _ = server.finish()
    assert code == -signal.SIGTERM  # not the 0 of a drain that waited for the request


def test_a_signal_during_the_start_stops_it(serve: Serve, registry_path: Path) -> None:
    server = serve("vec", "--registry", str(registry_path))
    server.wait_for("/health/live")
    server.send()
    assert server.finish()[0] == 0


def test_a_port_in_use_is_one_sentence(serve: Serve, registry_path: Path, free_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        code, out, err = serve("vec", "--registry", str(registry_path)).finish()
    assert (code, out) == (1, "")
    assert f"port {free_port} is in use" in err
    assert len(err.strip().splitlines()) == 1


def test_a_second_server_does_not_share_the_port(serve: Serve, registry_path: Path) -> None:
    first = serve("vec", "--registry", str(registry_path))
    first.wait_for()
    code, _, err = serve("vec", "--registry", str(registry_path)).finish()
    assert code == 1
    assert "is in use" in err


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("nope", "nope"),
        ("vec:v9", "v9"),
        ("missing.onnx", "missing.onnx"),
        ("broken.onnx", "broken.onnx"),
        ("altered", "altered"),
    ],
)
def test_a_requested_model_that_cannot_be_served_stops_it_with_one_sentence(
    serve: Serve, tmp_path: Path, registry_path: Path, database: Database, ref: str, words: str
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model at all")
    if ref == "altered":
        registry_path = _altered(tmp_path, registry_path, database)
    code, out, err = serve(ref, "--registry", str(registry_path), "--log-level", "error").finish()
    assert (code, out) == (1, "")
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err


def _altered(tmp_path: Path, registry_path: Path, database: Database) -> Path:
    """A registry with a model that was corrupted after publishing."""
    source = linear(tmp_path / "altered.onnx")
    own = tmp_path / "own"
    with Registry(own, database(own)) as registry, Registry(registry_path, database(registry_path)) as served:
        artifact = served.get("vec:v1.0")
        registry.publish(artifact.path)
    file = tmp_path / "own/vec/v1.0/variants/onnx-fp32/model.onnx"
    file.chmod(0o644)
    file.write_bytes(source.read_bytes() + b"x")
    (tmp_path / "own/altered").mkdir()
    (tmp_path / "own/vec/v1.0").rename(tmp_path / "own/altered/v1.0")
    return tmp_path / "own"


def test_a_whole_registry_is_served_even_when_one_model_of_it_is_broken(
    serve: Serve, tmp_path: Path, registry_path: Path, database: Database
) -> None:
    own = tmp_path / "own"
    with Registry(own, database(own)) as registry, Registry(registry_path, database(registry_path)) as served:
        for ref in ("raw", "vec:v1.0"):
            registry.publish(served.get(ref).path)
    golden = tmp_path / "own/vec/v1.0/golden.safetensors"
    golden.chmod(0o644)
    golden.write_bytes(golden.read_bytes()[:-1] + b"\x7f")
    server = serve("--registry", "own")
    server.wait_for("/health/startup")
    reply = httpx.get(f"{server.url}/health/ready")
    assert reply.status_code == 503
    assert "vec" in reply.json()["reasons"][0]
    body = {"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}
    assert httpx.post(f"{server.url}/models/raw/predict", json=body).status_code == 200


def test_an_empty_registry_starts_and_says_what_is_missing(serve: Serve) -> None:
    server = serve()
    server.wait_for("/health/startup")
    ready = httpx.get(f"{server.url}/health/ready")
    assert ready.status_code == 503
    assert "publish" in ready.json()["reasons"][0]
    assert httpx.post(f"{server.url}/predict", json=GOOD).status_code == 404


def test_a_new_version_and_an_alias_are_followed_without_a_restart(
    serve: Serve, tmp_path: Path, registry_path: Path, database: Database
) -> None:
    own = tmp_path / "registry"
    with Registry(own, database(own)) as registry, Registry(registry_path, database(registry_path)) as served:
        registry.publish(served.get("vec:v1.0").path)
        server = serve()
        server.wait_for()
        assert httpx.post(f"{server.url}/predict", json=GOOD).json()["model_version"] == "v1.0"
        registry.publish(served.get("vec:v2.0").path)
        wait_until(lambda: httpx.post(f"{server.url}/predict", json=GOOD).json()["model_version"] == "v2.0")


def test_the_access_log_has_every_request_and_no_payload(serve: Serve, registry_path: Path) -> None:
    server = serve("vec", "--registry", str(registry_path), PENSTOCK_ACCESS_LOG="1")
    server.wait_for()
    httpx.post(f"{server.url}/predict", json={"input_data": [987654.5, 0, 0, 0]}, headers={"x-request-id": "mine"})
    server.send()
    _, _, err = server.finish()
    line = next(line for line in log_lines(err) if line.get("request_id") == "mine")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/predict", 200)
    assert line["ms"] > 0
    assert "987654" not in err


# Several processes


def test_workers_share_a_port_and_report_common_figures(serve: Serve, registry_path: Path) -> None:
    server = serve("vec", "--registry", str(registry_path), "--workers", "2")
    server.wait_for()
    pids = set()
    for _ in range(60):
        reply = httpx.post(f"{server.url}/predict", json=GOOD)
        assert reply.status_code == 200
        pids.add(reply.headers["x-request-id"].partition("-")[0])
    assert len(pids) == 2
    wait_until(lambda: requests(server) == 60)  # the other process has shared its last figures
    assert {httpx.get(f"{server.url}/stats").json()["models"]["vec:v2.0"]["requests"] for _ in range(8)} == {60}
    page = httpx.get(f"{server.url}/metrics").text
    assert 'penstock_requests_total{model="vec",outcome="ok",version="v2.0"} 60.0' in page
    server.send()
    assert server.finish()[0] == 0


def test_a_dead_worker_is_replaced_and_its_counts_stay(serve: Serve, registry_path: Path) -> None:
    server = serve("vec", "--registry", str(registry_path), "--workers", "2")
    server.wait_for()
    for _ in range(20):
        httpx.post(f"{server.url}/predict", json=GOOD)
    # a process shares its figures every half second: both files together hold all requests before one is killed
    wait_until(lambda: {requests(server) for _ in range(8)} == {20}, 0.6)
    victim = children(server.pid)[-1]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(set(children(server.pid)) - {victim}) == 2)
    assert httpx.get(f"{server.url}/stats").json()["models"]["vec:v2.0"]["requests"] == 20
    server.send()
    assert server.finish()[0] == 0


def test_a_worker_that_cannot_start_again_leaves_the_others_serving(
    serve: Serve, tmp_path: Path, registry_path: Path, database: Database
) -> None:
    own = tmp_path / "registry"
    with Registry(own, database(own)) as registry, Registry(registry_path, database(registry_path)) as served:
        registry.publish(served.get("vec:v1.0").path)
    server = serve("vec", "--workers", "2")
    server.wait_for()
    first = set(children(server.pid))
    model = tmp_path / "registry/vec/v1.0/variants/onnx-fp32/model.onnx"
    whole = model.read_bytes()
    model.chmod(0o644)
    answered = {httpx.post(f"{server.url}/predict", json=GOOD).headers["x-request-id"][:8] for _ in range(40)}
    model.write_bytes(b"altered")
    os.kill(max(first), signal.SIGKILL)
    later: set[int] = set()

    def came_and_went() -> set[int]:
        """Replacements that started and exited again."""
        now = set(children(server.pid))
        later.update(now - first)
        return later - now

    wait_until(came_and_went)
    assert len(first) == len(answered) == 2
    assert httpx.post(f"{server.url}/predict", json=GOOD).status_code == 200
    model.write_bytes(whole)
    wait_until(lambda: len(children(server.pid)) == 2)
    server.send()
    assert server.finish()[0] == 0


def test_workers_stop_when_their_parent_is_killed(serve: Serve, registry_path: Path) -> None:
    server = serve("vec", "--registry", str(registry_path), "--workers", "2")
    server.wait_for()
    workers = children(server.pid)
    server.send(signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_workers_that_cannot_start_stop_the_parent(serve: Serve, registry_path: Path) -> None:
    code, _, err = serve("nope", "--registry", str(registry_path), "--workers", "2", "--log-level", "error").finish()
    assert code == 1
    assert "nope" in err
    assert "Traceback" not in err
