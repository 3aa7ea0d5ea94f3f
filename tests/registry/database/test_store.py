from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from penstock.errors import ConfigError
from penstock.registry import migrations
from penstock.registry.database import store
from penstock.registry.database.store import Store
from penstock.registry.database.tables import METADATA

Database = Callable[[Path], str]


@pytest.fixture
def address(tmp_path: Path, database: Database) -> str:
    (tmp_path / "registry").mkdir()
    return database(tmp_path / "registry")


@pytest.fixture
def opened(address: str) -> Iterator[Store]:
    store = Store(address)
    yield store
    store.close()


def _execute(opened: Store, statement: str) -> None:
    with opened._database.writer.begin() as connection:
        connection.exec_driver_sql(statement)


def test_nothing_is_created_by_reading(opened: Store, tmp_path: Path) -> None:
    assert (opened.digest("m", "v1"), opened.digests(), opened.aliases("m"), opened.revision()) == (None, {}, {}, 0)
    assert list((tmp_path / "registry").iterdir()) == []
    with opened._database.writer.begin() as connection:
        assert inspect(connection).get_table_names() == []


def test_a_digest_is_found_until_it_is_removed(opened: Store) -> None:
    opened.record("m", "v1", "a" * 64)
    opened.record("m", "v1", "b" * 64)
    assert opened.digest("m", "v1") == "b" * 64
    assert opened.digests() == {("m", "v1"): "b" * 64}
    assert opened.adopt("m", "v1", "c" * 64) == "b" * 64
    opened.forget("m", "v1")
    assert opened.adopt("m", "v1", "c" * 64) == "c" * 64
    assert opened.digest("m", "v1") == "c" * 64


def test_only_changes_count_up_the_revision(opened: Store) -> None:
    opened.set_alias("m", "champion", "v1")
    before = opened.revision()
    assert opened.remove_alias("m", "other") is False
    opened.aliases("m")
    assert opened.revision() == before
    assert opened.remove_alias("m", "champion") is True
    assert opened.revision() == before + 1
    opened.record("m", "v1", "a" * 64)
    opened.forget("m", "v1")
    assert opened.revision() == before + 3


def test_aliases_are_sorted_by_letter_in_every_database(opened: Store) -> None:
    for alias in ("b", "A", "a-2", "a1", "B", "_"):
        opened.set_alias("m", alias, "v1")
    assert list(opened.aliases("m")) == ["A", "B", "_", "a-2", "a1", "b"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_file_is_in_wal_mode(opened: Store, tmp_path: Path) -> None:
    opened.prepare()
    connection = sqlite3.connect(tmp_path / "registry/registry.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_failing_change_changes_nothing(opened: Store) -> None:
    opened.set_alias("m", "champion", "v1")
    with pytest.raises(ConfigError):
        opened.set_alias("m", "champion", None)  # type: ignore[arg-type]
    assert opened.aliases("m") == {"champion": "v1"}


# Migrations


def test_the_migration_scripts_match_the_store() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert [revision.revision for revision in script.walk_revisions()] == list(reversed(migrations.REVISIONS))
    assert script.get_heads() == [migrations.HEAD]


def test_migrating_and_creating_give_the_same_tables(opened: Store, tmp_path: Path, database: Database) -> None:
    """From nothing to the head by the scripts, and in one go from the models: neither differs from the models."""
    (tmp_path / "migrated").mkdir()
    migrated = Store(database(tmp_path / "migrated"))
    schemas = []
    for each, by_scripts in ((opened, False), (migrated, True)):
        if not by_scripts:
            each.prepare()
        with each._database.writer.begin() as connection:
            if by_scripts:
                store.upgrade(connection)
            context = MigrationContext.configure(
                connection, opts={"version_table": migrations.VERSION_TABLE, "compare_type": True}
            )
            assert compare_metadata(context, METADATA) == []
            assert context.get_current_revision() == migrations.HEAD
            tables = inspect(connection).get_table_names()
            schemas.append({table: str(inspect(connection).get_columns(table)) for table in tables})
        each.close()
    assert schemas[0] == schemas[1]
    assert len(schemas[0]) == len(METADATA.tables) + 1


def test_every_downgrade_can_be_upgraded_again(opened: Store, address: str) -> None:
    opened.prepare()
    with opened._database.writer.begin() as connection:
        store.downgrade(connection, "base")
        assert inspect(connection).get_table_names() == [migrations.VERSION_TABLE]
    again = Store(address)
    assert again.aliases("m") == {}
    again.set_alias("m", "champion", "v1")
    assert again.aliases("m") == {"champion": "v1"}
    again.close()


def test_an_interrupted_migration_leaves_the_old_tables(opened: Store) -> None:
    opened.set_alias("m", "champion", "v1")

    def interrupted() -> None:
        with opened._database.writer.begin() as connection:
            store.downgrade(connection, "base")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert opened.aliases("m") == {"champion": "v1"}


@pytest.mark.parametrize("write", [True, False])
def test_a_database_from_the_future_is_one_sentence(opened: Store, write: bool) -> None:
    opened.prepare()
    _execute(opened, f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(ConfigError, match=r"was written by a newer Penstock.*9999.*upgrade") as caught:
        opened.set_alias("m", "champion", "v1") if write else opened.aliases("m")
    assert "\n" not in str(caught.value)


def test_tables_of_other_programs_are_not_changed(opened: Store) -> None:
    _execute(opened, "CREATE TABLE alembic_version (version_num VARCHAR(32))")
    assert opened.aliases("m") == {}
    opened.set_alias("m", "champion", "v1")
    assert opened.aliases("m") == {"champion": "v1"}


def test_tables_that_are_missing_are_one_sentence(opened: Store) -> None:
    opened.prepare()
    _execute(opened, "DROP TABLE penstock_aliases")
    with pytest.raises(ConfigError, match=r"no such table|does not exist.*restore its tables") as caught:
        opened.aliases("m")
    assert "\n" not in str(caught.value)


# Weight


@pytest.mark.parametrize("code", [
    "import penstock.registry.registry as r; r.Registry('nowhere').list()",
    "import penstock.artifacts.artifact, penstock.artifacts.card, penstock.artifacts.bundled, penstock.artifacts.refs",
])  # fmt: skip
def test_listing_a_registry_imports_no_database(code: str, tmp_path: Path) -> None:
    heavy = "{'sqlalchemy', 'alembic', 'torch', 'onnxruntime', 'markdown_it', 'fastapi'}"
    command = f"{code}\nimport sys\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=tmp_path)


def test_a_new_database_needs_no_alembic(tmp_path: Path) -> None:
    code = "import sys; from penstock.registry.database.store import Store; Store('sqlite:///x.db').prepare()"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'alembic' not in sys.modules"], check=True, cwd=tmp_path)
