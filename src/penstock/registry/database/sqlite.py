"""SQLite: a file that several processes share and that can be read without write access."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from penstock.errors import ConfigError
from penstock.registry.database.base import Database

BUSY_TIMEOUT_S = 10.0
_RESTORE = "restore it, or move it away: {loss}"


class SQLite(Database):
    """A file. Nothing is created before the first write."""

    hints: ClassVar[Mapping[str, str]] = {
        "not a database": _RESTORE,
        "malformed": _RESTORE,
        "readonly": "give this user write access to it and to its directory",
        "disk is full": "free space on its disk",
        "unable to open": "create its directory and give this user write access to it",
        "locked": "another process holds the lock; try again later",
    }

    def __init__(self, url: URL, owner: str = "") -> None:  # noqa: ARG002  files are locked one by one
        if url.database in (None, "", ":memory:"):
            raise ConfigError("database_url: a database in memory cannot be shared; write sqlite:///path/to/file.db")
        self._file = Path(url.database or "").absolute()
        super().__init__(str(self._file))
        self.reader = _engine(partial(open_for_reading, self._file), "BEGIN")
        self.writer = _engine(partial(open_for_writing, self._file), "BEGIN IMMEDIATE")

    def exists(self) -> bool:
        """False until the file exists."""
        return self._file.exists()


def _engine(connect: Callable[[], sqlite3.Connection], begin: str) -> Engine:
    # No pool: a connection is cheap, is never left open, and none survives a fork
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


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


def open_for_writing(path: Path) -> sqlite3.Connection:
    """A connection that creates a missing file, in WAL mode: readers and the writer do not block each other."""
    connection = _connect(path, "mode=rwc")
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
