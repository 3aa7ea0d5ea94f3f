"""The staging area of a registry: the lock of its writers, and directories that a crash leaves for the next sweep."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from penstock.artifacts import files
from penstock.errors import ConfigError, disk_problem
from penstock.registry.locking import is_locked, locked

STAGING = ".staging"
_LOCK = ".lock"


class Staging:
    """The `.staging` directory of a registry, on the same file system as its models.

    A slot is a directory with a lock file next to it that its writer holds. If the lock is free, the writer has died,
    on any host or in any container.
    """

    def __init__(self, registry: Path) -> None:
        self._registry = registry
        self._root = registry / STAGING

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Exclude every other writer of the registry. Held briefly: nothing is copied or deleted meanwhile."""
        self._root.mkdir(parents=True, exist_ok=True)
        with locked(self._registry / _LOCK):
            yield

    @contextmanager
    def sentences(self) -> Iterator[None]:
        """Convert an OSError of a writer into a ConfigError of one sentence."""
        try:
            yield
        except OSError as error:
            registry = f"the registry {self._registry}"
            raise ConfigError(
                disk_problem(error, registry)
                or f"{registry} cannot be written ({error.strerror or error}); "
                "give this user write access to it or choose another"
            ) from None

    @contextmanager
    def slot(self) -> Iterator[Path]:
        """A new empty directory to fill and rename; what remains of it at the end is removed."""
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
        """An unused path. A directory that is renamed to it counts as a leftover until the caller discards it."""
        return self._root / secrets.token_hex(8)

    def put_file(self, path: Path, data: bytes) -> None:
        """Write a file in the registry, in place of any other there, completely or not at all."""
        with self.slot() as slot:
            files.replace_file(path, data, slot)

    def leftovers(self) -> list[Path]:
        """The slots and trash of writers that have died."""
        if not self._root.is_dir():
            return []
        paths = (path for path in self._root.iterdir() if path.suffix != _LOCK)
        return sorted(path for path in paths if not is_locked(path.with_suffix(_LOCK)))

    def sweep(self) -> list[Path]:
        """Remove the leftovers and list them. The caller holds `exclusive`."""
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
