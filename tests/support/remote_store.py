"""A server on loopback that has the files of a directory: over HTTP, or as a bucket of S3."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Store:
    """What the server answers with, and what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.redirects: dict[str, str] = {}
        self.extra_bytes: dict[str, int] = {}
        self.forbidden: set[str] = set()
        self.pause_s = 0.0
        self.asked: list[str] = []
        self.url = ""


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(lambda _: None)

        def do_GET(self) -> None:
            self.answer(self.write)

        def answer(self, write: Callable[[bytes], None]) -> None:
            path = unquote(urlsplit(self.path).path)
            store.asked.append(path)
            file = store.root / path.lstrip("/")
            if path in store.redirects:
                self.head(302, 0, Location=store.redirects[path])
            elif path in store.forbidden:
                self.head(403, 0)
            elif not file.is_file():
                self.head(404, 0)
            else:
                content = file.read_bytes() + bytes(store.extra_bytes.get(path, 0))
                first, last = self.range(len(content))
                about = {"Content-Range": f"bytes {first}-{last}/{len(content)}"} if "Range" in self.headers else {}
                self.head(206 if about else 200, last - first + 1, ETag='"1"', **about)
                write(content[first : last + 1])

        def range(self, size: int) -> tuple[int, int]:
            text = self.headers.get("Range")
            first, _, last = (text or "bytes=0-").removeprefix("bytes=").partition("-")
            return int(first), min(int(last), size - 1) if last else size - 1

        def write(self, content: bytes) -> None:
            half = len(content) // 2
            with suppress(ConnectionError):  # a client that has had enough
                for part in (content[:half], content[half:]):
                    self.wfile.write(part)
                    self.wfile.flush()
                    time.sleep(store.pause_s)

        def head(self, status: int, length: int, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.send_header("Last-Modified", "Sat, 31 Jan 2026 12:00:00 GMT")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Write nothing to standard error."""

    return Handler


@contextmanager
def served(root: Path) -> Iterator[Store]:
    """Serve a directory on a free port of loopback."""
    store = Store(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store))
    server.daemon_threads = True
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
