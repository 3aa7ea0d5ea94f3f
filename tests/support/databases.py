"""Fixtures of all test suites: the database of a registry, SQLite and PostgreSQL in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import Server

Database = Callable[[Path], str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A shared server; a test that stops its server starts one itself: `with Server() as server`."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
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
