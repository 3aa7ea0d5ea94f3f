"""What servers read of a registry's database, as it was read last: in a file, for a start while the database is away.

The file says what the database said: routes, aliases, loads and unloads, digests and trust. So it counts only if it
belongs to this user and nobody else may write it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from penstock.registry.deployment import Deployment
from penstock.registry.routes import Routes, stored_routes

FILE = "last-known.json"
"""In the directory of the registry."""
_LARGEST = 64 * 2**20
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


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
        )


def database_of(url: str) -> str:
    """A text for the address of a database that says nothing of its password."""
    return hashlib.blake2b(url.encode(), digest_size=16).hexdigest()


def _is_ours(stream: IO[str]) -> bool:
    """True if nobody else can have written it."""
    status = os.fstat(stream.fileno())
    return stat.S_ISREG(status.st_mode) and status.st_uid in (0, os.geteuid()) and not status.st_mode & _OTHERS
