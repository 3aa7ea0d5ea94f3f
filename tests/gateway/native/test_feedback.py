"""`POST /feedback`, over HTTP."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from linear_models import weights
from live_servers import Live, Process, children
from served_models import build_registry
from waiting import wait_until

from penstock.gateway.process.sockets import free_address
from penstock.settings import Settings

X = np.random.default_rng(3).standard_normal((40, 4)).round(2)
CLASSES = (X.astype(np.float32) @ weights(1)).argmax(axis=1).tolist()
"""What `vec:v2.0` answers."""


LABEL = '{"request_id":"a","label":"x"}'


@pytest.fixture
def settings(tmp_path: Path, database: Callable[[Path], str]) -> Settings:
    url = database(tmp_path / "registry")
    registry = build_registry(tmp_path, url)
    return Settings(
        registry=registry,
        database_url=url,
        threads=1,
        max_body_bytes=4_000_000,
        prediction_log=tmp_path / "log",
        prediction_log_sample=1,
    )


@pytest.fixture
def live(settings: Settings) -> Iterator[Live]:
    with Live("h1", settings, ("vec", "pic")) as server:
        yield server


def predict(http: httpx.Client, name: str, row: int, **headers: str) -> None:
    body = {"input_data": X[row].tolist()}
    reply = http.post("/models/vec/predict", json=body, headers={"X-Request-ID": name, **headers})
    assert reply.status_code == 200
    assert reply.json()["predictions"] == [CLASSES[row]]


def send(http: httpx.Client, *items: Any, status: int = 202) -> Any:
    reply = http.post("/feedback", json=items[0] if len(items) == 1 else {"items": list(items)})
    assert reply.status_code == status, reply.text
    return reply.json()


def item(name: str, label: Any, **more: Any) -> dict[str, Any]:
    return {"request_id": name, "label": label, **more}


def versions(http: httpx.Client) -> dict[str, dict[str, Any]]:
    found = http.get("/stats").json()["feedback"]["versions"]
    return {f"{one['model']}:{one['version']}": one for one in found}


def test_labels_give_the_accuracy_of_a_version(live: Live) -> None:
    for row in range(6):
        predict(live.http, f"r{row}", row)
    right = [item(f"r{row}", CLASSES[row]) for row in range(3)]
    wrong = item("r3", (CLASSES[3] + 1) % 3)
    assert send(live.http, *right, wrong) == {"new": 4, "same": 0, "replaced": 0, "unknown": [], "ambiguous": []}
    assert send(live.http, right[0])["same"] == 1
    wait_until(lambda: versions(live.http).get("vec:v2.0", {}).get("labelled") == 4, 0.2)
    found = versions(live.http)["vec:v2.0"]
    assert (found["recorded"], found["judged"], found["accuracy"]) == (6, 4, 0.75)
    assert found["labelled_share"] == pytest.approx(4 / 6)
    assert send(live.http, item("r3", CLASSES[3]))["replaced"] == 1
    wait_until(lambda: versions(live.http)["vec:v2.0"]["accuracy"] == 1.0, 0.2)
    page = live.http.get("/metrics").text
    assert 'penstock_feedback_correct{arm="",model="vec",route="",version="v2.0"} 4.0' in page


def test_a_label_right_after_the_answer_finds_its_prediction(live: Live) -> None:
    predict(live.http, "quick", 0)
    assert send(live.http, item("quick", CLASSES[0]))["new"] == 1


def test_an_unknown_id_is_404_and_says_which_requests_are_known(live: Live) -> None:
    problem = send(live.http, item("nope", 1), status=404)
    assert problem["title"] == "No such prediction"
    assert problem["detail"] == (
        "no prediction nope can get a label: 100 % of the requests are logged (prediction_log_sample), and "
        "kept for 30 days (prediction_log_days)"
    )
    predict(live.http, "known", 0)
    found = send(live.http, item("known", 1), item("nope", 1))
    assert (found["new"], found["unknown"]) == (1, ["nope"])


def test_items_of_a_batch_get_their_own_labels(live: Live) -> None:
    requests = [{"input_data": X[0].tolist()}, {"input_data": [1]}, {"input_data": X[1].tolist()}]
    body = {"model": "vec", "requests": requests}
    assert live.http.post("/predict/batch", json=body, headers={"X-Request-ID": "many"}).status_code == 200
    assert send(live.http, item("many", CLASSES[1], item=2))["new"] == 1
    assert send(live.http, item("many", CLASSES[0], item=0))["new"] == 1
    assert "several predictions" in send(live.http, item("many", 1), status=422)["detail"]
    send(live.http, item("many", 1, item=1), status=404)
    wait_until(lambda: versions(live.http).get("vec:v2.0", {}).get("accuracy") == 1.0, 0.2)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 422),
        ("[]", 422),
        ("{}", 422),
        ("{", 422),
        ('{"request_id":"a"}', 422),
        ('{"request_id":"a","label":null}', 422),
        ('{"request_id":"a","label":true}', 422),
        ('{"request_id":"a","label":1.5}', 422),
        ('{"request_id":"a","label":-1}', 422),
        ('{"request_id":"a","label":99999999999999999999999}', 422),
        ('{"request_id":"a","label":""}', 422),
        (LABEL.replace("x", "x" * 201), 422),
        ('{"request_id":"a","label":[1]}', 422),
        ('{"request_id":"a","label":1,"item":-1}', 422),
        ('{"request_id":"a","label":1,"item":3000000000}', 422),
        ('{"request_id":"a","label":1,"mood":"good"}', 422),
        ('{"request_id":"x","label":1}'.replace("x", "x" * 129), 422),
        ('{"request_id":"a\\u0000","label":1}', 422),
        ('{"request_id":"","label":1}', 422),
        ('{"items":[]}', 422),
        ('{"items":{}}', 422),
        ('{"items":[{"request_id":"a","label":1}],"label":1}', 422),
        ('{"items":[' + ",".join([LABEL] * 1025) + "]}", 422),
        (LABEL.replace("x", "x" * 1_100_000), 413),
        ('{"request_id":"a","label":"\\ud800"}', 422),
        ('{"request_id":"a","label":"\\u0000é"}', 404),
    ],
)
def test_other_bodies_are_refused_in_a_sentence(live_once: Live, body: str, status: int) -> None:
    reply = live_once.http.post("/feedback", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    assert reply.json()["detail"]


@pytest.fixture(scope="module")
def live_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("feedback")
    settings = Settings(
        registry=build_registry(root), threads=1, prediction_log=root / "log", prediction_log_sample=0.5
    )
    with Live("h1", settings, ("vec",)) as server:
        yield server


def test_other_content_types_and_origins_are_refused(live_once: Live) -> None:
    body = '{"request_id":"a","label":1}'
    assert live_once.http.post("/feedback", content=body, headers={"content-type": "text/plain"}).status_code == 415
    headers = {"content-type": "application/json", "origin": "https://evil.example"}
    assert live_once.http.post("/feedback", content=body, headers=headers).status_code == 403


def test_names_with_strange_characters_are_recorded(live: Live) -> None:
    for index, label in enumerate(["\0", "é" * 200, '"\\']):
        predict(live.http, f"odd{index}", 0)
        assert send(live.http, item(f"odd{index}", label))["new"] == 1


def test_a_server_without_a_log_says_what_to_set(settings: Settings) -> None:
    with Live("h1", settings.model_copy(update={"prediction_log": None}), ("vec",)) as live:
        assert "PREDICTION_LOG" in send(live.http, item("a", 1), status=404)["detail"].upper()


def test_without_its_database_labels_get_503_and_predictions_go_on(tmp_path: Path) -> None:
    registry = build_registry(tmp_path)
    file = registry / "registry.db"
    settings = Settings(registry=registry, threads=1, prediction_log=tmp_path / "log", prediction_log_sample=1)
    with Live("h1", settings, ("vec",)) as live:
        predict(live.http, "before", 0)
        assert send(live.http, item("before", CLASSES[0]))["new"] == 1
        for part in registry.glob("registry.db-*"):
            part.unlink()
        file.rename(tmp_path / "away.db")
        file.mkdir()
        reply = live.http.post("/feedback", json=item("before", 1))
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "5"
        assert reply.json()["detail"].startswith("labels cannot be recorded now: the registry database")
        for row in range(10):
            predict(live.http, f"meanwhile{row}", row)
        file.rmdir()
        (tmp_path / "away.db").rename(file)
        wait_until(lambda: live.http.post("/feedback", json=item("meanwhile9", 1)).status_code == 202, 0.2)
        assert live.http.get("/stats").json()["feedback"]["lost"] == 0


def test_labels_of_two_workers_and_after_a_restart_are_one_set(settings: Settings, tmp_path: Path) -> None:
    environ = {
        "DATABASE_URL": settings.database_url or "",
        "PENSTOCK_PREDICTION_LOG": str(tmp_path / "log"),
        "PENSTOCK_PREDICTION_LOG_SAMPLE": "1",
    }
    port = free_address("127.0.0.1", 0)[1]
    process = Process(tmp_path, port, "vec", "--registry", str(settings.registry), "--workers", "2", **environ)
    try:
        process.wait_for()
        for row in range(20):
            with httpx.Client(base_url=process.url) as http:  # connections are spread over the workers
                predict(http, f"r{row}", row)
        for row in range(10):
            with httpx.Client(base_url=process.url, timeout=30) as http:
                assert send(http, item(f"r{row}", CLASSES[row]))["new"] == 1
        os.kill(children(process.pid)[0], signal.SIGKILL)
        process.send()
        process.finish()
        process = Process(tmp_path, port, "vec", "--registry", str(settings.registry), **environ)
        process.wait_for()
        with httpx.Client(base_url=process.url, timeout=30) as http:
            assert send(http, item("r3", CLASSES[3]))["same"] == 1
            assert send(http, item("r12", CLASSES[12]))["new"] == 1
            wait_until(lambda: versions(http)["vec:v2.0"]["labelled"] == 11, 0.2)
            assert versions(http)["vec:v2.0"]["accuracy"] == 1.0
    finally:
        process.end()
