"""What every server in front shares: a call in, a reply out, and what a request needs on its way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from penstock.artifacts.policies import BatchingPolicy
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.tasks.ranges import RangePolicies
from penstock.errors import ModelNotReady, PenstockError
from penstock.gateway.cors import Cors
from penstock.gateway.docs.examples import Example, example_of
from penstock.gateway.docs.openapi import write_document
from penstock.gateway.http import Call, Disconnected, Endpoint, Headers, Reply, Routes
from penstock.gateway.inflight import Inflight
from penstock.gateway.plugins import Extensions, with_tasks
from penstock.gateway.problems import CLOSE, is_server_fault, problem_body, problem_headers
from penstock.gateway.process.admin_commands import Orders
from penstock.gateway.process.worker_group import Peers, merge_stats
from penstock.monitor.access import AccessLog
from penstock.monitor.metrics import Metrics
from penstock.settings import ModelSettings, Settings

log = logging.getLogger(__name__)

RECONCILE_EVERY_S = 0.5
"""A change is to be followed within a second, the loading of a small model included."""

LEAST_BODY_BUDGET = 256 * 1024 * 1024
"""Large bodies may take this much together, or four of the largest where that is more."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_ID_PREFIX = secrets.token_hex(4)
_ids = itertools.count(1)


class Gateway:
    """The server without its sockets: routes, engine, metrics, and whether it is starting, serving or draining."""

    def __init__(
        self, settings: Settings, table: tuple[Endpoint, ...], *, engine: InferenceEngine | None = None
    ) -> None:
        self.settings = settings
        self.routes = Routes(table)
        self.table = table
        self._own_table = table
        self._extensions = Extensions(table)
        self._kinds: frozenset[str] = frozenset()
        self._extending = asyncio.Lock()
        self.engine = engine or InferenceEngine(engine_config(settings))
        self.metrics = Metrics(self.engine)
        self.engine.observers.append(self.metrics.observe)
        self.inflight = Inflight(max(4 * settings.max_body_bytes, LEAST_BODY_BUDGET))
        self.started = False
        self._access = AccessLog() if settings.access_log and AccessLog.wanted() else None
        if self._access is not None:
            self.engine.observers.append(self._access.observe)
        self.draining = False
        self._cors = Cors(settings.cors_origins, self.routes) if settings.cors_origins else None
        self.write_openapi: Callable[[Example | None], dict[str, Any]] = self._write_openapi
        """What writes the OpenAPI document; an application around the gateway may put its own in place."""
        self.peers: Peers | None = None
        """The processes beside this one, where there are some."""
        self.listener: str | None = None
        """The IP address this process listens on, where the gateway has a listener of its own."""
        self.orders = Orders(self)
        self._stopping = False
        self._trouble = ""
        self.following = asyncio.Lock()
        self._watchers: list[asyncio.Task[None]] = []

    # Life

    async def start(self, refs: Sequence[str] = ()) -> None:
        """Load the models. Raises the PenstockError of one that was asked for by name and cannot be served."""
        strict = bool(refs) or self.engine.default_ref is not None
        await self.engine.start(refs, strict=strict)
        await self.orders.obey()
        await self.extend()
        # what was made until now stays: out of the collector's sight it is not walked again and again (50 ms each time)
        gc.collect()
        gc.freeze()
        self.started = True
        self._watchers.append(asyncio.create_task(self._reconcile(), name="penstock-reconcile"))
        if self.peers is not None:
            self._watchers.append(asyncio.create_task(self.orders.watch(), name="penstock-orders"))

    def begin_drain(self) -> None:
        """Refuse new predictions, and close every connection with its next reply."""
        self.draining = True
        self.engine.begin_drain()

    def end_drain(self) -> None:
        """Take predictions again, unless the process is about to end."""
        if not self._stopping:
            self.draining = False
            self.engine.end_drain()

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the requests in flight; False when they took longer than `timeout_s` and were given up.

        There is no way back: the process is about to end.
        """
        self._stopping = True
        self.begin_drain()
        until = time.monotonic() + timeout_s
        in_time = await self.engine.drain(timeout_s)
        return await self.inflight.drain(until - time.monotonic()) and in_time

    async def close(self) -> None:
        """Unload the models."""
        for watcher in self._watchers:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        self.inflight.close()
        await self.engine.close()

    async def _reconcile(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_EVERY_S)
            await self.reconcile()

    async def reconcile(self) -> None:
        """Follow the registry now; what stands in the way is logged."""
        async with self.following:
            try:
                await self.engine.reconcile()
            except PenstockError as error:
                self._tell_following(f"the registry cannot be followed: {error}")
            except Exception:
                log.exception("the registry cannot be followed")
            else:
                self._tell_following("")
            await self.extend()

    async def extend(self) -> None:
        """Serve the routes that packages bring for the kinds of tasks that are loaded now, and no others of theirs."""
        async with self._extending:
            kinds = frozenset(kind for model in self.engine.loaded() for kind in model.runners)
            if kinds == self._kinds:
                return
            rows = await asyncio.to_thread(self._extensions.rows, kinds)
            self._kinds = kinds
            self.table = (*self._own_table, *rows)
            self.routes.set(self.table)

    def _tell_following(self, trouble: str) -> None:
        """Once when it begins, changes or ends: an outage of hours is no reason for thousands of lines."""
        if trouble == self._trouble:
            return
        log.warning("%s", trouble or "the registry is followed again")
        self._trouble = trouble

    def check_started(self) -> None:
        """Raises ModelNotReady while models are being loaded."""
        if not self.started:
            raise ModelNotReady("models are being loaded; try again in a moment")

    # What the monitoring routes show; one process of several speaks for all

    async def stats(self) -> dict[str, Any]:
        """The figures of `/stats`."""
        if self.peers is None:
            return self.engine.get_stats()
        return merge_stats([figures["stats"] for figures in await asyncio.to_thread(self.peers.all, self)])

    async def metrics_page(self) -> bytes:
        """The page of `/metrics`."""
        everyone = [] if self.peers is None else await asyncio.to_thread(self.peers.all, self)
        return await asyncio.to_thread(self.metrics.render, [figures["metrics"] for figures in everyone])

    async def openapi_json(self) -> bytes:
        """The OpenAPI document, with requests for the served models as its examples."""
        example = None
        with contextlib.suppress(PenstockError):  # without a model the table's own examples do
            example = await asyncio.to_thread(example_of, await self.engine.model(), self.engine.loaded())
        return orjson.dumps(await asyncio.to_thread(self.write_openapi, example))

    def _write_openapi(self, example: Example | None = None) -> dict[str, Any]:
        tasks = [type(runner.task) for model in self.engine.loaded() for runner in model.runners.values()]
        return write_document(with_tasks(self.table, tasks), example)

    # Answering

    async def serve(self, call: Call) -> Reply | None:
        """The reply to any call; None when nobody waits for it any more."""
        started = 0.0
        if self._access is not None:
            started = time.perf_counter()
            self._access.begin()
        given = call.header("x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            call.request_id = given
        else:
            call.request_id = f"{_ID_PREFIX}-{next(_ids):x}"
        task = self.inflight.enter(call)
        try:
            reply = self._cors.preflight(call) if self._cors is not None and call.method == "OPTIONS" else None
            if reply is None:
                row, call.params = self.routes.find(call.method, call.path)
                reply = await row.handler(call)
        except Disconnected:
            return None
        except asyncio.CancelledError:
            if call.verdict is None:  # the client is gone
                return None
            reply = self.refuse(call.verdict, call)
        except Exception as error:
            reply = self.refuse(error, call)
        finally:
            self.inflight.leave(task)
        self._add_headers(call, reply.headers)
        if self._access is not None:
            ms = round((time.perf_counter() - started) * 1000, 3)
            self._access.write(
                request_id=call.request_id, method=call.method, path=call.path, status=reply.status, ms=ms
            )
        return reply

    def _add_headers(self, call: Call, headers: Headers) -> None:
        headers.append(("x-request-id", call.request_id))
        if self._cors is not None:
            self._cors.allow(call, headers)
        if self.draining and CLOSE not in headers:
            headers.append(CLOSE)

    def refuse(self, error: Exception, call: Call) -> Reply:
        """The problem document for any error; a fault of the server goes to the log with its traceback."""
        if is_server_fault(error):
            log.error("request %s failed: %s", call.request_id, error, exc_info=error)
        status, body = problem_body(error, call.request_id)
        return Reply(status, problem_headers(error), body)


def engine_config(settings: Settings) -> InferenceConfig:
    """The engine's part of the settings."""
    default = str(settings.model_path) if settings.model_path is not None else settings.default_model
    return InferenceConfig(
        model_path=default,
        model_type=settings.model_type,
        registry=settings.registry,
        database_url=settings.database_url,
        device=settings.device,
        trust=settings.trust,
        cache_dir=settings.cache_dir,
        choosing=settings.choosing,
        precision="fp16" if settings.use_fp16 else "fp32",
        batch_size=settings.batch_size,
        max_queue_size=settings.max_queue_size,
        max_queue_bytes=settings.max_queue_bytes,
        max_wait_ms=settings.max_wait_ms,
        graph_optimization=settings.enable_onnx_optimization,
        threads=settings.threads,
        shared_threads=settings.shared_threads,
        timeout_ms=settings.request_timeout_ms,
        max_models=settings.max_models,
        max_bytes=settings.max_bytes,
        cache_size=settings.cache_size,
        cache_bytes=settings.cache_bytes,
        ranges=RangePolicies(settings.on_input_range, settings.on_output_range, settings.on_nan_output),
        batching={name: _batching(model) for name, model in settings.models.items()},
    )


def _batching(model: ModelSettings) -> BatchingPolicy:
    return BatchingPolicy(
        max_batch_rows=model.batch_size,
        max_queue_rows=model.max_queue_size,
        max_queue_bytes=model.max_queue_bytes,
        max_wait_ms=model.max_wait_ms,
        timeout_ms=model.request_timeout_ms,
    )
