"""An artifact that was written with schema version 1, kept in `data/`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.manifest import Manifest

WINE = Path(__file__).parent / "data/wine-schema-1"
DIGEST = "997370dadd72b37dab0aa0f1d654247d27e44e53758d24ee0d439054b8d3adff"


def test_an_artifact_of_the_first_releases_opens_with_the_digest_it_was_published_with() -> None:
    artifact = Artifact.open(WINE)
    artifact.verify()
    assert artifact.digest == hashlib.sha256((WINE / "manifest.json").read_bytes()).hexdigest() == DIGEST
    assert (artifact.ref, artifact.manifest.schema_version) == ("wine:v1.0", "1.0")
    assert [variant.name for variant in artifact.variants] == ["onnx-fp32"]
    assert artifact.manifest.schema_warning is None
    assert artifact.card_text().startswith("# wine v1.0")
    golden = artifact.golden()
    assert golden is not None
    assert golden.rows == 6


def test_its_manifest_is_written_again_byte_for_byte() -> None:
    data = (WINE / "manifest.json").read_bytes()
    assert json.loads(data)["schema_version"] == 1
    assert Manifest.from_bytes(data).to_bytes() == data


def test_it_publishes_loads_and_predicts(tmp_path: Path) -> None:
    from penstock.engine.predictor.predictor import Predictor
    from penstock.registry.registry import Registry

    golden = Artifact.open(WINE).golden()
    assert golden is not None
    with Registry(tmp_path / "registry") as registry:
        assert registry.publish(WINE).digest == DIGEST
        predictor = Predictor("wine:v1.0", registry=registry)
        assert (predictor.info.variant, predictor.info.warnings) == ("onnx-fp32", ())
        answer = predictor.predict(golden.inputs["x"])
    classes = golden.outputs["logits"].argmax(axis=1)
    assert np.array_equal(np.asarray(answer.predictions), classes)
