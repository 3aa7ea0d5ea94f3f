"""The registry's mutable state in a database: recorded digests, aliases, and the revision counter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from sqlite3 import Connection as SQLiteConnection
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Insert,
    Select,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from penstock.errors import ConfigError
from penstock.registry import sqlite
from penstock.registry.manifest import utc_now
from penstock.registry.migrations import HEAD, REVISIONS, VERSION_TABLE
from penstock.registry.tables import ALIASES, ARTIFACTS, METADATA, REVISION, SCHEMA

if TYPE_CHECKING:
    from alembic.config import Config

_HINTS = {
    "not a database": "restore it, or move it away: the models stay, their aliases are lost",
    "malformed": "restore it, or move it away: the models stay, their aliases are lost",
    "readonly": "give this user write access to it and to its directory",
    "unable to open": "make its directory and give this user write access to it",
    "locked": "another process holds it; try again when that one is done",
}


class Store:
    """One database. Nothing is created before the first write; a missing database reads as an empty one.

    Threads may share a Store. Every method raises ConfigError, in one sentence, when the database cannot be
    used: unwritable, damaged, unreachable, or written by a newer Penstock.
    """

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        self._file = _sqlite_file(self._url)
        self._where = str(self._file) if self._file else self._url.render_as_string(hide_password=True)
        self._reader, self._writer = self._engines()
        self._readable = False

    def close(self) -> None:
        """Close every connection. Safe to call twice."""
        self._reader.dispose()
        self._writer.dispose()

    def digest(self, name: str, version: str) -> str | None:
        """The recorded digest of a version."""
        with self._reading() as connection:
            found: str | None = connection.execute(_digest_query(name, version)).scalar() if connection else None
        return found

    def digests(self) -> dict[tuple[str, str], str]:
        """Every recorded digest, by name and version."""
        query = select(ARTIFACTS.c.name, ARTIFACTS.c.version, ARTIFACTS.c.digest)
        with self._reading() as connection:
            rows = connection.execute(query).all() if connection else []
        return {(name, version): digest for name, version, digest in rows}

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias, in the order of the aliases."""
        query = select(ALIASES.c.alias, ALIASES.c.version).where(ALIASES.c.name == name).order_by(ALIASES.c.alias)
        with self._reading() as connection:
            rows = connection.execute(query).all() if connection else []
        return {row.alias: row.version for row in rows}

    def revision(self) -> int:
        """Counts the changes made through this database."""
        with self._reading() as connection:
            value = connection.execute(select(REVISION.c.value)).scalar() if connection else None
        return value or 0

    def record(self, name: str, version: str, digest: str) -> None:
        """Note a version's digest, in place of one that an interrupted publish or a removal by hand left."""
        with self._writing() as connection:
            _forget(connection, name, version)
            connection.execute(_recorded(name, version, digest))
            _count(connection)

    def adopt(self, name: str, version: str, digest: str) -> str:
        """Note a version's digest unless there is one; returns the one that counts."""
        with self._writing() as connection:
            found: str | None = connection.execute(_digest_query(name, version)).scalar()
            if found is None:
                connection.execute(_recorded(name, version, digest))
                _count(connection)
        return found or digest

    def forget(self, name: str, version: str) -> None:
        """Drop a version's digest."""
        with self._writing() as connection:
            _forget(connection, name, version)
            _count(connection)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        with self._writing() as connection:
            _drop_alias(connection, name, alias)
            row = {"name": name, "alias": alias, "version": version, "updated_at": utc_now()}
            connection.execute(insert(ALIASES).values(row))
            _count(connection)

    def remove_alias(self, name: str, alias: str) -> bool:
        """Drop an alias; False when there is none."""
        with self._writing() as connection:
            removed = _drop_alias(connection, name, alias)
            if removed:
                _count(connection)
        return removed

    def prepare(self) -> None:
        """Create the tables, or bring them up to date, when they are not."""
        with self._writing():
            pass

    def _engines(self) -> tuple[Engine, Engine]:
        if self._file is None:
            try:
                engine = create_engine(self._url, pool_pre_ping=True)
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"database_url: {self._where} needs the driver {error.name}; pip install 'penstock[postgres]'"
                ) from None
            except (SQLAlchemyError, ImportError) as error:
                raise ConfigError(f"database_url: {self._where} cannot be used: {_first_line(error)}") from None
            return engine, engine
        return (
            _sqlite_engine(partial(sqlite.open_for_reading, self._file), "BEGIN"),
            _sqlite_engine(partial(sqlite.open_for_writing, self._file), "BEGIN IMMEDIATE"),
        )

    @contextmanager
    def _reading(self) -> Iterator[Connection | None]:
        """A connection in a transaction, None when there is nothing to read yet."""
        with self._sentences():
            if not self._has_tables():
                yield None
                return
            with self._reader.begin() as connection:
                yield connection

    def _has_tables(self) -> bool:
        if self._file is not None and not self._file.exists():
            return False
        if not self._readable:
            with self._reader.begin() as connection:
                found = self._schema(connection)
            if found not in (None, HEAD):
                self.prepare()
            self._readable = found is not None
        return self._readable

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A connection in a transaction that excludes other writers, on tables that are up to date."""
        with self._sentences(), self._writer.begin() as connection:
            found = self._schema(connection)
            if found is None:
                METADATA.create_all(connection)
                SCHEMA.create(connection)
                connection.execute(insert(SCHEMA).values(version_num=HEAD))
            elif found != HEAD:
                upgrade(connection)
            yield connection

    def _schema(self, connection: Connection) -> str | None:
        """The revision of the tables: None without any, empty when a downgrade removed them all."""
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.execute(select(SCHEMA.c.version_num)).scalar() or ""
        if found and found not in REVISIONS:
            raise ConfigError(
                f"the registry database {self._where} was written by a newer Penstock (its schema is {found}); "
                "upgrade Penstock or choose another database"
            )
        return found

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            reason = _first_line(error.orig if isinstance(error, DBAPIError) and error.orig else error)
            hint = next((hint for words, hint in _HINTS.items() if words in reason), "check the database_url")
            raise ConfigError(f"the registry database {self._where} cannot be used ({reason}); {hint}") from None


def upgrade(connection: Connection, target: str = "head") -> None:
    """Bring older tables up to a revision, inside the connection's own transaction."""
    from alembic import command

    command.upgrade(_alembic(connection), target)


def downgrade(connection: Connection, target: str) -> None:
    """Take the tables back to a revision (`base`: to none), inside the connection's own transaction."""
    from alembic import command

    command.downgrade(_alembic(connection), target)


def _alembic(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("database_url: write sqlite:///path/to/file.db or postgresql://user@host/name") from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError("database_url: a database in memory cannot be shared; write sqlite:///path/to/file.db")
    return parsed


def _sqlite_file(url: URL) -> Path | None:
    return Path(url.database or "").absolute() if url.get_backend_name() == "sqlite" else None


def _sqlite_engine(connect: Callable[[], SQLiteConnection], begin: str) -> Engine:
    # No pool: a connection costs little, cannot be left open, and none crosses a fork
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _digest_query(name: str, version: str) -> Select[Any]:
    return select(ARTIFACTS.c.digest).where(ARTIFACTS.c.name == name, ARTIFACTS.c.version == version)


def _recorded(name: str, version: str, digest: str) -> Insert:
    return insert(ARTIFACTS).values(name=name, version=version, digest=digest, recorded_at=utc_now())


def _forget(connection: Connection, name: str, version: str) -> None:
    connection.execute(delete(ARTIFACTS).where(ARTIFACTS.c.name == name, ARTIFACTS.c.version == version))


def _drop_alias(connection: Connection, name: str, alias: str) -> bool:
    found = connection.execute(delete(ALIASES).where(ALIASES.c.name == name, ALIASES.c.alias == alias))
    return found.rowcount > 0


def _count(connection: Connection) -> None:
    if not connection.execute(update(REVISION).values(value=REVISION.c.value + 1)).rowcount:
        connection.execute(insert(REVISION).values(id=1, value=1))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
