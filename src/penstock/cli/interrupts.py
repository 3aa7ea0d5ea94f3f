"""Ctrl-C ends the command with exit code 130 and no traceback, whatever it is doing.

This module is imported before anything that takes time, so it imports next to nothing itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from typing import Any, NoReturn

INTERRUPTED = 130


def guard() -> None:
    """End the process at once at Ctrl-C: while it imports what it needs, and after the command has ended."""
    if sys.unraisablehook is not _unraisable:
        sys.unraisablehook = _unraisable
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # all is done, and the exit code is known
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a command that a shell runs in the background
        signal.signal(signal.SIGINT, _leave)


def allow() -> None:
    """Raise KeyboardInterrupt at the first Ctrl-C, so that the command puts in order what it has begun.

    At the second one the process ends at once. Changes nothing in a process that is not guarded.
    """
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)


def end() -> None:
    """The command has ended: guard the process again, if it was."""
    if sys.unraisablehook is _unraisable:
        guard()


def leave() -> NoReturn:
    """End an interrupted process, whose threads may go on for long.

    By itself, Python would have SIGINT kill it if an interruption has passed `exec` (as `dataclass` calls it).
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    _leave()


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(*_: object) -> NoReturn:
    os._exit(INTERRUPTED)


def _unraisable(problem: Any) -> None:
    """An interruption inside a destructor would be printed and forgotten."""
    if isinstance(problem.exc_value, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(problem)
