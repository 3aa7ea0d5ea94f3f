"""Opening SQLite files: for reading without a need to write, and for writing so that processes can share them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

BUSY_TIMEOUT_S = 10.0


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that creates no database, and on a read-only medium no file at all."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return _connect(path, "mode=rw")
    connection = _connect(path, "mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except sqlite3.OperationalError:
        connection.close()
        if _has_content(path.with_name(f"{path.name}-wal")):
            raise  # changes wait in there that could not be seen
        # A database in WAL mode needs its -shm file, which cannot be made here; nobody can write here either.
        return _connect(path, "mode=ro&immutable=1")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_for_writing(path: Path) -> sqlite3.Connection:
    """A connection that creates the file when it is missing, in WAL mode: readers and one writer do not wait."""
    connection = _connect(path, "mode=rwc")
    try:
        # Two processes that switch a new file at once exclude each other; the second finds it done later.
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
    # isolation_level=None: the store begins its transactions itself, so that DDL is part of them
    return sqlite3.connect(
        f"file:{quote(str(path))}?{options}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
