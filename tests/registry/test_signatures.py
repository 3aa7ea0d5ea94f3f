"""Signatures in a registry: carried by publishing, replaced by signing, and required where the registry says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from signing_keys import KeyPair, write_pair

from penstock.artifacts.artifact import SIGNATURE, Artifact
from penstock.artifacts.diff import changes
from penstock.artifacts.signatures.signers import signed_by
from penstock.errors import ConfigError, IntegrityError, Untrusted
from penstock.registry.gc import find_garbage, remove_garbage
from penstock.registry.registry import Registry

Write = Callable[..., Artifact]


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return write_pair(tmp_path)


@pytest.fixture
def strict(registry: Registry, pair: KeyPair) -> Iterator[Registry]:
    """The same registry for somebody who requires signatures."""
    with Registry(registry.path, registry.database_url, require_signed=[pair.public]) as strict:
        yield strict


def bundle(pair: KeyPair, artifact: Artifact) -> bytes:
    return signed_by(pair.private, lambda: None, artifact.ref, artifact.digests())[1]


def write_signature(pair: KeyPair, artifact: Artifact) -> Artifact:
    (artifact.path / SIGNATURE).write_bytes(bundle(pair, artifact))
    return artifact


def test_publishing_carries_the_signature(registry: Registry, write: Write, pair: KeyPair) -> None:
    source = write_signature(pair, write())
    published = registry.publish(source.path, prove=False)
    assert published.signature_bundle() == source.signature_bundle()
    assert published.digest == source.digest
    published.verify()


def test_publishing_again_with_a_signature_adds_it_and_replaces_an_older_one(
    registry: Registry, write: Write, pair: KeyPair
) -> None:
    source = write()
    published = registry.publish(source.path, prove=False)
    for _ in range(2):  # ECDSA signatures of the same content differ
        write_signature(pair, source)
        assert registry.publish(source.path).digest == published.digest
        assert published.signature_bundle() == source.signature_bundle()
    (source.path / SIGNATURE).unlink()
    registry.publish(source.path)
    assert published.signature_bundle() is not None


def test_signing_replaces_the_signature_and_keeps_digest_aliases_and_other_files(
    registry: Registry, write: Write, pair: KeyPair
) -> None:
    published = registry.publish(write().path, prove=False)
    registry.set_alias("m", "champion", "v1", force=True)
    for _ in range(2):
        signature = bundle(pair, published)
        assert registry.add_signature("m@champion", signature) == published.path / SIGNATURE
        assert registry.get("m").signature_bundle() == signature
    registry.get("m").verify()
    assert registry.get("m").digest == published.digest
    assert registry.leftovers() == []


def test_a_signed_version_is_compared_and_removed_like_any_other(
    registry: Registry, write: Write, pair: KeyPair
) -> None:
    registry.publish(write_signature(pair, write()).path, prove=False)
    registry.publish(write("m", "v2", b"other").path, prove=False)
    assert changes(registry.get("m:v1").manifest, registry.get("m:v2").manifest)
    garbage = find_garbage(registry, ["m"], keep=1)
    assert [str(ref) for ref, _ in garbage.versions] == ["m:v1"]
    remove_garbage(registry, garbage)
    assert not (registry.path / "m" / "v1").exists()


def test_a_link_in_the_place_of_a_signature_is_not_published(registry: Registry, write: Write, tmp_path: Path) -> None:
    source = write()
    (tmp_path / "secret").write_text("secret")
    (source.path / SIGNATURE).symlink_to(tmp_path / "secret")
    with pytest.raises(IntegrityError, match=r"model.sig is a symbolic link"):
        registry.publish(source.path, prove=False)


def test_the_proof_of_a_publish_requires_the_signature(strict: Registry, write: Write, pair: KeyPair) -> None:
    source = write()
    with pytest.raises(Untrusted, match=r"m:v1: it has no signature .* key.pub.pem .*prove=False"):
        strict.publish(source.path)
    assert strict.list() == []
    (source.path / SIGNATURE).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="no Sigstore bundle"):
        strict.publish(source.path)
    assert strict.publish(write_signature(pair, source).path).version == "v1"


def test_an_alias_moves_to_signed_versions_only(strict: Registry, write: Write, pair: KeyPair) -> None:
    published = strict.publish(write().path, prove=False)
    with pytest.raises(Untrusted, match=r"m@champion is not set, .* it has no signature"):
        strict.set_alias("m", "champion", "v1")
    strict.add_signature("m:v1", bundle(pair, published))
    strict.set_alias("m", "champion", "v1")


def test_a_signature_of_another_version_is_refused(strict: Registry, write: Write, pair: KeyPair) -> None:
    first = write_signature(pair, write())
    strict.publish(first.path)
    second = write("m", "v2")
    (second.path / SIGNATURE).write_bytes(bundle(pair, first))
    with pytest.raises(IntegrityError, match=r"m:v2: its signature is of other content: manifest.json"):
        strict.publish(second.path)


def test_a_worse_signature_does_not_replace_a_good_one(strict: Registry, write: Write, pair: KeyPair) -> None:
    source = write_signature(pair, write())
    published = strict.publish(source.path)
    (source.path / SIGNATURE).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="no Sigstore bundle"):
        strict.publish(source.path)
    published.verify()


def test_a_registry_with_a_faulty_key_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^require_signed: .*gone.pem: the public key cannot be read"):
        Registry(tmp_path, require_signed=[tmp_path / "gone.pem"])
