"""What systemd is told of a service of `Type=notify`, as sd_notify(3) describes it; nothing without systemd."""

from __future__ import annotations

import contextlib
import socket
import time

from penstock.settings import taken_from_environment


class Notifier:
    """Sends one datagram for each change. Takes its variables out of the environment: processes it starts are silent.

    `alive` keeps the service running under `WatchdogSec=`, of which it should be a third or less.
    """

    def __init__(self) -> None:
        address, watchdog = taken_from_environment("NOTIFY_SOCKET", "WATCHDOG_USEC")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watched = bool(watchdog)
        self._socket: socket.socket | None = None
        if self._address.startswith(("/", "\0")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """The service answers, or again does after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The settings are being read again."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, limit_s: float) -> None:
        """The service is finishing its requests, which may take so long."""
        self._send("STOPPING=1", "STATUS=finishing the requests in flight", f"EXTEND_TIMEOUT_USEC={limit_s * 1e6:.0f}")

    def alive(self) -> None:
        """The event loop runs."""
        if self._watched:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # nobody listens any more, or not fast enough
                self._socket.sendto("\n".join(lines).encode(), self._address)
