"""Memory that a closed model leaves behind in this process goes back to the system."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """Glibc's `malloc_trim`; None where the C library is another, whose allocators give memory back by themselves."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return None


_lock = threading.Lock()
_asked = 0
_done = 0


def give_back() -> None:
    """Hand free pages to the system. Whoever waits while another does so shares the next time: bursts cost little."""
    global _asked, _done
    trim = _trim()
    if trim is None:
        return
    _asked += 1
    ticket = _asked
    with _lock:
        if _done < ticket:
            _done = _asked
            trim(0)
