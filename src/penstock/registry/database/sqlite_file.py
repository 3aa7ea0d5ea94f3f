"""Connections to a SQLite file, without SQLAlchemy."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

BUSY_TIMEOUT_S = 10.0


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that creates no database and, on a read-only medium, no file at all."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return _connect(path, "mode=rw")
    connection = _connect(path, "mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
    except sqlite3.OperationalError:
        connection.close()
        if _has_content(path.with_name(f"{path.name}-wal")):
            raise  # it has changes that could not be read
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
