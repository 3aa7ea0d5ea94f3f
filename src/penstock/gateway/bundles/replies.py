"""Writes the replies to the members of a bundle; what they share is formatted once."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

import orjson

from penstock.engine.bundling.bundle import Answer, Bundle, Member, Times
from penstock.errors import PenstockError
from penstock.gateway.bodies.compression import VARY, encoding_for
from penstock.gateway.gateway import Gateway
from penstock.gateway.http import JSON, Call, Reply
from penstock.gateway.native.predict import flags_header, model_header
from penstock.gateway.problems import MEDIA_TYPE, error_headers, named, problem_body
from penstock.tasks.base import TimedResponse

_START = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver-timing: queue;dur="


class BundleReplies:
    """Sends answers and errors to the callers of members."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def answered(self, bundle: Bundle, members: Sequence[Member], answers: Sequence[Answer], times: Times) -> None:
        """Send the answers."""
        gateway, model = self._gateway, bundle.model
        named = f"x-penstock-model: {model_header(model.name, model.version, model.variant)}\r\n"
        shared = f"{_timing(times)}\r\n{named}".encode("latin-1")
        stamp = _stamp(model.version, times)
        adds_headers = gateway.adds_headers
        for member, answer, queue_ms in zip(members, answers, times.queues_ms, strict=True):
            call: Call = member.caller
            try:
                body = answer + stamp if type(answer) is bytes else _body(answer, model.version, times)
            except Exception as error:  # the response of a task that cannot be written as JSON
                self.failed(member, error)
                continue
            more = gateway.more_headers(call) if adds_headers else []
            if member.flags:
                more.insert(0, ("x-penstock-flags", flags_header(member.flags)))
            if len(body) >= gateway.compress_from:
                if encoding_for(", ".join(call.header_values("accept-encoding"))) is not None:
                    self._send_compressed(bundle, member, body, times, queue_ms)
                    continue
                more.append(VARY)
            lines = _lines(more) if more else b""
            head = b"%b%.3f%b%bx-request-id: %b\r\n" % (_START, queue_ms, shared, lines, call.request_id.encode())
            call.status, call.sent_bytes = 200, len(body)
            call.respond_raw(head, body)
            gateway.leave(call)
            member.caller = None  # which knows the member: without this, only the collector would free both

    def _send_compressed(self, bundle: Bundle, member: Member, body: bytes, times: Times, queue_ms: float) -> None:
        """Send an answer to a client that asks for an encoding."""
        model = bundle.model
        headers = [
            ("content-type", JSON),
            ("server-timing", f"queue;dur={queue_ms:.3f}{_timing(times)}"),
            ("x-penstock-model", model_header(model.name, model.version, model.variant)),
        ]
        if member.flags:
            headers.append(("x-penstock-flags", flags_header(member.flags)))
        self._gateway.send(member.caller, Reply(200, headers, body))

    def failed(self, member: Member, error: Exception) -> None:
        """Send an error."""
        call: Call = member.caller
        self._gateway.respond(call, self._gateway.refuse(error, call))
        member.caller = None

    def refused(self, calls: Sequence[Call], error: PenstockError) -> None:
        """Send one refusal to calls that are no members of a bundle, differing in the request id only."""
        gateway = self._gateway
        status, document = problem_body(error, "")
        if 2 * len(document) >= gateway.compress_from:
            for call in calls:
                gateway.respond(call, gateway.refuse(error, call))
            return
        gateway.service.errors[named(error)] += len(calls)
        start = document.removesuffix(b'""}')
        shared = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        shared += _lines([("content-type", MEDIA_TYPE), *error_headers(error)])
        for call in calls:
            more = _lines(gateway.more_headers(call)) if gateway.adds_headers else b""
            head = b"%b%bx-request-id: %b\r\n" % (shared, more, call.request_id.encode())
            body = b"%b%b}" % (start, orjson.dumps(call.request_id))
            call.status, call.sent_bytes = status, len(body)
            call.respond_raw(head, body)
            gateway.leave(call)

    def declined(self, member: Member) -> None:
        """Answer a member in the ordinary way."""
        call: Call = member.caller
        call.member = None
        self._gateway.start(call)


def _timing(times: Times) -> str:
    """What follows the time in the queue."""
    return f", pre;dur={times.pre_ms:.3f}, run;dur={times.run_ms:.3f}, post;dur={times.post_ms:.3f}"


def _stamp(version: str, times: Times) -> bytes:
    """The fields of `TimedResponse`, which end a response."""
    fields = orjson.dumps(
        {
            "model_version": version,
            "inference_time_ms": round(times.run_ms, 4),
            "preprocessing_time_ms": round(times.pre_ms, 4),
            "postprocessing_time_ms": round(times.post_ms, 4),
        }
    )
    return b"," + fields[1:]


def _body(answer: Answer, version: str, times: Times) -> bytes:
    if isinstance(answer, bytes):
        return answer
    if isinstance(answer, TimedResponse):
        answer.stamp(version, times.pre_ms, times.run_ms, times.post_ms)
    return answer.__pydantic_serializer__.to_json(answer)


def _lines(headers: Sequence[tuple[str, str]]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")
