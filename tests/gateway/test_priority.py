"""Priorities over HTTP: order and eviction in a full queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from live_servers import Live
from waiting import LONG_S, until

LONG = {"input_data": [400.0, 0, 0, 0]}
"""Takes the slow model most of a second."""
SHORT = {"input_data": [8.0, 0, 0, 0]}


@pytest.fixture
async def client(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, timeout=LONG_S) as client:
        yield client


def ask(client: httpx.AsyncClient, body: object, priority: int | None = None) -> asyncio.Task[httpx.Response]:
    headers = {} if priority is None else {"x-penstock-priority": str(priority)}
    return asyncio.create_task(client.post("/models/slow/predict", json=body, headers=headers))


async def queued(live: Live, rows: int) -> None:
    await until(lambda: live.service.engine.queue_rows == rows)


async def busy(
    live: Live, client: httpx.AsyncClient, priority: int | None = None
) -> list[asyncio.Task[httpx.Response]]:
    """A running request, and four queued ones that fill the queue."""
    running = ask(client, LONG, 100)
    await until(lambda: any(model.batcher.running_rows for model in live.service.engine.loaded()))
    waiting = []
    for count in range(1, 5):
        waiting.append(ask(client, SHORT, priority))
        await queued(live, count)
    return [running, *waiting]


async def statuses(tasks: list[asyncio.Task[httpx.Response]]) -> list[int]:
    return [reply.status_code for reply in await asyncio.gather(*tasks)]


async def test_a_higher_priority_evicts_the_last_queued_request(live: Live, client: httpx.AsyncClient) -> None:
    tasks = await busy(live, client)
    assert (await ask(client, SHORT)).status_code == 429
    urgent = ask(client, SHORT, 5)
    refused = await tasks.pop()
    assert refused.status_code == 429
    assert "a higher priority" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    assert await statuses([*tasks, urgent]) == [200] * 5


async def test_a_lower_priority_is_evicted_by_the_default_one(live: Live, client: httpx.AsyncClient) -> None:
    tasks = await busy(live, client, -3)
    plain = ask(client, SHORT)
    assert (await tasks.pop()).status_code == 429
    assert await statuses([*tasks, plain]) == [200] * 5


async def test_an_operator_may_limit_the_priority(
    live: Live, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.service, "settings", live.settings.model_copy(update={"max_priority": 0}))
    tasks = await busy(live, client)
    assert (await ask(client, SHORT, 100)).status_code == 429
    assert await statuses(tasks) == [200] * 5


@pytest.mark.parametrize("value", ["", "x", "1.5", "101", "-101", "1_0", "9999999999999999999999"])
async def test_a_bad_priority_is_422_and_names_the_header(client: httpx.AsyncClient, value: str) -> None:
    for path, body in (("/predict", SHORT), ("/predict/batch", {"requests": [SHORT]})):
        reply = await client.post(path, json=body, headers={b"x-penstock-priority": value.encode()})
        assert reply.status_code == 422
        assert reply.json()["errors"][0]["field"] == "X-Penstock-Priority"
