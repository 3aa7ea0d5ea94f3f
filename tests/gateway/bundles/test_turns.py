"""Small predictions of one turn: a bug in what answers them together costs no request its answer."""

from __future__ import annotations

from typing import Any

import pytest
from live_servers import Live

from penstock.gateway.bundles import replies
from penstock.gateway.bundles.turns import Turns
from penstock.settings import Settings

ROW = {"input_data": [0.1, 0.2, 0.3, 0.4]}


def post(live: Live) -> Any:
    return live.http.post("/models/vec/predict", json=ROW)


@pytest.fixture
def bundling(base_settings: Settings) -> Any:
    with Live("h1", base_settings) as live:
        yield live


def test_requests_are_answered_alone_when_answering_them_together_fails(
    bundling: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = post(bundling).json()["predictions"]
    called = []

    def broken(*given: Any) -> Any:
        called.append(given)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Turns, "_find", broken)
    reply = post(bundling)
    assert called
    assert reply.status_code == 200
    assert reply.json()["predictions"] == expected


def test_an_answer_that_cannot_be_written_is_an_error_with_the_request_id(
    bundling: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "_stamp", lambda *_: None)  # bytes + None raises for each answer
    reply = post(bundling)
    assert reply.status_code == 500
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    monkeypatch.undo()
    assert post(bundling).status_code == 200
    assert bundling.service.engine.inflight == 0
    assert len(bundling.gateway.inflight) == 0
