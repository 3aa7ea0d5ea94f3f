"""Returns the memory of closed models to the operating system."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Glibc's `malloc_trim`; None with other C libraries, whose allocators return memory by themselves."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return None


_lock = threading.Lock()
_requested = 0
_done = 0


def trim_memory() -> None:
    """Return free pages to the system. Concurrent callers share the next run, so that bursts are cheap."""
    global _requested, _done
    trim = _malloc_trim()
    if trim is None:
        return
    _requested += 1
    ticket = _requested
    with _lock:
        if _done < ticket:
            _done = _requested
            trim(0)
