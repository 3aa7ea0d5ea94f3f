"""A clock of the wall that a test can move while a server runs; the steady clock of timers stays as it is."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


class MovedClock:
    """By libfaketime: processes with `environ` read their offset from a file every second."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.move(0)

    @property
    def environ(self) -> dict[str, str]:
        """For the processes whose clock it is."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def move(self, seconds: int) -> None:
        """Set the offset from the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)  # never half a number

    @staticmethod
    def forget(pid: int) -> None:
        """Remove what the library leaves behind in shared memory for a process that has ended."""
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            Path("/dev/shm", name).unlink(missing_ok=True)


def why_not() -> str:
    """Why no clock can be moved here; empty if one can be."""
    return "" if sys.platform == "linux" and _library().is_file() else "libfaketime is not installed"


def _library() -> Path:
    found = find_spec("libfaketime")
    if found is None or found.origin is None:
        return Path("/nonexistent")
    return Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
