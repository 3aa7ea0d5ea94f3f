"""One worker process, as its server sees it: started, told what to load, asked one batch at a time, ended."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from penstock.backends.base import Stop
from penstock.backends.devices import usable_cores
from penstock.errors import printable, shortened
from penstock.settings import environment_of_workers
from penstock.workers.channel import Channel, ChannelClosed
from penstock.workers.frames import BrokenFrame, Message

log = logging.getLogger(__name__)

_LONGEST_LINE = 8192
"""Bytes of a line of output; what is longer is logged in parts."""
_END_S = 2.0
"""How long a worker may take to end by itself."""
_SIGNALS = {
    "SIGSEGV": "invalid memory access",
    "SIGBUS": "invalid memory access",
    "SIGILL": "an instruction that this CPU does not have",
    "SIGABRT": "its runtime aborted",
    "SIGFPE": "a division by zero in machine code",
    "SIGKILL": "ended from outside, most likely because the machine ran out of memory",
}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Died(Exception):
    """The worker is gone; says how, as the end of a sentence. `asked`: it had been given the whole request."""

    def __init__(self, how: str, *, asked: bool = True) -> None:
        super().__init__(how)
        self.asked = asked


class Hung(Exception):
    """The worker did not answer in time."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What every worker of one model is started with."""

    model: str
    """As logs name it."""
    load: Mapping[str, Any]
    """What the worker is told to load."""
    workers: int = 1
    threads: int | None = None
    """Threads of native libraries in each; the default is a fair part of the cores."""

    def environment(self) -> dict[str, str]:
        """The variables of a worker: those of the server, without its own settings, which hold keys."""
        kept = environment_of_workers()
        threads = str(self.threads or max(1, usable_cores() // self.workers))
        return {**dict.fromkeys(_THREADS, threads), **kept, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


class WorkerProcess:
    """One process. It ends with `kill` or `close`, and when this process ends, however that happens.

    One thread at a time asks it; `kill` and `close` may come from another.
    """

    def __init__(self, spec: WorkerSpec, number: int) -> None:
        """Start it. Raises Died where the system cannot start a process."""
        self.number = number
        self.rows = 0
        """That it has answered."""
        self.recycling = False
        """A replacement is being started."""
        self.retired = False
        """It is not asked again, and no other is started in its place when it ends."""
        self.looked_at = 0.0
        """When its memory was read last."""
        self._model = spec.model
        self._written: deque[str] = deque(maxlen=4)
        self._ending = threading.Lock()
        self._asking = threading.Lock()
        self._waking = threading.Lock()
        self._gone = False
        self._why = ""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        ours, theirs = socket.socketpair()
        life_read, life_write = os.pipe()
        self._lifeline = os.fdopen(life_write, "wb", buffering=0)
        try:
            self._process = _started(spec, theirs.fileno(), life_read)
        except OSError as error:
            ours.close()
            self._close_files()
            raise Died(f"no process can be started: {error.strerror or error}") from None
        finally:
            theirs.close()
            os.close(life_read)
        ours.setblocking(False)
        self._exchange = _Exchange()
        self._channel = Channel(ours, self._wait)
        self._poll = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        self._listener = threading.Thread(target=self._listen, name=f"penstock-output-{number}", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def ask(
        self, message: Message, *, limit_s: float | None = None, stop: Stop | None = None, grace_s: float = 0.0
    ) -> Message:
        """The reply to a message. Raises Died, Hung, and TypeError or ValueError for what cannot be sent.

        It may take `limit_s`, or, once `stop` is asked, `grace_s` from then on. What is asked has no time limit else.
        """
        exchange = self._exchange = _Exchange(grace_s, None if limit_s is None else time.monotonic() + limit_s)
        if stop is not None:
            stop.how = partial(self._give_up, exchange)
            if stop.asked:
                stop.how()
        try:
            with self._asking:
                return self._answer(message)
        finally:
            if stop is not None:
                stop.how = None

    def _answer(self, message: Message) -> Message:
        sent = False
        try:
            self._channel.send(message)
            sent = True
            return self._channel.receive()
        except ChannelClosed:
            raise Died(self._how_it_ended(), asked=sent) from None
        except BrokenFrame as error:
            self.kill(f"it answered with something else: {error}")
            raise Died(self._why) from None

    def _give_up(self, exchange: _Exchange) -> None:
        """Nobody waits for the reply any more. Called from any thread."""
        exchange.give_up(time.monotonic())
        with self._waking, contextlib.suppress(BlockingIOError):
            if not self._gone:
                os.write(self._wake_write, b"x")

    def _wait(self, writing: bool) -> None:
        """Wait until the channel may be ready. Raises Hung."""
        self._poll.register(self._channel.socket, select.POLLOUT if writing else select.POLLIN)
        while True:
            left = self._exchange.left(time.monotonic())
            if left is not None and left <= 0:
                raise Hung
            ready = [number for number, _ in self._poll.poll(None if left is None else left * 1000 + 1)]
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            if self._channel.socket.fileno() in ready:
                return

    def wait(self) -> str:
        """Wait for the end of the process, and say how it ended."""
        self._process.wait()
        return self._how_it_ended()

    @property
    def alive(self) -> bool:
        """True until it has ended."""
        return self._process.poll() is None

    @property
    def memory_bytes(self) -> int:
        """Its resident memory; 0 where the system does not say."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self, why: str = "") -> None:
        """End it now, and what it has started; `why` is then how it ended."""
        self._why = self._why or why
        if self._gone:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # its group lives as long as a process in it

    def let_go(self) -> None:
        """Let it end by itself, without waiting for that."""
        with contextlib.suppress(OSError):
            self._channel.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let it end by itself, for a moment, and then end it. Safe to call twice."""
        with self._ending:
            self.let_go()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            self.kill()
            self._process.wait()
            if self._gone:
                return
            with self._asking, self._waking:  # who asks it has seen the end
                self._gone = True
                self._channel.close()
                self._close_files()

    def _close_files(self) -> None:
        self._lifeline.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _how_it_ended(self) -> str:
        """The end of a sentence about it."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:  # it has only closed its channel
            self.kill()
            code = self._process.wait()
        if self._why:
            return self._why
        self._listener.join(0.5)
        said = f"; it wrote: {shortened(printable(self._written[-1]), 160)}" if self._written else ""
        if code >= 0:
            return f"it ended with exit code {code}{said}"
        name = signal.Signals(-code).name
        means = f" ({_SIGNALS[name]})" if name in _SIGNALS else ""
        return f"{name} ended it{means}{'' if name == 'SIGKILL' else said}"

    def _listen(self) -> None:
        """Log what it writes, line by line."""
        out = self._process.stdout
        assert out is not None
        extra = {"model": self._model, "worker": self.number}
        with contextlib.suppress(OSError, ValueError), out:
            for line in _lines(out):
                self._written.append(line)
                log.info("%s: worker %d: %s", self._model, self.number, line, extra=extra)


class _Exchange:
    """When to give up on a reply."""

    def __init__(self, grace_s: float = 0.0, until: float | None = None) -> None:
        self._grace_s = grace_s
        self._until = until

    def give_up(self, now: float) -> None:
        until = now + self._grace_s
        self._until = until if self._until is None else min(until, self._until)

    def left(self, now: float) -> float | None:
        return None if self._until is None else self._until - now


def _started(spec: WorkerSpec, channel: int, lifeline: int) -> subprocess.Popen[bytes]:
    """The process: this interpreter, in a session of its own, with no other file of this process open."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "penstock.workers.main", str(channel), str(lifeline)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(channel, lifeline),
        env=spec.environment(),
        start_new_session=True,
        bufsize=0,
    )


def _lines(out: IO[bytes]) -> Any:
    """Lines of text, those without an end after _LONGEST_LINE bytes included."""
    rest = b""
    while chunk := out.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            for start in range(0, len(line), _LONGEST_LINE):
                if text := printable(line[start : start + _LONGEST_LINE].decode(errors="replace").rstrip()):
                    yield text
    if rest.strip():
        yield printable(rest.decode(errors="replace").rstrip())
