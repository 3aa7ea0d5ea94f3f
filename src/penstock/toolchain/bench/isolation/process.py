"""One child process that answers calls, within limits of time and memory, and whose end harms nobody."""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from penstock.errors import InferenceError, PenstockError, printable, shortened, type_and_message
from penstock.toolchain.bench.isolation import frames, memory
from penstock.toolchain.bench.isolation.child import LENGTH

_LOOK_S = 0.025
"""How often a busy child's memory is looked at."""
_TREE_EVERY = 8
"""Every so many looks its own children are counted as well."""
_CHUNK = 1 << 20
_END_S = 5.0
"""How long a process may take to end by itself."""
_WORDS_S = 0.5
"""How long to wait for what it wrote last."""
_CRASHES = {
    "SIGSEGV": "invalid memory access",
    "SIGBUS": "invalid memory access",
    "SIGILL": "an instruction that this CPU does not have",
    "SIGABRT": "its runtime aborted",
    "SIGFPE": "a division by zero in machine code",
    "SIGKILL": "ended by the system, most likely because the machine ran out of memory",
}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class SandboxFailed(InferenceError):
    """A child process crashed, took too long, took too much memory, or raised an error that is not Penstock's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child process may take: seconds for one call, bytes of memory (None: no limit), and threads.

    `load_seconds` is the limit for opening a model, imports included. Memory is what is resident, that of processes
    which the child starts included. `threads` is what native libraries use that read OMP_NUM_THREADS.
    """

    seconds: float = 60.0
    load_seconds: float = 300.0
    memory_bytes: int | None = None
    threads: int | None = None


class ChildProcess:
    """One process that calls functions by name and hands back plain data.

    Calls from several threads wait for each other. After a SandboxFailed that ended the process, every further call
    raises one with the same reason. The process ends with `close`, and when this process ends, however that happens.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        """`name` begins every message."""
        self.name = name
        self.limits = limits
        self._lock = threading.Lock()
        self._ended: str | None = None
        self._closed = False
        self._heard: deque[bytes] = deque(maxlen=16)
        self._start()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def call(self, target: str, *args: Any, seconds: float | None = None, doing: str = "", **keywords: Any) -> Any:
        """The result of `module:function` with picklable arguments.

        A PenstockError of the function is raised here as it was there. Raises SandboxFailed for everything else, in one
        sentence that ends in `doing`, such as "while it was opened".
        """
        doing = doing or f"in {target}"
        limit = self.limits.seconds if seconds is None else seconds
        message = self._message((target, args, keywords), doing)
        with self._lock:
            if self._ended is not None:
                raise SandboxFailed(self._ended)
            try:
                reply = self._exchange(message, time.monotonic() + limit)
            except _Ended as end:
                raise self._fail(self._sentence(end, doing, limit)) from None
            except BaseException:
                self._fail(f"{self.name}: it was interrupted {doing}")
                raise
        return self._result(reply, doing)

    def close(self) -> None:
        """End the process and those that it started. Safe to call twice, and from another thread during a call."""
        self._closed = True
        started = list(memory.children(self.pid)) if self._process.returncode is None else []
        if self._process.returncode is None and self._lock.acquire(blocking=False):
            self._let_go()
            self._lock.release()
        self._kill(started)
        with self._lock:  # a call in another thread has seen the end now
            self._close_pipes()
            self._ended = self._ended or f"{self.name}: its process was closed"

    def _close_pipes(self) -> None:
        for stream in (self._process.stdin, self._replies, self._lifeline):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def _let_go(self) -> None:
        """Let an idle process end by itself, so that it removes its temporary files."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._await_end()

    def _start(self) -> None:
        reply_read, reply_write = os.pipe()
        life_read, life_write = os.pipe()
        try:
            self._process = subprocess.Popen(
                _command(self.limits, reply_write, life_read),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(reply_write, life_read),
                start_new_session=True,
                bufsize=0,
            )
        finally:
            os.close(reply_write)
            os.close(life_read)
        self._replies = os.fdopen(reply_read, "rb", buffering=0)
        self._lifeline = os.fdopen(life_write, "wb", buffering=0)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(reply_read, False)
        self._listener = threading.Thread(target=self._listen, name="penstock-sandbox", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        """Keep the last lines that native code writes before it ends."""
        stderr = self._process.stderr
        assert stderr is not None
        with contextlib.suppress(OSError, ValueError), stderr:
            while chunk := stderr.read(4096):
                self._heard.append(chunk)

    def _message(self, call: tuple[str, tuple[Any, ...], dict[str, Any]], doing: str) -> bytes:
        try:
            return pickle.dumps(call, protocol=5)
        except Exception as error:
            why = type_and_message(error)
            raise SandboxFailed(f"{self.name}: its arguments cannot be sent to a process ({doing}): {why}") from None

    def _exchange(self, message: bytes, deadline: float) -> bytearray:
        """Send a message and read the reply. Raises _Ended."""
        stdin = self._process.stdin
        assert stdin is not None
        outgoing = [memoryview(LENGTH.pack(len(message))), memoryview(message)]
        reply, wanted = bytearray(), -1
        watch = _Watch(self.pid, self.limits.memory_bytes, deadline)
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(self._replies, selectors.EVENT_READ)
            while wanted < 0 or len(reply) < wanted:
                ready = {key.fileobj for key, _ in selector.select(_LOOK_S)}
                if stdin in ready and not _send(stdin, outgoing):
                    selector.unregister(stdin)
                if self._replies in ready:
                    self._receive(reply)
                if wanted < 0 and len(reply) >= LENGTH.size:
                    wanted = LENGTH.unpack(reply[: LENGTH.size])[0]
                    del reply[: LENGTH.size]
                watch.look()
        return reply

    def _receive(self, reply: bytearray) -> None:
        chunk = self._replies.read(_CHUNK)
        if chunk == b"":
            raise _Ended("gone")
        reply += chunk or b""

    def _result(self, reply: bytearray, doing: str) -> Any:
        try:
            answer = frames.decode(reply)
        except ValueError as error:
            raise self._fail(f"{self.name}: its process answered with something else {doing}: {error}") from None
        if "result" in answer:
            return answer["result"]
        known = _penstock_error(answer["error"])
        if known is not None:
            raise known(answer["message"])
        raise SandboxFailed(f"{self.name}: {answer['message']} ({doing})")

    def _fail(self, sentence: str) -> SandboxFailed:
        self._ended = sentence
        self._kill()
        self._close_pipes()
        return SandboxFailed(sentence)

    def _sentence(self, end: _Ended, doing: str, limit: float) -> str:
        if end.why == "time":
            return f"{self.name}: it took longer than {limit:.3g} s {doing}"
        if end.why == "memory":
            return f"{self.name}: it took more than {(self.limits.memory_bytes or 0) / 2**20:.0f} MiB of memory {doing}"
        if self._closed:
            return f"{self.name}: its process was closed {doing}"
        code = self._kill(gone=True)
        if code >= 0:
            return f"{self.name}: its process ended with exit code {code} {doing}{self._last_words()}"
        name = signal.Signals(-code).name
        means = f" ({_CRASHES[name]})" if name in _CRASHES else ""
        return f"{self.name}: its process crashed with {name}{means} {doing}{self._last_words()}"

    def _last_words(self) -> str:
        lines = b"".join(self._heard).decode(errors="replace").strip().splitlines()
        return f"; it wrote: {shortened(printable(lines[-1].strip()), 160)}" if lines else ""

    def _kill(self, started: Sequence[int] = (), *, gone: bool = False) -> int:
        """End the process, its group, and what it started; the exit code. `gone`: it ends by itself just now."""
        if self._process.returncode is not None:
            return self._process.returncode
        if gone:
            self._await_end()
        started = [*started, *memory.children(self.pid)]
        _signal(os.killpg, self.pid)
        code = self._process.wait()
        for pid in started:
            _signal(os.kill, pid)
        self._listener.join(_WORDS_S)
        return code

    def _await_end(self) -> None:
        """Wait until the process has ended, but keep its id reserved where the system can."""
        if not hasattr(os, "waitid"):  # macOS
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            return
        ends = time.monotonic() + _END_S
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None and time.monotonic() < ends:
            time.sleep(0.002)


class _Ended(Exception):
    """The child cannot answer any more: it is gone, or the limit of time or of memory ended it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Watch:
    """Looks at the time and the memory of a busy child."""

    def __init__(self, pid: int, memory_bytes: int | None, deadline: float) -> None:
        self._pid, self._memory_bytes, self._deadline = pid, memory_bytes, deadline
        self._looks = 0
        self._others: list[int] = []

    def look(self) -> None:
        """Raise _Ended beyond a limit."""
        if time.monotonic() > self._deadline:
            raise _Ended("time")
        if self._memory_bytes is None:
            return
        if self._looks % _TREE_EVERY == 0:
            self._others = list(memory.children(self._pid))
        self._looks += 1
        if sum(map(memory.resident, (self._pid, *self._others))) > self._memory_bytes:
            raise _Ended("memory")


def _send(stdin: IO[bytes], outgoing: list[memoryview]) -> bool:
    """Write what the pipe takes; False when everything is written. Raises _Ended."""
    try:
        written = stdin.write(outgoing[0])
    except BrokenPipeError:
        raise _Ended("gone") from None
    outgoing[0] = outgoing[0][written or 0 :]
    if not outgoing[0]:
        del outgoing[0]
    return bool(outgoing)


def _signal(kill: Callable[[int, int], None], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        kill(pid, signal.SIGKILL)


def _command(limits: Limits, *descriptors: int) -> list[str]:
    """The command of the child: this interpreter with this import path, through `env`, which adds variables."""
    variables = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
    variables["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    if limits.threads is not None:
        variables |= dict.fromkeys(_THREADS, str(limits.threads))
    added = [f"{name}={value}" for name, value in variables.items()]
    module = ["-P", "-m", "penstock.toolchain.bench.isolation.child", *map(str, descriptors)]
    return ["env", *added, sys.executable, *module]


def _penstock_error(name: str | None) -> type[PenstockError] | None:
    """The class of this name that this process knows."""
    return next((kind for kind in _kinds(PenstockError) if kind.__name__ == name), None)


def _kinds(kind: type[PenstockError]) -> Iterator[type[PenstockError]]:
    yield kind
    for lower in kind.__subclasses__():
        yield from _kinds(lower)
