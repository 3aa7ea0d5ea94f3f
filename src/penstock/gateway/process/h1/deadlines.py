"""Which connections have taken too long; all are looked at once a second."""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios

from penstock.gateway.process.h1.call import H1Call
from penstock.gateway.process.h1.connection import Connection
from penstock.gateway.process.h1.heads import refused

SLOWEST_RATE = 500.0
"""Bytes a second that a body moves at least, over any `body_timeout_s`."""
LINGER_S = 2.0
"""How long a client may be silent after its last reply before the connection closes."""
LONGEST_LINGER_S = 30.0


def look_after(connection: Connection) -> None:
    """End what is too late: with 408 where the client may still read it."""
    front = connection.front
    now, times = front.now, front.times
    if connection.lingering:
        _end_lingering(connection)
    elif connection.current is not None or connection.receiving is not None:
        if connection.blocked:
            if not _moves(connection, connection.transport, -_unsent(connection)):
                connection.transport.abort()
        elif connection.receiving is not None:
            _check_body(connection, connection.receiving)
        elif _is_stuck(connection.current):
            connection.abort()
    elif connection.in_head:
        if now - connection.since > times.header_s:
            connection.refuse(refused(408, f"the head of the request did not arrive within {times.header_s:g} s"))
    elif now - connection.since > (times.keep_alive_s if connection.requests else times.header_s):
        connection.close()


def _is_stuck(call: H1Call | None) -> bool:
    """True if the task of a call has ended without a reply."""
    return call is not None and call.work is not None and call.work.done() and not call.answered


def _check_body(connection: Connection, call: H1Call) -> None:
    if connection.paused or call.expects or (connection.current is not call and not call.answered):
        connection.mark_of = None  # the client does not have its turn
    elif not _moves(connection, call, call.size):
        if call.answered:
            connection.transport.abort()
        else:
            connection.deaf = True
            call.fail(refused(408, "the body did not arrive in time"))


def _end_lingering(connection: Connection) -> None:
    now = connection.front.now
    if connection.transport.is_closing():
        if not _moves(connection, connection.transport, -_unsent(connection)):
            connection.transport.abort()
    elif now - connection.mark_at > LINGER_S or now - connection.since > LONGEST_LINGER_S:
        connection.close()


def _moves(connection: Connection, what: object, value: int) -> bool:
    """True while `value` grows fast enough; it counts the bytes of `what` in one direction."""
    now, limit = connection.front.now, connection.front.times.body_s
    if what is not connection.mark_of or value - connection.mark >= SLOWEST_RATE * limit:
        connection.mark_of, connection.mark, connection.mark_at = what, value, now
        return True
    return now - connection.mark_at <= limit


def _unsent(connection: Connection) -> int:
    """Bytes of replies that the client has not acknowledged."""
    transport = connection.transport
    waiting = int(transport.get_write_buffer_size())
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(AttributeError, OSError):  # closed meanwhile
        waiting += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return waiting
