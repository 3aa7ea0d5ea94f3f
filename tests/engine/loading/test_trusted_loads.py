"""Which models a manager may load: within its own trust, or what the registry trusts by digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import Mlp
from safetensors.torch import save_file

from penstock.artifacts.artifact import Artifact, TaskEntry, VariantSource, write_artifact
from penstock.engine.config import InferenceConfig
from penstock.engine.loading.manager import ModelManager
from penstock.errors import ConfigError, Untrusted
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 12)),), (TensorSpec("y", "FP32", (-1, 5)),))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def published(tmp_path: Path, registry: Registry) -> Artifact:
    """An eager model whose class is in a module that is not registered."""
    save_file(Mlp().state_dict(), tmp_path / "m.safetensors")
    source = VariantSource("pytorch", "fp32", tmp_path / "m.safetensors", architecture="networks:Mlp")
    artifact = write_artifact(
        tmp_path / "artifact",
        name="m",
        version="v1",
        task=TaskEntry(kind="tensor"),
        signature=SIGNATURE,
        variants=[source],
        golden=None,
        card="",
    )
    return registry.publish(artifact.path, prove=False)  # the proof would need its trust


def answers(registry: Registry, trust: str = "data") -> None:
    manager = ModelManager(registry, device="cpu", trust=trust)
    try:
        model = manager.load_model("m")
        assert model.backend.run({"x": np.zeros((2, 12), np.float32)})["y"].shape == (2, 5)
    finally:
        manager.close()


def test_an_untrusted_model_is_not_loaded(registry: Registry, published: Artifact) -> None:
    with pytest.raises(Untrusted, match="networks"):
        answers(registry)


def test_a_model_within_the_trust_of_the_process_is_loaded(registry: Registry, published: Artifact) -> None:
    answers(registry, trust="code")


def test_a_pinned_digest_is_trusted_and_no_other(registry: Registry, published: Artifact) -> None:
    registry.trust("0" * 64, "native", "another model")
    with pytest.raises(Untrusted):
        answers(registry)
    registry.trust(published.digest, "code", "reviewed")
    answers(registry)
    registry.trust(published.digest, "data")
    with pytest.raises(Untrusted):
        answers(registry)


def test_a_directory_placed_by_hand_is_not_trusted(registry: Registry, published: Artifact) -> None:
    registry.trust(published.digest, "code")
    other = published.path.with_name("v2")
    published.path.rename(other)
    manifest = other / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"v1"', b'"v2"'))
    with pytest.raises(Untrusted):
        answers(registry)


def test_an_unknown_tier_of_trust_is_refused() -> None:
    with pytest.raises(ConfigError, match="trust: 'all' should be 'data', 'code' or 'native'"):
        InferenceConfig(trust="all")
