"""Bursts with faults in them: each request gets what it would get alone, whatever the others are."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from burst_models import FAILS, FAR, NOT_A_NUMBER, ODD
from bursts import alone, bundled, outcomes, settled, together
from equality_cases import in_chunks, request, vector
from live_servers import Live

from penstock.settings import Settings

PATH = "/models/faulty/predict"
LATE = "X-Request-Timeout-Ms: 0.0001\r\n"
FAULTS: dict[bytes, tuple[int, str]] = {
    request(vector(FAILS, 1, 2, 3), PATH): (500, "error"),
    request(vector(1, NOT_A_NUMBER, 2, 3), PATH): (422, "out_of_range"),
    request(vector(1, 2, FAR, 3), PATH): (422, "out_of_range"),
    request(vector(1, 2, 3), PATH): (422, "invalid"),
    request(b'{"input_data":[1,2,3,1e39]}', PATH): (422, "invalid"),
    request(b"{", PATH): (422, "invalid"),
    request(vector(1, 2, 3, 4), PATH, LATE): (504, "deadline"),
    request(vector(1, 2, 3, 4), PATH, "X-Penstock-Priority: high\r\n"): (422, "invalid"),
    request(vector(1, 2, 3, 4), PATH, kind="Content-Type: text/plain\r\n"): (415, "invalid"),
}
"""Requests that fail alone: status and outcome."""


@pytest.fixture(scope="module", params=["h1", "rsgi", "asgi"])
def live(request: pytest.FixtureRequest, burst_settings: Settings) -> Iterator[Live]:
    with Live(request.param, burst_settings, ("faulty",)) as server:
        yield server


def good(count: int) -> list[bytes]:
    chance = random.Random(4)
    rows = [[round(chance.uniform(-9, 9), 3) for _ in range(4)] for _ in range(count - 1)]
    return [request(vector(*row), PATH) for row in [*rows, [1, 2, ODD, 3]]]


@pytest.mark.parametrize("connections", [60, 7])
def test_in_a_burst_with_faults_each_request_gets_what_it_gets_alone(
    live: Live, connections: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "penstock")
    requests = [*good(60), *FAULTS, *FAULTS]
    random.Random(connections).shuffle(requests)
    expected = dict(zip(requests, alone(live, [in_chunks(sent) for sent in requests]), strict=True))
    for sent, (status, _) in FAULTS.items():
        assert expected[sent][0].split()[1] == b"%d" % status, expected[sent]
    before = outcomes(live, "faulty:1")
    with bundled(live) as members:
        got = together(live, requests, connections)
    for sent, reply in zip(requests, got, strict=True):
        assert reply == expected[sent]
    settled(live)
    counted = Counter(outcome for sent in requests for _, outcome in [FAULTS.get(sent, (200, "ok"))])
    assert outcomes(live, "faulty:1") - before == counted
    # what is late, no JSON, or has a bad header takes the ordinary way, as does everything over the other servers
    assert members["faulty"] == (len(requests) - 2 * 4 if live.kind == "h1" else 0)
