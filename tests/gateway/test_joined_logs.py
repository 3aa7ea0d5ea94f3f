"""Log records that are made in the course of a request name it, wherever they are made."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_servers import Live

from penstock.engine.tasks.task_thread_pool import TaskThreadPool
from penstock.gateway.http import Call, Endpoint, Protocol, Reply, problem_reply
from penstock.gateway.native.routes import NATIVE
from penstock.monitor import logs
from penstock.settings import Settings

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
log = logging.getLogger("application")


async def busy(call: Call) -> Reply:
    """Writes one record in each place that a request reaches, and fails."""
    log.warning("handler")
    await asyncio.to_thread(log.warning, "thread")
    pool = TaskThreadPool("a task", most=4, most_bytes=1000)
    await pool.run(lambda: log.warning("task"), deadline=asyncio.get_running_loop().time() + 60)
    await asyncio.create_task(_child())
    raise RuntimeError("the handler failed")


async def _child() -> None:
    log.warning("child")


async def streamed(call: Call) -> Reply:
    async def chunks() -> AsyncIterator[bytes]:
        log.warning("stream")
        yield b"one"

    return Reply(200, [], chunks())


TABLE = (Endpoint("GET", "/own/busy", busy, "", "busy"), Endpoint("GET", "/own/stream", streamed, "", "stream"))
OWN = Protocol("own", ("/own",), TABLE, problem_reply)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the loggers write, in the format of a server."""
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs._Documents())
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


@pytest.mark.parametrize("access_log", [False, True])
@pytest.mark.parametrize("kind", ["h1", "rsgi", "plain-asgi"])
def test_every_record_of_a_request_has_its_ids(
    kind: str, access_log: bool, tmp_path: Path, written: io.StringIO
) -> None:
    settings = Settings(registry=tmp_path, threads=1, access_log=access_log)
    with Live(kind, settings, (), (NATIVE, OWN)) as live:
        headers = {"x-request-id": "r1", "traceparent": f"00-{TRACE}-{SPAN}-00"}
        assert live.http.get("/own/busy", headers=headers).status_code == 500
        assert live.http.get("/own/stream", headers={"x-request-id": "r2"}).text == "one"
        log.warning("elsewhere")
        threading.Thread(target=log.warning, args=("other thread",)).start()
    records: list[dict[str, Any]] = [json.loads(line) for line in written.getvalue().splitlines()]
    ours = {record["event"]: record for record in records if record["logger"] == "application"}
    assert set(ours) == {"handler", "thread", "task", "child", "stream", "elsewhere", "other thread"}
    for event in ("handler", "thread", "task", "child"):
        assert (ours[event]["request_id"], ours[event]["trace_id"]) == ("r1", TRACE)
    assert (ours["stream"]["request_id"], "trace_id" in ours["stream"]) == ("r2", False)
    for event in ("elsewhere", "other thread"):
        assert "request_id" not in ours[event]
    (failed,) = (record for record in records if "the handler failed" in record["event"])
    assert (failed["request_id"], failed["trace_id"]) == ("r1", TRACE)
