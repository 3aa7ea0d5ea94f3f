"""Lets a process end with its own exit code while a model still runs in another thread.

Native code must not run while the process takes itself apart: a run that outlives its thread pool, or that returns to
an interpreter that is no more, calls abort(), and the exit code is 134 whatever the program has asked for.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

AT_MOST_S = 10
"""How long such a process may take to end."""


def _spare_native_code() -> None:
    """Have the C library end the process before it destroys anything, if a thread is inside a model now.

    It does so with the exit code that the interpreter gives it, which no Python code can learn here.
    """
    if not any(_is_in_backend(frame) for frame in _other_threads()):
        return
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # other C libraries than glibc have no on_exit
        libc.on_exit(libc._exit, None)
        # a run that returns now may abort; it waits in this handler instead, for as long as the process lives
        libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        libc.signal(signal.SIGABRT, ctypes.cast(libc.pause, ctypes.c_void_p))
        libc.alarm(AT_MOST_S)


def _other_threads() -> Iterator[FrameType]:
    own = threading.get_ident()
    return (frame for thread, frame in sys._current_frames().items() if thread != own)


def _is_in_backend(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("penstock.backends."):
            return True
        frame = frame.f_back
    return False


def spare_native_code_at_exit() -> None:
    """From now on; calling it again changes nothing."""
    atexit.unregister(_spare_native_code)
    atexit.register(_spare_native_code)
