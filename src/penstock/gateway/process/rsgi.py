"""The gateway under Granian's own interface (RSGI), which costs less per request than ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import stat
import struct
import termios
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

from penstock.gateway.gateway import Gateway
from penstock.gateway.http import Call, Disconnected, Reply, ReplyStream
from penstock.gateway.problems import BrokenBody

POLL_S = 0.001
OPEN_S = 30.0
"""How long Granian may take to begin to read a stream; for a client that has left it may never begin."""


class RsgiCall(Call):
    """A request of Granian."""

    _stream: Any = None

    def __init__(self, gateway: Gateway, scope: Any, protocol: Any) -> None:
        self.service = gateway.service
        self.limits = gateway.limits
        self.method = scope.method
        self.path = scope.path
        self.query = scope.query_string
        headers = scope.headers
        self.header = headers.get
        self.header_values = headers.get_all
        self.authority = scope.authority
        self._scope = scope
        self._protocol = protocol

    @property
    def http_version(self) -> str:  # type: ignore[override]  # read only where it is needed
        """As in the request, `1.0`, `1.1` or `2`."""
        version: str = self._scope.http_version
        return "1.0" if version == "1" else version

    @property
    def client(self) -> str | None:  # type: ignore[override]  # read only where it is needed
        """The address of the client; None over a Unix socket."""
        host = str(self._scope.client).rpartition(":")[0].strip("[]")
        return host if host and not host.startswith(("/", "unix")) else None

    def _whole(self) -> Awaitable[bytes]:
        return self._protocol()  # type: ignore[no-any-return]  # may raise ProtocolClosed

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Granian ends a body with an empty chunk, and puts another one in place of an error or of trailers (2.8).

        Trailers are announced in a header; without it, the body is malformed or cut short.
        """
        if self._stream is None:  # Granian gives out the stream only once
            self._stream = aiter(self._protocol)
        empty = 0
        with contextlib.suppress(StopAsyncIteration):
            while True:
                chunk = await anext(self._stream)
                if chunk:
                    yield chunk
                else:
                    empty += 1
        if empty > 1 and self._scope.http_version.startswith("1") and self.header("trailer") is None:
            raise BrokenBody

    async def disconnected(self) -> None:
        """Return when Granian sees the connection closed; it does not cancel the task itself."""
        await self._protocol.client_disconnect()

    async def send(self, reply: Reply, body: bytes | None) -> None:
        """Send the whole reply; Granian omits the body for HEAD."""
        if body is None:
            self._protocol.response_empty(reply.status, reply.headers)
        else:
            self._protocol.response_bytes(reply.status, reply.headers, body)

    async def start_stream(self, reply: Reply) -> ReplyStream:
        """Send the headers."""
        return PipeStream(self._protocol, reply, self._scope.client)


class PipeStream(ReplyStream):
    """A reply that Granian reads from a pipe, as it would read a file.

    Granian's `response_stream` queues what it is given without limit (2.8); a pipe holds back a producer that is faster
    than its client. Granian blocks one thread of its pool (512) for each stream.
    """

    def __init__(self, protocol: Any, reply: Reply, client: str) -> None:
        self._client = client
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._opened = False
        protocol.response_file(reply.status, reply.headers, f"/dev/fd/{self._reader}")

    async def write(self, chunk: bytes) -> None:
        """Return when the chunk is in the pipe."""
        view = memoryview(chunk)
        while view:
            try:
                written = os.write(self._writer, view)
            except BlockingIOError:
                await self._writable()
                continue
            except BrokenPipeError:
                raise Disconnected from None
            view = view[written:]
            if not self._opened:  # before the rest: with our reading end open, waiting for Granian's would never end
                await self._open(written)

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(self._writer, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(self._writer)

    async def _open(self, written: int) -> None:
        """Close our reading end as soon as Granian has opened its own, which it has when it has read something.

        From then on, writing fails when Granian closes it, that is, when the client has gone.
        """
        until = time.monotonic() + OPEN_S
        while _unread(self._reader) >= written:
            if time.monotonic() > until:
                raise Disconnected
            await asyncio.sleep(POLL_S)
        os.close(self._reader)
        self._opened = True

    async def finish(self) -> None:
        """End the reply after what is in the pipe."""
        self._close()

    def abort(self, *, connected: bool) -> None:
        """Close the connection first: the end of the pipe alone would be a complete reply to Granian."""
        if connected:
            _shut_down(self._client)
        self._close()

    def _close(self) -> None:
        os.close(self._writer)
        if not self._opened:
            os.close(self._reader)


def _unread(pipe: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"))[0])


def _shut_down(client: str) -> None:
    """Shut down the connection to a client, as `address:port`; Granian has no call for it."""
    host, _, port = client.rpartition(":")
    address = (host.strip("[]"), int(port))
    for entry in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            if stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                    if connection.getpeername()[:2] == address:
                        connection.shutdown(socket.SHUT_RDWR)


class RsgiApp:
    """What Granian calls for every request."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __rsgi__(self, scope: Any, protocol: Any) -> Awaitable[None]:
        return self._gateway.serve(RsgiCall(self._gateway, scope, protocol))
