"""Connections to a SQLite file, without SQLAlchemy."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from penstock.errors import disk_problem

BUSY_TIMEOUT_S = 10.0
_NEEDED = 64 * 1024
"""Bytes that a connection needs on the disk before it can do anything."""


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that creates no database and, on a read-only or full disk, no file at all."""
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    connection = _connect(path, "mode=rw" if writable else "mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except sqlite3.OperationalError:
        connection.close()
        if _has_content(path.with_name(f"{path.name}-wal")):
            raise  # it has changes that could not be read
        if writable and problem_of_disk(path) is None:
            raise
        # A database in WAL mode needs its -shm file, which cannot be created here; but then there is no writer either.
        return _connect(path, "mode=ro&immutable=1")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def gone(path: Path) -> str:
    """What is to be said about a registry's database that was there before."""
    what = f"the registry database {path}" if path.parent.is_dir() else f"the registry {path.parent}"
    return f"{what} is gone; the loaded models go on answering"


def problem_of_disk(path: Path) -> str | None:
    """What is wrong with the disk of a database, by writing to it; None if it takes what it is given.

    SQLite says no more than that something has failed. What is written has no name, so nothing of it stays.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
            end = file.seek(path.stat().st_size if path.exists() else 0) + _NEEDED  # as large as files may have to be
            while (left := end - file.tell()) > 0:
                file.write(b"\0" * left)
            os.fsync(file.fileno())
    except OSError as error:
        return disk_problem(error, path)
    return None


def open_for_writing(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """A connection that creates a missing file, in WAL mode: readers and the writer do not block each other."""
    connection = _connect(path, "mode=rwc" if create else "mode=rw")
    try:
        # Of two processes that switch a new file at the same time one fails; its next connection finds it switched.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _connect(path: Path, options: str) -> sqlite3.Connection:
    # isolation_level=None: the store begins its transactions itself, so they include DDL
    return sqlite3.connect(
        f"file:{quote(str(path))}?{options}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
