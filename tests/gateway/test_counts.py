"""After a storm of requests of every kind, the figures equal what the clients saw."""

from __future__ import annotations

import random
import re
from collections import Counter

import httpx
import pytest
from burst_models import FAILS, FAR
from bursts import Held, connected, loop_held, received, settled, together
from equality_cases import in_chunks, request, vector
from live_servers import Live
from waiting import wait_until

from penstock.settings import Settings

PATH = "/models/faulty/predict"
GOOD = vector(1, 2, 3, 4)
KINDS: dict[str, list[bytes]] = {
    "ok": [
        request(GOOD, PATH),
        in_chunks(request(GOOD, PATH)),
        request(GOOD),
        request(GOOD, "/models/vec@stable/predict"),
    ],
    "error": [request(vector(FAILS, 0, 0, 0), PATH), in_chunks(request(vector(FAILS, 0, 0, 0), PATH))],
    "out_of_range": [request(vector(1, 2, FAR, 3), PATH)],
    "invalid": [
        request(vector(1, 2), PATH),
        request(b"{", PATH),
        request(GOOD.ljust(1200), PATH),  # 413
        in_chunks(request(GOOD.ljust(1200), PATH)),
        request(GOOD, PATH, kind="Content-Type: text/plain\r\n"),  # 415
        request(GOOD, PATH, "Content-Encoding: x\r\n"),
        request(GOOD, PATH, "X-Penstock-Priority: high\r\n"),
    ],
    "not_found": [request(GOOD, "/models/nope/predict"), request(GOOD, "/models/vec/versions/v9/predict")],
    "deadline": [request(GOOD, PATH, "X-Request-Timeout-Ms: 0.0001\r\n")],
}
"""Requests by the outcome that they have."""
STATUSES = {
    200: "ok",
    500: "error",
    413: "invalid",
    415: "invalid",
    404: "not_found",
    504: "deadline",
    429: "overloaded",
    503: "not_ready",
}


def counted(live: Live) -> Counter[str]:
    """The counters of `/metrics`, by outcome."""
    page = httpx.get(f"{live.url}/metrics").text
    found: Counter[str] = Counter()
    for outcome, count in re.findall(r'penstock_requests_total{[^}]*outcome="(\w+)"[^}]*} ([0-9.e+]+)', page):
        found[outcome] += int(float(count))
    return found


def in_stats(live: Live) -> Counter[str]:
    """Those of `/stats`, which has no models that do not exist."""
    found: Counter[str] = Counter()
    for model in httpx.get(f"{live.url}/stats").json()["models"].values():
        assert model["requests"] == sum(model["outcomes"].values())
        found.update(model["outcomes"])
    return found


@pytest.mark.parametrize("kind", ["h1", "rsgi", "asgi"])
def test_after_a_storm_the_figures_equal_what_the_clients_saw(kind: str, burst_settings: Settings) -> None:
    settings = burst_settings.model_copy(update={"max_queue_size": 200, "max_body_bytes": 1000})
    with Live(kind, settings, ("vec", "faulty")) as live:
        expected = _storm(live)
        expected += _full_queue(live)
        settled(live)
        assert counted(live) == expected
        found = in_stats(live)
        assert expected - found == Counter(not_found=expected["not_found"] - found["not_found"])
        assert not found - expected


def _storm(live: Live) -> Counter[str]:
    sent = [(outcome, each) for outcome, many in KINDS.items() for each in many * 4]
    random.Random(2).shuffle(sent)
    answers = together(live, [each for _, each in sent], len(sent))
    for (outcome, each), (status, _, _) in zip(sent, answers, strict=True):
        number = int(status.split()[1])
        assert STATUSES.get(number, outcome) == outcome, (each, status)
    return Counter(outcome for outcome, _ in sent)


def _full_queue(live: Live) -> Counter[str]:
    """More requests than there is room for; some clients leave while theirs wait."""
    (model,) = (model for model in live.service.engine.loaded() if model.key == "vec:v2.0")
    seen: Counter[str] = Counter()
    with Held(model) as held:
        held.batcher.queue.max_rows = 30
        sent = request(GOOD, "/models/vec/predict")
        with connected(live, 40) as staying:
            with connected(live, 7) as leaving:
                for connection in leaving:
                    connection.sendall(sent)
                wait_until(lambda: held.batcher.queued_rows + held.batcher.running_rows == 7)
                with loop_held(live):
                    for connection in staying:
                        connection.sendall(sent)
                wait_until(lambda: counted(live)["overloaded"])
            wait_until(lambda: counted(live)["cancelled"] == 7)
            held.let_go()
            for connection in staying:
                seen[STATUSES[received(connection).statuses[0]]] += 1
    assert seen["overloaded"]
    assert seen["ok"]
    return seen + Counter(cancelled=7)
