"""The files of a prediction log: segments of lines, each written by one process, later compressed.

`predictions.PID.START.jsonl.open` is being written, under a lock that ends with its process; `….jsonl` is complete, and
`….jsonl.zst` compressed. A crash leaves at most an unfinished last line in an open segment, or a file `….new`, which
every reader ignores.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from penstock.libraries import zstd

OPEN, PLAIN, PACKED, NEW = ".jsonl.open", ".jsonl", ".jsonl.zst", ".new"
_NAME = re.compile(r"predictions\.(\d+)\.(\d+)\.jsonl(\.open|\.zst)?")
_CHUNK = 1 << 20
_LEVEL = 3
"""Of zstd: its files are smaller than those of gzip, at less than its time."""
DAY_S = 86400.0


# Locks


@contextlib.contextmanager
def locked(file: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a file, which is created; False if another process kept it for longer than `wait_s`."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + wait_s
        while not (taken := _lock(descriptor)) and time.monotonic() < until:
            time.sleep(0.02)
        yield taken
    finally:
        os.close(descriptor)


def changing(directory: Path, wait_s: float = 0.0) -> contextlib.AbstractContextManager[bool]:
    """The lock for those that compress, rewrite or remove complete segments."""
    return locked(directory / ".changing", wait_s)


def _opening(directory: Path) -> contextlib.AbstractContextManager[bool]:
    """The lock for those that create an open segment, or look for one without an owner."""
    return locked(directory / ".opening", 10.0)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


# Writing


class OpenSegment:
    """The segment that this process writes. Raises OSError; the file then ends where it did before."""

    def __init__(self, directory: Path) -> None:
        self.began = time.time()
        self.size = 0
        with _opening(directory):
            self.path = _free(directory)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            _lock(self._file)

    def append(self, lines: bytes) -> None:
        """Write whole lines, or nothing of them."""
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self.size)
            os.lseek(self._file, self.size, os.SEEK_SET)
            raise
        self.size += len(lines)

    def sync(self) -> None:
        """Have the disk keep what was written."""
        os.fsync(self._file)

    def close(self) -> Path | None:
        """Complete it; its path, None if it is empty."""
        try:
            with contextlib.suppress(OSError):  # what cannot be kept is lost only if the machine fails as well
                self.sync()
            return _complete(self.path)
        finally:
            os.close(self._file)


def _free(directory: Path) -> Path:
    start = time.time_ns() // 1_000_000
    while True:
        path = directory / f"predictions.{os.getpid()}.{start}{OPEN}"
        if not any(path.with_name(path.name.removesuffix(OPEN) + kind).exists() for kind in (OPEN, PLAIN, PACKED)):
            return path
        start += 1


def _complete(path: Path) -> Path | None:
    """Give an open segment the name of a complete one; an empty one is removed."""
    if not path.stat().st_size:
        path.unlink()
        return None
    complete = path.with_name(path.name.removesuffix(".open"))
    path.rename(complete)
    return complete


def recover(directory: Path) -> int:
    """Complete the segments of processes that have ended without doing so: the number of them."""
    found = 0
    with _opening(directory):
        for path in directory.glob(f"predictions.*{OPEN}"):
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                if _lock(file.fileno()) and path.exists():
                    file.truncate(_last_line_end(file))
                    _complete(path)
                    found += 1
    return found


def _last_line_end(file: Any) -> int:
    """Where the last complete line ends."""
    at: int = file.seek(0, os.SEEK_END)
    while at:
        low = max(0, at - _CHUNK)
        file.seek(low)
        found: int = file.read(at - low).rfind(b"\n")
        if found >= 0:
            return low + found + 1
        at = low
    return 0


# Complete segments


def compress(path: Path) -> Path:
    """Replace a complete segment by its compressed form. Hold `changing`."""
    packed = path.with_name(f"{path.name}.zst")
    with path.open("rb") as source:
        pieces = iter(lambda: source.read(_CHUNK), b"")
        replace(packed, pieces, path)
    path.unlink()
    return packed


def replace(target: Path, pieces: Iterable[bytes], dated_as: Path) -> None:
    """Write a segment beside its place and rename it: at any moment there is the old or the new one."""
    new = target.with_name(f"{target.name}{NEW}")
    dated = dated_as.stat()
    try:
        with new.open("wb") as file:
            _write(file, pieces, packed=target.name.endswith(PACKED))
            file.flush()
            os.fsync(file.fileno())
        os.utime(new, ns=(dated.st_atime_ns, dated.st_mtime_ns))  # which says when its last line was written
        new.rename(target)
        sync_directory(target.parent)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _write(file: Any, pieces: Iterable[bytes], *, packed: bool) -> None:
    if not packed:
        file.writelines(pieces)
        return
    compressor = zstd().ZstdCompressor(_LEVEL)
    for piece in pieces:
        file.write(compressor.compress(piece))
    file.write(compressor.flush())


def sync_directory(directory: Path) -> None:
    """Have the disk keep the names in a directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def segments(directory: Path, *, opened: bool = True) -> list[Path]:
    """The segments, oldest first; of one that is there twice, after a crash, the compressed form."""
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(directory.glob("predictions.*"), key=lambda path: path.name.endswith(PACKED)):
        match = _NAME.fullmatch(path.name)
        if match is not None and (opened or match[3] != ".open"):
            found[int(match[2]), int(match[1])] = path
    return [found[key] for key in sorted(found)]


def clean(directory: Path) -> None:
    """Remove what a crash has left of compressing and rewriting. Hold `changing`."""
    for path in directory.glob(f"predictions.*{NEW}"):
        path.unlink(missing_ok=True)
    for path in directory.glob(f"predictions.*{PLAIN}"):
        if path.with_name(f"{path.name}.zst").exists():
            path.unlink(missing_ok=True)


def prune(directory: Path, most_bytes: int, most_days: float, now: float) -> int:
    """Remove complete segments that are too old, and the oldest of those that are too many bytes: how many.

    Hold `changing`. Open segments count, and stay.
    """
    sizes = {path: path.stat() for path in segments(directory)}
    total = sum(each.st_size for each in sizes.values())
    removed = 0
    for path, each in sizes.items():
        if path.name.endswith(OPEN):
            continue
        if total > most_bytes or now - each.st_mtime > most_days * DAY_S:
            path.unlink(missing_ok=True)
            total -= each.st_size
            removed += 1
    return removed


def bytes_of(directory: Path) -> int:
    """What all segments take."""
    total = 0
    for path in segments(directory):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
