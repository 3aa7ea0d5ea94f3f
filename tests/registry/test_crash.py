"""A process killed with SIGKILL at any point leaves the old state or the new one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.artifacts.artifact import Artifact
from penstock.errors import InvalidInput, ModelNotFound
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]
Kill = Callable[[str, Path], list[Registry]]
Database = Callable[[Path], str]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory if possible: writes of a killed process survive on any file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """For PostgreSQL a whole database, which can be copied."""
    if request.param == "sqlite":
        return lambda registry: f"sqlite:///{registry}/registry.db"
    address = request.getfixturevalue("postgres").new_database()
    return lambda _: address


@pytest.fixture
def kill(tmp_path: Path, database: Database) -> Kill:
    """Run an action, killed at each of its steps in turn; return the resulting registries, the last one complete."""

    address = database(tmp_path / "registry")
    server = [address] if address.startswith("postgresql") else []

    def kill(action: str, source: Path) -> list[Registry]:
        runs = tmp_path / "runs"
        runs.mkdir()
        command = [
            sys.executable,
            str(Path(__file__).with_name("killed.py")),
            action,
            source,
            tmp_path / "registry",
            runs,
            *server,
        ]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        steps = range(1, int(done.stdout) + 1)
        return [Registry(runs / str(step), f"{address}_{step}" if server else None) for step in steps]

    return kill


def _states(left: list[Registry], state: Callable[[Registry], object]) -> list[object]:
    """The state of each registry, each of them checked to be sound."""
    states = []
    for registry in left:
        with registry:
            for artifact in registry.artifacts():
                artifact.verify()
            states.append(state(registry))
            registry.revision()
        _check_database(registry.path / "registry.db")
    return states


def _check_database(path: Path) -> None:
    if path.exists():
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


def _changes_once(states: list[object], old: object, new: object) -> None:
    """The old state up to some step and then the new one, without any other state."""
    turn = states.index(new)
    assert turn > 0
    assert states == [old] * turn + [new] * (len(states) - turn)


def _left_over(registry: Registry) -> list[Path]:
    staging = registry.path / ".staging"
    return list(staging.iterdir()) if staging.exists() else []


def test_the_first_publish_is_all_or_nothing(kill: Kill, write: Write) -> None:
    source, other, further = write("m", "v1"), write("m", "v1", b"other"), write("m", "v2")
    left = kill("publish", source.path)
    assert len(left) > 20
    _changes_once(_states(left, lambda registry: registry.versions("m")), [], ["v1"])
    assert any(map(_left_over, left))
    for number, registry in enumerate(left):
        with registry:
            if number % 2:
                assert registry.publish(source.path).digest == source.digest
            else:
                _publish_another(registry, other)
            registry.publish(further.path)
            for artifact in registry.artifacts():
                artifact.verify()
            assert registry.versions("m") == ["v1", "v2"]
        assert _left_over(registry) == []


def _publish_another(registry: Registry, other: Artifact) -> None:
    if registry.versions("m"):
        with pytest.raises(InvalidInput, match="already exists"):
            registry.publish(other.path)
    else:
        assert registry.publish(other.path).digest == other.digest


def test_a_further_publish_is_all_or_nothing(kill: Kill, write: Write, registry: Registry) -> None:
    registry.publish(write("m", "v1").path)
    registry.set_alias("m", "champion", "v1")
    source = write("m", "v2")
    registry.close()
    left = kill("publish", source.path)
    states = _states(left, lambda registry: (registry.versions("m"), registry.aliases("m"), registry.get("m").version))
    champion = {"champion": "v1"}
    _changes_once(states, (["v1"], champion, "v1"), (["v1", "v2"], champion, "v1"))  # the champion stays live
    for again in left:
        with again:
            again.publish(source.path).verify()
            assert again.versions("m") == ["v1", "v2"]


def test_a_removal_is_all_or_nothing(kill: Kill, write: Write, registry: Registry) -> None:
    source = write("m", "v1")
    registry.publish(source.path)
    registry.publish(write("m", "v2").path)
    registry.close()
    left = kill("remove", source.path)
    _changes_once(_states(left, lambda registry: registry.versions("m")), ["v1", "v2"], ["v2"])
    for again in left:
        with again:
            _remove(again)
            assert again.versions("m") == ["v2"]
            again.publish(source.path).verify()
        assert _left_over(again) == []


def _remove(registry: Registry) -> None:
    if "v1" in registry.versions("m"):
        registry.remove("m:v1")
    else:
        with pytest.raises(ModelNotFound):
            registry.remove("m:v1")


def test_setting_an_alias_is_all_or_nothing(kill: Kill, write: Write, registry: Registry) -> None:
    for version in ("v1", "v2"):
        registry.publish(write("m", version).path)
    registry.set_alias("m", "champion", "v2")
    registry.close()
    left = kill("set_alias", registry.path)
    _changes_once(_states(left, lambda registry: registry.aliases("m")), {"champion": "v2"}, {"champion": "v1"})
    for again in left:
        with again:
            again.set_alias("m", "champion", "v1")
            assert again.aliases("m") == {"champion": "v1"}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_writing_an_artifact_is_all_or_nothing(kill: Kill, write: Write) -> None:
    left = kill("write", write().path)
    written = [registry.path / "written" for registry in left]
    _changes_once([path.exists() for path in written], False, True)
    for path in filter(Path.exists, written):
        Artifact.open(path).verify()
