"""More versions of `vec`, for routes: good ones, one whose golden samples fail, and one that fails some requests."""

from __future__ import annotations

from pathlib import Path

import burst_models
import numpy as np
from linear_models import FEATURES, SIGNATURE, linear, weights

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry

GOLDEN = Golden({"x": np.ones((2, FEATURES), np.float32)}, {"logits": np.ones((2, FEATURES), np.float32) @ weights(5)})
"""What the failing version answers."""
FAILS = {"input_data": [burst_models.FAILS, 0.0, 0.0, 0.0]}
"""A request that the failing version fails."""


def publish_version(
    registry: Registry, root: Path, version: str = "v3.0", seed: int = 3, *, broken: bool = False
) -> None:
    """A version of `vec` with its own weights; the golden samples of a broken one are those of another model."""
    x = np.ones((2, FEATURES), np.float32)
    golden = Golden({"x": x}, {"logits": x @ weights(seed + broken)}, 1e-5, 1e-5)
    _publish(registry, root, version, linear(root / f"vec-{version}.onnx", seed), golden)


def publish_failing(registry: Registry, root: Path, version: str = "v4.0", *, golden: Golden | None = None) -> None:
    """A version of `vec` that fails the request `FAILS`, with golden samples if there are any."""
    _publish(registry, root, version, burst_models.failing_file(root), golden)


def _publish(registry: Registry, root: Path, version: str, file: Path, golden: Golden | None) -> None:
    artifact = write_artifact(
        root / f"more-{version}",
        name="vec",
        version=version,
        task=TaskEntry(kind="vector-classification", config={"output": "logits"}),
        signature=SIGNATURE,
        variants=[VariantSource("onnx", "fp32", file)],
        golden=golden,
        card="# vec\n",
    )
    registry.publish(artifact.path, prove=False)
