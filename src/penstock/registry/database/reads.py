"""What servers read again and again, answered from a SQLite file without SQLAlchemy, whose import takes long.

What was read last is kept in a file, for a start while the database is away. It says what the database said: routes,
aliases, loads and unloads, digests and trust. So it counts only if it belongs to this user, and no other may write it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar

from penstock.errors import ConfigError, DatabaseUnavailable
from penstock.registry.database.sqlite_file import gone, open_for_reading
from penstock.registry.deployment import Change, Deployment, stored_deployment
from penstock.registry.migrations import HEAD
from penstock.registry.routes import Routes, stored_routes

if TYPE_CHECKING:
    from penstock.registry.database.store import Store

log = logging.getLogger(__name__)

_Rows: TypeAlias = Sequence[tuple[Any, ...]]

_SCHEMA = "SELECT version_num FROM penstock_schema"
_DEPLOYMENT = (
    "SELECT 'revision', value, '', '' FROM penstock_revision "
    "UNION ALL SELECT 'alias', name, alias, version FROM penstock_aliases "
    "UNION ALL SELECT 'document', document, '', '' FROM penstock_deployment"
)
_ROUTES = (
    "SELECT '', '', value, 0, '' FROM penstock_routes_revision "
    "UNION ALL SELECT name, record, revision, updated_at, updated_by FROM penstock_routes"
)
_KEYS = "SELECT '', '{}', value FROM penstock_keys_revision UNION ALL SELECT id, record, 0 FROM penstock_keys"

FILE = "last-known.json"
"""In the directory of the registry."""
_LARGEST = 64 * 2**20
_OTHERS = stat.S_IWGRP | stat.S_IWOTH

P = ParamSpec("P")
T = TypeVar("T")


def _or_last_known(method: Callable[Concatenate[Reads, P], T]) -> Callable[Concatenate[Reads, P], T]:
    """While a server starts: what was known last, where the database cannot be read."""

    @wraps(method)
    def answer(self: Reads, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._away:
            try:
                return method(self, *args, **kwargs)
            except ConfigError as error:
                if self._last is None:
                    raise
                self._away = True  # one that does not answer is asked once
                log.warning("starting with what was known of the registry last: %s", error)
        found: T = getattr(self._last, method.__name__)(*args, **kwargs)
        return found

    return answer


class Reads:
    """The reads of a Store, with its results and errors.

    A SQLite file in the current schema is read here; everything else, and whatever goes wrong, is left to the Store,
    which is made when it is first needed.
    """

    def __init__(self, url: str, *, lasting: bool = False) -> None:
        """A `lasting` database is one that does not go away: once it was read, a missing file is an error."""
        self._url = url
        self._lasting = lasting
        self._file = _plain_file(url)
        self._current = False
        """True once the file was seen in the current schema."""
        self._expected = False
        self._last: LastKnown | None = None
        """What was known before this process began, while it starts."""
        self._away = False

    @cached_property
    def store(self) -> Store:
        """The Store, which also writes."""
        from penstock.registry.database.store import Store  # SQLAlchemy takes a quarter of a second to import

        return Store(self._url, lasting=self._lasting, known=self.known)

    def close(self) -> None:
        """Close every connection. Safe to call twice."""
        if "store" in self.__dict__:
            self.store.close()

    @property
    def known(self) -> bool:
        """True if the database was there before."""
        return self._current or self._expected

    def expect(self) -> None:
        """The database was there before this process began: if it is missing, it is gone."""
        self._expected = True

    @contextmanager
    def starting(self, file: Path) -> Iterator[None]:
        """While this server starts: where the database cannot be read, what the file says of it counts.

        Then the database counts again: reading it is an error as long as it is away.
        """
        self._last = LastKnown.read(file, self._url)
        if self._last is not None:
            self.expect()
        try:
            yield
        finally:
            self._last, self._away = None, False

    def keep(self, file: Path) -> None:
        """Write what the database says now into a file. Raises ConfigError or OSError."""
        if self._file is not None and not self.known:
            return  # there is no database yet
        revisions = self.revision(), self.routes_revision(), self.keys_revision()
        found = self.snapshot()
        if (found.revision(), found.routes_revision(), found.keys_revision()) == revisions:  # else after the change
            found.write(file)

    def snapshot(self) -> LastKnown:
        """What servers read of the database."""
        rows = self._rows(_ROUTES)
        tiers = self._rows("SELECT digest, tier FROM penstock_trust")
        return LastKnown(
            database_of(self._url),
            self.digests(),
            self.store.tiers() if tiers is None else dict(tiers),
            self.deployment(),
            tuple(self.store.route_rows() if rows is None else rows),
            tuple(self.key_rows()),
        )

    @_or_last_known
    def digest(self, name: str, version: str) -> str | None:
        """The recorded digest of a version."""
        found = self._rows("SELECT digest FROM penstock_artifacts WHERE name = ? AND version = ?", name, version)
        return self.store.digest(name, version) if found is None else _first(found)

    @_or_last_known
    def digests(self) -> dict[tuple[str, str], str]:
        """Every recorded digest, by name and version."""
        found = self._rows("SELECT name, version, digest FROM penstock_artifacts")
        return self.store.digests() if found is None else {(name, version): digest for name, version, digest in found}

    @_or_last_known
    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias, sorted by alias."""
        found = self._rows("SELECT alias, version FROM penstock_aliases WHERE name = ?", name)
        return self.store.aliases(name) if found is None else dict(sorted(found))

    @_or_last_known
    def revision(self) -> int:
        """A counter that every change in this database increases."""
        found = self._rows("SELECT value FROM penstock_revision")
        return self.store.revision() if found is None else _first(found) or 0

    @_or_last_known
    def trusted(self, digest: str) -> str | None:
        """The tier that a digest is pinned to, None if it is not pinned."""
        found = self._rows("SELECT tier FROM penstock_trust WHERE digest = ?", digest)
        return self.store.trusted(digest) if found is None else _first(found)

    @_or_last_known
    def deployment(self) -> Deployment:
        """What servers should serve: aliases, and the loads and unloads of operators."""
        found = self._rows(_DEPLOYMENT)
        if found is None:
            return self.store.deployment()
        revision, document = 0, "{}"
        aliases: dict[str, dict[str, str]] = {}
        for kind, first, alias, version in found:
            if kind == "revision":
                revision = first
            elif kind == "document":
                document = first
            else:
                aliases.setdefault(first, {})[alias] = version
        return stored_deployment(revision, aliases, document)

    def change_deployment(self, change: Change) -> Deployment:
        """Change what servers should serve, unless that changes nothing; what it is now."""
        before = self.deployment()
        return before if change(before) == before else self.store.change_deployment(change)

    @_or_last_known
    def routes(self) -> Routes:
        """Every route."""
        found = self._rows(_ROUTES)
        return self.store.routes() if found is None else stored_routes(found)

    @_or_last_known
    def routes_revision(self) -> int:
        """A counter that every change of a route increases."""
        found = self._rows("SELECT value FROM penstock_routes_revision")
        return self.store.routes_revision() if found is None else _first(found) or 0

    @_or_last_known
    def key_rows(self) -> list[tuple[Any, ...]]:
        """Every API key, with the revision of all."""
        found = self._rows(_KEYS)
        return self.store.key_rows() if found is None else [tuple(row) for row in found]

    @_or_last_known
    def keys_revision(self) -> int:
        """A counter that every change of an API key increases."""
        found = self._rows("SELECT value FROM penstock_keys_revision")
        return self.store.keys_revision() if found is None else _first(found) or 0

    def has_canaries(self) -> bool | None:
        """True while a canary is watched; None if the Store has to read that."""
        found = self._rows("SELECT 1 FROM penstock_canaries WHERE live = 1 LIMIT 1")
        return None if found is None else bool(found)

    def _rows(self, query: str, *values: str) -> _Rows | None:
        """The rows, in one snapshot; none while there is no file. None if the Store has to read them."""
        if self._file is None:
            return None
        try:
            if not self._file.exists():
                self._refuse_loss(self._file)
                return ()
            return self._read(self._file, query, values)
        except (sqlite3.Error, OSError, ValueError):
            return None

    def _refuse_loss(self, file: Path) -> None:
        if self._lasting and self.known:
            raise DatabaseUnavailable(gone(file))

    def _read(self, file: Path, query: str, values: Sequence[str]) -> _Rows | None:
        with closing(open_for_reading(file)) as connection:
            if not self._current and connection.execute(_SCHEMA).fetchall() != [(HEAD,)]:
                return None
            self._current = True
            return connection.execute(query, values).fetchall()


def _plain_file(url: str) -> Path | None:
    """The file of an address that says nothing else."""
    path = url.removeprefix("sqlite:///")
    return Path(path).absolute() if path not in ("", url, ":memory:") and "?" not in path else None


def _first(rows: _Rows) -> Any:
    return rows[0][0] if rows else None


# Kept in a file


@dataclass(frozen=True)
class LastKnown:
    """The answers of `Reads`, with its names."""

    database: str
    """Which database it was, without its password."""
    known_digests: Mapping[tuple[str, str], str]
    tiers: Mapping[str, str]
    stored: Deployment
    rows: tuple[tuple[Any, ...], ...]
    """Of the routes, as `stored_routes` takes them."""
    keys: tuple[tuple[Any, ...], ...] = ()
    """Of the API keys: digests, which are of no use without the pepper."""

    def digest(self, name: str, version: str) -> str | None:
        """The recorded digest of a version."""
        return self.known_digests.get((name, version))

    def digests(self) -> dict[tuple[str, str], str]:
        """Every recorded digest, by name and version."""
        return dict(self.known_digests)

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias, sorted by alias."""
        return dict(sorted(self.stored.aliases.get(name, {}).items()))

    def revision(self) -> int:
        """The counter of changes."""
        return self.stored.revision

    def trusted(self, digest: str) -> str | None:
        """The tier that a digest is pinned to."""
        return self.tiers.get(digest)

    def deployment(self) -> Deployment:
        """What servers should serve."""
        return self.stored

    def routes(self) -> Routes:
        """Every route."""
        return stored_routes(self.rows)

    def routes_revision(self) -> int:
        """The counter of changes of routes."""
        return self.routes().revision

    def key_rows(self) -> list[tuple[Any, ...]]:
        """Every API key."""
        return list(self.keys)

    def keys_revision(self) -> int:
        """The counter of changes of API keys."""
        return next((int(revision) for key, _, revision in self.keys if not key), 0)

    # The file

    def write(self, file: Path) -> None:
        """Replace the file. Raises OSError."""
        document = {
            "database": self.database,
            "digests": [[*key, digest] for key, digest in self.known_digests.items()],
            "trust": self.tiers,
            "deployment": {**self.stored.to_document(), "aliases": self.stored.aliases},
            "revision": self.stored.revision,
            "routes": self.rows,
            "keys": self.keys,
        }
        made = file.with_name(f".{file.name}.{os.getpid()}")
        made.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
                json.dump(document, stream)
            made.replace(file)
        finally:
            made.unlink(missing_ok=True)

    @classmethod
    def read(cls, file: Path, url: str) -> Self | None:
        """What is known of a database; None without a file of this user that is about it."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            with file.open(encoding="utf-8") as stream:
                if not _is_ours(stream):
                    return None
                document = json.loads(stream.read(_LARGEST))
            if document["database"] == database_of(url):
                return cls._of(document)
        return None

    @classmethod
    def _of(cls, document: Mapping[str, Any]) -> Self:
        deployment = document["deployment"]
        return cls(
            document["database"],
            {(name, version): digest for name, version, digest in document["digests"]},
            document["trust"],
            Deployment(
                document["revision"],
                deployment["aliases"],
                tuple(deployment["loads"]),
                tuple(deployment["unloads"]),
            ),
            tuple(tuple(row) for row in document["routes"]),
            tuple(tuple(row) for row in document.get("keys", ())),
        )


def database_of(url: str) -> str:
    """A text for the address of a database that says nothing of its password."""
    return hashlib.blake2b(url.encode(), digest_size=16).hexdigest()


def _is_ours(stream: IO[str]) -> bool:
    """True if nobody else can have written it."""
    status = os.fstat(stream.fileno())
    return stat.S_ISREG(status.st_mode) and status.st_uid in (0, os.geteuid()) and not status.st_mode & _OTHERS
