"""Keeps the optimized forms of large ONNX models between starts, so that a graph is optimized once per machine.

An optimized graph is made for one CPU and one ONNX Runtime: both are in its name. It is never anything but a copy: one
that is missing, damaged or not writable costs only the time to make it again.
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
from penstock.scan.onnx import external_files
from penstock.scan.scanner import mapped

SMALLEST, LARGEST = 10 << 20, 1 << 30
"""Bytes of the models worth it: smaller ones load in a few milliseconds, larger ones do not fit into one ONNX file."""
_MOST_BYTES = 8 << 30
_ASIDE = ".tmp"

T = TypeVar("T")


class OptimizedForm(NamedTuple):
    """Where the optimized form of one model is, or will be, kept."""

    directory: Path
    key: str

    def find(self) -> Path | None:
        """The file, if it is there in full: its size is in its name."""
        for path in self.directory.glob(f"{self.key}-*.onnx"):
            if path.stem.rpartition("-")[2] == str(path.stat().st_size):
                with suppress(OSError):
                    os.utime(path)  # used last
                return path
            path.unlink(missing_ok=True)
        return None

    def forget(self) -> None:
        """Take the file away: it was no use."""
        for path in self.directory.glob(f"{self.key}-*"):
            with suppress(OSError):
                path.unlink()

    def keep(self, write: Callable[[Path], T]) -> T:
        """What `write` gives, which writes the form into the file it is handed; half a file is never found."""
        aside = self.directory / f"{self.key}-{uuid4().hex}{_ASIDE}"
        try:
            result = write(aside)
            with suppress(OSError):
                with aside.open("rb+") as file:
                    os.fsync(file.fileno())
                aside.replace(self.directory / f"{self.key}-{aside.stat().st_size}.onnx")
                _make_room(self.directory)
            return result
        finally:
            aside.unlink(missing_ok=True)


def optimized_form(model: Path, cache_dir: Path | None, facts: Iterable[object]) -> OptimizedForm | None:
    """The form of `model` under what else it depends on; None where keeping one does not pay or would not be safe.

    The file is known by its place, size and time of change, as are those beside it that hold numbers of the model: a
    digest takes longer than optimizing saves.
    """
    if cache_dir is None:
        return None
    try:
        status = model.stat()
        directory = private_directory(cache_dir / "onnx") if SMALLEST <= status.st_size <= LARGEST else None
        if directory is None:
            return None
        files = (_identity(model), *_beside(model))
    except (OSError, PenstockError, Refused):
        return None
    same = (os.fspath(model.resolve()), *files, *facts, sorted(cpu_flags()))
    return OptimizedForm(directory, hashlib.sha256(repr(same).encode()).hexdigest()[:32])


def _beside(model: Path) -> list[tuple[str, int, int, int]]:
    """The files of external data: what is computed from constants in them is in the optimized form."""
    with mapped(model) as data:
        names = external_files(data)
    return [(name, *_identity(model.parent / name)) for name in sorted(names)]


def _identity(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _make_room(directory: Path) -> None:
    """Remove the forms that were used longest ago until the rest takes no more than is allowed."""
    found = sorted(((path.stat(), path) for path in directory.glob("*.onnx")), key=lambda item: -item[0].st_mtime)
    total = 0
    for status, path in found:
        total += status.st_size
        if total > _MOST_BYTES:
            path.unlink(missing_ok=True)
