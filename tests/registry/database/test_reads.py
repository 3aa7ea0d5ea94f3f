"""Reads of a SQLite file without SQLAlchemy: they answer as the Store does, whatever state the file is in."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.registry.database.reads import Reads
from penstock.registry.database.store import Store, downgrade

READS: dict[str, Callable[[Any], Any]] = {
    "digest": lambda of: [of.digest("digits", version) for version in ("v1.0", "v9.0")],
    "digests": lambda of: of.digests(),
    "aliases": lambda of: [list(of.aliases(name).items()) for name in ("digits", "none")],
    "revision": lambda of: of.revision(),
    "trusted": lambda of: [of.trusted(digest * 64) for digest in "ab"],
    "deployment": lambda of: of.deployment(),
}


def fill(store: Store) -> None:
    store.record("digits", "v1.0", "1" * 64)
    store.record("o'brien", "v2.0", "2" * 64)
    store.set_alias("digits", "champion", "v1.0")
    store.set_alias("digits", "a", "v2.0")
    store.trust("a" * 64, "code", "a reason")
    store.change_deployment(lambda now: now.load("digits:v1.0").unload("shop"))


def missing(_: Path) -> None:
    """No file."""


def empty(file: Path) -> None:
    file.touch()


def prepared(file: Path) -> None:
    Store(f"sqlite:///{file}").prepare()


def filled(file: Path) -> None:
    fill(Store(f"sqlite:///{file}"))


def older(file: Path) -> None:
    filled(file)
    store = Store(f"sqlite:///{file}")
    with store._database.writer.begin() as connection:
        downgrade(connection, "0002")
    store.close()


def newer(file: Path) -> None:
    filled(file)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE penstock_schema SET version_num = '9999'")
    connection.close()


def damaged(file: Path) -> None:
    file.write_bytes(b"no database " * 1000)


def not_json(file: Path) -> None:
    filled(file)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE penstock_deployment SET document = '[1]'")
    connection.close()


def answer(read: Callable[[Any], Any], of: object) -> object:
    try:
        return read(of)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("state", [missing, empty, prepared, filled, older, newer, damaged, not_json])
def test_every_read_answers_as_the_store_does(tmp_path: Path, state: Callable[[Path], None], read: str) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        state(tmp_path / folder / "registry.db")
    reads = Reads(f"sqlite:///{tmp_path / 'one' / 'registry.db'}")
    store = Store(f"sqlite:///{tmp_path / 'two' / 'registry.db'}")
    found, expected = answer(READS[read], reads), answer(READS[read], store)
    if isinstance(expected, str):
        expected = expected.replace(str(tmp_path / "two"), str(tmp_path / "one"))
    assert found == expected
    reads.close()
    store.close()


def test_a_change_by_another_process_is_seen_at_the_next_read(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'registry.db'}"
    reads, store = Reads(address), Store(address)
    assert reads.aliases("digits") == {}
    store.set_alias("digits", "champion", "v1.0")
    assert reads.aliases("digits") == {"champion": "v1.0"}
    before = reads.revision()
    store.set_alias("digits", "champion", "v2.0")
    assert reads.aliases("digits") == {"champion": "v2.0"}
    assert reads.revision() == before + 1


def test_a_change_is_written_by_the_store(tmp_path: Path) -> None:
    reads = Reads(f"sqlite:///{tmp_path / 'registry.db'}")
    assert reads.change_deployment(lambda now: now.load("digits")).loads == ("digits",)
    assert reads.deployment().loads == ("digits",)


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "nonsense"])
def test_an_address_that_is_none_is_refused_by_the_first_read(address: str) -> None:
    with pytest.raises(ConfigError, match="database_url"):
        Reads(address).revision()


@pytest.mark.parametrize("state", [missing, filled])
def test_reading_imports_no_sqlalchemy(tmp_path: Path, state: Callable[[Path], None]) -> None:
    file = tmp_path / "registry.db"
    state(file)
    code = f"""
import sys
from penstock.registry.database.reads import Reads
reads = Reads("sqlite:///{file}")
reads.deployment(), reads.digests(), reads.aliases("digits"), reads.revision(), reads.trusted("a")
reads.digest("digits", "v1.0")
reads.change_deployment(lambda now: now)
print(*[name for name in ("sqlalchemy", "alembic") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
