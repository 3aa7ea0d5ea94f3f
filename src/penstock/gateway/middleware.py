"""Middleware: the steps around every handler, and the gateway of a listener that is built from them.

A header on every reply or a check before every request is a `Step` here (or in `auth` or `cors`), see `http_steps`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Sequence

from penstock.gateway.auth import AdminGuard
from penstock.gateway.cors import Cors
from penstock.gateway.gateway import Gateway
from penstock.gateway.http import Call, Headers, Protocol, Step
from penstock.gateway.inflight import Inflight
from penstock.gateway.native.routes import NATIVE
from penstock.gateway.plugins import PluginRoutes
from penstock.gateway.problems import CLOSE
from penstock.gateway.service import Service
from penstock.monitor.access import AccessLog

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_ID_PREFIX = secrets.token_hex(4)
_ids = itertools.count(1)


def build_gateway(
    service: Service, *, listener: str | None = None, protocols: Sequence[Protocol] = (NATIVE,)
) -> Gateway:
    """The gateway of an HTTP listener. `listener` is the IP address it listens on, None if that is unknown."""
    gateway = Gateway(service, protocols)
    gateway.set_steps(*http_steps(gateway, listener))
    PluginRoutes(gateway).follow()
    return gateway


def http_steps(gateway: Gateway, listener: str | None) -> list[Step]:
    """The steps of a TCP listener, in the order in which they run."""
    service, settings = gateway.service, gateway.service.settings
    steps: list[Step] = [RequestId()]
    if settings.access_log and AccessLog.wanted():
        access = AccessLog()
        service.engine.observers.append(access.observe)
        steps.append(AccessRecord(access))
    steps.append(Tracking(gateway.inflight))
    if settings.cors_origins:
        steps.append(Cors(settings.cors_origins, gateway.routes))
    steps += [AdminGuard(settings.admin_key, listener), CloseWhileDraining(service)]
    return steps


class RequestId(Step):
    """Every request has an id: the client's if it is well-formed, else a new one."""

    def enter(self, call: Call) -> None:
        """Set it."""
        given = call.header("x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            call.request_id = given
        else:
            call.request_id = f"{_ID_PREFIX}-{next(_ids):x}"

    def add_headers(self, call: Call, headers: Headers) -> None:
        """Return it."""
        headers.append(("x-request-id", call.request_id))


class Tracking(Step):
    """Keeps the request among those in flight: for the drain, time-outs, clients that disconnect, and body memory."""

    def __init__(self, inflight: Inflight) -> None:
        self._inflight = inflight
        self._calls = inflight.calls

    def enter(self, call: Call) -> None:
        """Add it."""
        call.entered = time.monotonic()
        self._calls[asyncio.current_task()] = call  # type: ignore[index]  # a request has a task
        if not self._inflight.sweeping:
            self._inflight.start_sweeping()

    def leave(self, call: Call) -> None:
        """Remove it, and give back the memory of its body."""
        if call.held_bytes:
            call.limits.release(call)
        task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment]
        del self._calls[task]
        if self._inflight.watchers:
            self._inflight.stop_watching(task)


class CloseWhileDraining(Step):
    """Closes every connection with its next reply while the server drains."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_headers(self, call: Call, headers: Headers) -> None:  # noqa: ARG002
        """Add `Connection: close`."""
        if self._service.draining and CLOSE not in headers:
            headers.append(CLOSE)


class AccessRecord(Step):
    """One record in the access log for every reply, written when its last byte was sent."""

    def __init__(self, access: AccessLog) -> None:
        self._access = access

    def enter(self, call: Call) -> None:  # noqa: ARG002
        """Collect the observations of this request from now on."""
        self._access.begin()

    def leave(self, call: Call) -> None:
        """Write the record, unless the client disconnected before the reply."""
        if call.status:
            ms = round((time.monotonic() - call.entered) * 1000, 3)
            self._access.write(
                request_id=call.request_id,
                method=call.method,
                path=call.path,
                status=call.status,
                ms=ms,
                bytes=call.sent_bytes,
            )
