"""Addresses of databases, without a connection to any."""

from __future__ import annotations

import sys

import pytest

from penstock.errors import ConfigError
from penstock.registry.database.base import open_database
from penstock.registry.database.postgres import PostgreSQL
from penstock.registry.database.sqlite import SQLite


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "a://[",
        "postgresql://h:port/d",
        "mysql+nothing://h/d",
        "x://h",
        "mysql://user:secret@h/d",
        "mysql://h/d?password=secret",
        "postgresql://user:sec@ret@h/d",
    ],
)
def test_an_invalid_address_is_one_sentence_without_a_password(url: str) -> None:
    with pytest.raises(ConfigError, match="database_url") as caught:
        open_database(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "ret@" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_an_address_of_another_program_is_accepted(scheme: str) -> None:
    database = open_database(f"{scheme}://user:p%40ss@host:5433/name?sslmode=require&password=p%40ss")
    assert isinstance(database, PostgreSQL)
    assert database.reader.url.drivername == "postgresql+psycopg"
    assert database.reader.url.password == "p@ss"
    assert database.where == "postgresql://user:***@host:5433/name?password=%2A%2A%2A&sslmode=require"


def test_a_file_is_sqlite(tmp_path) -> None:
    assert isinstance(open_database(f"sqlite:///{tmp_path}/x.db"), SQLite)


def test_a_missing_driver_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'penstock\[postgres\]'") as caught:
        open_database("postgresql://user:secret@host/name")
    assert "secret" not in str(caught.value)
