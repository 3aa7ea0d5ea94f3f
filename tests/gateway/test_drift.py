"""Drift and predictions of the digits model, on a server with two processes and real digits."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from live_servers import Live, Process, children
from waiting import wait_until

from penstock.cli.main import app
from penstock.client import Client
from penstock.settings import Settings
from penstock_digits.data import features_of, load_split

WINDOW_S = 4.0
PATH = "/models/digits/drift"


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """The held-out digits, which the reference of the model was made from."""
    return features_of(load_split().held_out.counts)


@pytest.fixture
def server(serve: Callable[..., Process]) -> Iterator[Process]:
    settings = {"PENSTOCK_DRIFT_WINDOW_S": str(WINDOW_S), "PENSTOCK_DRIFT_MIN_ROWS": "200"}
    process = serve("digits", "--workers", "2", **settings)
    process.wait_for()
    yield process
    process.end()


class Traffic:
    """Sends rows over several connections, so that both processes get some; counts what was answered."""

    def __init__(self, url: str, rows: np.ndarray) -> None:
        self._url = url
        self._clients = [httpx.Client(base_url=url) for _ in range(4)]
        self._rows = itertools.cycle([{"input_data": [round(float(v), 4) for v in row]} for row in rows])
        self.classes: Counter[str] = Counter()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def send(self) -> dict[str, Any]:
        """Some requests, and what the server says of drift then."""
        for client in self._clients:
            for _ in range(10):
                reply = client.post("/models/digits/predict", json=next(self._rows))
                assert reply.status_code == 200, reply.text
                self.classes[str(reply.json()["predictions"][0])] += 1
        return drift(self._url)

    def until(self, *verdicts: str) -> dict[str, Any]:
        """Send until the last closed window has one of these verdicts."""
        wait_until(lambda: self.send()["verdict"] in verdicts, 0.05)
        return drift(self._url)


def drift(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(url + PATH).json()
    return found


def closed_rows(url: str) -> Counter[int]:
    return Counter(window["rows"] for window in drift(url)["windows"] if window["closed"])


def predicted(url: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(url + "/stats").json()["models"]["digits:v1.0"]["predictions"]["classes"]
    return found


def test_drift_and_predictions_are_those_of_both_processes(server: Process, digits: np.ndarray) -> None:
    with Traffic(server.url, np.random.default_rng(0).permutation(digits)) as usual:
        first = usual.until("ok", "warn", "alarm")
    closed = [window for window in first["windows"] if window["closed"]]
    assert [window["verdict"] for window in closed] == ["ok"] * len(closed), first
    wait_until(lambda: Counter(predicted(server.url)) == usual.classes)
    page = httpx.get(server.url + "/metrics").text
    assert 'penstock_drift_verdict{model="digits",verdict="ok",version="v1.0"} 1.0' in page
    for label, count in usual.classes.items():
        assert f'penstock_predictions_total{{class="{label}",model="digits",version="v1.0"}} {float(count)}' in page
    with Traffic(server.url, 1 - digits) as inverted:
        inverted.until("alarm")  # the window in which the change came: its parts differ, but values are out of range
        found: list[dict[str, Any]] = []

        def both() -> bool:
            found.append(inverted.send()["windows"][-2])
            return (found[-1].get("inputs"), found[-1].get("predictions")) == ("alarm", "alarm")

        wait_until(both, 0.05)
    *_, alarm = found
    assert alarm["verdict"] == "alarm"
    assert alarm["moved"][0]["feature"].startswith("input: ")


def test_verdicts_outlive_the_process_that_made_them(server: Process, digits: np.ndarray) -> None:
    with Traffic(server.url, digits) as traffic:
        traffic.until("ok", "warn", "alarm")
    before = closed_rows(server.url)
    wait_until(lambda: all(closed_rows(server.url) >= before for _ in range(6)), 0.1)
    victim = children(server.pid)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(set(children(server.pid)) - {victim}) == 2)
    server.wait_for()
    for _ in range(6):  # whichever process answers, also the one that has just started
        assert closed_rows(server.url) >= before
    wait_until(lambda: sum(predicted(server.url).values()) == sum(traffic.classes.values()))


@pytest.mark.parametrize("kind", ["h1", "rsgi", "asgi"])
def test_every_kind_of_server_counts_and_compares(kind: str, digits: np.ndarray) -> None:
    with Live(kind, Settings(drift_window_s=3600), ("digits",)) as live:
        with Traffic(live.url, digits) as traffic:
            found = traffic.send()
        assert found["verdict"] == "no_verdict"
        assert found["reason"] == "the window has 40 sampled rows of 500; it goes on until it has enough"
        assert [window["rows"] for window in found["windows"]] == [40]
        assert Counter(predicted(live.url)) == traffic.classes


def test_what_has_no_reference_says_how_it_gets_one(base_settings: Settings) -> None:
    with Live("h1", base_settings, ("vec",)) as live:
        found = live.http.get("/models/vec/drift").json()
        assert (found["verdict"], found["windows"]) == ("no_verdict", [])
        assert "--reference FILE.npz" in found["reason"]
        assert live.service.monitoring.queue.sampling == {}
        assert live.http.get("/models/raw/drift").json()["reason"] == (
            "raw:1.0 is not served here, so its drift is not measured"
        )
        for name in ("nope", "vec:v9", "vec@nobody", "a b"):
            assert live.http.get(f"/models/{name}/drift").status_code == 404


def test_without_statistics_and_windows_nothing_observes_the_requests(base_settings: Settings) -> None:
    settings = base_settings.model_copy(update={"prediction_stats": False})
    with Live("h1", settings, ("vec",)) as live:
        assert live.service.engine.observers == []
        assert "predictions" not in live.http.get("/stats").json()["models"].get("vec:v1.0", {})
    off = Settings(prediction_stats=False, drift_window_s=0)
    with Live("h1", off, ("digits",)) as live:
        assert live.service.engine.observers == []
        assert live.http.get(PATH).json()["reason"] == "drift is not measured: the setting drift_window_s is 0"


def test_the_command_shows_what_the_server_says(digits: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    with Live("h1", Settings(), ("digits",)) as live:
        with Traffic(live.url, digits) as traffic:
            traffic.send()
        with pytest.raises(SystemExit) as ended:
            app(["models", "drift", "digits", "--url", live.url])
        shown = capsys.readouterr().out
        assert ended.value.code == 0
        assert shown.startswith("digits: no_verdict: the window has 40 sampled rows of 500")
        assert "open" in shown
        with Client(live.url) as client:
            assert [window["rows"] for window in client.drift("digits@champion")["windows"]] == [40]
