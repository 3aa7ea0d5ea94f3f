"""A small OpenTelemetry collector: it takes OTLP over HTTP in protobuf, and keeps the spans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from waiting import LONG_S, wait_until


class Collector:
    """Listens on a port of its own. `answer` gives the status for the n-th request, 0 to hang until the end."""

    def __init__(self, answer: Callable[[int], int] = lambda _: 200, port: int = 0) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.heads: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.asked = 0
        self._answer = answer
        self._ending = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def spans(self, name: str | None = None) -> list[Any]:
        """All spans that have arrived, with this name."""
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if name in (None, span.name)
        ]

    def wait_for(self, name: str, count: int = 1) -> list[Any]:
        """The spans with this name, once there are so many."""
        wait_until(lambda: len(self.spans(name)) >= count)
        return self.spans(name)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                number, collector.asked = collector.asked, collector.asked + 1
                status = collector._answer(number)
                if status == 0:
                    collector._ending.wait(LONG_S)
                    return
                if status == 200:
                    collector.heads.append({name.lower(): value for name, value in self.headers.items()})
                    collector.paths.append(self.path)
                    collector.requests.append(ExportTraceServiceRequest.FromString(body))
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def now_ns() -> int:
    """The time in the unit of spans."""
    return time.time_ns()
