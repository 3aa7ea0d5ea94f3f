"""Who may run code: tiers, pins by digest, and what publishing refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from crafted import Payload, model, outside

from penstock.artifacts.artifact import Artifact, VariantSource
from penstock.errors import ConfigError, IntegrityError, InvalidInput, Untrusted
from penstock.formats import TIERS
from penstock.registry.registry import Registry
from penstock.scan.trust import at_least, check_trust, strongest

DIGEST = "0" * 64
Write = Any


def test_every_tier_covers_itself_and_those_before() -> None:
    covered = {(have, need) for have in TIERS for need in TIERS if at_least(have, need)}
    assert covered == {
        ("data", "data"),
        ("code", "data"),
        ("code", "code"),
        ("native", "data"),
        ("native", "code"),
        ("native", "native"),
    }


def test_the_strongest_of_tiers_covers_all() -> None:
    assert strongest("data") == "data"
    assert strongest("data", "native", "code") == "native"


@pytest.mark.parametrize("value", ["Code", "", None, "root", 1])
def test_an_unknown_tier_is_refused_everywhere(value: Any, registry: Registry, write: Write) -> None:
    for attempt in (
        lambda: check_trust(value),
        lambda: at_least(value, "data"),
        lambda: at_least("data", value),
        lambda: registry.trust(DIGEST, value),
        lambda: registry.publish(write().path, trust=value),
    ):
        with pytest.raises(ConfigError, match=r"trust: .* is not a tier of trust; use data, code, native"):
            attempt()


# Pins


def test_no_digest_is_trusted_before_it_is_pinned(registry: Registry, write: Write) -> None:
    assert registry.trusted(DIGEST) == "data"
    published = registry.publish(write().path)
    assert registry.trusted(published.digest) == "data"
    assert registry.trusted(DIGEST) == "data"


def test_a_pin_is_stored_changed_and_removed(registry: Registry) -> None:
    for tier in ("code", "native", "code", "data"):
        registry.trust(DIGEST, tier, "as the team decided")
        with Registry(registry.path, registry.database_url) as other:
            assert other.trusted(DIGEST) == tier


def test_a_pin_changes_the_revision_that_servers_poll(registry: Registry) -> None:
    before = registry.revision()
    registry.trust(DIGEST, "code")
    assert registry.revision() != before


@pytest.mark.parametrize("digest", ["", "0" * 63, "g" * 64, "A" * 64, "0" * 64 + "\n"])
def test_only_a_sha256_can_be_pinned(registry: Registry, digest: str) -> None:
    with pytest.raises(InvalidInput, match="is not a sha256"):
        registry.trust(digest, "code")


def test_publishing_with_trust_pins_this_digest_and_no_other(registry: Registry, write: Write) -> None:
    trusted, other = (
        registry.publish(write(version=v, content=v.encode()).path, t) for v, t in (("v1", "code"), ("v2", "data"))
    )
    assert (registry.trusted(trusted.digest), registry.trusted(other.digest)) == ("code", "data")


def test_publishing_again_with_trust_pins_and_without_does_not_unpin(registry: Registry, write: Write) -> None:
    source = write()
    registry.publish(source.path)
    published = registry.publish(source.path, trust="code")
    assert registry.trusted(published.digest) == "code"
    registry.publish(source.path)
    assert registry.trusted(published.digest) == "code"


def test_an_artifact_cannot_grant_trust_to_itself(registry: Registry, write: Write) -> None:
    source = write(lineage={"trust": "native", "digest": DIGEST})
    assert registry.trusted(registry.publish(source.path).digest) == "data"


# Publishing


def evil(path: Path, marker: Path) -> Path:
    import torch

    torch.save({"weights": Payload(marker)}, path)
    return path


def with_variant(write: Write, format: str, source: Path) -> Artifact:
    artifact: Artifact = write(variants=[VariantSource(format, "fp32", source, architecture="a.b:C")], golden=None)
    return artifact


def test_weights_that_would_run_code_are_published_only_with_trust(
    registry: Registry, write: Write, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    source = with_variant(write, "pytorch", evil(tmp_path / "m.pt", marker))
    with pytest.raises(Untrusted, match=r"model\.pt: .*posix\.system.*trust=.code.") as refused:
        registry.publish(source.path)
    assert str(source.path) in str(refused.value)
    assert registry.list() == []
    assert registry.publish(source.path, trust="code", prove=False).digest == source.digest
    assert not marker.exists()


def test_a_pinned_digest_is_published_without_trust_option(registry: Registry, write: Write, tmp_path: Path) -> None:
    source = with_variant(write, "pytorch", evil(tmp_path / "m.pt", tmp_path / "marker"))
    registry.trust(source.digest, "code", "exported here")
    assert registry.publish(source.path, prove=False).digest == source.digest


def test_a_forbidden_file_is_refused_at_every_tier(registry: Registry, write: Write, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    onnx.save(model(tensors=[outside("../secret")]), path)
    source = with_variant(write, "onnx", path)
    for trust in TIERS:
        with pytest.raises(IntegrityError, match=r"model\.onnx: its external data .*; it was not opened"):
            registry.publish(source.path, trust=trust)
    assert registry.list() == []
    assert registry.trusted(source.digest) == "data"


def test_a_native_library_next_to_a_model_is_refused(registry: Registry, write: Write, tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    library.write_bytes(b"\x7fELF")
    onnx.save(model(), tmp_path / "m.onnx")
    source = write(variants=[VariantSource("onnx", "fp32", tmp_path / "m.onnx", companions=[library])], golden=None)
    with pytest.raises(IntegrityError, match=r"ops\.so: it is a program, which is not part of a model"):
        registry.publish(source.path, trust="native")


def test_a_file_of_another_format_than_in_the_manifest_is_refused(
    registry: Registry, write: Write, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    onnx.save(model(), path)
    with pytest.raises(IntegrityError, match=r"does not promise|not a safetensors"):
        registry.publish(with_variant(write, "pytorch", path).path)
