"""Writing aside: one lock for a registry's writers, and directories that a crash cannot leave behind for long."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from penstock.artifacts import files

STAGING = ".staging"
_LOCK = ".lock"

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
    """Hold an exclusive lock on a file, made if missing; the system frees it when the process dies.

    Raises OSError when the file cannot be opened, or is held by another and `wait` is false.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(fd, wait)
        yield
    finally:
        os.close(fd)


class Staging:
    """The `.staging` directory of a registry, on the same file system as its models.

    A slot is a directory with a lock file beside it that its writer holds. A slot whose lock is free
    belongs to nobody alive, whichever host or container its writer ran in.
    """

    def __init__(self, registry: Path) -> None:
        self._registry = registry
        self._root = registry / STAGING

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other writer of the registry out. Short: nothing is copied or deleted meanwhile."""
        self._root.mkdir(parents=True, exist_ok=True)
        with locked(self._registry / _LOCK):
            yield

    @contextmanager
    def slot(self) -> Iterator[Path]:
        """A new empty directory to fill; what is left of it at the end is removed."""
        slot = self._root / secrets.token_hex(8)
        lock = slot.with_suffix(_LOCK)
        with ExitStack() as held:
            with self.exclusive():
                self._sweep()
                held.callback(lock.unlink, missing_ok=True)
                held.enter_context(locked(lock))
                slot.mkdir()
            held.callback(files.discard, slot)
            yield slot

    def trash(self) -> Path:
        """A free place to rename something to that is then discarded."""
        return self._root / secrets.token_hex(8)

    def leftovers(self) -> list[Path]:
        """The slots whose writer is gone, and what was to be discarded when its remover died."""
        if not self._root.is_dir():
            return []
        return sorted(path for path in self._root.iterdir() if path.suffix != _LOCK and _is_free(path))

    def sweep(self) -> list[Path]:
        """Remove the leftovers; the caller keeps other writers out."""
        left = self.leftovers()
        self._sweep()
        return left

    def _sweep(self) -> None:
        for lock in self._root.glob("*" + _LOCK):
            with suppress(OSError), locked(lock, wait=False):
                files.discard(lock.with_suffix(""))
                lock.unlink()
        for slot in self._root.iterdir():
            if slot.suffix != _LOCK and not slot.with_suffix(_LOCK).exists():
                files.discard(slot)


def _is_free(slot: Path) -> bool:
    lock = slot.with_suffix(_LOCK)
    if not lock.exists():
        return True
    try:
        with locked(lock, wait=False):
            return True
    except OSError:
        return False
