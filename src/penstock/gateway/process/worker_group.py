"""Figures of several server processes as one: each writes its own into a shared directory and reads the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from penstock.engine.statistics import counts_of

Figures: TypeAlias = dict[str, Any]

SHARE_EVERY_S = 0.5


class WorkerGroup:
    """The figures of all processes of a server, one file each. A file outlives its process: counters never fall."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._own = directory / f"{os.getpid()}.json"
        self._lock = threading.Lock()

    async def share(self, figures: Callable[[], Figures]) -> None:
        """Write the figures of this process periodically; ends when cancelled, and writes a last time."""
        try:
            while True:
                await asyncio.to_thread(self.publish, figures)
                await asyncio.sleep(SHARE_EVERY_S)
        finally:
            self.publish(figures)

    def publish(self, figures: Callable[[], Figures]) -> None:
        """Write the figures of this process now."""
        with self._lock:
            self._write(figures())

    def all(self, figures: Callable[[], Figures]) -> list[Figures]:
        """The figures of every process, this one's first and just written: a later sum is never below this one."""
        with self._lock:
            return [self._write(figures()), *self.others()]

    def _write(self, figures: Figures) -> Figures:
        """Write to a temporary file and rename it, so that no reader sees half a file."""
        temporary = self._own.with_suffix(".new")
        with contextlib.suppress(OSError):  # the supervisor has ended and removed the directory
            temporary.write_bytes(orjson.dumps(figures))
            temporary.rename(self._own)
        return figures

    def behind(self, revision: int) -> list[int]:
        """The ids of the other live processes that have not yet applied the commands of this revision."""
        late = []
        for file in self.directory.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                figures = orjson.loads(file.read_bytes())
                if file != self._own and _is_alive(int(file.stem)) and figures.get("orders", 0) < revision:
                    late.append(int(file.stem))
        return late

    def others(self) -> list[dict[str, Any]]:
        """The latest figures of the other processes; of an ended one only its counters."""
        found = []
        for file in sorted(self.directory.glob("*.json")):
            if file == self._own:
                continue
            with contextlib.suppress(OSError, ValueError):
                figures = orjson.loads(file.read_bytes())
                found.append(figures if _is_alive(int(file.stem)) else _counts_only(figures))
        return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _counts_only(figures: Figures) -> Figures:
    return {**figures, "statistics": counts_of(figures["statistics"])}
