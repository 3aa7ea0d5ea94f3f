"""What an optimized version takes over from the one that it was made of."""

from __future__ import annotations

from pathlib import Path

from searched_models import published, rows

from penstock.artifacts.artifact import Artifact
from penstock.registry.registry import Registry
from penstock.toolchain.recipes.recipe import Recipe
from penstock.toolchain.search.candidate import Candidate, Planned, Speed
from penstock.toolchain.search.outcome.publish import Kept, publish


def test_a_prohibition_and_a_reference_are_taken_over(tmp_path: Path) -> None:
    with Registry(tmp_path / "first") as first, Registry(tmp_path / "second") as second:
        source = published(first, tmp_path / "made").path
        artifact = second.publish(source, reference={"x": rows()}, log_inputs=False)
        baseline = Candidate(Planned("onnx-fp32", Recipe(format="onnx")))
        kept = Kept(baseline, (), {variant.name: Speed(1, {1: 0.5}, {1: 0.7}) for variant in artifact.variants}, {})
        optimized: Artifact = publish(second, artifact, "v1.1", kept)
        assert optimized.manifest.log_inputs is False
        assert optimized.reference() == artifact.reference() != None  # noqa: E711
