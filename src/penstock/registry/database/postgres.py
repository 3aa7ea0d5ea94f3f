"""PostgreSQL: one database for the servers and the publishers of several hosts."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from penstock.errors import ConfigError, first_line
from penstock.registry.database.base import Database, shown

CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 10
POOL_SIZE = 2
MORE_CONNECTIONS = 4
"""The number that may be opened in addition for a short time; further threads wait as long as for a lock."""

_PUBLISHING, _WRITING = 0x70656E73_746F6301, 0x70656E73_746F6302
"""Keys of advisory locks, chosen to be unlikely: other programs may use the same database."""

_AWAY = "start it, or check host and port in the database_url"
_GRANT = "let its user read, write and create tables there: GRANT USAGE, CREATE ON SCHEMA public TO its user"
_CREDENTIALS = "check user and password in the database_url"
_CROWDED = "raise its max_connections, or run fewer servers"


class PostgreSQL(Database):
    """A database on a server, always through psycopg; a driver in the address is ignored.

    It works behind a pooler that assigns connections per transaction: no state here outlives a transaction.
    """

    hints: ClassVar[Mapping[str, str]] = {
        "No space left on device": "free space on the disk of the database server",
        "password authentication failed": _CREDENTIALS,
        "no password supplied": _CREDENTIALS,
        "role ": _CREDENTIALS,
        "pg_hba.conf": "allow this host and user in its pg_hba.conf",
        "database ": "create it with createdb, or correct the database_url",
        "permission denied": _GRANT,
        "no schema has been selected": _GRANT,
        "relation ": "restore its tables from a backup, or name the right database",
        "read-only transaction": "it is a standby or set read-only; name the primary in the database_url",
        "lock timeout": "another process holds the lock; try again later",
        "QueuePool limit": "try again; every connection of this process is in use",
        "too many clients": _CROWDED,
        "connection slots": _CROWDED,
        "resolve host": "check the host in the database_url",
        "invalid connection option": "remove that option from the database_url",
        "SSL": "check sslmode in the database_url",
        "starting up": "try again in a moment",
        "shutting down": _AWAY,
        "administrator command": _AWAY,
        "connection": _AWAY,
    }

    def __init__(self, url: URL, owner: str = "") -> None:
        super().__init__(shown(url.set(drivername="postgresql")))
        self._engine = _engine(url.set(drivername="postgresql+psycopg"), self.where)
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        event.listen(self._engine, "connect", partial(_keep, self._connections))
        # One statement reads one snapshot; a transaction would only add two round trips
        self.reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self.writer = self._locking(_key(_WRITING, owner))
        self._publisher = self._locking(_key(_PUBLISHING, owner))
        _OPEN.add(self)
        weakref.finalize(self, self._engine.dispose)  # closes the connections of an object that was not closed

    def exists(self) -> bool:
        """True: only a connection can find out."""
        return True

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the publishers' lock, which is separate from the writers' lock."""
        with self._publisher.begin():
            yield

    def after_fork(self) -> None:
        """Leave the connections to the parent process, which continues to use them.

        Closing a connection sends a termination message, which would end the parent's session; so the descriptor is
        redirected to the null device first.
        """
        with Path(os.devnull).open("r+b") as null:
            for connection in [each for each in self._connections if not each.closed]:
                os.dup2(null.fileno(), connection.fileno(), inheritable=False)
                connection.close()
        self._engine.dispose(close=False)

    def _locking(self, key: int) -> Engine:
        """Connections whose transactions exclude each other by an advisory lock, freed with the transaction.

        With a stricter isolation level, the first statement would take the snapshot before it has the lock.
        """
        engine = self._engine.execution_options(isolation_level="READ COMMITTED")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S * 1000:.0f}ms'")
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})

        return engine


def _key(base: int, owner: str) -> int:
    """The key of an advisory lock, 63 bits, one per owner of tables."""
    digest = hashlib.blake2b(owner.encode(), digest_size=8).digest()
    return base ^ (int.from_bytes(digest) >> 1) if owner else base


def _keep(connections: weakref.WeakSet[Any], connection: Any, _: object) -> None:
    connections.add(connection)


_OPEN: weakref.WeakSet[PostgreSQL] = weakref.WeakSet()


def _leave_connections() -> None:
    for database in list(_OPEN):
        database.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_connections)


def _engine(url: URL, where: str) -> Engine:
    try:
        return create_engine(
            url,
            pool_size=POOL_SIZE,
            max_overflow=MORE_CONNECTIONS,
            pool_timeout=LOCK_TIMEOUT_S,
            pool_pre_ping=True,
            pool_recycle=1800,
            connect_args=_connection_options(url.query),
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"database_url: {where} needs the driver {error.name}; pip install 'penstock[postgres]'"
        ) from None
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigError(f"database_url: {where} cannot be used: {first_line(error)}") from None


def _connection_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Detect an unreachable server within seconds; options in the address take precedence."""
    options = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "application_name": "penstock",
    }
    # A prepared statement belongs to a connection, and a pooler may assign another one
    return {name: value for name, value in options.items() if name not in given} | {"prepare_threshold": None}
