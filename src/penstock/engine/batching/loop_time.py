"""How long a piece of work keeps the event loop, whatever else the machine does."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

try:
    import resource
except ImportError:  # Windows
    _WHOSE: int | None = None
else:
    _WHOSE = getattr(resource, "RUSAGE_THREAD", None)  # of Linux

INLINE_BELOW_S = 0.0005
"""A full batch that runs shorter than this stays on the event loop: the hop to a thread and back costs about half
of it, and any other callback blocks the loop for as long."""
FLUSH_S = 0.02
"""How long the event loop runs such batches before it reads more requests. With one batch a turn, it would spend its
time on requests that find no room in the queue."""


class LoopTime:
    """Times the work inside of it, in this thread; `seconds` is known at its end.

    Work that was only preempted counts with its CPU time: the kernel gave the core to another process, and would have
    done so anywhere. Work that has waited (slept, or for other threads) counts with the whole time.
    """

    __slots__ = ("_cpu", "_started", "_waits", "seconds")

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._cpu, self._waits = _usage()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cpu, waits = _usage()
        whole = time.monotonic() - self._started
        self.seconds = whole if _WHOSE is None or waits > self._waits else min(whole, cpu - self._cpu)


def _usage() -> tuple[float, int]:
    """CPU seconds of this thread, and how often it gave up the core by itself."""
    if _WHOSE is None:
        return 0.0, 0
    return time.thread_time(), resource.getrusage(_WHOSE).ru_nvcsw
