"""Memory and CPU time of a process and its children, as Linux counts them; elsewhere what `getrusage` knows."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def resident(pid: int) -> int:
    """The bytes of a process that are in memory; 0 for one that is gone, and where there is no /proc."""
    try:
        return int((_PROC / str(pid) / "statm").read_bytes().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def own_peak() -> int:
    """The most bytes that this process had in memory at once.

    Not `ru_maxrss` where there is a choice: a new process inherits that from the one that started it.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (_PROC / "self" / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def children(pid: int) -> Iterator[int]:
    """The processes that a process started, and those that these started."""
    for task in _tasks(pid):
        try:
            found = [int(child) for child in (task / "children").read_bytes().split()]
        except OSError:
            continue
        for child in found:
            yield child
            yield from children(child)


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    return [pid, *children(pid)]


def cpu_seconds(pid: int) -> float:
    """User and system time that a process and its descendants have used; 0 for one that is gone or without /proc."""
    return sum(map(_cpu_seconds, tree(pid)))


def _cpu_seconds(pid: int) -> float:
    try:
        after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, after_name[11:15])) / _TICKS  # its own and that of children that have ended
    except (OSError, ValueError):
        return 0.0


def _tasks(pid: int) -> list[Path]:
    try:
        return list((_PROC / str(pid) / "task").iterdir())
    except OSError:
        return []
