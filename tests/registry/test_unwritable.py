"""Registries that cannot be written, or whose database cannot be read."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.artifacts.artifact import Artifact
from penstock.errors import ConfigError
from penstock.registry.database.store import downgrade
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def _staged(registry: Registry) -> list[str]:
    return sorted(path.name for path in (registry.path / ".staging").iterdir())


def test_leftovers_of_dead_writers_are_removed_and_those_of_live_ones_kept(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    staging = registry.path / ".staging"
    (staging / "dead").mkdir()
    (staging / "dead.lock").touch()
    (staging / "bare" / "variants").mkdir(parents=True)
    with registry._staging.slot() as alive:
        (alive / "file").touch()
        with Registry(registry.path, registry.database_url) as other:
            other.publish(write("m", "v2").path)
        assert (alive / "file").exists()
        assert _staged(registry) == [alive.name, f"{alive.name}.lock"]
    assert _staged(registry) == []


def _one_sentence(error: Exception) -> bool:
    return "\n" not in str(error) and "Traceback" not in str(error)


@pytest.mark.parametrize("place", ["file", "file/registry"])
def test_a_registry_at_or_below_a_file_is_never_taken_for_an_empty_one(
    tmp_path: Path, write: Write, place: str
) -> None:
    (tmp_path / "file").touch()
    with Registry(tmp_path / place) as registry:
        for use in (
            registry.list,
            registry.revision,
            lambda: registry.get("m"),
            lambda: registry.publish(write().path),
        ):
            with pytest.raises(ConfigError) as caught:
                use()
            assert _one_sentence(caught.value)


@pytest.mark.parametrize("place", ["/proc/nowhere", "/proc/1/registry"])
def test_a_registry_that_cannot_be_created_is_one_sentence(tmp_path: Path, write: Write, place: str) -> None:
    with Registry(tmp_path / place) as registry:
        assert registry.list() == []
        with pytest.raises(ConfigError, match="cannot be written") as caught:
            registry.publish(write().path)
    assert _one_sentence(caught.value)


def test_a_database_that_cannot_be_created_is_reported_before_anything_is_copied(tmp_path: Path, write: Write) -> None:
    with Registry(tmp_path / "registry", f"sqlite:///{tmp_path}/nowhere/x.db") as registry:
        with pytest.raises(ConfigError, match=r"nowhere/x\.db cannot be used") as caught:
            registry.publish(write().path)
        assert registry.list() == []
        assert _staged(registry) == []
    assert _one_sentence(caught.value)


@SQLITE
def test_a_damaged_database_is_one_sentence_and_the_models_are_still_listed(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    (registry.path / "registry.db").write_bytes(b"this is no database" * 100)
    assert registry.list() == ["m"]
    for action in (
        lambda: registry.get("m"),
        lambda: registry.aliases("m"),
        lambda: registry.revision(),
        lambda: registry.set_alias("m", "champion", "v1"),
        lambda: registry.publish(write("m", "v2").path),
    ):
        with pytest.raises(ConfigError, match=r"registry\.db cannot be used.*restore it, or move it away") as caught:
            action()
        assert _one_sentence(caught.value)


@SQLITE
def test_an_empty_database_file_is_a_new_database(registry: Registry, write: Write) -> None:
    registry.path.mkdir()
    (registry.path / "registry.db").touch()
    assert registry.aliases("m") == {}
    registry.publish(write().path)
    assert registry.get("m").ref == "m:v1"


@SQLITE
def test_a_locked_database_is_one_sentence(registry: Registry, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.registry.database.sqlite_file.BUSY_TIMEOUT_S", 0.05)
    registry.publish(write().path)
    holder = sqlite3.connect(registry.path / "registry.db", isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        assert registry.get("m").ref == "m:v1"
        with pytest.raises(ConfigError, match="another process holds the lock") as caught:
            registry.set_alias("m", "champion", "v1")
    finally:
        holder.close()
    assert _one_sentence(caught.value)


READ_ONLY = """
import json, os, sys
import penstock.registry.database.sqlite, penstock.registry.database.store
from penstock.errors import ConfigError
from penstock.registry.registry import Registry
if os.geteuid() == 0:
    os.setuid(65534)  # permissions do not bind root
registry = Registry(sys.argv[1])
def fault(action, *arguments):
    try:
        action(*arguments)
    except ConfigError as error:
        return str(error)
"""


def _read_only(root: Path, code: str) -> list[object]:
    """The value of `answer` after `code`, run by a user who may read the registry but not write it."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    program = f"{READ_ONLY}\n{code}\nprint(json.dumps(answer))"
    done = subprocess.run([sys.executable, "-c", program, str(root)], capture_output=True, text=True)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, list)
    return answer


@pytest.fixture
def public_registry() -> Iterator[Registry]:
    """A registry that other users can reach, unlike one in tmp_path."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with Registry(Path(directory) / "registry") as registry:
            yield registry


def test_a_registry_on_a_read_only_medium_can_be_read(public_registry: Registry, write: Write) -> None:
    public_registry.publish(write("m", "v1").path)
    public_registry.set_alias("m", "champion", "v1")
    shutil.copytree(write("m", "v2").path, public_registry.path / "m" / "v2")
    code = """
answer = [registry.list(), registry.versions("m"), registry.aliases("m"), registry.get("m@champion").ref]
registry.get("m:v2").verify()  # never recorded, and cannot be now
registry.revision()
answer += [fault(registry.set_alias, "m", "x", "v1"), fault(registry.remove, "m:v2")]
"""
    *found, first, second = _read_only(public_registry.path, code)
    assert found == [["m"], ["v1", "v2"], {"champion": "v1"}, "m:v1"]
    assert "cannot be written (Permission denied)" in str(first)
    assert "cannot be written (Permission denied)" in str(second)


def test_a_read_only_registry_of_an_older_release_can_be_read(public_registry: Registry, write: Write) -> None:
    public_registry.publish(write("m", "v1").path)
    public_registry.set_alias("m", "champion", "v1")
    with public_registry._reads.store._database.writer.begin() as connection:
        downgrade(connection, "0002")
    code = """
found = registry.deployment()
answer = [dict(found.aliases), found.unloads, registry.get("m@champion").ref]
answer += [fault(registry.change_deployment, lambda now: now.unload("m"))]
"""
    *found, refused = _read_only(public_registry.path, code)
    assert found == [{"m": {"champion": "v1"}}, [], "m:v1"]
    assert "readonly" in str(refused)
    assert public_registry.change_deployment(lambda now: now.unload("m")).unloads == ("m",)


def test_changes_that_a_reader_cannot_see_are_not_ignored(public_registry: Registry, write: Write) -> None:
    """The database was copied to a read-only medium while its last changes were still in the -wal file."""
    public_registry.publish(write("m", "v1").path)
    database = public_registry.path / "registry.db"
    holder = sqlite3.connect(database)
    holder.execute("SELECT * FROM penstock_aliases").fetchall()
    public_registry.set_alias("m", "champion", "v1")
    wal = (public_registry.path / "registry.db-wal").read_bytes()
    before = database.read_bytes()
    holder.close()
    database.write_bytes(before)
    (public_registry.path / "registry.db-wal").write_bytes(wal)
    assert _read_only(public_registry.path, "answer = [fault(registry.aliases, 'm')]")[0] is not None
    assert public_registry.aliases("m") == {"champion": "v1"}
