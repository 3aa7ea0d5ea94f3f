"""A process killed with SIGKILL at any point leaves the old state or the new one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.errors import InvalidInput, ModelNotFound
from penstock.registry.artifact import Artifact
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]
Kill = Callable[[str, Path], list[Path]]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: what a killed process wrote stays on any file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


@pytest.fixture
def kill(tmp_path: Path) -> Kill:
    """Run an action, killed at each of its steps in turn; the registries it left, the last one complete."""

    def kill(action: str, source: Path) -> list[Path]:
        runs = tmp_path / "runs"
        runs.mkdir()
        command = [
            sys.executable,
            str(Path(__file__).with_name("killed.py")),
            action,
            source,
            tmp_path / "registry",
            runs,
        ]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [runs / str(step) for step in range(1, int(done.stdout) + 1)]

    return kill


def _states(roots: list[Path], state: Callable[[Registry], object]) -> list[object]:
    """The state of each registry, each of them checked to be sound."""
    states = []
    for root in roots:
        with Registry(root) as registry:
            for artifact in registry.artifacts():
                artifact.verify()
            states.append(state(registry))
            registry.revision()
        _check_database(root / "registry.db")
    return states


def _check_database(path: Path) -> None:
    if path.exists():
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


def _changes_once(states: list[object], old: object, new: object) -> None:
    """First the old state, then from some step on the new one; never another, never back."""
    turn = states.index(new)
    assert turn > 0
    assert states == [old] * turn + [new] * (len(states) - turn)


def _left_over(root: Path) -> list[Path]:
    staging = root / ".staging"
    return list(staging.iterdir()) if staging.exists() else []


def test_the_first_publish_is_all_or_nothing(kill: Kill, write: Write) -> None:
    source, other, further = write("m", "v1"), write("m", "v1", b"other"), write("m", "v2")
    roots = kill("publish", source.path)
    assert len(roots) > 80
    _changes_once(_states(roots, lambda registry: registry.versions("m")), [], ["v1"])
    assert any(_left_over(root) for root in roots)
    for number, root in enumerate(roots):
        with Registry(root) as registry:
            if number % 2:
                assert registry.publish(source.path).digest == source.digest
            else:
                _publish_another(registry, other)
            registry.publish(further.path)
            for artifact in registry.artifacts():
                artifact.verify()
            assert registry.versions("m") == ["v1", "v2"]
        assert _left_over(root) == []


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
    roots = kill("publish", source.path)
    states = _states(roots, lambda registry: (registry.versions("m"), registry.aliases("m"), registry.get("m").version))
    champion = {"champion": "v1"}
    _changes_once(states, (["v1"], champion, "v1"), (["v1", "v2"], champion, "v2"))
    for root in roots:
        with Registry(root) as again:
            again.publish(source.path).verify()
            assert again.versions("m") == ["v1", "v2"]


def test_a_removal_is_all_or_nothing(kill: Kill, write: Write, registry: Registry) -> None:
    source = write("m", "v1")
    registry.publish(source.path)
    registry.publish(write("m", "v2").path)
    roots = kill("remove", source.path)
    _changes_once(_states(roots, lambda registry: registry.versions("m")), ["v1", "v2"], ["v2"])
    for root in roots:
        with Registry(root) as again:
            _remove(again)
            assert again.versions("m") == ["v2"]
            again.publish(source.path).verify()
        assert _left_over(root) == []


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
    roots = kill("set_alias", registry.path)
    _changes_once(_states(roots, lambda registry: registry.aliases("m")), {"champion": "v2"}, {"champion": "v1"})
    for root in roots:
        with Registry(root) as again:
            again.set_alias("m", "champion", "v1")
            assert again.aliases("m") == {"champion": "v1"}


def test_writing_an_artifact_is_all_or_nothing(kill: Kill, write: Write) -> None:
    roots = kill("write", write().path)
    _changes_once([(root / "written").exists() for root in roots], False, True)
    for root in roots:
        if (root / "written").exists():
            Artifact.open(root / "written").verify()
