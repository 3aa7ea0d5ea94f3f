"""Deadlines of requests that wait or run: one timer per event loop, set for the earliest of its deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from penstock.engine.batching.flows.item import Item

EARLY_S = 0.0005
"""A request may expire up to this long before its deadline: a separate timer for the rest would cost more."""


class DeadlineTimers:
    """Calls `expire` for each item of `pending` whose deadline has passed, on the item's own event loop."""

    def __init__(self, expire: Callable[[Item[Any]], None]) -> None:
        self.pending: set[Item[Any]] = set()
        """Requests without a result; their owner adds and removes them."""
        self.next: dict[asyncio.AbstractEventLoop, tuple[float, asyncio.TimerHandle]] = {}
        """The earliest deadline of each event loop, with its timer."""
        self._expire = expire

    def watch(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Set the timer of the running loop to `deadline` unless it is set to an earlier one."""
        current = self.next.get(loop)
        if current is not None:
            if current[0] <= deadline:
                return
            current[1].cancel()
        elif self.next:
            timers = list(self.next.items())  # a copy: a loop in another thread may add its own meanwhile
            self.next = {known: timer for known, timer in timers if not known.is_closed()}
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._fire, loop)
        self.next[loop] = (deadline, timer)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self.next.pop(loop, None)
        now = time.monotonic()
        upcoming: float | None = None
        for item in list(self.pending):
            if item.deadline is None or item.loop is not loop:
                continue
            if item.deadline <= now + EARLY_S:
                self.pending.discard(item)
                self._expire(item)
            elif upcoming is None or item.deadline < upcoming:
                upcoming = item.deadline
        if upcoming is not None:
            self.watch(loop, upcoming)
