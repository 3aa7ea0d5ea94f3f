"""A timer of an event loop that is exact to some microseconds: the loops' own are exact to a millisecond."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable

_MONOTONIC, _NONBLOCK_CLOEXEC = 1, 0o2004000


class Timer:
    """Calls a function at a time of `time.perf_counter`: through a timer descriptor on Linux, else by the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._handle: asyncio.Handle | None = None
        self._libc, self._descriptor = _timer_descriptor()
        if self._descriptor >= 0:
            loop.add_reader(self._descriptor, self._rang)

    def wake_at(self, at: float) -> None:
        """Call at this time, and at no earlier one that was set before; at once when it has passed."""
        ahead = at - time.perf_counter()
        if ahead <= 0:
            self._handle = self._loop.call_soon(self._call)
        elif self._descriptor >= 0:
            seconds = int(ahead)
            setting = struct.pack("qqqq", 0, 0, seconds, max(1, int((ahead - seconds) * 1e9)))
            self._libc.timerfd_settime(self._descriptor, 0, setting, None)
        else:
            self._handle = self._loop.call_later(ahead, self._call)

    def close(self) -> None:
        """Call no more. Safe to call twice."""
        if self._handle is not None:
            self._handle.cancel()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _rang(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
            self._call()


def _timer_descriptor() -> tuple[ctypes.CDLL, int]:
    """The C library, and a descriptor of a timer; -1 where there is none."""
    libc = ctypes.CDLL(None)
    if not sys.platform.startswith("linux"):
        return libc, -1
    return libc, libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
