"""What a supervisor and its worker processes say to each other, on one pipe for each worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ready", "alive", "draining"]


@dataclass(frozen=True, slots=True)
class Report:
    """From a worker: what it does, shown while its event loop runs, or why it could not start."""

    state: State = "alive"
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is given: its number, the directory of the group, and every socket of the server.

    Without sockets it binds one of its own.
    """

    index: int
    directory: Path
    sockets: tuple[socket.socket, ...] = ()

    @property
    def own(self) -> socket.socket | None:
        """The socket that this worker serves; all share the only one."""
        return self.sockets[self.index % len(self.sockets)] if self.sockets else None

    def close(self) -> None:
        """Close this process's copies, so that they keep no connection waiting."""
        for bound in self.sockets:
            bound.close()


class Channel:
    """The worker's end."""

    def __init__(self, pipe: Connection, place: Place) -> None:
        self.place = place
        self._pipe = pipe
        self._state: State = "alive"
        os.set_blocking(pipe.fileno(), False)

    def alive(self) -> None:
        """Show that the event loop runs."""
        self._send(Report(self._state))

    def ready(self) -> None:
        """Say that requests are answered."""
        self._state = "ready"
        self.alive()

    def draining(self) -> None:
        """Say that no further connection is accepted: other workers take those of this one's socket."""
        self._state = "draining"
        self.alive()

    def failed(self, why: str) -> None:
        """Say why this worker could not start."""
        self._send(Report(self._state, why))

    def on_orphans(self, serve: Callable[[list[socket.socket]], None]) -> None:
        """Call `serve` with the sockets that no other worker serves now, whenever that changes, in the running loop."""
        loop, pipe = asyncio.get_running_loop(), self._pipe.fileno()

        def read() -> None:
            orphans = None
            try:
                while self._pipe.poll():
                    orphans = self._pipe.recv()
            except (EOFError, OSError):
                loop.remove_reader(pipe)
            if orphans is not None:
                serve([self.place.sockets[index] for index in orphans if index != self.place.index])

        loop.add_reader(pipe, read)

    def _send(self, report: Report) -> None:
        with contextlib.suppress(OSError):  # the pipe is full, since the parent stands still, or it has ended
            self._pipe.send(report)
