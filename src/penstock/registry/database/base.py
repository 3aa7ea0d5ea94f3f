"""The interface of the store to a database, and the database of an address."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from penstock.errors import ConfigError, DatabaseUnavailable, disk_problem, first_line
from penstock.libraries import import_attribute

_KINDS = {
    "sqlite": "penstock.registry.database.sqlite:SQLite",
    "postgresql": "penstock.registry.database.postgres:PostgreSQL",
    "postgres": "penstock.registry.database.postgres:PostgreSQL",
}
_FORMS = "write sqlite:///path/to/file.db or postgresql://user@host/name"


class Database(ABC):
    """One database and the connections to it. Threads may share it."""

    hints: ClassVar[Mapping[str, str]]
    """The fix for an error, by words in the driver's message; the first match counts."""

    where: str
    """Its address without passwords, for messages."""

    reader: Engine
    """Connections that read committed data and wait for no lock."""

    writer: Engine
    """Connections whose transactions exclude each other, on any host."""

    what: str = "the registry database"
    loss: str = "the models stay, their aliases are lost"
    """What the database is and what is lost with it, for error messages."""

    lasting: bool = False
    """True for a database that does not go away: once it was there, none is made in its place."""

    known: bool = False
    """True once it was there."""

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    def exists(self) -> bool:
        """False if there is certainly nothing to read."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Exclude the writers of the registry on other hosts, where a lock file does not."""
        return nullcontext()

    def disk(self, error: BaseException) -> str | None:
        """The sentence for an error whose cause is a disk of this machine; None for others."""
        return disk_problem(error, self.where)

    def close(self) -> None:
        """Close every connection. Safe to call twice."""
        self.reader.dispose()
        self.writer.dispose()

    @contextmanager
    def sentences(self, *kinds: type[Exception]) -> Iterator[None]:
        """Convert errors of these kinds, by default those of the driver and the system, into DatabaseUnavailable."""
        caught = kinds or (SQLAlchemyError, OSError)
        try:
            yield
        except caught as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
            problem = self.disk(cause)
            if problem is not None:
                raise DatabaseUnavailable(f"{self.what} cannot be used: {problem}") from None
            reason = first_line(cause, 500)
            hint = next((hint for words, hint in self.hints.items() if words in reason), "check the database_url")
            hint = hint.replace("{loss}", self.loss)
            raise DatabaseUnavailable(f"{self.what} {self.where} cannot be used ({reason}); {hint}") from None


def open_database(address: str, owner: str = "") -> Database:
    """The database of an address, not yet connected. Raises ConfigError for an invalid address.

    `owner` names the package that the tables belong to, "" for the registry; in a shared database the writers of each
    owner have their own lock.
    """
    url = _parsed(address)
    database: Database = import_attribute(_KINDS[url.get_backend_name()])(url, owner)
    return database


def sibling_address(address: str, file: str) -> str:
    """The address of a package's own tables: `file` next to a SQLite file, else the same database."""
    url = _parsed(address)
    if url.get_backend_name() != "sqlite" or not url.database:
        return address
    return url.set(database=str(Path(url.database).parent / file)).render_as_string(hide_password=False)


def _parsed(address: str) -> URL:
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise ConfigError(f"database_url: {_FORMS}") from None
    if url.get_backend_name() not in _KINDS:
        raise ConfigError(f"database_url: {shown(url)} is neither SQLite nor PostgreSQL; {_FORMS}")
    if "@" in (url.host or ""):
        raise ConfigError("database_url: the user or the password holds an @; write it as %40")
    return url


def shown(url: URL) -> str:
    """An address for messages: its passwords are masked, those in its options too."""
    secret = re.compile("password|secret|token", re.IGNORECASE)
    masked = url.update_query_dict({option: "***" for option in url.query if secret.search(option)})
    return masked.render_as_string(hide_password=True)
