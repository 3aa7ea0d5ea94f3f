"""Why a process has ended, in words for the log."""

from __future__ import annotations

import re
import signal
from pathlib import Path

_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}


class MemoryKills:
    """How often the kernel has ended a process because memory ran out, here or in this container."""

    def __init__(self, vmstat: Path = Path("/proc/vmstat"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._files = (vmstat, cgroups / "memory.events", *_own_events(cgroups))
        self._seen = self._count()

    def new(self) -> bool:
        """True if there were more since the last call."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        return sum(int(found[1]) for file in self._files if (found := re.search(r"^oom_kill (\d+)", _text(file), re.M)))


def _own_events(cgroups: Path) -> list[Path]:
    own = re.search(r"^0::/(.+)$", _text(Path("/proc/self/cgroup")), re.M)
    return [cgroups / own[1] / "memory.events"] if own else []


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def is_stopped(pid: int) -> bool:
    """True for a process that a signal such as SIGSTOP has stopped."""
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] == ["T"]


def why_it_ended(exitcode: int | None, memory_ran_out: bool) -> str:
    """What an exit code (negative for a signal, as multiprocessing has it) says."""
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    if -exitcode == signal.SIGKILL:
        likely = (
            "the kernel did it, since memory ran out" if memory_ran_out else "as the kernel does when memory runs out"
        )
        return f"it was killed by SIGKILL; {likely}"
    crashed = -exitcode in _CRASHES
    return f"native code crashed with {name}" if crashed else f"it was ended by {name}"
