"""Processes and threads that share a registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from racing import race

from penstock.artifacts.artifact import Artifact
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]
Database = Callable[[Path], str]
ROUNDS = 2


def test_processes_that_publish_the_same_version_all_get_it(tmp_path: Path, write: Write, database: Database) -> None:
    source = write()
    for number in range(ROUNDS):
        with Registry(tmp_path / str(number), database(tmp_path / str(number))) as registry:
            assert race(4, registry, "publish", [source.path]) == [source.digest] * 4
            assert registry.list() == ["m"]
            registry.get("m").verify()
            assert list((registry.path / ".staging").iterdir()) == []


def test_one_of_several_processes_with_different_content_wins(tmp_path: Path, write: Write, database: Database) -> None:
    sources = [write(content=str(number).encode()) for number in range(4)]
    for number in range(ROUNDS):
        with Registry(tmp_path / str(number), database(tmp_path / str(number))) as registry:
            answers = race(4, registry, "publish", [source.path for source in sources])
            winner = registry.get("m")
            winner.verify()
            assert answers.count(winner.digest) == 1
            assert sum(answer.startswith("InvalidInput: m:v1 already exists") for answer in answers) == 3


def test_processes_that_publish_different_versions_all_succeed(
    tmp_path: Path, write: Write, database: Database
) -> None:
    sources = [write("m", f"v{number}") for number in range(3)] + [write("n", "v1")]
    for number in range(ROUNDS):
        with Registry(tmp_path / str(number), database(tmp_path / str(number))) as registry:
            answers = race(4, registry, "publish", [source.path for source in sources])
            assert answers == [source.digest for source in sources]
            assert [artifact.digest for artifact in registry.artifacts()] == answers
            assert registry.revision().startswith("4-")


def test_processes_that_set_aliases_wait_for_each_other(registry: Registry, write: Write) -> None:
    for version in ("v1", "v2"):
        registry.publish(write("m", version).path)
    assert race(4, registry, "alias", ["v1", "v2"]) == [""] * 4
    assert set(registry.aliases("m")) == {"alias-0", "alias-1", "alias-2"}


def test_processes_that_read_a_copied_registry_adopt_it_once(registry: Registry, write: Write) -> None:
    for version in ("v1", "v2", "v3"):
        shutil.copytree(write("m", version).path, registry.path / "m" / version)
    assert race(4, registry, "read", ["-"]) == [""] * 4
    assert registry.revision().startswith("3-")


@pytest.mark.parametrize("same", [True, False])
def test_threads_may_share_a_registry(registry: Registry, write: Write, same: bool) -> None:
    sources = [write("m", "v1" if same else f"v{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        published = list(pool.map(lambda source: registry.publish(source.path), sources))
        read = list(pool.map(lambda artifact: registry.get(artifact.ref), published))
    assert read == published
    assert len(registry.versions("m")) == (1 if same else 6)
