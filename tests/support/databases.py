"""Fixtures of all test suites: the database of a registry, SQLite and PostgreSQL in turn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from postgres import Server

Database = Callable[[Path], str]

KINDS = ("sqlite", "postgresql")
_ON_BOTH = ("tests/registry/", "tests/rollouts/")
"""Tests of what reads and writes the database."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A shared server; a test that stops its server starts one itself: `with Server() as server`."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session", params=KINDS)
def database(request: pytest.FixtureRequest) -> Database:
    """The address of the database for a registry at a path: the same for the same path, otherwise a new empty one.

    For tests of one kind only: `@pytest.mark.parametrize("database", ["sqlite"], indirect=True)`.
    """
    if request.param == "sqlite":
        return lambda registry: f"sqlite:///{registry.absolute()}/registry.db"
    server: Server = request.getfixturevalue("postgres")
    made: dict[Path, str] = {}

    def address(registry: Path) -> str:
        path = registry.absolute()
        if path not in made:
            made[path] = server.new_schema()
        return made[path]

    return address


def on_one_database(items: Iterable[pytest.Item]) -> set[str]:
    """The tests to leave out so that each runs on one kind of database, half of them on each.

    Tests of the registry run on both, and so do those of the shared live server, which is of another kind on each.
    """
    kinds: dict[str, dict[str, str]] = {}
    for item in items:
        given = getattr(item, "callspec", None)
        kind = given.params.get("database") if given is not None else None
        if kind in KINDS and not item.nodeid.startswith(_ON_BOTH) and not _shares_server(item):
            kinds.setdefault(item.nodeid.replace(kind, "*"), {})[kind] = item.nodeid
    pairs = {name: found for name, found in kinds.items() if len(found) == len(KINDS)}
    return {found[KINDS[zlib.crc32(name.encode()) % len(KINDS)]] for name, found in pairs.items()}


def _shares_server(item: pytest.Item) -> bool:
    found = item._fixtureinfo.name2fixturedefs.get("live", ()) if isinstance(item, pytest.Function) else ()
    return bool(found) and found[-1].scope == "session"
