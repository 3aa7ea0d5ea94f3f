"""The registry's mutable state in a database: recorded digests, aliases, and the revision counter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Insert, Select, delete, insert, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError

from penstock.artifacts.manifest import utc_now
from penstock.errors import ConfigError
from penstock.registry.database import followed, routes
from penstock.registry.database.base import open_database
from penstock.registry.database.tables import ALIASES, ARTIFACTS, METADATA, REVISION, SCHEMA, TRUST
from penstock.registry.deployment import Change, Deployment
from penstock.registry.migrations import HEAD, REVISIONS, VERSION_TABLE
from penstock.registry.routes import Routes

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")


class Store:
    """One database. Nothing is created before the first write; a missing database reads as an empty one.

    Threads may share a Store. Every method raises ConfigError, in one sentence, if the database cannot be used:
    read-only, damaged, unreachable, or written by a newer Penstock.
    """

    def __init__(self, url: str, *, lasting: bool = False, known: bool = False) -> None:
        """A `lasting` database is one that does not go away: once it was there (`known`: it was already), a missing
        file is an error and is not created anew.
        """
        self._database = open_database(url)
        self._database.lasting, self._database.known = lasting, known
        self._readable = False

    def close(self) -> None:
        """Close every connection. Safe to call twice."""
        self._database.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Exclude the writers of the registry on other hosts. Held briefly: they wait and time out after seconds."""
        with self._database.sentences(SQLAlchemyError), self._database.exclusive():
            yield

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
        """Version by alias, sorted by alias."""
        query = select(ALIASES.c.alias, ALIASES.c.version).where(ALIASES.c.name == name)
        with self._reading() as connection:
            rows = connection.execute(query).all() if connection else []
        return dict(sorted((row.alias, row.version) for row in rows))  # the sort order of databases differs

    def revision(self) -> int:
        """A counter that every change in this database increases."""
        with self._reading() as connection:
            value = connection.execute(select(REVISION.c.value)).scalar() if connection else None
        return value or 0

    def record(self, name: str, version: str, digest: str) -> None:
        """Record a version's digest; replaces the record of an interrupted publish or of a removal by hand."""
        with self._writing() as connection:
            _forget(connection, name, version)
            connection.execute(_recorded(name, version, digest))
            _count(connection)
            routes.log(connection, f"publish {name}:{version}", None, {"digest": digest})

    def adopt(self, name: str, version: str, digest: str) -> str:
        """Record a version's digest unless there is a record; returns the recorded one."""
        with self._writing() as connection:
            found: str | None = connection.execute(_digest_query(name, version)).scalar()
            if found is None:
                connection.execute(_recorded(name, version, digest))
                _count(connection)
        return found or digest

    def forget(self, name: str, version: str) -> None:
        """Delete the record of a version's digest."""
        with self._writing() as connection:
            digest = connection.execute(_digest_query(name, version)).scalar()
            _forget(connection, name, version)
            _count(connection)
            routes.log(connection, f"remove {name}:{version}", {"digest": digest}, None)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        with self._writing() as connection:
            before = _drop_alias(connection, name, alias)
            row = {"name": name, "alias": alias, "version": version, "updated_at": utc_now()}
            connection.execute(insert(ALIASES).values(row))
            _count(connection)
            routes.log(connection, f"set alias {name}@{alias}", before, version)

    def remove_alias(self, name: str, alias: str) -> bool:
        """Remove an alias; False if there is none."""
        with self._writing() as connection:
            before = _drop_alias(connection, name, alias)
            if before is not None:
                _count(connection)
                routes.log(connection, f"remove alias {name}@{alias}", before, None)
        return before is not None

    def trusted(self, digest: str) -> str | None:
        """The tier that a digest is pinned to, None if it is not pinned."""
        with self._reading() as connection:
            query = select(TRUST.c.tier).where(TRUST.c.digest == digest)
            found: str | None = connection.execute(query).scalar() if connection else None
        return found

    def tiers(self) -> dict[str, str]:
        """Every tier that a digest is pinned to, by digest."""
        with self._reading() as connection:
            rows = connection.execute(select(TRUST.c.digest, TRUST.c.tier)).all() if connection else []
        return {row.digest: row.tier for row in rows}

    def trust(self, digest: str, tier: str | None, reason: str) -> None:
        """Pin a digest to a tier, in place of its present one; None removes the pin."""
        with self._writing() as connection:
            connection.execute(delete(TRUST).where(TRUST.c.digest == digest))
            if tier is not None:
                row = {"digest": digest, "tier": tier, "reason": reason, "recorded_at": utc_now()}
                connection.execute(insert(TRUST).values(row))
            _count(connection)
            routes.log(connection, f"trust {digest}", None, {"tier": tier or "data", "reason": reason})

    def deployment(self) -> Deployment:
        """What servers should serve: aliases, and the loads and unloads of operators."""
        with self._reading() as connection:
            return Deployment() if connection is None else followed.read_deployment(connection)

    def change_deployment(self, change: Change) -> Deployment:
        """Change what servers should serve, unless that changes nothing; what it is now."""
        before = self.deployment()
        if change(before) == before:  # also where nothing can be written
            return before
        with self._writing() as connection:
            before = followed.read_deployment(connection)
            after = change(before)
            if after != before:
                followed.write_deployment(connection, after)
                _count(connection)
                routes.log(connection, "change the deployment", before.to_document(), after.to_document())
            return followed.read_deployment(connection)

    def routes(self) -> Routes:
        """Every route."""
        with self._reading() as connection:
            return Routes() if connection is None else routes.read(connection)

    def route_rows(self) -> list[tuple[Any, ...]]:
        """Every route, as `stored_routes` takes them."""
        return self.read(routes.rows, [])

    def routes_revision(self) -> int:
        """A counter that every change of a route increases."""
        with self._reading() as connection:
            return 0 if connection is None else routes.revision(connection)

    def key_rows(self) -> list[tuple[Any, ...]]:
        """Every API key, and the revision of all."""
        return self.read(followed.key_rows, [])

    def keys_revision(self) -> int:
        """A counter that every change of an API key increases."""
        return self.read(followed.keys_revision, 0)

    def read(self, work: Callable[[Connection], T], default: T) -> T:
        """What `work` reads in one transaction; the default where there is nothing to read yet."""
        with self._reading() as connection:
            return default if connection is None else work(connection)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in one transaction that excludes other writers; an error in it changes nothing."""
        with self._writing() as connection:
            return work(connection)

    def prepare(self) -> None:
        """Create or upgrade the tables if needed."""
        with self._writing():
            pass

    @contextmanager
    def _reading(self) -> Iterator[Connection | None]:
        """A connection in a transaction, None if there is nothing to read yet."""
        with self._database.sentences():
            if not self._has_tables():
                yield None
                return
            with self._database.reader.begin() as connection:
                yield connection

    def _has_tables(self) -> bool:
        if not self._database.exists():
            return False
        if not self._readable:
            with self._database.reader.begin() as connection:
                found = self._schema(connection)
            if found not in (None, HEAD):
                with suppress(ConfigError):  # older tables can be read where they cannot be upgraded
                    self.prepare()
            self._readable = found is not None
        return self._readable

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A connection in a transaction that excludes other writers; the tables are upgraded if needed."""
        with self._database.sentences(), self._database.writer.begin() as connection:
            found = self._schema(connection)
            if found is None:
                METADATA.create_all(connection)
                SCHEMA.create(connection)
                connection.execute(insert(SCHEMA).values(version_num=HEAD))
            elif found != HEAD:
                upgrade(connection)
            yield connection

    def _schema(self, connection: Connection) -> str | None:
        """The schema revision of the tables: None without tables, empty if a downgrade removed them all."""
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.execute(select(SCHEMA.c.version_num)).scalar() or ""
        if found and found not in REVISIONS:
            where = self._database.where
            raise ConfigError(
                f"the registry database {where} was written by a newer Penstock (its schema is {found}); "
                "upgrade Penstock or choose another database"
            )
        return found


def upgrade(connection: Connection, target: str = "head") -> None:
    """Upgrade older tables to a revision, inside the connection's own transaction."""
    from alembic import command

    command.upgrade(_alembic(connection), target)


def downgrade(connection: Connection, target: str) -> None:
    """Downgrade the tables to a revision (`base`: remove them), inside the connection's own transaction."""
    from alembic import command

    command.downgrade(_alembic(connection), target)


def _alembic(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, metadata=METADATA)
    return config


def _digest_query(name: str, version: str) -> Select[Any]:
    return select(ARTIFACTS.c.digest).where(ARTIFACTS.c.name == name, ARTIFACTS.c.version == version)


def _recorded(name: str, version: str, digest: str) -> Insert:
    return insert(ARTIFACTS).values(name=name, version=version, digest=digest, recorded_at=utc_now())


def _forget(connection: Connection, name: str, version: str) -> None:
    connection.execute(delete(ARTIFACTS).where(ARTIFACTS.c.name == name, ARTIFACTS.c.version == version))


def _drop_alias(connection: Connection, name: str, alias: str) -> str | None:
    """Drop an alias; the version that it pointed at."""
    this = (ALIASES.c.name == name, ALIASES.c.alias == alias)
    version: str | None = connection.execute(select(ALIASES.c.version).where(*this)).scalar()
    connection.execute(delete(ALIASES).where(*this))
    return version


def _count(connection: Connection) -> None:
    if not connection.execute(update(REVISION).values(value=REVISION.c.value + 1)).rowcount:
        connection.execute(insert(REVISION).values(id=1, value=1))
