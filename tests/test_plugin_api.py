"""The API for packages: settings, bodies, and their own tables on both databases."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy.exc
from plugin_packages import install
from pydantic import BaseModel, Field
from sqlalchemy import inspect, text

from penstock import plugin_api as extend
from penstock.errors import ConfigError, InvalidInput
from penstock.plugin_api import migrate, open_database, package_settings, read_json
from penstock.registry.registry import Registry
from penstock.settings import load_settings

Address = Callable[[Path], str]

FIRST = """
from alembic import op
import sqlalchemy as sa

revision, down_revision = "0001", None

def upgrade():
    op.create_table("houses_told", sa.Column("id", sa.Integer, primary_key=True))
"""
SECOND = """
from alembic import op
import sqlalchemy as sa

revision, down_revision = "0002", "0001"

def upgrade():
    with op.batch_alter_table("houses_told") as table:
        table.add_column(sa.Column("price", sa.Integer))
"""


class House(BaseModel):
    area_m2: float = Field(gt=0)


@pytest.fixture
def registry(tmp_path: Path, database: Address) -> Registry:
    path = tmp_path / "registry"
    path.mkdir()
    return Registry(path, database(path))


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    versions = tmp_path / "migrations 100%" / "versions"
    versions.mkdir(parents=True)
    (versions / "r0001.py").write_text(FIRST)
    return versions.parent


def upgrade(registry: Registry, scripts: Path) -> list[str]:
    """Bring the tables up to date; the columns there are then."""
    database = open_database(registry, "houses")
    try:
        with database.sentences(), database.writer.begin() as connection:
            migrate(connection, scripts, "houses_schema")
            return [column["name"] for column in inspect(connection).get_columns("houses_told")]
    finally:
        database.close()


def test_every_name_of_the_module_is_there() -> None:
    assert [name for name in extend.__all__ if not hasattr(extend, name)] == []


def test_tables_of_a_package_are_created_and_migrated(registry: Registry, scripts: Path) -> None:
    assert upgrade(registry, scripts) == ["id"]
    (scripts / "versions" / "r0002.py").write_text(SECOND)
    assert upgrade(registry, scripts) == ["id", "price"]
    assert upgrade(registry, scripts) == ["id", "price"]


def test_the_platform_and_its_packages_do_not_change_each_others_tables(registry: Registry, scripts: Path) -> None:
    upgrade(registry, scripts)
    assert registry.list() == []
    assert registry.revision()
    registry.close()


def test_tables_of_a_newer_release_are_not_changed(registry: Registry, scripts: Path) -> None:
    (scripts / "versions" / "r0002.py").write_text(SECOND)
    upgrade(registry, scripts)
    (scripts / "versions" / "r0002.py").unlink()
    with pytest.raises(ConfigError, match=r"houses_schema were written by a newer release \(their schema is 0002\)"):
        upgrade(registry, scripts)


def test_scripts_that_fail_leave_nothing_behind(registry: Registry, scripts: Path) -> None:
    (scripts / "versions" / "r0002.py").write_text(SECOND.replace('op.batch_alter_table("houses_told")', "None"))
    with pytest.raises(TypeError):
        upgrade(registry, scripts)
    database = open_database(registry, "houses")
    with database.writer.begin() as connection:
        assert not inspect(connection).has_table("houses_told")
    database.close()


def test_one_writer_of_a_package_waits_for_the_other(registry: Registry, scripts: Path) -> None:
    upgrade(registry, scripts)
    database = open_database(registry, "houses")
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(10)
        with database.writer.begin() as connection:
            order.append("second")
            connection.execute(text("SELECT 1"))

    waiting = threading.Thread(target=second)
    waiting.start()
    with database.writer.begin():
        inside.set()
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    database.close()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_writers_of_a_package_do_not_wait_for_the_registry(registry: Registry, scripts: Path) -> None:
    upgrade(registry, scripts)
    houses, streets = open_database(registry, "houses"), open_database(registry, "streets")
    with houses.writer.begin(), streets.writer.begin() as connection:
        connection.execute(text("SELECT 1"))
    houses.close()
    streets.close()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_package_file_is_next_to_that_of_the_registry_and_named_in_errors(registry: Registry) -> None:
    (registry.path / "houses.db").write_text("no database at all, but long enough to be read as one" * 20)
    database = open_database(registry, "houses")
    with (
        pytest.raises(ConfigError, match=r"the database of houses .*houses\.db .*the records of houses are lost"),
        database.sentences(),
        database.writer.begin() as connection,
    ):
        connection.execute(text("CREATE TABLE x (y INTEGER)"))


def test_the_file_of_a_package_is_next_to_the_configured_file(tmp_path: Path, scripts: Path) -> None:
    with Registry(tmp_path / "registry", f"sqlite:///{tmp_path}/elsewhere.db") as registry:
        upgrade(registry, scripts)
    assert (tmp_path / "houses.db").exists()


# Bodies and settings


def test_a_full_disk_is_reported_with_the_fix(tmp_path: Path) -> None:
    with (
        closing(open_database(Registry(tmp_path), "houses")) as database,
        pytest.raises(ConfigError, match=r"disk is full.*free space on its disk"),
        database.sentences(),
    ):
        raise sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))


def test_a_body_becomes_the_model_or_a_sentence() -> None:
    assert read_json(House, b'{"area_m2": 90}') == House(area_m2=90)
    with pytest.raises(InvalidInput, match="area_m2: Input should be greater than 0"):
        read_json(House, b'{"area_m2": 0}')
    with pytest.raises(InvalidInput, match="body: the request has no body"):
        read_json(House, b"")


def test_settings_of_a_package_come_from_the_environment_and_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PENSTOCK_HOUSES_KEEP_DAYS=3\nPENSTOCK_HOUSES_TOWN=Bern\n")
    given = {"PENSTOCK_HOUSES_KEEP_DAYS": "30", "PENSTOCK_HOUSES_EMPTY": "", "PENSTOCK_PORT": "1"}
    assert package_settings("penstock_houses", given) == {"keep_days": "30", "town": "Bern"}


def test_setting_names_of_installed_packages_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {"PENSTOCK_STREETS_KEEP_DAYS": "30"}
    with pytest.raises(ConfigError, match="PENSTOCK_STREETS_KEEP_DAYS in the environment is not a setting"):
        load_settings(environ=given, directory=tmp_path)
    install(tmp_path, "penstock_streets", "raise RuntimeError", tasks="street = penstock_streets:Street")
    load_settings(environ=given, directory=tmp_path)
    assert "penstock_streets" not in sys.modules
    with pytest.raises(ConfigError, match="did you mean PENSTOCK_PORT"):
        load_settings(environ={"PENSTOCK_PORTS": "1"}, directory=tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_leaves_the_connections_to_its_parent(registry: Registry, scripts: Path) -> None:
    upgrade(registry, scripts)
    database = open_database(registry, "houses")
    with database.reader.begin() as connection:
        connection.execute(text("SELECT 1"))
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with database.reader.begin() as connection:
        assert connection.execute(text("SELECT 2")).scalar() == 2
    database.close()
