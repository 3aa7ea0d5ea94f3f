"""Standard error without waiting for whoever reads it: a server must not stand still with the reader of its log."""

from __future__ import annotations

import os
import select
import stat
import threading
from collections import deque
from typing import TextIO

MOST_BYTES = 1 << 20
"""Of the lines that are kept while nobody reads."""
FLUSH_S = 1.0
_LOOK_S = 1.0
_AT_ONCE = select.PIPE_BUF
"""A pipe that can be written to has room for so many bytes."""


class LogStream:
    """Writes lines to a stream; what a full pipe, socket or stopped terminal does not take is kept, and lost at last.

    Files and streams without a descriptor are written to as they are.
    """

    def __init__(self, stream: TextIO, most_bytes: int = MOST_BYTES) -> None:
        self._stream, self._most = stream, most_bytes
        self._number = own_descriptor(stream)
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._lock = threading.RLock()  # a signal handler may log while its thread writes
        self._empty = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Write or keep a line. Raises OSError for a stream that is closed."""
        if self._number is None:
            self._stream.write(line)
            self._stream.flush()
            return
        data = line.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._thread is None:
                data = data[self._taken(data) :]
            if data:
                self._keep(data)

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until what was kept is written, at most for this time."""
        with self._empty:
            self._empty.wait_for(lambda: self._thread is None, timeout_s)

    def _taken(self, data: bytes) -> int:
        """How many bytes the stream took."""
        assert self._number is not None
        written = 0
        while written < len(data) and _has_room(self._number, 0):
            try:
                written += os.write(self._number, data[written : written + _AT_ONCE])
            except BlockingIOError:
                break
        return written

    def _keep(self, data: bytes) -> None:
        if self._size + len(data) > self._most:
            self._lost += 1
            return
        self._kept.append(data)
        self._size += len(data)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_kept, name="penstock-log", daemon=True)
            self._thread.start()

    def _write_kept(self) -> None:
        assert self._number is not None
        while True:
            _has_room(self._number, _LOOK_S)
            with self._empty:
                try:
                    self._write_some()
                except OSError:  # nobody will ever read them
                    self._kept.clear()
                    self._size = self._lost = 0
                if not self._kept:
                    self._thread = None
                    self._empty.notify_all()
                    return

    def _write_some(self) -> None:
        while self._kept:
            line = self._kept.popleft()
            taken = self._taken(line)
            self._size -= taken
            if taken < len(line):
                self._kept.appendleft(line[taken:])
                return
            if not self._kept and self._lost:
                lost, self._lost = self._lost, 0
                self._kept.append(f"penstock: {lost} log lines were lost, since nobody read them\n".encode())
                self._size += len(self._kept[0])


def own_descriptor(stream: TextIO | int) -> int | None:
    """A descriptor for what a stream writes to that does not wait for a reader, where it could wait; else None.

    A pipe or terminal is opened again, for its flags are shared with every process that has it. Where that is not
    allowed, it is the descriptor of the stream: to be asked for room before each write.
    """
    try:
        number = stream if isinstance(stream, int) else stream.fileno()
        mode = os.fstat(number).st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISSOCK(mode):
        return number
    if not stat.S_ISFIFO(mode) and not os.isatty(number):
        return None
    try:
        return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return number


def _has_room(number: int, within_s: float) -> bool:
    """Whether a write of `_AT_ONCE` bytes would return at once, or fail."""
    asked = select.poll()
    asked.register(number, select.POLLOUT)
    return bool(asked.poll(within_s * 1000))
