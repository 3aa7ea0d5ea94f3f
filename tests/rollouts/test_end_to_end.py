"""Canaries over HTTP with real digits: the good version is promoted, each bad one is rolled back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from digit_traffic import PLAN, Traffic, champion, outcome, serving
from digit_versions import BAD, NAME, build_digits
from live_servers import Process
from waiting import wait_until


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    return build_digits(tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_good_version_is_promoted_and_each_bad_one_is_rolled_back(
    digits: tuple[Path, np.ndarray], workers: int
) -> None:
    path, images = digits
    with (
        serving(path, workers) as (server, port),
        Traffic(port, images),
        httpx.Client(base_url=server.url, headers=server.auth, timeout=30) as api,
    ):
        champion(api, "v1.0")
        for version in BAD:
            assert outcome(api, version) == "rolled_back", why(api)
            assert champion(api) == "v1.0"
        assert outcome(api, "v2.0") == "promoted", why(api)
        assert champion(api) == "v2.0"
        refused = api.post(f"/admin/routes/{NAME}/canary", json={**PLAN, "to": "nan"})
        assert refused.status_code == 422
        assert "was rolled back before" in refused.text


def test_without_the_database_serving_goes_on_a_bad_version_is_braked_and_nothing_is_lost(
    digits: tuple[Path, np.ndarray],
) -> None:
    path, images = digits
    database, away = path / "registry.db", path / "away.db"
    ink = images.sum(axis=1)
    hard = images[ink > np.quantile(ink, 0.8)]  # the version fails for a third of these
    with (
        serving(path, 2) as (server, port),
        httpx.Client(base_url=server.url, headers=server.auth, timeout=30) as api,
    ):
        champion(api, "v1.0")
        plan = {**PLAN, "to": "fails", "steps": [50, 100], "hold_s": 60, "max_hold_s": 60, "again": True}
        plan |= {"max_p99_ratio": None, "max_disagreement": None, "max_error_rate": 0.01}
        assert api.post(f"/admin/routes/{NAME}/canary", json=plan).status_code == 200
        wait_until(lambda: canary(api)["state"] == "running", 0.1)
        asked = itertools.count(1)
        keys = Asked(server, images[0], asked)
        wait_until(lambda: keys.next() == "fails")
        wait_until(lambda: all(keys.same() == "fails" for _ in range(20)))  # in both processes
        database.rename(away)
        with Traffic(port, hard) as traffic:
            braked = f'penstock_canary_braked{{model="{NAME}",version="fails"}} 2.0'
            wait_until(lambda: braked in api.get("/metrics").text, 0.1)
            more(traffic, 50)  # those that the version had already
            failed = failures(traffic)
            assert failed.keys() <= {(500, "fails"), (500, "")}
            more(traffic, 300)
            assert failures(traffic) == failed
            page = api.get("/metrics").text
            assert "penstock_canaries_frozen 2.0" in page
            assert "penstock_routes_stale 2.0" in page
            ready = api.get("/health/ready")
            assert ready.status_code == 200
            assert any("registry.db is gone" in reason for reason in ready.json()["reasons"])
        assert not database.exists(), "an empty database was made in its place"
        sent = next(asked) - 1 + traffic.statuses.total()
        away.rename(database)
        began = time.monotonic()
        wait_until(lambda: canary(api)["state"] == "rolled_back", 0.05)
        print(f"caught up in {time.monotonic() - began:.2f} s")
        assert "as one process had braked it: errors" in canary(api)["sentence"]
        wait_until(lambda: evidence(api) == sent, 0.1)
        wait_until(lambda: "penstock_canaries_frozen 0.0" in api.get("/metrics").text, 0.1)
        wait_until(lambda: api.get("/health/ready").json()["reasons"] == [], 0.1)


def failures(traffic: Traffic) -> dict[tuple[int, str], int]:
    return {reply: count for reply, count in traffic.statuses.items() if reply[0] != 200}


def more(traffic: Traffic, count: int) -> None:
    """Wait for so many more replies."""
    until = traffic.statuses.total() + count
    wait_until(lambda: traffic.statuses.total() >= until)


def canary(api: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/admin/routes/{NAME}/canary").json()
    return found


def evidence(api: httpx.Client) -> int:
    """The requests of both versions, as they are stored."""
    return sum(int(arm["requests"]) for arm in canary(api)["evidence"].values())


class Asked:
    """Which version answers a key, each time on a connection of its own; `asked` counts the requests."""

    def __init__(self, server: Process, image: np.ndarray, asked: Iterator[int]) -> None:
        self._url, self._body, self._asked = server.url, {"input_data": image.tolist()}, asked
        self._key = 0

    def next(self) -> str:
        """That of another key."""
        self._key += 1
        return self.same()

    def same(self) -> str:
        """That of the last key."""
        next(self._asked)
        headers = {"x-penstock-key": f"first-{self._key}"}
        reply = httpx.post(f"{self._url}/models/{NAME}/predict", json=self._body, headers=headers, timeout=30)
        return reply.headers.get("x-penstock-model", "").partition(":")[2].partition("/")[0]


def why(api: httpx.Client) -> str:
    found = api.get(f"/admin/routes/{NAME}/decisions").json()["decisions"]
    return "\n".join(f"{each['at']} {each['action']}: {each['sentence']}" for each in found[:6])
