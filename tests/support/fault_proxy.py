"""A TCP proxy that cuts, delays, truncates or holds what passes, as a bad network does."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from typing import Literal

Mode = Literal["pass", "delay", "cut", "truncate", "stall", "refuse"]
MODES: tuple[Mode, ...] = ("delay", "cut", "truncate", "stall", "refuse")

_PIECE = 65536
_LONGEST_DELAY_S = 0.15
_SHARE = 0.3
"""How often a piece meets the fault while one is set."""


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes everything to `port`, as `mode` says.

    `delay`: pieces arrive late. `cut`: the connection is reset. `truncate`: a part of a piece passes and then the end
    of the connection. `stall`: pieces wait until the mode changes. `refuse`: new connections are reset.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.mode: Mode = "pass"
        self.port = 0
        self.faults = 0
        """How many pieces or connections met a fault."""
        self._target = port
        self._chance = random.Random(seed)
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            self.faults += 1
            _reset(writer)
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        ways = [asyncio.create_task(self._pass(reader, back)), asyncio.create_task(self._pass(there, writer))]
        try:
            ended, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if any(way.result() for way in ended):
                _reset(writer)
                _reset(back)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, back):
                end.close()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> bool:
        """One direction, until it ends or meets a fault that ends it; True if both are to be reset."""
        with contextlib.suppress(OSError):
            while piece := await source.read(_PIECE):
                mode = self.mode if self._chance.random() < _SHARE else "pass"
                self.faults += mode != "pass"
                if mode == "delay":
                    await asyncio.sleep(self._chance.random() * _LONGEST_DELAY_S)
                elif mode == "stall":
                    while self.mode == "stall":  # noqa: ASYNC110  another thread sets it
                        await asyncio.sleep(0.02)
                elif mode == "truncate":
                    target.write(piece[: self._chance.randrange(len(piece))])
                    await target.drain()
                    return False
                elif mode in ("cut", "refuse"):
                    return True
                target.write(piece)
                await target.drain()
        return False


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    end = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
