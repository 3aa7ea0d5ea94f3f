"""Sends a framing case over a socket, and says what came back: the statuses of all replies, and the end."""

from __future__ import annotations

import contextlib
import socket
import time

from framing_cases import Case, verdict
from waiting import LONG_S

_ID = b"after-the-case"
PROBE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: " + _ID + b"\r\n\r\n"
"""A request that shows that the connection is usable; its reply has its id."""


class Replies:
    """What a server has sent so far, split into replies. `head`: the replies have no bodies, since HEAD was asked."""

    def __init__(self, *, head: bool = False) -> None:
        self.statuses: list[int] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.rest = b""
        self.probed = False
        """True when the request that followed the case was answered."""
        self._head = head

    def feed(self, data: bytes) -> None:
        """Take in what was received. Replies of 1xx are left out."""
        self.rest += data
        while not self.probed and self._next():
            pass

    def end(self) -> None:
        """The connection was closed, which ends a body without a length."""
        head, found, rest = self.rest.partition(b"\r\n\r\n")
        if found and b"content-length:" not in head.lower() and b"chunked" not in head.lower():
            self.rest = b""
            self._take(head, rest)

    def _next(self) -> bool:
        head, found, rest = self.rest.partition(b"\r\n\r\n")
        if not found:
            return False
        status, lower = int(head.split(b" ", 2)[1]), head.lower()
        empty = (self._head and not self.statuses) or status < 200 or status in (204, 304)
        empty = empty or b"\r\nx-method: head" in lower
        length = 0 if empty else _body_length(lower, rest)
        if length is None or len(rest) < length:
            return False
        self.rest = rest[length:]
        self._take(head, rest[:length])
        return True

    def _take(self, head: bytes, body: bytes) -> None:
        status = int(head.split(b" ", 2)[1])
        self.probed = b"\r\nx-request-id: " + _ID in head.lower()
        if status >= 200 and not self.probed:
            self.statuses.append(status)
            self.heads.append(head)
            self.bodies.append(body)


def _body_length(head: bytes, rest: bytes) -> int | None:
    """How many bytes of `rest` belong to the body; None if it is not complete."""
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    if b"transfer-encoding: chunked" not in head:
        return None
    end = rest.find(b"0\r\n\r\n")
    return None if end < 0 else end + 5


def check(port: int, case: Case) -> str:
    """The verdict on a case of a server that is expected to be right: no waiting for what should not come.

    Only a case that waits is waited for: for a moment in which nothing should be sent.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as connection:
        replies = Replies(head=case.sent.startswith(b"HEAD"))
        _send(connection, case.sent + (PROBE if case.end == "open" else b""))
        if case.end == "waits":
            connection.settimeout(0.2)
        return _outcome(replies, _read(connection, replies))


def check_pieces(port: int, pieces: list[bytes], end: str) -> str:
    """As `check`, for a stream that is sent piece by piece; it does not wait."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies = Replies()
        for piece in [*pieces, PROBE] if end == "open" else pieces:
            _send(connection, piece)
            time.sleep(0.001)
        return _outcome(replies, _read(connection, replies))


def observe(port: int, case: Case, quiet_s: float = 0.4) -> str:
    """The verdict on a case of any server: it has waited when nothing was sent for `quiet_s`."""
    with socket.create_connection(("127.0.0.1", port), timeout=quiet_s) as connection:
        replies = Replies(head=case.sent.startswith(b"HEAD"))
        _send(connection, case.sent)
        end = _read(connection, replies)
        if end == "waits" and case.end != "waits":
            _send(connection, PROBE)
            end = _read(connection, replies)
        return _outcome(replies, end)


def _send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):  # what was refused need not be read to its end
        connection.sendall(data)


def _read(connection: socket.socket, replies: Replies) -> str:
    until = time.monotonic() + LONG_S
    try:
        while time.monotonic() < until:
            data = connection.recv(1 << 16)
            if not data:
                replies.end()
                return "closed"
            replies.feed(data)
            if replies.probed:
                return "open"
    except TimeoutError:
        return "waits"
    except ConnectionResetError:
        return "reset"
    except ValueError:
        return "nonsense"
    return "endless"


def _outcome(replies: Replies, end: str) -> str:
    if replies.rest and end in ("closed", "reset", "waits"):
        end = "cut"
    return verdict(tuple(replies.statuses), end)
