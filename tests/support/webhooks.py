"""A small receiver of webhooks: it keeps what it has answered with 200."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from waiting import LONG_S


class Webhook:
    """Listens on a port of its own. `answer` gives the status for the n-th request, 0 to hang until the end."""

    def __init__(self, answer: Callable[[int], int] = lambda _: 200) -> None:
        self.taken: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.paths: list[str] = []
        """Of all requests; the others are of those that were answered with 200."""
        self.asked = 0
        self.answer = answer
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self) -> Webhook:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def told(self) -> list[tuple[str, str]]:
        """Name and status of each alert that was taken, in order."""
        return [(each["commonLabels"]["alertname"], each["status"]) for each in list(self.taken)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with webhook._lock:
                    number, webhook.asked = webhook.asked, webhook.asked + 1
                    webhook.paths.append(self.path)
                    status = webhook.answer(number)
                    if status == 200:
                        webhook.taken.append(json.loads(body))
                        webhook.heads.append({name.lower(): value for name, value in self.headers.items()})
                if status == 0:
                    webhook._ending.wait(LONG_S)
                    return
                self.send_response(status)
                if status in (301, 302, 307, 308):
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
