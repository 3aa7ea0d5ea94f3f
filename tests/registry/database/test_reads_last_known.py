"""What is kept of a registry's database for a start without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_artifacts import Write

from penstock.errors import ConfigError
from penstock.registry.database.reads import FILE, LastKnown, Reads
from penstock.registry.registry import Registry


@pytest.fixture
def kept(registry: Registry, write: Write) -> Path:
    """The file, of a registry with two versions, an alias, a pin, loads, unloads and a route."""
    for version in ("v1", "v2"):
        registry.publish(write(version=version, content=version.encode()).path, prove=False)
    registry.set_alias("m", "champion", "v1", force=True)
    registry.trust(registry.get("m:v2").digest, "code", "seen")
    registry.change_deployment(lambda now: now.load("m:v2").unload("other"))
    registry.routes.set("m", {"arms": [{"version": "v1", "weight": 100}]}, force=True)
    registry.routes.all()
    registry.routes.keep(registry.path)
    return registry.path / FILE


def test_every_answer_is_the_one_of_the_database(registry: Registry, kept: Path) -> None:
    found, reads = LastKnown.read(kept, registry.database_url), Reads(registry.database_url)
    assert found is not None
    digest = registry.get("m:v2").digest
    for name, arguments in {
        "digest": ("m", "v1"),
        "digests": (),
        "aliases": ("m",),
        "revision": (),
        "trusted": (digest,),
        "deployment": (),
        "routes": (),
        "routes_revision": (),
    }.items():
        assert getattr(found, name)(*arguments) == getattr(reads, name)(*arguments), name
    assert found.trusted(digest) == "code"
    assert found.trusted("0" * 64) is found.digest("m", "v9") is None
    reads.close()


def test_a_file_that_others_may_write_or_that_is_about_another_database_does_not_count(
    registry: Registry, kept: Path
) -> None:
    assert (kept.stat().st_mode & 0o777) == 0o600
    assert LastKnown.read(kept, "sqlite:///elsewhere.db") is None
    kept.chmod(0o620)
    assert LastKnown.read(kept, registry.database_url) is None
    kept.chmod(0o600)
    for damaged in ("", "{", "[]", '{"database": 1}', "null"):
        kept.write_text(damaged)
        assert LastKnown.read(kept, registry.database_url) is None
    kept.unlink()
    assert LastKnown.read(kept, registry.database_url) is None


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_it_counts_while_a_server_starts_and_no_longer(registry: Registry, kept: Path, write: Write) -> None:
    (registry.path / "registry.db").rename(registry.path / "away")
    with Registry(registry.path) as later:
        with later.routes.starting(later.path):
            assert later.resolve("m")[1] == "v1"
            assert later.routes.get("m").route.serving == ("v1",)
        for ask in (later.routes.all, later.deployment, later.revision):
            with pytest.raises(ConfigError, match="is gone; the loaded models go on answering"):
                ask()
        with pytest.raises(ConfigError, match="is gone"):
            later.publish(write(version="v3").path, prove=False)
        assert not (registry.path / "registry.db").exists()
        with pytest.raises(ConfigError):
            later.routes.keep(later.path)
        assert LastKnown.read(kept, later.database_url) is not None
