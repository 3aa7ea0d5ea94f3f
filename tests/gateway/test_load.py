"""Overload, deadlines and clients that disconnect."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from live_servers import Live
from waiting import LONG_S, until

from penstock.settings import Settings

GOOD = {"input_data": [1, 2, 3, 4]}


def rounds(count: int) -> dict[str, Any]:
    """A request that takes the slow model about two milliseconds for each."""
    return {"input_data": [float(count), 0, 0, 0]}


@pytest.fixture
async def client(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, timeout=LONG_S) as client:
        yield client


async def settled(live: Live) -> None:
    """Return when no request is in flight and no run of a cancelled request is left."""
    engine = live.service.engine
    await until(lambda: not len(live.gateway.inflight) and not engine.inflight and not running(live))


def running(live: Live) -> bool:
    return any(model.batcher.running_rows for model in live.service.engine.loaded())


def cancelled(live: Live) -> int:
    stats = live.service.engine.get_stats()["models"].get("slow:1.0", {"outcomes": {}})
    return stats["outcomes"].get("cancelled", 0)


async def test_a_full_queue_refuses_at_once_and_queued_requests_are_answered(
    live: Live, client: httpx.AsyncClient
) -> None:
    """The queue of the test server holds 4 rows."""
    replies = await asyncio.gather(*(client.post("/models/slow/predict", json=rounds(60)) for _ in range(24)))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 4
    for reply in replies:
        if reply.status_code == 429:
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.json()["type"] == "urn:penstock:overloaded"
    await settled(live)
    assert (await client.post("/models/slow/predict", json=rounds(8))).status_code == 200


async def test_refusals_are_counted(live: Live, client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(client.post("/models/slow/predict", json=rounds(60)) for _ in range(24)))
    page = (await client.get("/metrics")).text
    assert 'penstock_rejected_total{model="slow",reason="overloaded",version="1.0"}' in page
    await settled(live)


async def test_a_passed_deadline_is_504_without_delay(live: Live, client: httpx.AsyncClient) -> None:
    headers = {"x-request-timeout-ms": "100"}
    reply = await client.post("/models/slow/predict", json=rounds(80_000), headers=headers)
    assert reply.status_code == 504  # it did not wait for the run, which takes minutes
    problem = reply.json()
    assert problem["type"] == "urn:penstock:deadline-exceeded"
    assert problem["detail"].startswith("slow:1.0: the deadline passed before the model answered")
    assert problem["detail"].endswith("allow more time (request_timeout_ms)")
    await settled(live)


async def test_one_passed_deadline_in_a_batch_does_not_affect_the_others(live: Live, client: httpx.AsyncClient) -> None:
    body = {"model": "slow", "requests": [rounds(8), rounds(800)]}
    reply = await client.post("/predict/batch", json=body, headers={"x-request-timeout-ms": "150"})
    assert reply.status_code == 200
    first, second = reply.json()["predictions"]
    late = (429, 504)  # refused at once where the runs before were so slow that it would be late
    assert second["error"]["status"] in late
    assert "predictions" in first or first["error"]["status"] in late  # it may have shared the run
    await settled(live)


async def test_a_client_that_disconnects_frees_its_place(
    live: Live, client: httpx.AsyncClient, raw_connection: Callable[[], Any]
) -> None:
    before = cancelled(live)
    engine = live.service.engine
    busy = asyncio.create_task(client.post("/models/slow/predict", json=rounds(2000)))
    await until(lambda: running(live))
    body = b'{"input_data": [1, 0, 0, 0]}'
    head = b"POST /models/slow/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with ExitStack() as leaving:
        for waiting in range(1, 4):
            leaving.enter_context(raw_connection()).sendall(head % len(body) + body)
            await until(lambda waiting=waiting: engine.queue_rows == waiting)
    await until(lambda: not engine.queue_rows)
    assert not busy.done()
    assert (await busy).status_code == 200
    assert cancelled(live) - before == 3
    await settled(live)


async def test_large_bodies_share_a_budget(
    live: Live, client: httpx.AsyncClient, raw_connection: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.gateway.limits, "max_total_bytes", 250_000)
    body = b'{"input_data": [1, 2, 3, 4]}'
    with raw_connection() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 150000\r\n\r\n{")
        await until(lambda: live.gateway.limits.held_bytes)
        large = await client.post("/predict", content=body.ljust(150_000))
        chunked = await client.post("/predict", content=_chunks(body.ljust(150_000)))
        small = await client.post("/predict", content=body)
        other = await client.post("/predict", content=body.ljust(90_000))
    assert [reply.status_code for reply in (large, chunked, small, other)] == [429, 429, 200, 200]
    assert int(large.headers["retry-after"]) >= 1
    await settled(live)
    assert (await client.post("/predict", content=body.ljust(150_000))).status_code == 200
    assert live.gateway.limits.held_bytes == 0


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


async def test_a_waiting_client_is_not_taken_for_a_disconnected_one(live: Live, client: httpx.AsyncClient) -> None:
    replies = await asyncio.gather(*(client.post("/models/slow/predict", json=rounds(60)) for _ in range(4)))
    assert [reply.status_code for reply in replies] == [200] * 4
    await settled(live)


async def test_a_body_that_never_arrives_times_out(
    live: Live, raw_connection: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.gateway.limits, "timeout_s", 0.2)
    with raw_connection() as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        reply = await asyncio.to_thread(connection.recv, 4096)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"urn:penstock:request-timeout" in reply
    await settled(live)


@pytest.mark.parametrize(("busy", "other"), [("slow", "vec"), ("vec", "slow")])
async def test_a_batch_is_admitted_against_the_model_it_names(base_settings: Settings, busy: str, other: str) -> None:
    """First with a full queue of the default model, then with that of the named model."""
    settings = base_settings.model_copy(update={"default_model": busy})
    async with held_server(settings, busy, other) as (client, full):
        await full()
        named = {"model": other, "requests": [GOOD]}
        assert (await client.post("/predict/batch", json=named)).status_code == 200
        for body in ({"requests": [GOOD]}, {"model": busy, "requests": [GOOD]}):
            refused = await client.post("/predict/batch", json=body)
            assert (refused.status_code, refused.json()["type"]) == (429, "urn:penstock:overloaded")


@asynccontextmanager
async def held_server(
    settings: Settings, busy: str, other: str
) -> AsyncIterator[tuple[httpx.AsyncClient, Callable[[], Awaitable[None]]]]:
    """A server whose model `busy` blocks in its run, and a function that fills its queue."""
    with Live("h1", settings, (other,)) as live:
        async with httpx.AsyncClient(base_url=live.url, timeout=LONG_S) as client:
            assert (await client.post("/predict", json=GOOD)).status_code == 200
            (model,) = (model for model in live.service.engine.loaded() if model.name == busy)
            gate, run, inside = threading.Event(), model.backend.run, list[asyncio.Task[httpx.Response]]()

            def held(inputs: Any) -> Any:
                gate.wait(LONG_S)
                return run(inputs)

            model.batcher.runner.run, model.batcher._inline, model.batcher._concurrency = held, False, 1

            async def full() -> None:
                inside.append(asyncio.create_task(client.post("/predict", json=GOOD)))
                await until(lambda: model.batcher.running_rows == 1)
                inside.extend(asyncio.create_task(client.post("/predict", json=GOOD)) for _ in range(4))
                await until(lambda: model.batcher.queued_rows == 4)

            try:
                yield client, full
            finally:
                gate.set()
                assert {(await reply).status_code for reply in inside} == {200}
