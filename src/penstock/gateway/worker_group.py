"""Figures of several server processes as one: each writes its own into a shared directory and reads the others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from penstock.engine.deployment.status import Revisions
from penstock.engine.statistics import counts_of
from penstock.errors import ConfigError, disk_problem
from penstock.monitor.processes import counts_of_ended
from penstock.registry.database.reads import Reads
from penstock.registry.deployment import DeploymentStore

Figures: TypeAlias = dict[str, Any]

SHARE_EVERY_S = 0.5
STALE_AFTER_S = 3600.0
"""A directory in which no process has written for this long belongs to none, if none of its processes runs."""


class WorkerGroup:
    """The figures of all processes of a server, one file each. A file outlives its process: counters never fall."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._own = directory / f"{os.getpid()}-{_began(os.getpid())}.json"
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

    def leave(self) -> None:
        """Remove the directory if no other process of the group runs; for a group without a supervisor."""
        with contextlib.suppress(OSError):  # so that of two that leave at once the second removes it
            self._own.rename(self.directory / f"{os.getpid()}-left.json")
        if not any(_is_alive(file) for file in self.directory.glob("*.json")):
            shutil.rmtree(self.directory, ignore_errors=True)
        for other in self.directory.parent.glob(f"penstock-{os.getuid()}-*"):  # of processes that were killed
            with contextlib.suppress(OSError, ValueError):
                old = time.time() - other.stat().st_mtime > STALE_AFTER_S
                if old and not any(_is_alive(file) for file in other.glob("*.json")):
                    shutil.rmtree(other, ignore_errors=True)

    def _write(self, figures: Figures) -> Figures:
        """Write to a temporary file and rename it, so that no reader sees half a file."""
        temporary = self._own.with_suffix(".new")
        with contextlib.suppress(OSError):  # the supervisor has ended and removed the directory
            temporary.write_bytes(_as_json(figures))
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
                if file != self._own and _is_alive(file) and not follows:
                    late.append(_pid_of(file))
        return late

    def deployment_store(self) -> DeploymentStore:
        """Where loads and unloads are kept that hold for this server only: a database in the shared directory."""
        return Reads(f"sqlite:///{self.directory / 'deployment.db'}")

    def set_draining(self, draining: bool) -> None:
        """Have every process refuse predictions, or take them again. Raises ConfigError."""
        file = self.directory / "draining"
        temporary = file.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_bytes(orjson.dumps(draining))
            temporary.rename(file)
        except OSError as error:
            why = disk_problem(error, self.directory) or str(error.strerror)
            raise ConfigError(f"the other processes of this server cannot be reached: {why}") from None

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
                found.append(figures if _is_alive(file) else _counts_only(figures))
        return found


def _as_json(figures: Figures) -> bytes:
    try:
        return orjson.dumps(figures)
    except TypeError:  # the name of a file that is not in UTF-8
        return json.dumps(figures, ensure_ascii=False).encode("utf-8", "replace")


def _pid_of(file: Path) -> int:
    return int(file.stem.partition("-")[0])


def _is_alive(file: Path) -> bool:
    """True while the process that wrote the file runs, and no later one with its number."""
    pid, began = _pid_of(file), file.stem.partition("-")[2]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not began or _began(pid) == began


def _began(pid: int) -> str:
    """When a process began, in the clock ticks of the kernel; empty for a zombie, and where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return ""


def _counts_only(figures: Figures) -> Figures:
    kept = {"statistics": counts_of(figures["statistics"]), "process": counts_of_ended(figures["process"])}
    return {**figures, **kept}


# Processes that another server has started


def siblings(key: str) -> WorkerGroup | None:
    """The group of this process and of those that the same parent has started for the same server.

    Servers such as `uvicorn --workers 2` start processes that do not know each other; their parent they know. None for
    a process that was started alone.
    """
    if multiprocessing.parent_process() is None and "gunicorn.arbiter" not in sys.modules:
        return None
    parent = os.getppid()
    name = hashlib.sha256(f"{parent} {_began(parent)} {key}".encode()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}-{name}"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        is_own = directory.lstat().st_uid == os.getuid() and not directory.is_symlink()
    except OSError:
        return None
    return WorkerGroup(directory) if is_own else None
