"""Caches the optimized graphs of large ONNX models between starts, so that a graph is optimized once per machine.

An optimized graph is specific to one CPU and one ONNX Runtime: both are part of its key. A file that is missing,
damaged or not writable costs only the time to optimize again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import uuid4

from penstock.backends.cache_dir import private_directory
from penstock.backends.devices import cpu_flags
from penstock.errors import PenstockError
from penstock.scan.findings import Refused
from penstock.scan.memory_map import mapped
from penstock.scan.onnx import external_files

SMALLEST, LARGEST = 10 << 20, 1 << 30
"""Bytes of the models to cache: smaller ones load in a few milliseconds, larger ones do not fit into one ONNX file."""
_MAX_BYTES = 8 << 30
_TEMPORARY = ".tmp"

T = TypeVar("T")


class OptimizedForm(NamedTuple):
    """The location of the optimized form of one model."""

    directory: Path
    key: str

    def find(self) -> Path | None:
        """The file, if it is complete: its size is part of its name."""
        for path in self.directory.glob(f"{self.key}-*.onnx"):
            if path.stem.rpartition("-")[2] == str(path.stat().st_size):
                with suppress(OSError):
                    os.utime(path)  # the time of last use
                return path
            path.unlink(missing_ok=True)
        return None

    def forget(self) -> None:
        """Remove the file."""
        for path in self.directory.glob(f"{self.key}-*"):
            with suppress(OSError):
                path.unlink()

    def keep(self, write: Callable[[Path], T]) -> T:
        """The result of `write`, which writes the form to the path it is given; the file appears only when complete."""
        temporary = self.directory / f"{self.key}-{uuid4().hex}{_TEMPORARY}"
        try:
            result = write(temporary)
            with suppress(OSError):
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(self.directory / f"{self.key}-{temporary.stat().st_size}.onnx")
                _make_room(self.directory)
            return result
        finally:
            temporary.unlink(missing_ok=True)


def optimized_form(model: Path, cache_dir: Path | None, facts: Iterable[object]) -> OptimizedForm | None:
    """The optimized form of `model` for these `facts`; None when caching does not pay or would not be safe.

    The file is identified by its path, size and time of change, and so are its external data files: computing a digest
    takes longer than optimizing.
    """
    if cache_dir is None:
        return None
    try:
        status = model.stat()
        directory = private_directory(cache_dir / "onnx") if SMALLEST <= status.st_size <= LARGEST else None
        if directory is None:
            return None
        files = (_identity(model), *_external_files(model))
    except (OSError, PenstockError, Refused):
        return None
    same = (os.fspath(model.resolve()), *files, *facts, sorted(cpu_flags()))
    return OptimizedForm(directory, hashlib.sha256(repr(same).encode()).hexdigest()[:32])


def _external_files(model: Path) -> list[tuple[str, int, int, int]]:
    """The external data files: constants computed from them are part of the optimized form."""
    with mapped(model) as data:
        names = external_files(data)
    return [(name, *_identity(model.parent / name)) for name in sorted(names)]


def _identity(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _make_room(directory: Path) -> None:
    """Remove the least recently used forms until the rest fits into the limit."""
    found = sorted(((path.stat(), path) for path in directory.glob("*.onnx")), key=lambda item: -item[0].st_mtime)
    total = 0
    for status, path in found:
        total += status.st_size
        if total > _MAX_BYTES:
            path.unlink(missing_ok=True)
