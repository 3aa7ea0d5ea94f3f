"""Answers requests of any server in a sequence of steps; `gateway.middleware` lists those of a listener."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import sys
import time
import typing
from collections.abc import Awaitable, Sequence
from contextvars import copy_context

from penstock.engine.allowed_models import allowed_models
from penstock.errors import ModelLoadError, type_and_message
from penstock.gateway.auth import check_origin
from penstock.gateway.bodies.compression import INLINE, compressed, negotiated, packed, refuses_plain
from penstock.gateway.bodies.limits import BodyLimits
from penstock.gateway.http import Call, Disconnected, Endpoint, Headers, Protocol, Reply, Routing, Step
from penstock.gateway.inflight import Inflight
from penstock.gateway.problems import CLOSE, error_headers, is_server_fault, named
from penstock.gateway.routing.table import Routes
from penstock.gateway.service import Service
from penstock.gateway.streaming import open_stream, send_stream
from penstock.monitor.logs import current_request, request_fields

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_ID_PREFIX = secrets.token_hex(4)
_ids = itertools.count(1)

MIN_BODY_BUDGET = 256 * 1024 * 1024
"""Large bodies may take this much memory together, or four of the largest where that is more."""


class Bundles(typing.Protocol):
    """Answers requests of one turn of the event loop together."""

    def group_of(self, call: Call) -> str | None:
        """The requests that this one may be answered with, once its body is there; None if with none."""

    def check(self, call: Call) -> None:
        """Refuse a request whose body is still to come, if it would be refused anyway. Raises the refusal."""

    def add(self, call: Call) -> None:
        """Answer a request with its whole body at the end of the turn."""

    def cancel(self, call: Call) -> None:
        """The client has disconnected."""

    def abort(self, call: Call, reason: Exception) -> None:
        """Answer with an error what is not answered yet."""


class Gateway:
    """Answers the requests of one listener: its protocols, their routes, and the steps around every handler."""

    def __init__(self, service: Service, protocols: Sequence[Protocol]) -> None:
        """A path belongs to the protocol with the longest matching prefix; one protocol should have the prefix `/`."""
        settings = service.settings
        self.service = service
        self.protocols = tuple(protocols)
        self.table: tuple[Endpoint, ...] = tuple(row for protocol in protocols for row in protocol.table)
        self.routes = Routes(self.table)
        most = settings.max_body_bytes
        self.limits = BodyLimits(most, max(4 * most, MIN_BODY_BUDGET), settings.request_timeout_ms / 1000)
        self.inflight = Inflight()
        self.inflight.abort = self._abort
        self.bundles: Bundles | None = None
        """Answers small predictions together; None if each request has a task."""
        self.compress_from = settings.compress_from_bytes or sys.maxsize
        """Bytes of the smallest reply that is compressed."""
        self.set_steps()

    def set_steps(self, *steps: Step) -> None:
        """The steps of every request in addition to routing and handling, in this order."""
        self._enter = [step.enter for step in steps if _has(step, "enter")]
        self._answer = [step.answer for step in steps if _has(step, "answer")]
        self._admit = [step.admit for step in steps if _has(step, "admit")]
        self._recall = [step.recall for step in steps if _has(step, "recall")]
        self._guard = [step.guard for step in steps if _has(step, "guard")]
        self._add_headers = [step.add_headers for step in steps if _has(step, "add_headers")]
        self._adding = [step for step in steps if _has(step, "add_headers") and not isinstance(step, RequestId)]
        self._more_headers = [step.add_headers for step in self._adding]
        self._leave = [step.leave for step in steps if _has(step, "leave")]
        self._contextual = any(step.contextual for step in steps)
        self._by_head = all(step.by_head or not (_has(step, "answer") or _has(step, "admit")) for step in steps)

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the requests in flight; False if they took longer than `timeout_s` and were cancelled.

        The process is about to end.
        """
        until = time.monotonic() + timeout_s
        in_time = await self.service.drain(timeout_s)
        in_time = await self.inflight.drain(until - time.monotonic()) and in_time
        await self.service.send_traces(until - time.monotonic())
        return in_time

    async def close(self) -> None:
        """Stop, and unload the models."""
        self.inflight.close()
        await self.service.close()

    async def serve(self, call: Call) -> None:
        """Answer one request in the current task, from its first step to the last byte of its reply."""
        for enter in self._enter:
            enter(call)
        call.work = asyncio.current_task()
        await self._answered(call, self._reply(call, routed=False))

    async def _answered(self, call: Call, found: Awaitable[Reply | None]) -> None:
        current_request.set(call)
        try:
            reply = await found
            if reply is not None:
                if self._may_compress(call, reply):
                    accept = ", ".join(call.header_values("accept-encoding"))
                    reply.body = await compressed(reply.body, reply.headers, accept)
                for add_headers in self._add_headers:
                    add_headers(call, reply.headers)
                call.status = reply.status
                if isinstance(reply.body, bytes):
                    call.sent_bytes = len(reply.body)
                    await call.send(reply, reply.body)
                else:
                    await send_stream(call, reply)
        except asyncio.CancelledError:
            pass  # the client has disconnected while the reply was sent, or the drain has ended
        finally:
            for leave in self._leave:
                leave(call)
            current_request.set(None)  # the context belongs to the call: else only the collector would free both
        if call.unread:
            await call.finish_refusal()

    def _may_compress(self, call: Call, reply: Reply) -> bool:
        """True for large replies and streams, and for clients that take nothing as it is; whether they ask is open."""
        least, body = self.compress_from, reply.body
        if not isinstance(body, bytes):
            return least != sys.maxsize
        if len(body) >= least:
            return True
        accept = call.header("accept-encoding")
        return accept is not None and "q=0" in accept and least != sys.maxsize and refuses_plain(accept)

    async def _reply(self, call: Call, *, routed: bool) -> Reply | None:
        """The reply of the handler or of an error; None if the client has disconnected."""
        try:
            if not routed:
                early = self._route(call)
                if early is not None:
                    return early
            allowed_models.set(None if call.caller is None else call.caller.models)
            reply = await call.row.handler(call)
            return reply if isinstance(reply.body, bytes) else await open_stream(call, reply)
        except Disconnected:
            return None
        except asyncio.CancelledError:
            return None if call.abort_reason is None else self.refuse(call.abort_reason, call)
        except Exception as error:
            return self.refuse(error, call)
        except SystemExit as error:  # exit() in a package's code would end the server
            return self.refuse(RuntimeError(type_and_message(error)), call)

    def _route(self, call: Call) -> Reply | None:
        """Find the row that answers, and run the steps before its handler; a reply if a step has answered."""
        for answer in self._answer:
            reply = answer(call)
            if reply is not None:
                return reply
        row, call.params = self.routes.find(call.method, call.path)
        for admit in self._admit:
            admit(call, row)
        if row.guarded:
            for guard in self._guard:
                guard(call)
        if row.changes:
            check_origin(call)
            call.json_only = not row.upload
        call.row = row
        return None

    # For a server that calls instead of awaiting: `begin` with the head, then `proceed`, and `abandon` at any time

    def begin(self, call: Call) -> bool:
        """Take in a request whose head is there; False if it was answered already.

        If `call.collect` is set, the server reads the whole body into `call.content` before it calls `proceed`.
        """
        if self._contextual:
            call.context = copy_context()
            return call.context.run(self._begin, call)
        return self._begin(call)

    def _begin(self, call: Call) -> bool:
        for enter in self._enter:
            enter(call)
        routing = call.routing
        if routing is not None and routing.table is self.routes.table and self._recalled(call, routing):
            call.row, call.params, call.collect = routing.row, routing.params, routing.collect
            return True
        return self._judge(call)

    def _recalled(self, call: Call, routing: Routing) -> bool:
        """True if the caller of a head that was admitted before is admitted again."""
        for recall in self._recall if routing.caller is not None else ():  # noqa: SIM110  a generator takes longer
            if not recall(call, routing):
                return False
        return True

    def _judge(self, call: Call) -> bool:
        """Route a request; False if it was answered."""
        try:
            reply = self._route(call)
        except Exception as error:
            reply = self.refuse(error, call)
        if reply is not None:
            self.respond(call, reply)
            return False
        if self.bundles is not None:
            call.collect = self.bundles.group_of(call)
        routing, caller = call.routing, call.caller
        kept = routing is not None and self._by_head and not call.row.guarded and not call.row.changes
        if routing is not None and kept and (caller is None or caller.by_head):
            routing.row, routing.params, routing.collect = call.row, call.params, call.collect
            routing.caller, routing.until = caller, call.caller_until
            routing.table = self.routes.table
        return True

    def take(self, call: Call) -> None:
        """Take in and answer a request that is there with its whole body."""
        routing = call.routing
        if self._contextual or routing is None or routing.table is not self.routes.table or routing.collect is None:
            if self.begin(call):
                self.proceed(call)
            return
        for enter in self._enter:
            enter(call)
        if routing.caller is not None and not self._recalled(call, routing):
            if self._judge(call):
                self.proceed(call)
            return
        call.row, call.params, call.collect = routing.row, routing.params, routing.collect
        call.body_at = call.entered
        self.bundles.add(call)  # type: ignore[union-attr]  # they chose what to collect

    def await_body(self, call: Call) -> bool:
        """The body of a request to collect has not arrived whole; False if the request was refused now."""
        call.reading = True
        try:
            if self.bundles is not None:
                self.bundles.check(call)
        except Exception as error:
            call.unread = True
            self.respond(call, self.refuse(error, call))
            return False
        return True

    def proceed(self, call: Call) -> None:
        """Answer a request in the bundle of this turn, or in a task."""
        call.reading = False
        if call.collect is not None and self.bundles is not None:
            self.bundles.add(call)
        else:
            self.start(call)

    def start(self, call: Call, reply: Reply | None = None) -> None:
        """Answer a request in a task, which only sends the reply if there is one."""
        found = self._reply(call, routed=True) if reply is None else _ready(reply)
        call.work = asyncio.get_running_loop().create_task(self._answered(call, found), context=call.context)

    def abandon(self, call: Call) -> None:
        """The client has disconnected."""
        if call.work is not None:
            _cancel(call.work)
        elif self.bundles is None:
            self.leave(call)
        else:
            self.bundles.cancel(call)

    def _abort(self, call: Call, reason: Exception) -> None:
        """End a request with an error."""
        if call.work is not None:
            call.abort_reason = reason
            _cancel(call.work, reason)
        elif self.bundles is not None:
            self.bundles.abort(call, reason)

    def send(self, call: Call, reply: Reply) -> None:
        """Send a reply of any size to a request that has no task, and end the request."""
        if not isinstance(reply.body, bytes) or len(reply.body) > INLINE:
            self.start(call, reply)
        else:
            self.respond(call, reply)

    def respond(self, call: Call, reply: Reply) -> None:
        """Send a reply of a few kilobytes to a request that has no task, and end the request."""
        if isinstance(reply.body, bytes) and self._may_compress(call, reply):
            accept = ", ".join(call.header_values("accept-encoding"))
            encoding = negotiated(reply.body, reply.headers, accept)
            reply.body = reply.body if encoding is None else packed(reply.body, encoding)
        for add_headers in self._add_headers:
            add_headers(call, reply.headers)
        call.status = reply.status
        call.sent_bytes = len(reply.body) if isinstance(reply.body, bytes) else 0
        call.respond(reply)
        self.leave(call)

    @property
    def adds_headers(self) -> bool:
        """False if `more_headers` is empty for every request now."""
        return any(step.adds for step in self._adding)

    def more_headers(self, call: Call) -> Headers:
        """What the steps add to the headers of a reply, without its request id."""
        headers: Headers = []
        for add_headers in self._more_headers:
            add_headers(call, headers)
        return headers

    def leave(self, call: Call) -> None:
        """The last step of a request that has no task."""
        for leave in self._leave:
            if call.context is None:
                leave(call)
            else:
                call.context.run(leave, call)

    def refuse(self, error: Exception, call: Call) -> Reply:
        """The reply to an error in the format of the path's protocol; faults of the server go to the log."""
        if is_server_fault(error):
            trace = None if isinstance(error, ModelLoadError) else error  # its sentence says what is wrong
            more = request_fields(call)  # in a bundle it has no task
            log.error("request %s failed: %s", call.request_id, error, exc_info=trace, extra=more)
        self.service.errors[named(error)] += 1
        protocol = max(self.protocols, key=lambda protocol: protocol.match(call.path))
        reply = protocol.write_error(error, call)
        reply.headers.extend(error_headers(error))
        return reply


async def _ready(reply: Reply) -> Reply:
    return reply


def _cancel(work: asyncio.Task[None], reason: Exception | None = None) -> None:
    """Cancel a task after its first step: one that is cancelled before never runs, not even to its `finally`.

    The request counts as what `reason` stands for.
    """
    asyncio.get_running_loop().call_soon(work.cancel, reason)


def _has(step: Step, hook: str) -> bool:
    return getattr(type(step), hook) is not getattr(Step, hook)


def request_id_of(given: str | None) -> str:
    """The id of a request: the one that its client gave if that is well-formed, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_ID_PREFIX}-{next(_ids):x}"


class RequestId(Step):
    """Every request has an id: the client's if it is well-formed, else a new one."""

    def enter(self, call: Call) -> None:
        """Set it."""
        given = call.header("x-request-id")
        call.request_id = f"{_ID_PREFIX}-{next(_ids):x}" if given is None else request_id_of(given)

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
        self._calls[call] = None
        if not self._inflight.sweeping:
            self._inflight.start_sweeping()

    def leave(self, call: Call) -> None:
        """Remove it, and give back the memory of its body."""
        if call.held_bytes:
            call.limits.release(call)
        del self._calls[call]
        if self._inflight.watchers:
            self._inflight.stop_watching(call)


class CloseWhileDraining(Step):
    """Closes every connection with its next reply while the server drains, or leaves them to other processes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def adds(self) -> bool:  # type: ignore[override]
        """True while connections are to end."""
        return self._service.draining or self._service.stands_aside

    def add_headers(self, call: Call, headers: Headers) -> None:  # noqa: ARG002
        """Add `Connection: close`."""
        if self.adds and CLOSE not in headers:
            headers.append(CLOSE)
