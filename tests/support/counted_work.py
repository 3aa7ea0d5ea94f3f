"""What a call costs, counted: steps of Python and bytes of memory. Nothing here depends on how busy a machine is."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple


class Work(NamedTuple):
    """Lines of Python that ran, with the sizes of what functions returned in units of 1000; and the peak of memory."""

    steps: int
    peak_bytes: int


def work(call: Callable[[], object]) -> Work:
    """The cost of a call in this thread. What it raises is raised."""
    steps = 0

    def trace(_: FrameType, event: str, value: Any) -> Any:
        nonlocal steps
        steps += 1
        if event == "return" and type(value) in (bytes, str, list, tuple, set, dict):
            steps += len(value) // 1000
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return Work(steps, peak_bytes(call))


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that a call holds at once."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class CountingList(list[Any]):
    """A list that counts the places that are read, copied or removed."""

    def __init__(self) -> None:
        super().__init__()
        self.touched = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.touched += len(found) if isinstance(key, slice) else 1
        return found

    def __delitem__(self, key: Any) -> None:
        self.touched += len(range(*key.indices(len(self)))) if isinstance(key, slice) else 1
        super().__delitem__(key)
