"""How many connections there may be, in all and of one address, and which one makes room for a new one."""

from __future__ import annotations

import contextlib
import resource
import socket
from typing import Any

from penstock.gateway.limits.addresses import network_of
from penstock.gateway.process.h1.connection import Connection
from penstock.gateway.process.h1.flow import Flow

MAX_CONNECTIONS = 16_384
SPARE_FILES = 256
"""File descriptors reserved for models, the registry and logs; of a small limit a quarter."""
CANDIDATES = 256
"""Connections found in one search for those that may make room."""
SLOW_S = 5.0
"""A body or a reader that takes this long may make room when nothing else can."""


class Places:
    """The connections of a listener, and the limits of their number."""

    def __init__(self, most: int, most_per_address: int) -> None:
        """0 for `most_per_address` is no limit."""
        self.most = most
        self.connections: set[Flow] = set()
        self._most_per_address = most_per_address
        self._of_address: dict[str, int] = {}
        self._candidates: list[tuple[tuple[int, float], Connection]] = []
        self._fruitless_until = 0.0

    def key_of(self, family: int, address: Any) -> str | None:
        """What the connections of a client are counted by; None if they are not."""
        if not self._most_per_address or family == socket.AF_UNIX:
            return None
        return network_of(str(address[0]))

    def has_room(self, key: str | None) -> bool:
        """False if this address has its share, or if there is no room and none can be made."""
        if key is not None and self._of_address.get(key, 0) >= self._most_per_address:
            return False
        return len(self.connections) < self.most or self.make_room()

    def add(self, connection: Connection) -> None:
        """A new connection."""
        self.connections.add(connection)
        if connection.address is not None:
            self._of_address[connection.address] = self._of_address.get(connection.address, 0) + 1

    def remove(self, connection: Flow) -> None:
        """A connection has closed."""
        if connection not in self.connections:
            return
        self.connections.remove(connection)
        if connection.address is not None:
            left = self._of_address[connection.address] - 1
            if left:
                self._of_address[connection.address] = left
            else:
                del self._of_address[connection.address]

    def make_room(self) -> bool:
        """Close the connection that has been idle longest without a request in progress; False if there is none.

        First those that never sent a byte, then unfinished heads and ended ones, then those that wait for the next
        request, then slow bodies and slow readers. One search serves many new connections.
        """
        while True:
            while self._candidates:
                rank, connection = self._candidates.pop()
                if not connection.lost and connection in self.connections and rank_of(connection) == rank:
                    self.remove(connection)
                    connection.abort()
                    return True
            if not self._search():
                return False

    def _search(self) -> bool:
        connections: Any = self.connections
        now = next((connection.front.loop.time() for connection in connections), 0.0)
        if now < self._fruitless_until:
            return False
        found: list[tuple[tuple[int, float], Connection]] = []
        for connection in connections:
            rank = rank_of(connection)
            if rank is not None:
                found.append((rank, connection))
        found.sort(key=lambda pair: pair[0], reverse=True)
        self._candidates = found[-CANDIDATES:]
        if not found:
            self._fruitless_until = now + 0.1  # every request is in progress: do not look again at once
        return bool(found)


def rank_of(connection: Connection) -> tuple[int, float] | None:
    """The lowest makes room first; None for a connection that does not."""
    call, receiving, now = connection.current, connection.receiving, connection.front.now
    if connection.lingering:
        return 1, connection.since
    if call is None and receiving is None:
        if connection.in_head:
            return 1, connection.since
        return (2 if connection.requests else 0), connection.since
    if receiving is not None and now - connection.since > SLOW_S:
        return 3, connection.since
    if connection.blocked and now - connection.mark_at > SLOW_S:
        return 4, connection.mark_at
    return None


def most_connections(wanted: int = 0) -> int:
    """As many as the limit of open files allows, which is raised as far as it may be; `wanted` at most, if given."""
    most = wanted or MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = most + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(hard, files)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, soft - min(SPARE_FILES, soft // 4)))
