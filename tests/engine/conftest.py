"""Registries that hold small real models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from linear_models import FEATURES, SIGNATURE, Publish, linear, weights

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    return linear(tmp_path / "linear.onnx")


@pytest.fixture
def registry(tmp_path: Path, database: Callable[[Path], str]) -> Iterator[Registry]:
    with Registry(tmp_path / "registry", database(tmp_path / "registry")) as registry:
        yield registry


@pytest.fixture
def publish(tmp_path: Path, registry: Registry) -> Publish:
    """Publish name:version; `seed` chooses the weights, `golden_seed` those its golden samples come from."""

    def publish(
        name: str = "m", version: str = "1.0.0", seed: int = 0, golden_seed: int | None = None, again: bool = False
    ) -> Artifact:
        x = np.random.default_rng(99).standard_normal((6, FEATURES)).astype(np.float32)
        expected = x @ weights(seed if golden_seed is None else golden_seed)
        artifact = write_artifact(
            tmp_path / f"source-{name}-{version}{'-again' if again else ''}",
            name=name,
            version=version,
            task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
            signature=SIGNATURE,
            variants=[VariantSource("onnx", "fp32", linear(tmp_path / f"{name}-{version}.onnx", seed))],
            golden=Golden({"x": x}, {"logits": expected}, 1e-5, 1e-5),
            card="# A linear model\n",
        )
        return registry.publish(artifact.path, prove=False)  # the tests load it, also where that fails

    return publish
