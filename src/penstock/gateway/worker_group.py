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

from penstock.engine.reconciler import Revisions
from penstock.engine.statistics import counts_of
from penstock.errors import ConfigError
from penstock.registry.deployment import DeploymentStore

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

    def behind(self, revisions: Revisions) -> list[int]:
        """The ids of the other live processes that have not followed the deployment, or the drain, yet."""
        late, draining = [], self.draining()
        for file in self.directory.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                figures = orjson.loads(file.read_bytes())
                follows = Revisions(*figures.get("deployment", ())).includes(revisions)
                follows = follows and draining in (None, figures.get("draining"))
                if file != self._own and _is_alive(int(file.stem)) and not follows:
                    late.append(int(file.stem))
        return late

    def deployment_store(self) -> DeploymentStore:
        """Where loads and unloads are kept that hold for this server only: a database in the shared directory."""
        from penstock.registry.database.store import Store  # SQLAlchemy takes a quarter of a second to import

        return Store(f"sqlite:///{self.directory / 'deployment.db'}")

    def set_draining(self, draining: bool) -> None:
        """Have every process refuse predictions, or take them again. Raises ConfigError."""
        file = self.directory / "draining"
        temporary = file.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_bytes(orjson.dumps(draining))
            temporary.rename(file)
        except OSError as error:
            raise ConfigError(f"the other processes of this server cannot be reached: {error.strerror}") from None

    def draining(self) -> bool | None:
        """Whether every process should refuse predictions; None before the first drain. Raises OSError."""
        try:
            return bool(orjson.loads((self.directory / "draining").read_bytes()))
        except FileNotFoundError:
            return None

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
