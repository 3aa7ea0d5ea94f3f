"""An HTTP server in a thread whose replies a test scripts, and which counts what it sees."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Reply = Callable[["ScriptedServer", int], Awaitable[bytes | None]]
"""The reply to request number N (from 0) of the server; None closes the connection without one."""


def status(code: int, *headers: str, body: bytes = b"{}") -> bytes:
    """A reply with a length."""
    lines = [f"HTTP/1.1 {code} Status", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def always(_server: ScriptedServer, _number: int) -> bytes:
    """200 to everything."""
    return OK


class ScriptedServer:
    """Answers requests by a function, one after another on each connection."""

    def __init__(self, reply: Reply = always) -> None:
        self._reply = reply
        self.requests: list[bytes] = []
        """Head and body of every request."""
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join(60)

    def stop(self) -> None:
        """Close the port and every connection. Safe to call twice."""
        if self._thread.is_alive() and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self.stop_now)

    def stop_now(self) -> None:
        """As `stop`, for a reply."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._stopped.set()

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        self._ready.set()
        await self._stopped.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                body = await reader.readexactly(int(length[1])) if length else b""
                number = len(self.requests)
                self.requests.append(head + body)
                reply = await self._reply(self, number)
                if reply is None:
                    break
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
