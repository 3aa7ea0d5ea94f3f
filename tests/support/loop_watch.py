"""How long an event loop stood still, in CPU time of its process: a busy machine does not count."""

from __future__ import annotations

import asyncio
import time

PAUSE_S = 0.001


class LoopWatch:
    """Ticks on a loop; `longest_s` is the most CPU time that the process has used between two ticks.

    Work in any thread that holds the interpreter's lock, and work on the loop itself, delays the next tick by as much.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.longest_s = 0.0

    def __enter__(self) -> LoopWatch:
        self._ticking = asyncio.run_coroutine_threadsafe(self._tick(), self._loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._ticking.cancel()

    async def _tick(self) -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(PAUSE_S)
            now = time.process_time()
            self.longest_s = max(self.longest_s, now - last)
            last = now
