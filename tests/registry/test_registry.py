from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.artifacts.artifact import Artifact
from penstock.errors import IntegrityError, InvalidInput, ModelNotFound
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]
ONNX = "variants/onnx-fp32/model.onnx"


def _staged(registry: Registry) -> list[str]:
    return sorted(path.name for path in (registry.path / ".staging").iterdir())


# Publishing and finding


def test_a_published_artifact_is_a_verified_copy(registry: Registry, write: Write) -> None:
    source = write()
    published = registry.publish(source.path)
    assert published.path == registry.path / "m" / "v1"
    assert published.digest == source.digest
    shutil.rmtree(source.path)
    published.verify()
    assert not any(
        path.is_symlink() or path.stat().st_nlink > 1 for path in published.path.rglob("*") if path.is_file()
    )
    assert registry.get("m:v1") == published
    assert _staged(registry) == []


def test_publishing_twice_changes_nothing(registry: Registry, write: Write) -> None:
    source = write()
    first = registry.publish(source.path)
    before, revision = _written(first.path), registry.revision()
    assert registry.publish(source.path) == first
    assert registry.publish(first.path) == first
    assert (_written(first.path), registry.revision()) == (before, revision)


def _written(path: Path) -> tuple[int, int, int]:
    """Which directory it is and when it was written; reading changes only the time of access."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def test_a_version_is_never_overwritten(registry: Registry, write: Write) -> None:
    first = registry.publish(write().path)
    with pytest.raises(InvalidInput, match="m:v1 already exists"):
        registry.publish(write(content=b"other").path)
    assert registry.get("m:v1") == first
    first.verify()


def test_publishing_over_a_damaged_version_names_the_damage(registry: Registry, write: Write) -> None:
    source = write()
    published = registry.publish(source.path)
    (published.path / ONNX).write_bytes(b"altered")
    with pytest.raises(IntegrityError, match=ONNX):
        registry.publish(source.path)
    registry.remove("m:v1")
    registry.publish(source.path).verify()


def test_versions_go_from_low_to_high_and_names_by_letter(registry: Registry, write: Write) -> None:
    for version in ("v10", "v9", "v9.1-rc1", "main"):
        registry.publish(write("m", version).path)
    registry.publish(write("a", "1").path)
    assert registry.list() == ["a", "m"]
    assert registry.versions("m") == ["main", "v9", "v9.1-rc1", "v10"]
    assert registry.versions("other") == []
    assert [artifact.ref for artifact in registry.artifacts()] == ["a:1", "m:main", "m:v9", "m:v9.1-rc1", "m:v10"]


@pytest.mark.parametrize(
    ("versions", "best"),
    [
        (["1.0.0", "2.0.0-rc1"], "1.0.0"),
        (["v9", "v10", "nightly"], "v10"),
        (["2.0.0-rc1", "2.0.0-rc2", "main"], "2.0.0-rc2"),
        (["run9", "run10"], "run10"),
    ],
)
def test_a_bare_name_means_the_highest_release(
    registry: Registry, write: Write, versions: list[str], best: str
) -> None:
    for version in versions:
        registry.publish(write("m", version).path)
    assert registry.resolve("m") == ("m", best)
    assert registry.get("m").version == best


def test_a_missing_model_version_or_alias_is_answered_with_the_existing_ones(registry: Registry, write: Write) -> None:
    with pytest.raises(ModelNotFound, match="holds no models yet"):
        registry.get("m")
    registry.publish(write("m", "v1").path)
    registry.publish(write("m", "v2").path)
    registry.publish(write("n", "v1").path)
    registry.set_alias("m", "champion", "v1")
    for ref, answer in {
        "x": "no model 'x' in the registry; models: m, n",
        "x:v1": "no model 'x' in the registry; models: m, n",
        "x@champion": "no model 'x' in the registry; models: m, n",
        "m:v3": "m has no version 'v3'; versions: v1, v2",
        "m@best": "m has no alias 'best'; aliases: champion",
        "n@best": "n has no alias 'best'; it has no aliases",
    }.items():
        with pytest.raises(ModelNotFound, match=answer):
            registry.get(ref)


def test_a_long_list_in_a_message_is_truncated(registry: Registry, write: Write) -> None:
    source = write("m", "0").path
    registry.publish(source)
    for number in range(1, 30):
        shutil.copytree(source, registry.path / "m" / str(number))
    with pytest.raises(ModelNotFound, match="18, 19 and 10 more"):
        registry.get("m:30")


@pytest.mark.parametrize("ref", ["", "../m", "m/v1", "m:../v1", "m:..", ".staging", "m:v1/..", "registry.db"])
def test_a_reference_never_leaves_the_registry(registry: Registry, write: Write, ref: str) -> None:
    registry.publish(write().path)
    with pytest.raises((InvalidInput, ModelNotFound, IntegrityError)):
        registry.get(ref)


def test_the_database_cannot_be_taken_for_a_model(registry: Registry, write: Write) -> None:
    with pytest.raises(InvalidInput, match="registry's own database"):
        registry.publish(write("registry.db").path)


def test_reading_a_missing_registry_creates_nothing(registry: Registry) -> None:
    assert (registry.list(), registry.versions("m"), registry.aliases("m"), list(registry.artifacts())) == (
        [],
        [],
        {},
        [],
    )
    assert registry.revision() == registry.revision()
    assert not registry.path.exists()


def test_changing_a_missing_model_creates_nothing(registry: Registry) -> None:
    with pytest.raises(ModelNotFound):
        registry.set_alias("m", "champion", "v1")
    with pytest.raises(ModelNotFound):
        registry.remove_alias("m", "champion")
    with pytest.raises(ModelNotFound):
        registry.remove("m:v1")
    assert not registry.path.exists()


# Aliases and removal


def test_an_alias_follows_its_last_setting(registry: Registry, write: Write) -> None:
    for version in ("v1", "v2"):
        registry.publish(write("m", version).path)
    registry.set_alias("m", "champion", "v2")
    registry.set_alias("m", "challenger", "v2")
    registry.set_alias("m", "champion", "v1")
    assert registry.aliases("m") == {"challenger": "v2", "champion": "v1"}
    assert registry.get("m@champion").version == "v1"
    registry.remove_alias("m", "champion")
    assert registry.aliases("m") == {"challenger": "v2"}
    with pytest.raises(ModelNotFound, match="aliases: challenger"):
        registry.remove_alias("m", "champion")


def test_an_alias_needs_a_name_and_a_version_that_exists(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    with pytest.raises(ModelNotFound, match="versions: v1"):
        registry.set_alias("m", "champion", "v2")
    with pytest.raises(InvalidInput, match="alias"):
        registry.set_alias("m", "a b", "v1")
    assert registry.aliases("m") == {}


def test_removing_leaves_the_other_versions(registry: Registry, write: Write) -> None:
    for version in ("v1", "v2"):
        registry.publish(write("m", version).path)
    registry.remove("m:v2")
    assert registry.versions("m") == ["v1"]
    registry.remove("m:v1")
    assert registry.list() == []
    assert not (registry.path / "m").exists()
    assert _staged(registry) == []
    registry.publish(write("m", "v1", b"other").path).verify()


def test_a_version_with_an_alias_is_not_removed(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    registry.set_alias("m", "champion", "v1")
    with pytest.raises(InvalidInput, match="points at it: champion"):
        registry.remove("m:v1")
    registry.get("m@champion").verify()
    registry.remove_alias("m", "champion")
    registry.remove("m:v1")


@pytest.mark.parametrize("ref", ["m", "m@champion"])
def test_only_a_named_version_is_removed(registry: Registry, write: Write, ref: str) -> None:
    registry.publish(write().path)
    with pytest.raises(InvalidInput, match="write m:VERSION"):
        registry.remove(ref)
    assert registry.list() == ["m"]


def test_an_alias_of_a_version_deleted_by_hand_is_reported(registry: Registry, write: Write) -> None:
    registry.publish(write("m", "v1").path)
    registry.publish(write("m", "v2").path)
    registry.set_alias("m", "champion", "v1")
    shutil.rmtree(registry.path / "m" / "v1")
    with pytest.raises(ModelNotFound, match="'v1', which is gone"):
        registry.get("m@champion")


def test_every_change_gives_another_revision(registry: Registry, write: Write) -> None:
    source, seen = write("m", "v2"), [registry.revision()]

    def changed(action: Callable[[], object]) -> None:
        action()
        assert registry.revision() == registry.revision()
        seen.append(registry.revision())

    changed(lambda: registry.publish(write("m", "v1").path))
    changed(lambda: registry.publish(source.path))
    changed(lambda: registry.set_alias("m", "champion", "v1"))
    changed(lambda: registry.set_alias("m", "champion", "v2"))
    changed(lambda: registry.remove_alias("m", "champion"))
    changed(lambda: registry.remove("m:v2"))
    changed(lambda: shutil.copytree(source.path, registry.path / "m" / "v3"))
    changed(lambda: shutil.rmtree(registry.path / "m" / "v3"))
    assert len(set(seen)) == len(seen)


def test_a_change_by_another_registry_object_is_seen(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    before = registry.revision()
    with Registry(registry.path, registry.database_url) as other:
        other.set_alias("m", "champion", "v1")
    assert registry.revision() != before
    assert registry.get("m@champion").version == "v1"


def test_a_closed_registry_opens_again(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    registry.close()
    registry.close()
    assert registry.get("m").version == "v1"


def test_the_default_is_a_directory_called_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Registry().path == tmp_path / "registry"
    assert Registry().database_url == f"sqlite:///{tmp_path}/registry/registry.db"


def test_the_database_may_be_elsewhere(tmp_path: Path, write: Write) -> None:
    database = tmp_path / "with space & ü.db"
    with Registry(tmp_path / "registry", f"sqlite:///{database}") as registry:
        registry.publish(write().path)
        registry.set_alias("m", "champion", "v1")
        assert registry.aliases("m") == {"champion": "v1"}
    assert database.exists()
    assert not (tmp_path / "registry/registry.db").exists()


# What cannot be trusted


@pytest.mark.parametrize("file", ["manifest.json", ONNX, "golden.safetensors", "card.md"])
def test_a_damaged_source_is_refused_and_leaves_nothing(registry: Registry, write: Write, file: str) -> None:
    source = write()
    with (source.path / file).open("ab") as content:
        content.write(b"x")
    with pytest.raises(IntegrityError, match=file):
        registry.publish(source.path)
    assert registry.list() == []


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "variants/../../outside", "..\\outside"])
def test_a_source_with_paths_outside_is_refused(registry: Registry, write: Write, path: str) -> None:
    source = write()
    (source.path.parent / "outside").write_bytes(b"secret")
    manifest = json.loads((source.path / "manifest.json").read_text())
    manifest["variants"][0]["files"][0]["path"] = manifest["variants"][0]["file"] = path
    (source.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"manifest\.json: variants\.0.*not a path inside the artifact"):
        registry.publish(source.path)
    assert not registry.path.exists()


def test_a_source_with_an_extra_file_is_refused(registry: Registry, write: Write) -> None:
    source = write()
    (source.path / "payload.pkl").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"payload\.pkl is not listed"):
        registry.publish(source.path)
    assert registry.list() == []


@pytest.mark.parametrize("place", [ONNX, "variants", "manifest.json"])
def test_a_source_with_a_link_is_refused(registry: Registry, write: Write, tmp_path: Path, place: str) -> None:
    source = write()
    shutil.move(source.path / place, tmp_path / "moved")
    (source.path / place).symlink_to(tmp_path / "moved")
    with pytest.raises(IntegrityError, match=f"{place} is a symbolic link"):
        registry.publish(source.path)
    assert registry.list() == []


def test_a_link_to_an_artifact_is_followed_when_publishing(registry: Registry, write: Write, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(write().path)
    published = registry.publish(tmp_path / "latest")
    assert not published.path.is_symlink()
    published.verify()


def test_a_link_to_itself_is_not_an_artifact(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(IntegrityError, match="loop"):
        registry.publish(tmp_path / "loop")


@pytest.mark.parametrize("place", ["m", "m/v1", "m/v1/manifest.json", "m/v1/variants", f"m/v1/{ONNX}"])
def test_a_link_in_the_registry_is_refused(registry: Registry, write: Write, tmp_path: Path, place: str) -> None:
    registry.publish(write().path)
    shutil.move(registry.path / place, tmp_path / "moved")
    (registry.path / place).symlink_to(tmp_path / "moved")
    with pytest.raises(IntegrityError, match=f"{place} is a symbolic link"):
        registry.get("m:v1").verify()


def test_a_linked_version_does_not_answer_for_the_model(registry: Registry, write: Write) -> None:
    registry.publish(write("m", "v1").path)
    (registry.path / "m" / "v9").symlink_to(write("m", "v9").path)
    assert registry.versions("m") == ["v1"]
    assert registry.get("m").version == "v1"
    with pytest.raises(IntegrityError, match="m/v9 is a symbolic link"):
        registry.get("m:v9")
    registry.remove("m:v9")
    assert not (registry.path / "m" / "v9").is_symlink()


def test_removing_through_a_linked_name_is_refused(registry: Registry, write: Write, tmp_path: Path) -> None:
    registry.publish(write().path)
    shutil.move(registry.path / "m", tmp_path / "moved")
    (registry.path / "m").symlink_to(tmp_path / "moved")
    with pytest.raises(IntegrityError, match="remove it by hand"):
        registry.remove("m:v1")
    assert (tmp_path / "moved" / "v1").is_dir()


def test_a_hand_edited_manifest_is_refused(registry: Registry, write: Write) -> None:
    path = registry.publish(write().path).path / "manifest.json"
    path.write_text(path.read_text().replace('"metrics": {}', '"metrics": {"accuracy": 1.0}'))
    with pytest.raises(IntegrityError, match=r"m/v1/manifest\.json is not the one that was published"):
        registry.get("m:v1")


@pytest.mark.parametrize("place", ["n/v1", "m/v2"])
def test_an_artifact_in_the_directory_of_another_is_refused(registry: Registry, write: Write, place: str) -> None:
    published = registry.publish(write().path)
    shutil.copytree(published.path, registry.path / place)
    with pytest.raises(IntegrityError, match=f"{place}/manifest.json says it is m:v1"):
        registry.get(place.replace("/", ":"))


def test_a_half_copied_version_is_named_and_the_others_are_listed(registry: Registry, write: Write) -> None:
    registry.publish(write("m", "v1").path)
    (registry.path / "m" / "v0" / "variants").mkdir(parents=True)
    with pytest.raises(IntegrityError, match=r"m/v0/manifest\.json is missing"):
        registry.get("m:v0")
    with pytest.raises(IntegrityError, match="v0"):
        list(registry.artifacts())
    faults: list[IntegrityError] = []
    assert [artifact.ref for artifact in registry.artifacts(faults.append)] == ["m:v1"]
    assert len(faults) == 1
    registry.remove("m:v0")
    assert registry.versions("m") == ["v1"]


def test_a_file_instead_of_a_version_is_named(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    (registry.path / "m" / "v2").touch()
    assert registry.versions("m") == ["v1"]
    with pytest.raises(IntegrityError, match="m/v2 is not a directory"):
        registry.get("m:v2")


def test_a_version_copied_in_by_hand_is_adopted_when_first_read(registry: Registry, write: Write) -> None:
    registry.path.mkdir()
    shutil.copytree(write().path, registry.path / "m" / "v1")
    adopted = registry.get("m")
    assert adopted.ref == "m:v1"
    manifest = adopted.path / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(IntegrityError, match="not the one that was published"):
        registry.get("m")


def test_a_removed_version_can_be_published_again_with_other_content(registry: Registry, write: Write) -> None:
    registry.publish(write().path)
    shutil.rmtree(registry.path / "m")
    published = registry.publish(write(content=b"other").path)
    assert registry.get("m:v1") == published
