"""Answers requests of any server in a sequence of steps; `gateway.middleware` lists those of a listener."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Sequence

from penstock.errors import type_and_message
from penstock.gateway.auth import HostRule, check_origin
from penstock.gateway.http import BodyLimits, Call, Disconnected, Endpoint, Headers, Protocol, Reply, Routes, Step
from penstock.gateway.inflight import Inflight
from penstock.gateway.problems import CLOSE, error_headers, is_server_fault
from penstock.gateway.service import Service
from penstock.gateway.streaming import open_stream, send_stream
from penstock.monitor.access import AccessLog

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_ID_PREFIX = secrets.token_hex(4)
_ids = itertools.count(1)

MAX_KNOWN_HOSTS = 64

MIN_BODY_BUDGET = 256 * 1024 * 1024
"""Large bodies may take this much memory together, or four of the largest where that is more."""


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
        self.set_steps()

    def set_steps(self, *steps: Step) -> None:
        """The steps of every request in addition to routing and handling, in this order."""
        self._enter = [step.enter for step in steps if _has(step, "enter")]
        self._answer = [step.answer for step in steps if _has(step, "answer")]
        self._admit = [step.admit for step in steps if _has(step, "admit")]
        self._guard = [step.guard for step in steps if _has(step, "guard")]
        self._add_headers = [step.add_headers for step in steps if _has(step, "add_headers")]
        self._leave = [step.leave for step in steps if _has(step, "leave")]

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

    async def serve(self, call: Call) -> None:
        """Answer one request, from its first step to the last byte of its reply."""
        for enter in self._enter:
            enter(call)
        try:
            reply = await self._reply(call)
            if reply is not None:
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
        if call.unread:
            await call.finish_refusal()

    async def _reply(self, call: Call) -> Reply | None:
        """The reply of the handler or of an error; None if the client has disconnected."""
        try:
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
            reply = await row.handler(call)
            return reply if isinstance(reply.body, bytes) else await open_stream(call, reply)
        except Disconnected:
            return None
        except asyncio.CancelledError:
            return None if call.abort_reason is None else self.refuse(call.abort_reason, call)
        except Exception as error:
            return self.refuse(error, call)
        except SystemExit as error:  # exit() in a package's code would end the server
            return self.refuse(RuntimeError(type_and_message(error)), call)

    def refuse(self, error: Exception, call: Call) -> Reply:
        """The reply to an error in the format of the path's protocol; faults of the server go to the log."""
        if is_server_fault(error):
            log.error("request %s failed: %s", call.request_id, error, exc_info=error)
        protocol = max(self.protocols, key=lambda protocol: protocol.match(call.path))
        reply = protocol.write_error(error, call)
        reply.headers.extend(error_headers(error))
        return reply


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
        call.request_id = request_id_of(call.header("x-request-id"))

    def add_headers(self, call: Call, headers: Headers) -> None:
        """Return it."""
        headers.append(("x-request-id", call.request_id))


class KnownHosts(Step):
    """Answers only requests that are addressed to this server, as its rule says."""

    def __init__(self, rule: HostRule) -> None:
        self._rule = rule
        self._known: set[str] = set()

    def answer(self, call: Call) -> Reply | None:
        """None; raises the refusal of the rule, which is asked only once for each spelling of a host."""
        hosts = call.header_values("host")
        if len(hosts) == 1 and hosts[0] in self._known and call.authority is None:
            return None
        if self._rule.check(call, hosts) and len(self._known) < MAX_KNOWN_HOSTS:
            self._known.add(hosts[0])
        return None


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
