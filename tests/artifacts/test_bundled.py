from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.artifacts.artifact import Artifact, permit
from penstock.artifacts.bundled import bundled
from penstock.errors import IntegrityError
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> Install:
    """Install a package that ships artifacts and cannot be imported; returns its directory of artifacts."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(
        package: str = "acme_models", value: str = "acme_models:artifacts", names: tuple[str, ...] = ("acme",)
    ) -> Path:
        directory = site / package
        artifacts = directory.joinpath(*value.replace(":", ".").split(".")[1:])
        artifacts.mkdir(parents=True)
        (directory / "__init__.py").write_text("raise RuntimeError('imported')")
        for name in names:
            shutil.copytree(write(name, "v1").path, artifacts / name)
        metadata = site / f"{package}-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[penstock.artifacts]\n{package} = {value}\n")
        return artifacts

    return install


def test_artifacts_of_a_package_are_found_without_importing_it(install: Install) -> None:
    artifacts = install(names=("acme", "other"))
    (artifacts / "no-artifact").mkdir()
    found = bundled()
    assert {name: found[name] for name in ("acme", "other")} == {n: artifacts / n for n in ("acme", "other")}
    assert "no-artifact" not in found
    assert "acme_models" not in sys.modules


def test_artifacts_may_be_deeper_in_the_package(install: Install) -> None:
    artifacts = install(value="acme_models.inner:artifacts")
    assert bundled()["acme"] == artifacts / "acme"


def test_an_uninstalled_package_ships_nothing(install: Install) -> None:
    shutil.rmtree(install().parent)
    assert "acme" not in bundled()


def test_a_bundled_artifact_is_published_once(install: Install, registry: Registry) -> None:
    install()
    first = registry.publish_bundled("acme")
    assert first is not None
    assert first.path == registry.path / "acme" / "v1"
    assert registry.publish_bundled("acme") == first
    assert registry.publish_bundled("unknown") is None


@pytest.fixture
def versions(install: Install, write: Write, tmp_path: Path) -> Path:
    """The directory of a model that ships in three versions."""
    home = install(names=()) / "acme"
    for version in ("v1.10", "v1.9", "v2.0-trees"):
        shutil.copytree(write("acme", version).path, home / version)
    return home


def test_a_model_may_ship_in_several_versions(versions: Path, registry: Registry) -> None:
    assert bundled()["acme"] == versions
    registry.ensure("acme")
    assert registry.versions("acme") == ["v1.9", "v1.10", "v2.0-trees"]
    assert registry.aliases("acme") == {"champion": "v1.10"}  # the highest release, as the bare name means it
    assert registry.resolve("acme") == ("acme", "v1.10")


def test_a_package_names_the_default_of_its_several_versions(versions: Path, registry: Registry) -> None:
    (versions / "champion").write_text("v1.9\n")
    published = registry.publish_bundled("acme")
    assert published is not None
    assert published.version == "v1.9"
    assert registry.aliases("acme") == {"champion": "v1.9"}
    assert registry.resolve("acme") == ("acme", "v1.9")
    registry.remove("acme:v2.0-trees")
    registry.publish_bundled("acme")
    assert registry.versions("acme") == ["v1.9", "v1.10", "v2.0-trees"]
    assert registry.aliases("acme") == {"champion": "v1.9"}


def test_a_champion_that_does_not_ship_is_named(versions: Path, registry: Registry) -> None:
    (versions / "champion").write_text("v3.0")
    with pytest.raises(IntegrityError, match=r"names the version 'v3\.0'; versions: v1\.9, v1\.10, v2\.0-trees"):
        registry.ensure("acme")
    assert registry.list() == []


def test_a_damaged_bundled_artifact_is_named(install: Install, registry: Registry) -> None:
    (install() / "acme" / "card.md").write_text("# Another\n")
    with pytest.raises(IntegrityError, match=r"card\.md"):
        registry.publish_bundled("acme")
    assert registry.list() == []


def test_a_version_of_an_earlier_release_stays_as_it_was(
    versions: Path, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = permit(Artifact.open(versions / "v1.9"), tmp_path / "earlier", log_inputs=False)
    registry.publish(earlier.path)
    registry.set_alias("acme", "champion", "v1.9")
    published = registry.publish_bundled("acme")
    assert published is not None
    assert registry.versions("acme") == ["v1.9", "v1.10", "v2.0-trees"], "the others are published"
    assert registry.get("acme:v1.9").digest == earlier.digest
    assert registry.aliases("acme") == {"champion": "v1.9"}
    (sentence,) = caplog.messages
    assert sentence.startswith("acme:v1.9 stays as it was published")


def test_a_model_published_at_first_use_gets_the_alias_champion_unless_it_has_aliases(
    install: Install, registry: Registry
) -> None:
    install()
    registry.ensure("acme@champion")
    assert registry.resolve("acme@champion") == ("acme", "v1")
    registry.remove_alias("acme", "champion")
    registry.ensure("acme")
    assert registry.aliases("acme") == {}
