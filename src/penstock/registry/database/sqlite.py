"""SQLite: a file that several processes share and that can be read without write access."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from penstock.errors import ConfigError, DatabaseUnavailable
from penstock.registry.database.base import Database
from penstock.registry.database.sqlite_file import gone, open_for_reading, open_for_writing, problem_of_disk

_OF_DISKS = ("disk", "readonly", "unable to open")
"""Words in messages of SQLite that may be about the disk."""
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
        self.writer = _engine(self._open_for_writing, "BEGIN IMMEDIATE")

    def exists(self) -> bool:
        """False until the file exists. Raises DatabaseUnavailable for one that does not go away, and is gone."""
        found = self._file.exists()
        self.known = self.known or found
        if self.lasting and self.known and not found:
            raise DatabaseUnavailable(gone(self._file))
        return found

    def disk(self, error: BaseException) -> str | None:
        """What is wrong with the disk, which the driver does not say."""
        if isinstance(error, sqlite3.OperationalError) and any(words in str(error) for words in _OF_DISKS):
            return problem_of_disk(self._file)
        return super().disk(error)

    def _open_for_writing(self) -> sqlite3.Connection:
        """An empty database in place of one that is gone would look as if everything had been removed."""
        found = self.exists()
        connection = open_for_writing(self._file, create=not (self.lasting and found))
        self.known = True
        return connection


def _engine(connect: Callable[[], sqlite3.Connection], begin: str) -> Engine:
    # No pool: a connection is cheap, is never left open, and none survives a fork
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
