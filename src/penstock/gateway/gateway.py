"""Answers requests, whatever server carries them: a call in, a reply out."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from typing import Any

from penstock.gateway.auth import AdminGuard
from penstock.gateway.cors import Cors
from penstock.gateway.docs.examples import Example
from penstock.gateway.docs.openapi import write_document
from penstock.gateway.http import BodyLimits, Call, Disconnected, Endpoint, Headers, Reply, Routes
from penstock.gateway.inflight import Inflight
from penstock.gateway.plugins import Extensions, with_tasks
from penstock.gateway.problems import CLOSE, is_server_fault, problem_body, problem_headers
from penstock.gateway.service import Service
from penstock.monitor.access import AccessLog
from penstock.settings import Settings

log = logging.getLogger(__name__)

MIN_BODY_BUDGET = 256 * 1024 * 1024
"""Large bodies may take this much memory together, or four of the largest where that is more."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_ID_PREFIX = secrets.token_hex(4)
_ids = itertools.count(1)


class Gateway:
    """Answers the requests of one listener: its routes, and the steps around a handler."""

    def __init__(self, service: Service, table: tuple[Endpoint, ...], *, listener: str | None = None) -> None:
        """`listener` is the IP address that this process listens on; None under another server."""
        settings = service.settings
        self.service = service
        self.limits = body_limits(settings)
        self.routes = Routes(table)
        self.table = table
        self._own_table = table
        self._extensions = Extensions(table)
        self._kinds: frozenset[str] = frozenset()
        self._extending = asyncio.Lock()
        self._guard = AdminGuard(settings.admin_key, listener)
        self._cors = Cors(settings.cors_origins, self.routes) if settings.cors_origins else None
        self._access = AccessLog() if settings.access_log and AccessLog.wanted() else None
        if self._access is not None:
            service.engine.observers.append(self._access.observe)
        self.inflight = Inflight()
        service.on_models_changed.append(self.extend)
        service.write_openapi = self._write_openapi

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the requests in flight; False if they took longer than `timeout_s` and were cancelled.

        The process is about to end.
        """
        until = time.monotonic() + timeout_s
        in_time = await self.service.drain(timeout_s)
        return await self.inflight.drain(until - time.monotonic()) and in_time

    async def close(self) -> None:
        """Stop, and unload the models."""
        self.inflight.close()
        await self.service.close()

    async def extend(self) -> None:
        """Serve the routes that packages add for the kinds of tasks that are loaded now."""
        async with self._extending:
            kinds = frozenset(kind for model in self.service.engine.loaded() for kind in model.runners)
            if kinds == self._kinds:
                return
            rows = await asyncio.to_thread(self._extensions.rows, kinds)
            self._kinds = kinds
            self.table = (*self._own_table, *rows)
            self.routes.set(self.table)

    def _write_openapi(self, example: Example | None = None) -> dict[str, Any]:
        tasks = [type(runner.task) for model in self.service.engine.loaded() for runner in model.runners.values()]
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
                if row.guarded:
                    self._guard.check(call)
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
            self.limits.release(call)
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
        if self.service.draining and CLOSE not in headers:
            headers.append(CLOSE)

    def refuse(self, error: Exception, call: Call) -> Reply:
        """The problem document for any error; a fault of the server goes to the log with its traceback."""
        if is_server_fault(error):
            log.error("request %s failed: %s", call.request_id, error, exc_info=error)
        status, body = problem_body(error, call.request_id)
        return Reply(status, problem_headers(error), body)


def body_limits(settings: Settings) -> BodyLimits:
    """The limits of request bodies in the settings."""
    most = settings.max_body_bytes
    return BodyLimits(most, max(4 * most, MIN_BODY_BUDGET), settings.request_timeout_ms / 1000)
