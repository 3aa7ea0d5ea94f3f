"""Several server processes on one port: started, watched, replaced and stopped by this one."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from penstock.backends.devices import usable_cores
from penstock.errors import ConfigError, PenstockError
from penstock.monitor.logs import configure_logging
from penstock.settings import Settings

log = logging.getLogger(__name__)

READY = "ready"
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""A worker that lived this long is restarted at once; one that keeps dying waits longer each time."""
KILL_AFTER_S = 5.0
"""How much longer than the drain a worker may take to end."""


def supervise(settings: Settings, refs: Sequence[str]) -> int:
    """Keep `settings.workers` servers running until a signal comes; the exit code.

    Raises ConfigError with the reason of a worker that could not start, when none could.
    """
    directory = Path(tempfile.mkdtemp(prefix="penstock-"))
    try:
        return _Supervisor(settings, tuple(refs), directory).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Worker:
    """One child process, and the pipe on which it tells that it is ready or why it cannot be."""

    def __init__(self, settings: Settings, refs: tuple[str, ...], directory: Path, pause_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.news, theirs = context.Pipe(duplex=False)
        self.pause_s = pause_s
        self.started = time.monotonic()
        self.ready = False
        self.failure: str | None = None
        self.process: SpawnProcess = context.Process(target=_work, args=(settings, refs, directory, theirs))
        self.process.start()
        theirs.close()

    def listen(self) -> None:
        """Take in what the child has told."""
        with contextlib.suppress(EOFError, OSError):
            while self.news.poll():
                message = self.news.recv()
                self.ready = self.ready or message == READY
                self.failure = None if message == READY else message

    def next_pause_s(self) -> float:
        """How long to wait before its successor starts."""
        if time.monotonic() - self.started > STEADY_AFTER_S:
            return FIRST_PAUSE_S
        return min(2 * self.pause_s, LONGEST_PAUSE_S)


class _Supervisor:
    def __init__(self, settings: Settings, refs: tuple[str, ...], directory: Path) -> None:
        threads = settings.threads or max(1, usable_cores() // settings.workers)
        self._settings = settings.model_copy(update={"threads": threads})
        self._refs = refs
        self._directory = directory
        self._workers: list[_Worker] = []
        self._due: list[tuple[float, float]] = []
        self._signals = 0
        self._failed_starts = 0
        self._was_ready = False
        self._bell, self._rope = os.pipe()

    def run(self) -> int:
        os.set_blocking(self._rope, False)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        for _ in range(self._settings.workers):
            self._start(FIRST_PAUSE_S)
        try:
            while not self._signals:
                self._wait(0.5)
                self._bury()
                self._start_due()
            return self._drain()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()

    def _start(self, pause_s: float) -> None:
        self._workers.append(_Worker(self._settings, self._refs, self._directory, pause_s))

    def _wait(self, timeout_s: float) -> None:
        """Until a worker ends or speaks, a signal comes, or so long."""
        pipes = [worker.news for worker in self._workers if not worker.news.closed]
        ready = wait([*pipes, *(worker.process.sentinel for worker in self._workers), self._bell], timeout_s)
        for worker in self._workers:
            worker.listen()
            self._was_ready = self._was_ready or worker.ready
            if worker.news in ready and not worker.process.is_alive():
                worker.news.close()

    def _bury(self) -> None:
        """Plan a successor for every worker that has ended. Raises ConfigError when none could ever start."""
        for worker in [worker for worker in self._workers if not worker.process.is_alive()]:
            self._workers.remove(worker)
            exitcode = worker.process.exitcode
            self._failed_starts += not worker.ready
            if not self._was_ready and self._failed_starts >= self._settings.workers:
                raise ConfigError(worker.failure or f"no worker could start; the last one ended with {exitcode}")
            pause_s = worker.next_pause_s()
            log.error(
                "a worker ended; another one starts soon: %s",
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
        """Tell the workers to end, wait for them, and end those that do not."""
        told = 0
        until = time.monotonic() + self._settings.drain_timeout_s + KILL_AFTER_S
        while any(worker.process.is_alive() for worker in self._workers) and time.monotonic() < until:
            if told < self._signals:  # a second signal goes through as well: then they end at once
                told = self._signals
                for worker in self._workers:
                    worker.process.terminate()
            self._wait(0.2)
        # a worker that is just starting does not catch the signal yet, and dies of it
        return 0 if all(worker.process.exitcode in (0, -signal.SIGTERM) for worker in self._workers) else 1

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signals += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._rope, b"!")


def _work(settings: Settings, refs: tuple[str, ...], directory: Path, news: Connection) -> None:
    """The child process: one server. Ctrl-C reaches the whole group, so only the parent's SIGTERM counts."""
    from penstock.gateway.process.server import run
    from penstock.gateway.process.worker_group import WorkerGroup

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(settings)
    _end_with_parent(directory)
    try:
        sys.exit(run(settings, refs, workers=WorkerGroup(directory), on_ready=lambda: news.send(READY)))
    except PenstockError as error:
        news.send(str(error))
        sys.exit(1)


def _end_with_parent(directory: Path) -> None:
    """A parent that was killed cannot tell its children, nor tidy up; they look for it, and do."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        shutil.rmtree(directory, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="penstock-orphan", daemon=True).start()
