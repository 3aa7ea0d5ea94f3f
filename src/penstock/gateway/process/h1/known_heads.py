"""Heads that were parsed before: the same bytes need no parser again.

Clients repeat themselves: the requests of one client differ in their bodies, and in the length of these. Only heads
that the parser accepted at the boundary of a message are kept, without anything that says more than how long the body
is. So the outcome is that of the parser, for a tenth of its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.gateway.http import Routing
from penstock.gateway.process.h1.heads import Target

MOST_HEADS = 1024
LONGEST_HEAD = 2048
"""Bytes of a head that is kept."""
END = b"\r\n\r\n"

_DIFFERENT_EACH_TIME = ("x-request-id", "traceparent", "idempotency-key")
"""Headers of which clients make a new value for each request: to keep such a head is of no use."""
_SAYS_MORE = ("connection", "expect", "transfer-encoding", "upgrade")


class KnownHead:
    """A head, and what follows from it."""

    __slots__ = ("header", "length", "method", "routing", "target")

    def __init__(self, method: str, target: Target, headers: dict[str, str], length: int) -> None:
        self.method = method
        self.target = target
        self.header = headers.get
        self.length = length
        self.routing = Routing()


class KnownHeads:
    """The heads of one listener by their bytes."""

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}
        self.find = self._heads.get

    def add(
        self, data: bytes, method: str, target: Target, headers: dict[str, str], lists: Mapping[str, Sequence[str]]
    ) -> None:
        """Keep the head of `data`, one whole request of HTTP/1.1 on a connection that stays open, if it is of use.

        `method` and what follows must come from `data` itself: whatever is kept answers the same bytes of others.
        """
        size = data.find(END) + len(END)
        if size <= len(END):
            return
        length = headers.get("content-length", "0")
        if size > LONGEST_HEAD or lists or not length.isdecimal() or len(data) != size + int(length):
            return
        if any(name in headers for name in _SAYS_MORE) or any(name in headers for name in _DIFFERENT_EACH_TIME):
            return
        if len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        self._heads[data[:size]] = KnownHead(method, target, headers, int(length))
