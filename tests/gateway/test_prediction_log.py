"""The prediction log of live servers: what is in it, and that nothing that happens to it reaches a client."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from linear_models import linear, weights
from live_servers import Live, Process, children
from prometheus_client.parser import text_string_to_metric_families
from small_disks import small_disk
from waiting import wait_until

from penstock.gateway.process.sockets import free_address
from penstock.gateway.service import Service
from penstock.monitor.prediction_log.reading import LogReader
from penstock.monitor.prediction_log.records import Record
from penstock.settings import Settings

GOOD = {"input_data": [1, 2, 3, 4]}
Serve = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Serve]:
    """Start `penstock serve`; one kind of database is enough, since the log touches none."""
    started: list[Process] = []

    def start(*arguments: str, **environ: str) -> Process:
        started.append(Process(tmp_path, free_address("127.0.0.1", 0)[1], *arguments, **environ))
        return started[-1]

    yield start
    for process in started:
        process.end()


def records(directory: Path) -> list[Record]:
    reader = LogReader(directory)
    found = list(reader)
    assert reader.warning is None
    return found


def logging(settings: Settings, directory: Path, **more: Any) -> Settings:
    return settings.model_copy(update={"prediction_log": directory, "prediction_log_sample": 1.0, **more})


def figures(url: str) -> dict[str, float]:
    """The figures of `/stats`, which `/metrics` has as well."""
    found: dict[str, float] = httpx.get(f"{url}/stats").json()["prediction_log"]
    return found


def in_metrics(url: str) -> dict[str, float]:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return {
        sample.labels["outcome"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "penstock_prediction_log_records_total"
    }


@pytest.mark.parametrize("kind", ["h1", "rsgi", "plain-asgi"])
def test_requests_are_logged_with_their_answers_and_without_inputs_or_keys(
    kind: str, burst_settings: Settings, tmp_path: Path
) -> None:
    with Live(kind, logging(burst_settings, tmp_path / "log"), ("vec",)) as live:
        for name in ("one", "two"):
            headers = {"X-Request-ID": name, "X-Penstock-Key": "alice@example.org"}
            assert live.http.post("/models/vec/predict", json=GOOD, headers=headers).status_code == 200
        assert live.http.post("/models/vec/predict", json={"input_data": [1]}).status_code == 422
        body = {"model": "vec", "requests": [GOOD, GOOD, {"input_data": [1]}]}
        assert live.http.post("/predict/batch", json=body, headers={"X-Request-ID": "many"}).status_code == 200
        wait_until(lambda: figures(live.url)["written"] == 6)
        assert in_metrics(live.url) == {"written": 6, "dropped": 0, "failed": 0}
    found = {record.request_id: record for record in records(tmp_path / "log")}
    assert Counter(record.outcome for record in records(tmp_path / "log")) == {"ok": 4, "invalid": 2}
    assert found["one"].outputs is not None
    assert np.allclose(found["one"].outputs["logits"], np.array([[1, 2, 3, 4]], np.float32) @ weights(1))
    assert found["one"].inputs is None
    assert found["one"].key == found["two"].key != None  # noqa: E711
    (content,) = [path.read_bytes() for path in (tmp_path / "log").glob("predictions.*")]
    assert b"alice" not in content
    assert (tmp_path / "log" / "salt").stat().st_mode & 0o077 == 0


def test_inputs_are_logged_where_the_settings_say_so(burst_settings: Settings, tmp_path: Path) -> None:
    settings = logging(burst_settings, tmp_path / "log", prediction_log_inputs="sampled")
    with Live("h1", settings, ("vec",)) as live:
        assert live.http.post("/models/vec/predict", json=GOOD).status_code == 200
        wait_until(lambda: figures(live.url)["written"] == 1)
    (record,) = records(tmp_path / "log")
    assert record.inputs is not None
    assert record.inputs["x"].tolist() == [[1, 2, 3, 4]]


def test_a_server_without_a_log_has_no_observer_for_it(burst_settings: Settings) -> None:
    for sample in (1.0, 0.0):
        directory = None if sample else burst_settings.registry / "log"
        settings = burst_settings.model_copy(
            update={"prediction_log": directory, "prediction_log_sample": sample, "database_url": None}
        )
        service = Service(settings)
        assert service.prediction_log is None
        assert service.engine.observers == []


def test_a_sample_has_the_same_requests_in_every_log(burst_settings: Settings, tmp_path: Path) -> None:
    ids = [f"r{number}" for number in range(60)]
    found = []
    for place in ("a", "b"):
        settings = logging(burst_settings, tmp_path / place, prediction_log_sample=0.3)
        with Live("h1", settings, ("vec",)) as live:
            for name in ids:
                live.http.post("/models/vec/predict", json=GOOD, headers={"X-Request-ID": name})
        found.append([record.request_id for record in records(tmp_path / place)])
    assert found[0] == found[1]
    assert 5 < len(found[0]) < 31


def _load(url: str, stop: threading.Event, statuses: Counter[int | str]) -> None:
    while not stop.is_set():
        try:
            statuses[httpx.post(f"{url}/models/vec/predict", json=GOOD, timeout=30).status_code] += 1
        except httpx.TransportError:
            statuses["cut off"] += 1


def test_the_log_of_two_workers_is_whole_after_one_was_killed(
    start: Serve, tmp_path: Path, burst_settings: Settings
) -> None:
    log = tmp_path / "log"
    process = start(
        *("vec", "--registry", str(burst_settings.registry), "--workers", "2"),
        PENSTOCK_PREDICTION_LOG=str(log),
        PENSTOCK_PREDICTION_LOG_SAMPLE="1",
    )
    process.wait_for()
    stop, statuses = threading.Event(), Counter[int | str]()
    threads = [threading.Thread(target=_load, args=(process.url, stop, statuses)) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(list(log.glob("*.open"))) == 2)
    victim = children(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(set(children(process.pid)) - {victim}) == 2)
    wait_until(lambda: not list(log.glob(f"predictions.{victim}.*.open")))  # the new process has completed it
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, "cut off"}
    process.wait_for()
    settled = process.wait_for("/stats").json()["prediction_log"]
    assert settled["dropped"] == settled["failed"] == 0
    process.send()
    assert process.finish()[0] == 0
    found = records(log)
    assert {record.outcome for record in found} <= {"ok", "cancelled"}
    answered = len({record.request_id for record in found if record.outcome == "ok"})
    assert statuses[200] - 50 <= answered <= sum(statuses.values())  # the last half second of the killed one is lost
    assert len(list(log.glob("predictions.*.open"))) == 0


def test_a_full_disk_is_not_seen_by_any_client(burst_settings: Settings, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        settings = logging(burst_settings, disk / "log", prediction_log_inputs="sampled")
        with Live("h1", settings, ("vec",)) as live:
            (disk / "ballast").write_bytes(bytes(900_000))
            sent = 0
            while not figures(live.url)["failed"]:
                for _ in range(50):
                    assert live.http.post("/models/vec/predict", json=GOOD).status_code == 200
                sent += 50
                assert sent < 5000
            wait_until(lambda: sum(figures(live.url)[name] for name in ("written", "failed")) == sent)
            written = figures(live.url)["written"]
            assert live.http.get("/health/ready").status_code == 200
        assert len(records(disk / "log")) == written > 0


def test_a_log_that_cannot_be_a_directory_is_refused_at_the_start(start: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = start(str(linear(tmp_path / "vec.onnx")), PENSTOCK_PREDICTION_LOG=str(tmp_path / "file"))
    code, _, error = process.finish()
    assert code == 1
    assert error.splitlines()[-1] == f"penstock: prediction_log: {tmp_path}/file cannot be a directory: File exists"
