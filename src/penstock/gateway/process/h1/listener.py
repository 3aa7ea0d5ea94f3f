"""Accepts connections, looks at all of them once a second, and closes them at the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

from penstock.gateway.gateway import Gateway, request_id_of
from penstock.gateway.problems import MEDIA_TYPE, Refusal, problem_body
from penstock.gateway.process.h1.connection import Connection
from penstock.gateway.process.h1.deadlines import look_after
from penstock.gateway.process.h1.front import TICK_S, Front
from penstock.gateway.process.h1.peers import is_operator
from penstock.gateway.process.h1.places import Places, most_connections
from penstock.gateway.process.h1.tls import tls_of
from penstock.gateway.process.sockets import BACKLOG
from penstock.settings import Settings

log = logging.getLogger(__name__)

BURST = 16
"""Connections that are accepted before the event loop does something else: a flood of them delays others by as much."""
NO_FILES_S = 0.05
"""How long accepting pauses when there are no file descriptors."""
LAST_S = 0.05
"""How long a closing listener waits for requests that are on their way."""
MOST_REFUSED = 128
"""Refused connections that stay open until the next tick, so that their clients read the reply."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Serves HTTP/1.1 on a socket that listens already."""

    def __init__(self, gateway: Gateway, settings: Settings, sock: socket.socket) -> None:
        self.front = Front(gateway, settings)
        self.places = Places(most_connections(settings.max_connections), settings.max_connections_per_address)
        self._own = sock
        self._socks = [sock]
        self._loop = self.front.loop
        self.tls = tls_of(settings)
        """Encrypts the connections; None for plain HTTP."""
        self._attaching: set[asyncio.Task[None]] = set()
        self._refused: list[socket.socket] = []
        self._paused: asyncio.TimerHandle | None = None
        self._warned_at = -60.0

    def start(self) -> None:
        """Accept connections from now on."""
        self._resume()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def serve(self, socks: Sequence[socket.socket]) -> None:
        """From now on, accept connections of these sockets and of no other, the own one included."""
        self._unlisten()
        self._socks = list(socks)
        if self._paused is None and not self.front.closing:
            self._resume()

    def _unlisten(self) -> None:
        for sock in self._socks:
            self._loop.remove_reader(sock.fileno())

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self.front.step()
        refused, self._refused = self._refused, []
        for sock in refused:
            sock.close()
        connections: Any = list(self.places.connections)
        for connection in connections:
            if connection.transport is not None and not connection.lost:
                look_after(connection)

    # Accepting

    def _accept(self, listening: socket.socket, most: int = BURST) -> None:
        for _ in range(most):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause(error)
                    return
                continue  # the client has left the queue
            sock.setblocking(False)
            key = self.places.key_of(sock.family, address)
            if self.places.has_room(key):
                self._attach(sock, key, address)
            else:
                self._refuse(sock)

    def _pause(self, error: OSError) -> None:
        """Without file descriptors, accept again in a moment; an idle connection makes room meanwhile."""
        self._unlisten()
        self._paused = self._loop.call_later(NO_FILES_S, self._resume)
        self.places.make_room()
        if self.front.now - self._warned_at >= 60:
            self._warned_at = self.front.now
            log.warning("connections wait to be accepted: %s", error.strerror)

    def _resume(self) -> None:
        self._paused = None
        for sock in self._socks:
            sock.setblocking(False)  # that of a process that still loads is blocking
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _attach(self, sock: socket.socket, key: str | None, address: Any) -> None:
        connection = Connection(self.front, self.places.remove)
        connection.address, connection.operator = key, is_operator(sock)
        connection.client = None if sock.family == socket.AF_UNIX else str(address[0])
        self.places.add(connection)
        task = connection.attaching = self._loop.create_task(self._make_transport(sock, connection))
        self._attaching.add(task)
        task.add_done_callback(partial(self._attached, sock, connection))

    def _attached(self, sock: socket.socket, connection: Connection, task: asyncio.Task[None]) -> None:
        self._attaching.discard(task)
        if connection.transport is None:  # also if the task was cancelled before its first step
            self.places.remove(connection)
            sock.close()

    async def _make_transport(self, sock: socket.socket, connection: Connection) -> None:
        context, limit_s = (None, None) if self.tls is None else (self.tls.context, self.front.times.header_s)
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, sock, ssl=context, ssl_handshake_timeout=limit_s
            )
        except OSError:  # the client has left, or does not speak TLS
            pass
        finally:
            connection.attaching = None

    def _refuse(self, sock: socket.socket) -> None:
        """Answer 503 at once and close; over TLS, which would take a handshake, only close."""
        if self.tls is not None:
            sock.close()
            return
        try:
            sock.send(_too_many(self.front))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        self._refused.append(sock)
        if len(self._refused) > MOST_REFUSED:
            self._refused.pop(0).close()

    # The end

    async def close(self, within_s: float) -> None:
        """Accept no more, answer what was accepted, and close; what takes longer than `within_s` is cut."""
        until = self._loop.time() + within_s
        if self._paused is None:
            if self._own in self._socks:
                self._accept(self._own, BACKLOG)
            self._unlisten()
        if self._paused is not None:
            self._paused.cancel()
        self.front.closing = True
        while self._attaching and self.tls is None and self._loop.time() < until:  # noqa: ASYNC110  only at the end
            await asyncio.sleep(0)
        await asyncio.sleep(min(LAST_S, within_s))
        connections: Any = self.places.connections
        for connection in list(connections):
            if connection.current is None and connection.receiving is None and not connection.in_head:
                end = connection.abort if connection.transport is None else connection.close
                end()
        while connections and self._loop.time() < until:  # noqa: ASYNC110  only at the end
            await asyncio.sleep(0.01)
        for connection in list(connections):
            connection.abort()
        self._timer.cancel()
        for sock in self._refused:
            sock.close()


def _too_many(front: Front) -> bytes:
    request_id = request_id_of(None)
    _, body = problem_body(Refusal(503, "there are too many connections; try again later"), request_id)
    return (
        f"HTTP/1.1 503 Service Unavailable\r\n{front.date}content-type: {MEDIA_TYPE}\r\nx-request-id: {request_id}\r\n"
        f"retry-after: 1\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode("ascii") + body
    )


def listen(gateway: Gateway, settings: Settings, sock: socket.socket) -> Listener:
    """Serve on a socket that listens already, in the running event loop."""
    listener = Listener(gateway, settings, sock)
    listener.start()
    return listener
