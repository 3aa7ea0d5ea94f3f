"""Reads a file through a memory map, so that only the parts that are looked at are loaded."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock.errors import IntegrityError


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The content of a regular file; raises IntegrityError for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise IntegrityError(f"{path}: the file cannot be read ({error.strerror})") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path}: this is not a regular file")
        content = mmap.mmap(fd, 0, access=mmap.ACCESS_READ) if status.st_size else b""
    finally:
        os.close(fd)
    view = memoryview(content)
    try:
        yield view
    finally:
        with suppress(BufferError):  # an error holds a part of it: the map ends with that
            view.release()
            if isinstance(content, mmap.mmap):
                content.close()
