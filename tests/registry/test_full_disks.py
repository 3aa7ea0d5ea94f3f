"""A registry on a disk that is full or read-only: it says so, it is read on, and nothing half-written stays."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from full_disks import full, read_only
from small_disks import small_disk

from penstock.artifacts.artifact import Artifact
from penstock.errors import ConfigError, disk_problem
from penstock.registry.database.reads import Reads
from penstock.registry.database.sqlite_file import problem_of_disk
from penstock.registry.database.store import Store
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def small(disk: Path, write: Write) -> Iterator[Registry]:
    """A registry with one version, on a small disk."""
    with Registry(disk / "registry") as registry:
        registry.publish(write().path)
        registry.set_alias("m", "champion", "v1")
        yield registry


def files(directory: Path) -> dict[str, int]:
    """Every file but those that SQLite keeps beside a database."""
    paths = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(directory)): path.stat().st_size for path in paths}


def test_writing_to_a_full_disk_is_named_and_leaves_nothing(small: Registry, disk: Path, write: Write) -> None:
    other = write("m", "v2").path
    before = files(small.path)
    with full(disk):
        for action in (
            lambda: small.publish(other),
            lambda: small.set_alias("m", "stable", "v1"),
            lambda: small.routes.set("m", {"arms": [{"version": "v1", "weight": 100}]}, force=True),
        ):
            with pytest.raises(ConfigError, match=r"the disk that holds .* is full; free space on it") as caught:
                action()
            assert "\n" not in str(caught.value)
            assert "database_url" not in str(caught.value)
        assert files(small.path) == before
    small.publish(other)
    assert small.versions("m") == ["v1", "v2"]


def test_a_registry_on_a_full_disk_is_read(small: Registry, disk: Path) -> None:
    """By what servers read, by what SQLAlchemy reads, and by a registry that is opened now."""
    url = small.database_url
    small.close()
    with full(disk):
        with Registry(disk / "registry") as opened:
            assert opened.get("m@champion").ref == "m:v1"
            assert opened.routes.audit()
        store = Store(url)
        assert store.aliases("m") == {"champion": "v1"}
        store.close()
        reads = Reads(url)
        assert reads.deployment().aliases == {"m": {"champion": "v1"}}
        assert "store" not in reads.__dict__  # without SQLAlchemy


def test_changes_that_a_dead_writer_has_left_are_not_passed_over(small: Registry, disk: Path) -> None:
    """They are in a file that cannot be read without room; older answers would be wrong ones."""
    file = disk / "registry" / "registry.db"
    child = os.fork()
    if not child:
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("UPDATE penstock_aliases SET alias = 'newer'")
        os._exit(0)
    os.waitpid(child, 0)
    assert file.with_name("registry.db-wal").stat().st_size
    file.with_name("registry.db-shm").unlink()
    with full(disk), pytest.raises(ConfigError, match=r"the disk that holds .* is full; free space on it"):
        Store(small.database_url).aliases("m")
    assert Store(small.database_url).aliases("m") == {"newer": "v1"}


def test_a_read_only_disk_is_named(small: Registry, disk: Path, write: Write) -> None:
    other = write("m", "v2").path
    with read_only(disk):
        for action in (lambda: small.publish(other), lambda: small.set_alias("m", "stable", "v1")):
            with pytest.raises(ConfigError, match=r"the disk that holds .* is mounted read-only; mount it for writing"):
                action()
        assert small.get("m@champion").ref == "m:v1"


def test_a_limit_of_the_size_of_files_is_named(small: Registry) -> None:
    """Without a disk of its own: what a quota does, by the limit of this process."""
    database = Path(small.database_url.removeprefix("sqlite:///"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (database.stat().st_size, limits[1]))
    try:
        problem = problem_of_disk(database)
        left = sorted(path.name for path in database.parent.iterdir() if path.name.startswith("tmp"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (
        problem
        == f"a file on the disk that holds {database} would be larger than is allowed; raise the limit (ulimit -f)"
    )
    assert left == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("ENOSPC", "the disk that holds x is full"),
        ("EDQUOT", "the quota on the disk that holds x is used up"),
        ("EROFS", "the disk that holds x is mounted read-only"),
        ("EIO", "the disk that holds x does not work"),
    ],
)
def test_every_state_of_a_disk_has_a_sentence(number: str, words: str) -> None:
    import errno

    problem = disk_problem(OSError(getattr(errno, number), "said by the system"), "x")
    assert problem is not None
    assert problem.startswith(words)
    assert "; " in problem


def test_other_errors_are_not_about_the_disk(tmp_path: Path) -> None:
    assert disk_problem(PermissionError(13, "Permission denied"), "x") is None
    assert disk_problem(ValueError("x"), "x") is None
    assert problem_of_disk(tmp_path / "registry.db") is None
