"""Listening sockets, bound before any server process starts and kept open until the last one has ended.

A connection that no process has accepted yet lies in the queue of its socket, not in a process: a process that takes
the place of another one answers it. So one process binds every socket and gives them to the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from penstock.errors import ConfigError

BACKLOG = 2048
"""Connections that may wait to be accepted, per socket; the kernel may allow fewer."""
UDS_MODE = 0o660
"""Who may connect to a Unix socket: its owner and its group."""
LONGEST_PATH = 107
"""Bytes of the path of a Unix socket."""


def listening_sockets(host: str, port: int, *, uds: Path | None = None, count: int = 1) -> list[socket.socket]:
    """The sockets of a server, which listen already: one for each of its `count` processes.

    A Unix socket (`uds`, which takes the place of the address) is one for all, since its path names one queue.
    `port` 0 takes a free one, the same for all. Raises ConfigError, in one sentence, if it cannot be bound.
    """
    if uds is not None:
        return [unix_socket(uds)]
    if count == 1:
        return [tcp_socket(host, port, shared=False)]
    # bound alone first: with SO_REUSEPORT a second server would start as well and take half the connections
    with tcp_socket(host, port, shared=False) as alone:
        port = alone.getsockname()[1]
    return [tcp_socket(host, port, shared=True) for _ in range(count)]


def free_address(host: str, port: int) -> tuple[str, int]:
    """The IP address and port to listen on; a free port for 0. Raises ConfigError if it cannot be bound.

    For servers that bind with SO_REUSEPORT: without this check a second one would start and take half the requests.
    """
    with tcp_socket(host, port, shared=False) as probe:
        found = probe.getsockname()
        return str(found[0]), int(found[1])


def tcp_socket(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket that listens there; `shared` ones may be several on one port."""
    with contextlib.ExitStack() as failed:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = failed.enter_context(socket.socket(family, kind, proto))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ConfigError(_bind_error(host, port, error)) from None
        failed.pop_all()
        return bound


def _bind_error(host: str, port: int, error: Exception) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"the host {host} is not known: {getattr(error, 'strerror', None) or error}"
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"port {port} is in use on {host}; stop the process that listens there or choose another with --port"
    if number == errno.EACCES:
        return f"port {port} needs privileges on {host}; choose one above 1023 with --port"
    return f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}"


def unix_socket(path: Path) -> socket.socket:
    """A Unix socket that listens at this path, in place of one that an ended server left there.

    Raises ConfigError if another server listens there, or if there is something else.
    """
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise ConfigError(f"the path of the Unix socket {path} is longer than {LONGEST_PATH} bytes")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~UDS_MODE)
    try:
        _remove_left_over(path)
        bound.bind(str(path))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on the Unix socket {path}: {error.strerror}") from None
    except ConfigError:
        bound.close()
        raise
    finally:
        os.umask(before)
    return bound


def _remove_left_over(path: Path) -> None:
    """Remove the socket of a server that has ended; raises ConfigError if something else is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is no socket; remove it or choose another path with --uds")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # its queue is full
            pass
    raise ConfigError(f"another server listens on the Unix socket {path}; stop it or choose another path with --uds")


def close_sockets(sockets: list[socket.socket]) -> None:
    """Close them, and remove the path of a Unix socket if it is still theirs."""
    for bound in sockets:
        if bound.family == socket.AF_UNIX and bound.fileno() >= 0:
            _remove_own(bound)
        bound.close()


def _remove_own(bound: socket.socket) -> None:
    """Remove the path of a Unix socket unless a later server has put its own there, which refuses no connection."""
    path = Path(bound.getsockname())
    bound.close()
    with contextlib.suppress(OSError, ConfigError):
        _remove_left_over(path)
