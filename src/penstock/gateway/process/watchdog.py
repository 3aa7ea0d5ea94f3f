"""Ends a server process that no longer answers, whatever the model in it does.

Python code cannot do that: signal handlers wait for the main thread and every thread waits for the interpreter's lock,
and a model in native code may keep both. So a timer thread in C (`faulthandler`) and the kernel do it.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable

from penstock.monitor.log_stream import own_descriptor

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""How often the event loop shows that it runs."""
BEYOND_DRAIN_S = 10.0
"""A process may hang this much longer than its drain may take, so that a signal to a hanging one holds its limit."""

_STDERR = 2
_RESET_AFTER_USE = 0x80000000 - (1 << 32)
"""SA_RESETHAND of Linux, as a signed number."""


class Watchdog:
    """Ends the process, with the stacks of its threads on standard error, if its event loop stands still."""

    def __init__(self, hang_s: float, drain_s: float, on_beat: Callable[[], None] = lambda: None) -> None:
        """`hang_s`: how long the loop may stand still, 0 for ever. `on_beat` is called while it runs."""
        self.limit_s = min(hang_s, drain_s + BEYOND_DRAIN_S)
        self._on_beat = on_beat
        self.abandoned_run: Callable[[], tuple[str, float] | None] = lambda: None
        """The run that no request waits for any more: its model, and for how many seconds."""
        self._timer: asyncio.TimerHandle | None = None
        self._stacks = own_descriptor(_STDERR) or _STDERR
        """Where stacks are written: a full pipe must not keep the process from ending."""

    def start(self) -> None:
        """Watch the running loop."""
        self._on_beat()
        self._end_if_abandoned()
        if self.limit_s:
            faulthandler.dump_traceback_later(self.limit_s, exit=True, file=self._stacks)
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self.start)

    def _end_if_abandoned(self) -> None:
        """End the process when a run in native code does not end: nothing else can give its thread and core back."""
        found = self.abandoned_run()
        if not self.limit_s or found is None or found[1] <= self.limit_s:
            return
        log.error("a run of %s has not ended for %.0f s after its last request; this process ends", *found)
        faulthandler.dump_traceback(file=self._stacks)
        os._exit(1)

    def show_stacks_at(self, signum: int) -> None:
        """Write the stacks of all threads to standard error at this signal, whatever they do."""
        faulthandler.register(signum, file=self._stacks)

    def end_within(self, limit_s: float) -> None:
        """End the process after this time at the latest: nothing postpones it any more."""
        if self._timer is not None:
            self._timer.cancel()
        faulthandler.dump_traceback_later(limit_s, exit=True, file=self._stacks)

    def stop(self) -> None:
        """Let the process live."""
        if self._timer is not None:
            self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def end_at_second(signum: int) -> None:
    """Let the kernel end the process at the second of these signals, as if there had never been a handler.

    To be called once the handler of the first is in place. Where the kernel cannot (the first process of a container,
    which it spares; other systems than Linux), nothing changes.
    """
    if sys.platform != "linux" or os.getpid() == 1:
        return
    signal.siginterrupt(signum, False)
    libc, action = ctypes.CDLL(None), _Action()
    if libc.sigaction(signum, None, ctypes.byref(action)) == 0 and action.handler and action.flags & _RESTART:
        action.flags |= _RESET_AFTER_USE
        libc.sigaction(signum, ctypes.byref(action), None)


class _Action(ctypes.Structure):
    """`struct sigaction` of glibc and musl."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * (128 // ctypes.sizeof(ctypes.c_ulong))),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_RESTART = 0x10000000
"""SA_RESTART, which `siginterrupt` has just set: a check that the structure is the one above."""
