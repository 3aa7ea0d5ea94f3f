"""Who is at the other end of a Unix socket, as the kernel tells it."""

from __future__ import annotations

import os
import socket
import struct


def is_operator(sock: socket.socket) -> bool:
    """True if the client runs as the user of this process, or as root. False over a network."""
    if sock.family != socket.AF_UNIX:
        return False
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except (AttributeError, OSError):  # another system than Linux, or the client has left
        return False
    return struct.unpack("3i", credentials)[1] in (0, os.geteuid())
