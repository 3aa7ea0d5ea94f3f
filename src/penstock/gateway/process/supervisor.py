"""Several server processes on one port: a supervisor starts, watches, replaces and stops them."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from penstock.backends.devices import usable_cores
from penstock.errors import ConfigError
from penstock.gateway.process.watchdog import Watchdog
from penstock.settings import Settings

log = logging.getLogger(__name__)

READY, ALIVE = "ready", "alive"
"""What a worker reports; anything else is the reason why it could not start."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""A worker that ran this long is replaced after the shortest pause; pauses double for one that keeps failing."""
KILL_AFTER_S = 5.0
"""How much longer a worker may take to exit than its drain, or its own watchdog."""

WorkerMain: TypeAlias = Callable[[Settings, tuple[str, ...], Path, Connection], None]
"""Runs one server in a child process: settings, references, the directory of the group, and a pipe to report on."""


def supervise(settings: Settings, refs: Sequence[str], main: WorkerMain) -> int:
    """Keep `settings.workers` servers running until a signal comes; the exit code.

    Raises ConfigError with the reason of a worker that could not start, if none could.
    """
    directory = Path(tempfile.mkdtemp(prefix="penstock-"))
    try:
        return _Supervisor(settings, tuple(refs), directory, main).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Worker:
    """One child process, and the pipe on which it reports that it is ready, or its error."""

    def __init__(self, process: SpawnProcess, reports: Connection, pause_s: float) -> None:
        self.process = process
        self.reports = reports
        self.pause_s = pause_s
        self.started = time.monotonic()
        self.seen: float | None = None
        """When its event loop last ran."""
        self.ready = False
        self.failure: str | None = None

    def read_reports(self) -> None:
        """Take in what the child has reported."""
        with contextlib.suppress(EOFError, OSError):
            while self.reports.poll():
                message = self.reports.recv()
                self.ready = self.ready or message == READY
                self.failure = None if message in (READY, ALIVE) else message
                self.seen = time.monotonic()

    def stands_still(self, limit_s: float) -> bool:
        """True if its event loop has run before, but not for this long."""
        return self.seen is not None and time.monotonic() - self.seen > limit_s

    def next_pause_s(self) -> float:
        """How long to wait before its replacement starts."""
        if time.monotonic() - self.started > STEADY_AFTER_S:
            return FIRST_PAUSE_S
        return min(2 * self.pause_s, LONGEST_PAUSE_S)


class _Supervisor:
    def __init__(self, settings: Settings, refs: tuple[str, ...], directory: Path, main: WorkerMain) -> None:
        threads = settings.threads or max(1, usable_cores() // settings.workers)
        self._settings = settings.model_copy(update={"threads": threads})
        self._refs = refs
        self._directory = directory
        self._main = main
        self._workers: list[_Worker] = []
        self._due: list[tuple[float, float]] = []
        """When to start a replacement, and the pause that led to it."""
        self._signals: list[int] = []
        self._hang_s = Watchdog(settings.hang_timeout_s, settings.drain_timeout_s).limit_s
        self._looked = time.monotonic()
        self._failed_starts = 0
        self._was_ready = False
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        os.set_blocking(self._wake_write, False)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        for _ in range(self._settings.workers):
            self._start(FIRST_PAUSE_S)
        try:
            while not self._signals:
                self._wait(0.5)
                self._kill_hanging()
                self._replace_ended()
                self._start_due()
            return self._drain()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()

    def _start(self, pause_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        reports, child_end = context.Pipe(duplex=False)
        process = context.Process(target=self._main, args=(self._settings, self._refs, self._directory, child_end))
        process.start()
        child_end.close()
        self._workers.append(_Worker(process, reports, pause_s))

    def _wait(self, timeout_s: float) -> None:
        """Return when a worker exits or reports, on a signal, or after the time-out."""
        pipes = [worker.reports for worker in self._workers if not worker.reports.closed]
        ready = wait([*pipes, *(worker.process.sentinel for worker in self._workers), self._wake_read], timeout_s)
        for worker in self._workers:
            worker.read_reports()
            self._was_ready = self._was_ready or worker.ready
            if worker.reports in ready and not worker.process.is_alive():
                worker.reports.close()

    def _kill_hanging(self) -> None:
        """Kill the workers whose event loop stands still, unless this process itself stood still in the meantime."""
        now = time.monotonic()
        paused, self._looked = now - self._looked > KILL_AFTER_S, now
        for worker in self._workers:
            if paused and worker.seen is not None:
                worker.seen = now
            elif self._hang_s and worker.stands_still(self._hang_s + KILL_AFTER_S):
                worker.failure = f"it has answered nothing for {self._hang_s + KILL_AFTER_S:.0f} s"
                worker.process.kill()
                worker.process.join()

    def _replace_ended(self) -> None:
        """Plan a replacement for every worker that has exited. Raises ConfigError if none could ever start."""
        for worker in [worker for worker in self._workers if not worker.process.is_alive()]:
            self._workers.remove(worker)
            exitcode = worker.process.exitcode
            self._failed_starts += not worker.ready
            if not self._was_ready and self._failed_starts >= self._settings.workers:
                raise ConfigError(worker.failure or f"no worker could start; the last exit code was {exitcode}")
            pause_s = worker.next_pause_s()
            log.error(
                "a worker exited and will be replaced: %s",
                worker.failure or f"exit code {exitcode}",
                extra={"pid": worker.process.pid, "exitcode": exitcode, "pause_s": pause_s},
            )
            self._due.append((time.monotonic() + pause_s, pause_s))

    def _start_due(self) -> None:
        now = time.monotonic()
        for at, pause_s in [due for due in self._due if due[0] <= now]:
            self._due.remove((at, pause_s))
            self._start(pause_s)

    def _drain(self) -> int:
        """Signal the workers to exit, wait for them, and leave those that do not to be killed, at once on a signal."""
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + self._settings.drain_timeout_s + KILL_AFTER_S
        while any(worker.process.is_alive() for worker in self._workers) and time.monotonic() < until:
            if len(self._signals) > 1:
                return 128 + self._signals[1]
            self._wait(0.2)
        # a worker that is just starting has no signal handler yet and exits with the signal
        return 0 if all(worker.process.exitcode in (0, -signal.SIGTERM) for worker in self._workers) else 1

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signals.append(signum)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")
