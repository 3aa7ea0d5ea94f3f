"""SQLite: a file that can be read without a need to write, and that processes can share."""

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
        "disk is full": "make room on its disk",
        "unable to open": "make its directory and give this user write access to it",
        "locked": "another process holds it; try again when that one is done",
    }

    def __init__(self, url: URL, owner: str = "") -> None:  # noqa: ARG002  files are locked one by one
        if url.database in (None, "", ":memory:"):
            raise ConfigError("database_url: a database in memory cannot be shared; write sqlite:///path/to/file.db")
        self._file = Path(url.database or "").absolute()
        super().__init__(str(self._file))
        self.reader = _engine(partial(open_for_reading, self._file), "BEGIN")
        self.writer = _engine(partial(open_for_writing, self._file), "BEGIN IMMEDIATE")

    def exists(self) -> bool:
        """False until the file is there."""
        return self._file.exists()


def _engine(connect: Callable[[], sqlite3.Connection], begin: str) -> Engine:
    # No pool: a connection costs little, cannot be left open, and none crosses a fork
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


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
