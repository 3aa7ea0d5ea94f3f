"""A Python class behind a server: it is a model like any other, and what it does harms no other."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import python_models as models
from live_servers import Live
from waiting import LONG_S, wait_until

from penstock.engine.loading.manager import ModelManager
from penstock.errors import InvalidInput, ModelLoadError
from penstock.settings import Settings
from penstock.workers.backend import PythonBackend

SUPPORT = Path(models.__file__).parent
DOUBLE, SHOUT, WORDS = (f"python:python_models:{name}" for name in ("Double", "Shout", "Words"))
ADMIN = {"Authorization": "Bearer " + "k" * 20}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    registry = tmp_path_factory.mktemp("python-models") / "registry"
    return Settings(registry=registry, python_path=(SUPPORT,), python_workers=2, python_grace_s=0.0, admin_key="k" * 20)


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Live]:
    with Live("h1", settings, (DOUBLE, SHOUT, WORDS)) as server:
        yield server


def ask(server: Live, *values: float, **headers: str) -> httpx.Response:
    body = {"inputs": {"x": [[value, 1.0] for value in values]}}
    return server.http.post(
        "/models/Double/predict", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def backend(server: Live, name: str = "Double") -> PythonBackend:
    found = next(model.backend for model in server.service.engine.loaded() if model.name == name)
    assert isinstance(found, PythonBackend)
    return found


def test_a_class_is_served_like_any_model(server: Live) -> None:
    reply = ask(server, 3.0)
    assert reply.json()["outputs"]["y"] == [[6.0, 2.0]]
    assert reply.json()["outputs"]["pid"][0] in backend(server).pool.pids()
    assert reply.headers["x-penstock-model"] == "Double:v1.0/python-fp32"
    info = server.http.get("/model/info").json()
    assert (info["format"], info["input_shape"], info["model_type"]) == ("python", [-1, 2], info["model_type"])
    assert "Double" in [model["name"] for model in server.http.get("/models").json()["models"]]
    assert server.http.get("/stats").json()["models"]["Double:v1.0"]["requests"] >= 1
    assert server.http.get("/health/ready").status_code == 200


def test_text_is_a_tensor_and_a_class_may_refuse_it(server: Live) -> None:
    reply = server.http.post("/models/Shout/predict", json={"inputs": {"text": ["höher", "b"]}})
    assert reply.json()["outputs"]["loud"] == ["HÖHER", "B"]
    refused = server.http.post("/models/Shout/predict", json={"inputs": {"text": [""]}})
    assert (refused.status_code, refused.json()["detail"]) == (422, "text: it is empty")


def test_a_class_may_take_json_values(server: Live) -> None:
    reply = server.http.post("/models/Words/predict", json={"values": [{"text": "a b"}, {"text": "c"}]})
    assert reply.json()["values"] == [{"words": ["a", "b"], "score": 3.0}, {"words": ["c"], "score": 1.0}]
    (model,) = [model for model in server.service.engine.loaded() if model.name == "Words"]
    assert (model.task.kind, model.info.batchable, model.info.proven) == ("json", True, True)
    assert server.http.post("/models/Words/predict", json={"values": []}).status_code == 422
    huge = server.http.post("/models/Words/predict", content=b'{"values": [1%s]}' % (b"0" * 30))
    assert (huge.status_code, huge.json()["errors"][0]["field"]) == (422, "values[0]")


@pytest.mark.parametrize(
    ("value", "status", "kind"),
    [
        (models.RAISES, 500, "inference-error"),
        (models.EXITS, 500, "inference-error"),
        (models.SHORT, 500, "inference-error"),
        (models.DIES, 500, "worker-died"),
    ],
)
def test_no_traceback_reaches_a_client_and_others_are_answered(
    server: Live, value: float, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(4) as threads:
        bad = threads.submit(ask, server, value)
        good = [threads.submit(ask, server, float(number)) for number in range(4)]
        assert bad.result().status_code == status
        assert bad.result().json()["type"] == f"urn:penstock:{kind}"
        assert not re.search(r"Traceback|\.py|ValueError", bad.result().text)
        if kind != "worker-died":  # a batch that kills takes those with it that it was with
            assert [reply.result().status_code for reply in good] == [200] * 4
    if value == models.RAISES:
        assert any("python_models.py" in (record.exc_text or caplog.text) for record in caplog.records)
    wait_until(lambda: backend(server).pool.figures()["ready"] == 2)
    assert ask(server, 1.0).status_code == 200


def test_a_run_that_never_ends_is_504_for_its_client_and_its_worker_is_replaced(server: Live) -> None:
    before = {*backend(server).pool.pids()}
    assert ask(server, models.BLOCKS, X_Request_Timeout_Ms="300").status_code == 504
    wait_until(lambda: len({*backend(server).pool.pids()} - before) == 1)
    assert ask(server, 1.0).json()["outputs"]["y"] == [[2.0, 2.0]]


def test_workers_that_are_killed_under_load_lose_no_request(server: Live) -> None:
    pool, ending, statuses = backend(server).pool, threading.Event(), list[int]()

    def client() -> None:
        while not ending.is_set():
            statuses.append(ask(server, 5.0).status_code)

    with ThreadPoolExecutor(3) as threads:
        clients = [threads.submit(client) for _ in range(3)]
        for _ in range(3):
            asked, failures = len(statuses), pool.figures()["failures"]
            wait_until(lambda asked=asked: len(statuses) > asked + 10)
            os.kill(pool.pids()[0], signal.SIGKILL)
            wait_until(lambda failures=failures: pool.figures() == {"ready": 2, "failures": failures + 1})
        ending.set()
        for each in clients:
            each.result()
    assert set(statuses) == {200}


def test_a_model_whose_workers_fail_is_named_by_the_probe_and_by_admin(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADED_ONCE", str(tmp_path / "loaded"))
    monkeypatch.setattr("penstock.workers.restarts.FIRST_WAIT_S", 0.01)
    ref = "python:python_models:DiesAfterFirstLoad"
    one = settings.model_copy(update={"python_workers": 1})
    with Live("h1", one, (ref,)) as server:
        os.kill(backend(server, "DiesAfterFirstLoad").pool.pids()[0], signal.SIGKILL)
        wait_until(lambda: server.http.get("/health/ready").status_code == 503)
        (reason,) = server.http.get("/health/ready").json()["reasons"]
        last = "DiesAfterFirstLoad.load raised RuntimeError: the licence server does not answer"
        assert last in reason
        assert "Traceback" not in reason
        assert last in server.http.get("/admin", headers=ADMIN).json()["problems"][ref]
        reply = server.http.post("/predict", json={"inputs": {"x": [[1.0, 1.0]]}})
        assert (reply.status_code, "retry-after" in reply.headers) == (503, True)


@pytest.mark.parametrize("path", ["/models/python:os:system", f"/models/{DOUBLE}/predict"])
def test_a_client_cannot_name_a_class(server: Live, path: str) -> None:
    assert server.http.post(path, json={}).status_code in (404, 405)
    load = server.http.post("/admin/load", json={"model": "python:json:JSONDecoder"}, headers=ADMIN)
    assert load.status_code == 422


@pytest.mark.parametrize(
    ("ref", "sentence"),
    [
        ("python:python_models:NoInputs", "NoInputs declares no inputs"),
        ("python:nowhere:Model", "Model: there is no module nowhere in"),
        (
            "python:python_models:AlwaysDies",
            "AlwaysDies: the model fails when it runs: 2 workers died on this batch, .* exit code 7",
        ),
    ],
)
def test_a_bad_class_is_refused_by_name(settings: Settings, ref: str, sentence: str) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        ModelManager(config=settings).load_model(ref)


def test_a_class_says_itself_what_a_file_is_described_by(settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="a Python class says that itself"):
        ModelManager(config=settings).load_model(DOUBLE, architecture="a:B")


def test_the_command_serves_a_class_and_drains_it(tmp_path: Path) -> None:
    """One process from start to SIGTERM: a run in progress is answered, and no worker is left."""
    command = [sys.executable, "-m", "penstock", "serve", "python_models:Double", "--python-path", str(SUPPORT)]
    with subprocess.Popen(
        [*command, "--port", "0"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=_clean()
    ) as process:
        assert process.stderr is not None
        url = _url(process.stderr)
        worker = httpx.post(f"{url}/predict", json=_body(1.0)).json()["outputs"]["pid"][0]
        with ThreadPoolExecutor(1) as threads:
            slow = threads.submit(httpx.post, f"{url}/predict", json=_body(models.SLEEPS), timeout=LONG_S)
            metrics = f"{url}/stats"
            wait_until(lambda: httpx.get(metrics).json()["processing"] == 1)
            process.send_signal(signal.SIGTERM)
            assert slow.result().status_code == 200
        process.stderr.read()
        assert process.wait(LONG_S) == 0
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def _body(value: float) -> dict[str, Any]:
    return {"inputs": {"x": [[value, 1.0]]}}


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}


def _url(log: Any) -> str:
    url = ""
    for line in log:
        event = json.loads(line)["event"] if line.startswith("{") else ""
        url = (re.findall(r"http://[^\s;]+", event) or [url])[0]
        if event == "ready":
            return url
    raise AssertionError("the server did not start")
