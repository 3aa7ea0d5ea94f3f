"""Several server processes on one port: a supervisor starts, watches, replaces and stops them."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeAlias

from penstock.backends.devices import usable_cores, worker_count
from penstock.errors import ConfigError
from penstock.gateway.process.channel import Duty, Place, Report, State
from penstock.gateway.process.deaths import MemoryKills, is_stopped, why_it_ended
from penstock.gateway.process.notify import Notifier
from penstock.gateway.process.reload import Reload
from penstock.gateway.process.sockets import close_sockets
from penstock.gateway.process.watchdog import Watchdog
from penstock.settings import Settings

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 5.0
"""A worker that was ready this long is replaced after the shortest pause; pauses double for one that keeps failing."""
KILL_AFTER_S = 5.0
"""How much longer a worker may take to exit than its drain, or its own watchdog."""

LATE_AFTER_S = 2.5
"""A worker whose event loop has not run for this long leaves its waiting connections to the others."""
STOPPED_FOR_S = 5.0
"""How long a worker may be stopped by a signal (SIGSTOP) before it is replaced."""

WorkerMain: TypeAlias = Callable[[Settings, tuple[str, ...], Place, Connection], None]
"""Runs one server in a child process: settings, references, its place, and a pipe to its supervisor."""


def supervise(
    settings: Settings, refs: Sequence[str], main: WorkerMain, reload: Reload, sockets: Sequence[socket.socket] = ()
) -> int:
    """Keep `settings.workers` servers running until a signal comes; the exit code.

    `sockets`: one for each that listens already, or one for all; without, each binds its own. Raises ConfigError with
    the reason of a worker that could not start, if none could.
    """
    directory = Path(tempfile.mkdtemp(prefix="penstock-"))
    try:
        return _Supervisor(settings, tuple(refs), directory, main, tuple(sockets), reload).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Worker:
    """One child process, and the pipe on which it reports that it is ready, or its error."""

    def __init__(self, process: SpawnProcess, pipe: Connection, index: int, pause_s: float) -> None:
        self.process = process
        self.pipe = pipe
        self.index = index
        self.pause_s = pause_s
        self.seen: float | None = None
        """When its event loop last ran."""
        self.stopped: float | None = None
        """Since when a signal has stopped it."""
        self.state = ""
        self.ready_at: float | None = None
        """When it was ready first."""
        self.failure: str | None = None
        self.duty: Duty | None = None
        """What it was last told."""

    def read_reports(self) -> None:
        """Take in what the child has reported."""
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                report: Report = self.pipe.recv()
                self.state = report.state
                if report.state in ("ready", "partial") and self.ready_at is None:
                    self.ready_at = time.monotonic()
                self.failure = report.failure
                self.seen = time.monotonic()

    @property
    def was_ready(self) -> bool:
        """True once it could answer."""
        return self.ready_at is not None

    def why_hanging(self, limit_s: float) -> str | None:
        """Why it must be replaced: stopped, or an event loop that has run before but not for this long, 0 for ever."""
        now = time.monotonic()
        self.stopped = (self.stopped or now) if is_stopped(self.process.pid or 0) else None
        if self.stopped is not None and now - self.stopped > STOPPED_FOR_S:
            return f"a signal has stopped it for {now - self.stopped:.0f} s"
        if limit_s and self.seen is not None and now - self.seen > limit_s:
            return f"it has answered nothing for {now - self.seen:.0f} s"
        return None

    def forgive(self, now: float) -> None:
        """Begin to count anew, after this process itself has stood still."""
        self.stopped = None
        if self.seen is not None:
            self.seen = now

    def answers(self, state: State) -> bool:
        """True while it is in this state and could accept connections."""
        late = self.seen is None or time.monotonic() - self.seen > LATE_AFTER_S
        return self.state == state and not late and self.process.is_alive()

    def tell(self, duty: Duty) -> None:
        """Have it accept connections, or leave them to others. A worker accepts on its own once it is ready."""
        if self.duty == duty or (self.duty is None and self.state == "ready" and duty == Duty()):
            return
        if not duty.accept:
            log.warning(
                "a worker leaves its connections to the others, since it cannot load every model that they serve",
                extra={"pid": self.process.pid},
            )
        self.duty = duty
        with contextlib.suppress(OSError):
            self.pipe.send(duty)

    def next_pause_s(self) -> float:
        """How long to wait before its replacement starts."""
        if self.ready_at is not None and time.monotonic() - self.ready_at > STEADY_AFTER_S:
            return FIRST_PAUSE_S
        return min(2 * self.pause_s, LONGEST_PAUSE_S)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Block SIGINT in the processes that start meanwhile; here it arrives afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Due(NamedTuple):
    """A replacement: when it starts, its number, and the pause that led to it."""

    at: float
    worker: int
    pause_s: float


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        refs: tuple[str, ...],
        directory: Path,
        main: WorkerMain,
        sockets: tuple[socket.socket, ...],
        reload: Reload,
    ) -> None:
        self._count = worker_count(settings.workers)
        threads = settings.threads or max(1, usable_cores() // self._count)
        self._settings = settings.model_copy(update={"threads": threads})
        self._refs = refs
        self._directory = directory
        self._main = main
        self._sockets = sockets
        self._workers: list[_Worker] = []
        self._due: list[_Due] = []
        self._signals: list[int] = []
        self._hang_s = Watchdog(settings.hang_timeout_s, settings.drain_timeout_s).limit_s
        self._looked = time.monotonic()
        self._failed_starts = 0
        self._was_ready = False
        self._memory = MemoryKills()
        self._reload = reload
        self._hangups = 0
        """Signals to read the settings again that nobody has looked at yet."""
        self._notifier = Notifier()
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        os.set_blocking(self._wake_write, False)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(signum, self._on_signal)
        try:
            for index in range(self._count):
                self._start(index, FIRST_PAUSE_S)
            while not self._signals:
                self._wait(0.5)
                self._kill_hanging()
                self._replace_ended()
                self._start_due()
                self._hand_over()
                if self._hangups:
                    self._read_again()
                self._notifier.alive()
            return self._drain()
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()

    def _start(self, index: int, pause_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        pipe, child_end = context.Pipe()
        place = Place(index, self._directory, self._sockets)
        process = context.Process(target=self._main, args=(self._settings, self._refs, place, child_end))
        with _no_interrupts():  # a child that still imports would print a traceback at Ctrl-C
            process.start()
        child_end.close()
        self._workers.append(_Worker(process, pipe, index, pause_s))

    def _wait(self, timeout_s: float) -> None:
        """Return when a worker exits or reports, on a signal, or after the time-out."""
        pipes = [worker.pipe for worker in self._workers if not worker.pipe.closed]
        ready = wait([*pipes, *(worker.process.sentinel for worker in self._workers), self._wake_read], timeout_s)
        for worker in self._workers:
            worker.read_reports()
            if worker.was_ready and not self._was_ready:
                self._was_ready = True
                self._notifier.ready(self._status)
            if worker.pipe in ready and not worker.process.is_alive():
                worker.pipe.close()

    def _kill_hanging(self) -> None:
        """Kill the workers that stand still, unless this process itself stood still in the meantime."""
        now = time.monotonic()
        paused, self._looked = now - self._looked > KILL_AFTER_S, now
        limit_s = self._hang_s and self._hang_s + KILL_AFTER_S
        for worker in self._workers:
            if paused:
                worker.forgive(now)
            elif why := worker.why_hanging(limit_s):
                worker.failure = f"{why}; it was killed"
                worker.process.kill()
                worker.process.join()

    def _replace_ended(self) -> None:
        """Plan a replacement for every worker that has exited. Raises ConfigError if none could ever start."""
        for worker in [worker for worker in self._workers if not worker.process.is_alive()]:
            self._workers.remove(worker)
            worker.pipe.close()
            exitcode = worker.process.exitcode
            self._failed_starts += not worker.was_ready
            if not self._was_ready and self._failed_starts >= self._count:
                raise ConfigError(worker.failure or f"no worker could start; the last exit code was {exitcode}")
            pause_s = worker.next_pause_s()
            log.error(
                "a worker exited and will be replaced: %s",
                worker.failure or why_it_ended(exitcode, self._memory.new()),
                extra={"pid": worker.process.pid, "exitcode": exitcode, "pause_s": pause_s},
            )
            alone = worker.was_ready and not self._workers  # nobody answers meanwhile
            self._due.append(_Due(time.monotonic() + (FIRST_PAUSE_S if alone else pause_s), worker.index, pause_s))

    def _start_due(self) -> None:
        now = time.monotonic()
        for due in [due for due in self._due if due.at <= now]:
            self._due.remove(due)
            self._start(due.worker, due.pause_s)

    def _hand_over(self) -> None:
        """Have the workers that serve take the connections of those that do not: late, ended, or still loading.

        One that cannot load every model accepts none while another can; if none can, each answers for what it has.
        """
        ready = [worker for worker in self._workers if worker.answers("ready")]
        partial = [worker for worker in self._workers if worker.answers("partial")]
        serving = ready or partial
        orphans = tuple(sorted(set(range(len(self._sockets))) - {worker.index for worker in serving}))
        for worker in serving:
            worker.tell(Duty(True, orphans if len(self._sockets) > 1 else ()))
        for worker in partial if ready else ():
            worker.tell(Duty(False))

    def _drain(self) -> int:
        """Signal the workers to exit, wait for them, and leave those that do not to be killed, at once on a signal."""
        close_sockets(list(self._sockets))
        for worker in self._workers:
            worker.process.terminate()
        limit_s = self._settings.drain_grace_s + self._settings.drain_timeout_s + KILL_AFTER_S
        until = time.monotonic() + limit_s
        self._notifier.stopping(limit_s)
        while any(worker.process.is_alive() for worker in self._workers) and time.monotonic() < until:
            if len(self._signals) > 1:
                return 128 + self._signals[1]
            self._wait(0.2)
        # a worker that is just starting has no signal handler yet and exits with the signal
        return 0 if all(worker.process.exitcode in (0, -signal.SIGTERM) for worker in self._workers) else 1

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if signum == signal.SIGUSR1:
            self._pass_on(signum)
            return
        if signum == signal.SIGHUP:
            self._hangups += 1
        else:
            self._signals.append(signum)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def _read_again(self) -> None:
        """Have the workers read the settings again, if this process could."""
        self._hangups = 0
        os.read(self._wake_read, 64)
        self._notifier.reloading()
        done = self._reload()
        if done:
            self._pass_on(signal.SIGHUP)
        self._notifier.ready(self._status if done else f"{self._status}; the settings could not be read again")

    def _pass_on(self, signum: int) -> None:
        for worker in self._workers:
            if worker.was_ready and worker.process.pid:  # one that is starting reads everything anew
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signum)

    @property
    def _status(self) -> str:
        return f"serving with {self._count} processes"
