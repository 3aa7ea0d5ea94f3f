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

State: TypeAlias = Literal["ready", "partial", "alive", "draining"]
"""`partial`: it has loaded what it could, and a model that it should serve cannot be loaded."""


@dataclass(frozen=True, slots=True)
class Report:
    """From a worker: what it does, shown while its event loop runs, or why it could not start."""

    state: State = "alive"
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Duty:
    """To a worker: whether it accepts connections, and the sockets besides its own, by number, that it accepts from."""

    accept: bool = True
    orphans: tuple[int, ...] = ()


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
        self._duty: Duty | None = None
        self._changed = asyncio.Event()
        self._serve: Callable[[list[socket.socket]], None] | None = None
        os.set_blocking(pipe.fileno(), False)

    def alive(self) -> None:
        """Show that the event loop runs."""
        self._send(Report(self._state))

    def loaded(self, *, complete: bool) -> None:
        """Say that requests are answered: for every model that should be served, or for some."""
        state: State = "ready" if complete else "partial"
        if self._state != "draining" and state != self._state:
            self._state = state
            self.alive()
            self._changed.set()

    @property
    def accepts(self) -> bool:
        """True if this worker accepts connections: once it serves every model, or when it is told to all the same."""
        return self._state == "ready" if self._duty is None else self._duty.accept

    async def until_it_accepts(self) -> None:
        """Return once connections are to be accepted."""
        while not self.accepts:
            await self._changed.wait()
            self._changed.clear()

    def draining(self) -> None:
        """Say that no further connection is accepted: other workers take those of this one's socket."""
        self._state = "draining"
        self.alive()

    def failed(self, why: str) -> None:
        """Say why this worker could not start."""
        self._send(Report(self._state, why))

    def follow(self) -> None:
        """Read what the supervisor says, whenever it does, in the running loop."""
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._read)

    def on_sockets(self, serve: Callable[[list[socket.socket]], None]) -> None:
        """Call `serve` with the sockets to accept connections from, now and whenever they change."""
        self._serve = serve
        self._hand_on()

    def _read(self) -> None:
        duty = None
        try:
            while self._pipe.poll():
                duty = self._pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
        if duty is not None:
            self._duty = duty
            self._changed.set()
            self._hand_on()

    def _hand_on(self) -> None:
        if self._serve is None or self._duty is None or self.place.own is None:
            return
        others = [
            self.place.sockets[index] for index in self._duty.orphans if self.place.sockets[index] is not self.place.own
        ]
        self._serve([self.place.own, *others] if self._duty.accept else [])

    def _send(self, report: Report) -> None:
        with contextlib.suppress(OSError):  # the pipe is full, since the parent stands still, or it has ended
            self._pipe.send(report)
