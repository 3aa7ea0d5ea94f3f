"""Sends traces to an OpenTelemetry collector from a thread of its own: requests never wait for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from penstock.monitor.traces.exemplars import Exemplars
from penstock.monitor.traces.spans import Spans
from penstock.monitor.traces.trace import Trace

log = logging.getLogger(__name__)

EVERY_S = 1.0
"""How often traces are sent."""
MOST_WAITING = 2048
"""Traces that wait; what comes then is dropped and counted."""
MOST_AT_ONCE = 256
SEND_S = 5.0
"""How long the collector may take for each step of an export."""
FIRST_PAUSE_S = 0.5
"""After a failure; then twice as long each time."""
LAST_S = 5.0
"""How long a server that ends waits for a collector at most."""
PATIENCE_S = 60.0
"""How long the same traces are sent again and again to a collector that is not available."""
_AGAIN = (429, 502, 503, 504)
"""The statuses for which OTLP asks a client to try again."""


class Exporter:
    """A bounded queue and the thread that empties it; `put` may be called before `start`."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], service_name: str) -> None:
        """`endpoint` is the base of OTLP/HTTP, or ends with `/v1/traces`."""
        self.url = endpoint if endpoint.endswith("/v1/traces") else f"{endpoint.rstrip('/')}/v1/traces"
        self.exemplars = Exemplars()
        self.exported = self.dropped = 0
        self._headers = {**headers, "content-type": "application/x-protobuf"}
        self._spans = Spans(service_name)
        self._waiting: deque[Trace] = deque()
        self._stopping = threading.Event()
        self._give_up_at = float("inf")
        self._thread: threading.Thread | None = None
        self._failure = ""

    def start(self) -> None:
        """Start the thread: in the process that serves, after a fork."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="penstock-traces", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Send what waits, and end the thread; what is not sent in this time, or in `LAST_S`, is dropped."""
        timeout_s = min(timeout_s, LAST_S)
        self._give_up_at = time.monotonic() + timeout_s
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def put(self, trace: Trace) -> None:
        """Send a trace soon, unless too many wait."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(trace)
        else:
            self.dropped += 1

    def figures(self) -> dict[str, Any]:
        """Traces that were sent and dropped, and the exemplars."""
        return {"exported": self.exported, "dropped": self.dropped, "exemplars": self.exemplars.rows()}

    # In the thread

    def _run(self) -> None:
        import httpx  # takes long, and a server that traces nothing needs none

        with httpx.Client(headers=self._headers, timeout=SEND_S, follow_redirects=False) as client:
            while True:
                last = self._stopping.wait(EVERY_S)
                try:
                    self._cycle(client, last=last)
                except Exception:  # a bug; without the thread, nothing would be sent any more
                    log.exception("traces could not be made")
                if last:
                    return

    def _cycle(self, client: Any, *, last: bool) -> None:
        """Send what waits. The span of a run is sent a cycle later: then it knows all requests of the run."""
        batches = self._spans.take_batches()
        while True:
            traces = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
            for trace in traces:
                for seen in trace.seen:
                    self.exemplars.add(seen, trace.trace_id, trace.wall_ns(seen.ended) / 1e9)
            if not traces and not batches:
                break
            sent = self._send(client, self._spans.request_of(traces, batches))
            self.exported += len(traces) if sent else 0
            self.dropped += 0 if sent else len(traces)
            batches = self._spans.take_batches() if last and not self._waiting else []

    def _send(self, client: Any, body: bytes) -> bool:
        """Send a request, again if the collector is not available; False if it was given up."""
        began, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            failure, again, asked_s = self._try(client, body)
            self._report(failure)
            pause_s = min(pause_s, 16.0) if asked_s is None else asked_s
            until = min(self._give_up_at, began + PATIENCE_S)
            if not failure or not again or time.monotonic() + pause_s > until:
                return not failure
            if self._stopping.is_set():
                time.sleep(pause_s)
            else:
                self._stopping.wait(pause_s)
            pause_s *= 2

    def _try(self, client: Any, body: bytes) -> tuple[str, bool, float | None]:
        """Why a request was not taken, whether it should be sent again, and after how many seconds if it is told."""
        import httpx

        try:
            reply = client.post(self.url, content=body)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict) as error:
            return f"{type(error).__name__}: {error}", not isinstance(error, httpx.UnsupportedProtocol), None
        if reply.is_success:
            return "", False, None
        given = reply.headers.get("retry-after", "")
        asked_s = min(float(given), PATIENCE_S) if given.isascii() and given.isdigit() else None
        return f"status {reply.status_code}", reply.status_code in _AGAIN, asked_s

    def _report(self, failure: str) -> None:
        """Log the beginning and the end of a failure."""
        if bool(failure) != bool(self._failure):
            if failure:
                log.warning("traces cannot be sent to %s: %s; requests are answered all the same", self.url, failure)
            else:
                log.info("traces are sent to %s again", self.url)
        self._failure = failure
