"""Middleware: which steps a listener runs around every handler, and the gateway that is built from them.

A header on every reply or a check before every request is one more `Step` in `http_steps`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import getrandbits
from typing import ClassVar

from penstock.gateway.access.step import Access
from penstock.gateway.auth import HostRule, KnownHosts
from penstock.gateway.bundles.turns import Turns
from penstock.gateway.cors import Cors
from penstock.gateway.gateway import CloseWhileDraining, Gateway, RequestId, Tracking
from penstock.gateway.http import Call, Headers, Protocol, Step
from penstock.gateway.native.routes import NATIVE
from penstock.gateway.plugins import PluginRoutes
from penstock.gateway.service import Service
from penstock.monitor.access import AccessLog
from penstock.monitor.logs import request_fields
from penstock.monitor.traces.context import parent_of
from penstock.monitor.traces.trace import Trace
from penstock.monitor.traces.tracer import Tracer


def build_gateway(
    service: Service, *, listener: str | None = None, protocols: Sequence[Protocol] = (NATIVE,)
) -> Gateway:
    """The gateway of an HTTP listener. `listener` is the IP address it listens on, or the path of a Unix socket that
    only those can connect to who may administer the server; None if another server listens.
    """
    gateway = Gateway(service, protocols)
    gateway.set_steps(*http_steps(gateway, listener))
    gateway.bundles = Turns(gateway)
    PluginRoutes(gateway).follow()
    service.callers.on_change.append(gateway.routes.forget_heads)
    return gateway


def http_steps(gateway: Gateway, listener: str | None) -> list[Step]:
    """The steps of a listener, in the order in which they run."""
    service, settings = gateway.service, gateway.service.settings
    steps: list[Step] = [RootPath(settings.root_path)] if settings.root_path else []
    steps.append(RequestId())
    if service.tracer is not None:
        service.engine.observers.append(service.tracer)
        steps.append(Tracing(service.tracer))
    if settings.access_log and AccessLog.wanted():
        access = AccessLog()
        service.engine.observers.append(access.observe)
        steps.append(AccessRecord(access))
    steps.append(Tracking(gateway.inflight))
    steps.append(KnownHosts(HostRule(settings, listener)))
    if settings.cors_origins:
        steps.append(Cors(settings.cors_origins, gateway.routes))
    steps += [Access(service.callers, listener), CloseWhileDraining(service)]
    return steps


def within(path: str, root: str) -> str:
    """The part of a path below `root`; the whole path if it is elsewhere."""
    return path.removeprefix(root) or "/" if root and f"{path}/".startswith(f"{root}/") else path


class RootPath(Step):
    """Takes the path of a proxy off the paths of requests; proxies that do so themselves are as welcome."""

    def __init__(self, root: str) -> None:
        self._root = root

    def enter(self, call: Call) -> None:
        """Make the path that of the table of routes."""
        call.path = within(call.path, self._root)
        call.root += self._root


class Tracing(Step):
    """Begins and ends the traces of requests. One that is not traced costs a look at its head and a random number."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._threshold = tracer.threshold

    @property
    def adds(self) -> bool:  # type: ignore[override]
        """True while traced requests are in flight."""
        return bool(self._tracer.active)

    def enter(self, call: Call) -> None:
        """Begin a trace, if the caller or the sample says so."""
        given = None
        if call.header("traceparent") is not None:
            given = parent_of(call.header_values("traceparent"), lambda: call.header_values("tracestate"))
        if given is not None:
            call.trace = self._tracer.join(given, call.request_id)
        elif (low := getrandbits(64)) < self._threshold:  # as every request asks, without a call
            call.trace = self._tracer.begin(call.request_id, low)

    def add_headers(self, call: Call, headers: Headers) -> None:
        """Name the trace in the reply, so that a client finds it."""
        if call.trace is not None:
            headers.append(("traceparent", call.trace.header))

    def leave(self, call: Call) -> None:
        """End the trace."""
        trace: Trace | None = call.trace
        if trace is None:
            return
        row = getattr(call, "row", None)
        trace.method, trace.route, trace.status = call.method, "" if row is None else row.path, call.status
        trace.attributes = {"url.path": call.path, "network.protocol.version": call.http_version}
        self._tracer.finish(trace, call.entered)


class AccessRecord(Step):
    """One record in the access log for every reply, written when its last byte was sent."""

    contextual: ClassVar[bool] = True

    def __init__(self, access: AccessLog) -> None:
        self._access = access

    def enter(self, call: Call) -> None:  # noqa: ARG002
        """Collect the observations of this request from now on."""
        self._access.begin()

    def leave(self, call: Call) -> None:
        """Write the record, unless the client disconnected before the reply."""
        if call.status:
            ms = round((time.monotonic() - call.entered) * 1000, 3)
            caller = {} if call.caller is None or not call.caller.id else {"caller": call.caller.id}
            self._access.write(
                **request_fields(call),
                **caller,
                method=call.method,
                path=call.path,
                status=call.status,
                ms=ms,
                bytes=call.sent_bytes,
            )
