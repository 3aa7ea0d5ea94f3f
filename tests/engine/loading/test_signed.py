"""With `require_signed`, nothing is loaded unless one of the keys has signed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from linear_models import linear
from signing_keys import KeyPair, write_pair

import penstock
from penstock.artifacts.artifact import SIGNATURE, Artifact
from penstock.artifacts.signatures.signers import signed_by
from penstock.engine.loading.manager import ModelManager
from penstock.errors import ConfigError, IntegrityError, Untrusted
from penstock.registry.registry import Registry


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return write_pair(tmp_path)


@pytest.fixture
def published(tmp_path: Path) -> Artifact:
    with Registry(tmp_path / "registry") as registry:
        artifact = registry.publish_bundled("digits", prove=False)
    assert artifact is not None
    return artifact


@pytest.fixture
def manager(tmp_path: Path, pair: KeyPair, published: Artifact) -> Any:
    manager = ModelManager(tmp_path / "registry", require_signed=str(pair.public), choosing="first")
    yield manager
    manager.close()


def sign(artifact: Artifact, pair: KeyPair) -> None:
    (artifact.path / SIGNATURE).write_bytes(signed_by(pair.private, lambda: None, artifact.ref, artifact.digests())[1])


def test_an_unsigned_model_is_refused_and_loads_once_it_is_signed(
    manager: ModelManager, published: Artifact, pair: KeyPair
) -> None:
    for load in (manager.load_model, manager.check):
        with pytest.raises(
            Untrusted, match=r"^digits:v1.0: it has no signature .* sign it with `penstock models sign digits:"
        ):
            load("digits")
    sign(published, pair)
    assert manager.load_model("digits").key == "digits:v1.0"  # at once, without waiting for a back-off


def test_a_wrongly_signed_model_is_refused_also_after_a_good_one(
    manager: ModelManager, published: Artifact, pair: KeyPair, tmp_path: Path
) -> None:
    sign(published, pair)
    manager.load_model("digits")
    manager.clear_cache()
    sign(published, write_pair(tmp_path, "other"))
    for load in (manager.load_model, manager.check):
        with pytest.raises(Untrusted, match="signed with another key"):
            load("digits")
    (published.path / SIGNATURE).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=r"^digits:v1.0: its signature is no Sigstore bundle"):
        manager.check("digits")


def test_a_signed_model_with_altered_files_is_refused(
    manager: ModelManager, published: Artifact, pair: KeyPair
) -> None:
    sign(published, pair)
    path = published.variant_path(published.variants[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="does not match the sha256"):
        manager.load_model("digits")


def test_a_registry_without_the_requirement_does_not_lift_it(
    published: Artifact, pair: KeyPair, tmp_path: Path
) -> None:
    assert published.name == "digits"
    with Registry(tmp_path / "registry") as registry, pytest.raises(Untrusted, match="it has no signature"):
        penstock.Predictor("digits", registry=registry, require_signed=[pair.public])


def test_a_registry_with_the_requirement_holds_a_predictor_to_it(
    published: Artifact, pair: KeyPair, tmp_path: Path
) -> None:
    assert published.name == "digits"
    with (
        Registry(tmp_path / "registry", require_signed=[pair.public]) as registry,
        pytest.raises(Untrusted, match="it has no signature"),
    ):
        penstock.Predictor("digits", registry=registry)


def test_a_registry_with_the_requirement_refuses_bare_files(pair: KeyPair, tmp_path: Path) -> None:
    with (
        Registry(tmp_path / "registry", require_signed=[pair.public]) as registry,
        pytest.raises(Untrusted, match="it cannot have a signature"),
    ):
        penstock.Predictor(linear(tmp_path / "linear.onnx"), registry=registry)


def test_a_bare_file_cannot_be_signed(manager: ModelManager, tmp_path: Path) -> None:
    with pytest.raises(
        Untrusted, match=r"linear.onnx: it cannot have a signature, .*: `penstock models import`, `penstock"
    ):
        manager.load_model(linear(tmp_path / "linear.onnx"))


def test_any_of_several_keys_may_sign(published: Artifact, pair: KeyPair, tmp_path: Path) -> None:
    sign(published, pair)
    keys = f"{write_pair(tmp_path, 'next').public}, {pair.public}"
    with ModelManager(tmp_path / "registry", require_signed=keys).registry as registry:
        registry.get("digits").check_signed()


def test_a_faulty_key_is_found_before_any_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^require_signed: .*gone.pem: the public key cannot be read"):
        ModelManager(require_signed=str(tmp_path / "gone.pem"))
