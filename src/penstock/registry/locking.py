"""Exclusive locks on files, between threads and processes of one machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _acquire(fd: int, wait: bool) -> None:
        msvcrt.locking(fd, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _acquire(fd: int, wait: bool) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created if missing; the system releases it if the process dies.

    Raises OSError if the file cannot be opened, or if another holder has the lock and `wait` is false.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(fd, wait)
        yield
    finally:
        os.close(fd)


def is_locked(path: Path) -> bool:
    """True if another holder has the lock on a file; false if there is no such file."""
    if not path.exists():
        return False
    try:
        with locked(path, wait=False):
            return False
    except OSError:
        return True
