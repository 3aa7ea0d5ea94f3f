"""Alerts of a running server, over HTTP to real webhooks: one message for each change of state."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from linear_models import linear
from live_servers import Live, Process, children
from postgres import Server
from waiting import wait_until
from webhooks import Webhook

from penstock.gateway.process.sockets import free_address
from penstock.monitor.alerts import delivery, rules, running
from penstock.monitor.alerts.measures import Counter, Share
from penstock.monitor.alerts.rules import Rule
from penstock.registry.alert_book import AlertBook
from penstock.settings import Settings

GOOD, BAD = {"input_data": [0.5, -1.0, 2.0, 0.25]}, {"input_data": [1]}
_ALL, _BAD = Counter("penstock_requests_total"), Counter("penstock_requests_total", {"outcome": "invalid"})
FAILS = Rule(
    "Fails", "critical", Share(_BAD, _ALL, window="5s", least=3),
    0.5, 0.002, 0.002, "percentunit", "{{ $value | humanizePercentage }} of {{ $labels.model }} fail.", "Look.",
)  # fmt: skip
"""Fires within a second."""
EVERY_S = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RULES", (FAILS,))
    monkeypatch.setattr(running, "EVERY_S", EVERY_S)
    monkeypatch.setattr(running, "name_of", lambda _: "host:1")
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(delivery, "SEND_S", 0.5)
    monkeypatch.setattr(delivery, "LAST_S", 0.5)


def send_until(url: str, body: dict[str, object], done: Callable[[], object]) -> None:
    """Send the same request again and again."""
    with httpx.Client(base_url=url, timeout=30) as http:

        def sent() -> object:
            http.post("/predict", json=body)
            return done()

        wait_until(sent, 0.02)


def settings(directory: Path, *webhooks: str) -> Settings:
    (directory / "registry").mkdir(exist_ok=True)
    return Settings(
        model_path=linear(directory / "vec.onnx"), registry=directory / "registry", alert_webhooks=webhooks, threads=1
    )


def test_one_message_for_each_change_also_where_a_webhook_fails_hangs_or_the_server_restarts(tmp_path: Path) -> None:
    with Webhook() as hook, Webhook(lambda n: 500 if n < 5 else 200) as fails, Webhook(lambda _: 0) as hangs:
        chosen = settings(tmp_path, hangs.url, hook.url, fails.url)
        with Live("h1", chosen, ()) as live:
            send_until(live.url, BAD, lambda: hook.taken)
            page = live.http.get("/metrics").text
            assert 'penstock_alerts{alertname="Fails",state="firing"} 1.0' in page
            assert "penstock_alert_messages_waiting" in page
        with Live("h1", chosen, ()) as live:
            send_until(live.url, BAD, lambda: fails.taken and 'state="firing"' in live.http.get("/metrics").text)
            send_until(live.url, GOOD, lambda: len(hook.taken) > 1 and len(fails.taken) > 1)
            wait_until(lambda: "penstock_alerts{" not in live.http.get("/metrics").text)
            assert live.http.get("/health/ready").status_code == 200
    assert hook.told() == fails.told() == [("Fails", "firing"), ("Fails", "resolved")]
    first = hook.taken[0]["alerts"][0]
    assert first["labels"] == {
        "alertname": "Fails", "severity": "critical", "instance": "host:1", "model": "vec", "version": "v1.0"
    }  # fmt: skip
    assert first["annotations"]["summary"].endswith("% of vec fail.")
    assert first["fingerprint"] == hook.taken[1]["alerts"][0]["fingerprint"]
    assert hangs.asked >= 1


TABLE = """
from penstock.monitor.alerts import rules, running
from penstock.monitor.alerts.measures import Counter, Share
from penstock.monitor.alerts.rules import Rule

all_, bad = Counter("penstock_requests_total"), Counter("penstock_requests_total", {"outcome": "invalid"})
share = Share(bad, all_, window="5s", least=3)
rules.RULES = (Rule("Fails", "critical", share, 0.5, 0.002, 0.002, "percentunit", "They fail.", "Look."),)
running.EVERY_S = 0.2
"""
"""Runs in each process of a server before anything else."""


def test_two_processes_tell_once_also_when_both_are_killed(tmp_path: Path) -> None:
    linear(tmp_path / "vec.onnx")
    (tmp_path / "sitecustomize.py").write_text(TABLE, encoding="utf-8")
    with Webhook() as hook:
        environ = {"PYTHONPATH": str(tmp_path), "PENSTOCK_ALERT_WEBHOOKS": hook.url, "PENSTOCK_MODEL_PATH": "vec.onnx"}
        _, port = free_address("127.0.0.1", 0)
        book = AlertBook(f"sqlite:///{tmp_path}/registry/registry.db")
        process = Process(tmp_path, port, "--workers", "2", **environ)
        try:
            process.wait_for()
            send_until(process.url, BAD, lambda: hook.taken)
            wait_until(lambda: book.waiting() == 0)  # a message that is taken and not yet recorded would come again
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait_for()
            send_until(process.url, GOOD, lambda: len(hook.taken) > 1)
            process.send()
            code, _, log = process.finish()
        finally:
            process.end()
            book.close()
    assert (code, hook.told()) == (0, [("Fails", "firing"), ("Fails", "resolved")])
    assert log.count("alert Fails is firing") == log.count("alert Fails is resolved") == 1


def test_without_a_webhook_nothing_of_it_runs(tmp_path: Path) -> None:
    with Live("h1", settings(tmp_path), ()) as live:
        assert live.service.alerting is None
        assert "penstock_alert" not in live.http.get("/metrics").text
    assert not list((tmp_path / "registry").glob("*.db"))
    assert "penstock-webhooks" not in [thread.name for thread in threading.enumerate()]


def test_a_database_that_goes_away_is_one_line_and_alerts_go_on_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Server() as server, Webhook() as hook:
        chosen = settings(tmp_path, hook.url).model_copy(update={"database_url": server.new_schema()})
        with Live("h1", chosen, ()) as live:
            send_until(live.url, BAD, lambda: hook.taken)
            server.crash()
            send_until(live.url, GOOD, lambda: "are not evaluated" in caplog.text)
            assert live.http.get("/health/ready").status_code == 200
            server.start()
            send_until(live.url, GOOD, lambda: len(hook.taken) > 1)
    assert hook.told() == [("Fails", "firing"), ("Fails", "resolved")]
    assert caplog.text.count("alerts are not evaluated") == 1
