"""A socket between a server and a worker that carries whole messages in both directions."""

from __future__ import annotations

import socket
from collections.abc import Callable

import numpy as np

from penstock.workers.frames import PREFIX, Message, decode, encode, sizes

_MOST_PIECES = 64
"""Of one write, far below what any system takes."""
_BUFFER = 1 << 20
"""Asked of the system for what is on its way; it may give less."""


class ChannelClosed(Exception):
    """The other side is gone."""


def _blocks(writing: bool) -> None:  # noqa: ARG001
    raise AssertionError("a socket that blocks is always ready")


class Channel:
    """One end. A side uses it from one thread at a time."""

    def __init__(self, sock: socket.socket, wait: Callable[[bool], None] = _blocks) -> None:
        """`wait(writing)` returns when a socket that does not block may be ready, or raises to give up."""
        self.socket = sock
        self._wait = wait
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)

    def send(self, message: Message) -> None:
        """Write a whole message. Raises ChannelClosed, and what `encode` raises before anything is sent."""
        pieces = encode(message)
        while pieces:
            try:
                sent = self.socket.sendmsg(pieces[:_MOST_PIECES])
            except BlockingIOError:
                self._wait(True)
                continue
            except OSError:
                raise ChannelClosed from None
            while pieces and sent >= pieces[0].nbytes:
                sent -= pieces.pop(0).nbytes
            if sent:
                pieces[0] = pieces[0][sent:]

    def receive(self) -> Message:
        """Read a whole message. Raises ChannelClosed, or BrokenFrame for anything else."""
        prefix = bytearray(PREFIX.size)
        self._fill(memoryview(prefix))
        head, body = sizes(prefix)
        data = np.empty(head + body, np.uint8)
        self._fill(data.data)
        return decode(data, head)

    def _fill(self, view: memoryview) -> None:
        while view:
            try:
                received = self.socket.recv_into(view)
            except BlockingIOError:
                self._wait(False)
                continue
            except OSError:
                raise ChannelClosed from None
            if not received:
                raise ChannelClosed
            view = view[received:]

    def close(self) -> None:
        """Close this end; the other one sees it. Safe to call twice."""
        self.socket.close()
