"""What import, publish and show say about a model whose rows influence each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dependent_models import DependentModel, centred
from linear_models import linear
from row_models import DEPENDENT, FEATURES, write

from penstock.artifacts.artifact import Artifact, Golden, TaskEntry, VariantSource, write_artifact
from penstock.cli.models.import_file import publish_file
from penstock.engine.loading.manager import ModelManager
from penstock.errors import ModelLoadError
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, FEATURES)),), (TensorSpec("y", "FP32", (-1, FEATURES)),))


@pytest.fixture
def registry(tmp_path: Path, database: Callable[[Path], str]) -> Iterator[Registry]:
    with Registry(tmp_path / "registry", database(tmp_path / "registry")) as registry:
        yield registry


@pytest.fixture
def model(tmp_path: Path) -> DependentModel:
    return centred(tmp_path)


@pytest.fixture
def claim(tmp_path: Path, model: DependentModel) -> Callable[[bool | None], Artifact]:
    def claim(batchable: bool | None) -> Artifact:
        x = np.random.default_rng(0).standard_normal((8, FEATURES)).astype(np.float32)
        return write_artifact(
            tmp_path / "artifact",
            name="m",
            version="1",
            task=TaskEntry(kind="tensor"),
            signature=SIGNATURE,
            variants=[VariantSource("onnx", "fp32", model.path)],
            golden=Golden({"x": x}, {"y": model.answer(x)}),
            card="",
            batchable=batchable,
        )

    return claim


@pytest.mark.parametrize("dependent", [True, False])
def test_an_import_records_what_was_measured(registry: Registry, tmp_path: Path, dependent: bool) -> None:
    file = centred(tmp_path).path if dependent else linear(tmp_path / "linear.onnx")
    manifest = publish_file(registry, file).manifest
    assert manifest.batchable is not dependent
    rows = manifest.lineage["rows"]
    assert rows["batchable"] is not dependent
    assert (rows["difference"] > 0.1) == dependent


def test_a_load_of_an_imported_model_has_the_recorded_difference(registry: Registry, model: DependentModel) -> None:
    artifact = publish_file(registry, model.path)
    info = ModelManager(registry).load_model(artifact.ref).info
    assert not info.batchable
    assert info.batch_difference == artifact.manifest.lineage["rows"]["difference"]


def test_the_card_of_an_import_says_that_a_model_is_not_batchable(registry: Registry, tmp_path: Path) -> None:
    dependent = publish_file(registry, centred(tmp_path).path).card_text()
    independent = publish_file(registry, linear(tmp_path / "linear.onnx")).card_text()
    assert "Not batchable: other rows in the run change a row's answer (by " in dependent
    assert "batchable" not in independent


def test_a_model_that_answers_differently_each_time_gets_no_golden_samples(registry: Registry, tmp_path: Path) -> None:
    artifact = publish_file(registry, write(tmp_path / "noisy.onnx", DEPENDENT["random numbers"]))
    assert artifact.golden() is None
    assert "another answer each time" in artifact.manifest.lineage["golden_samples"]
    assert not ModelManager(registry).load_model("noisy").info.batchable


def test_a_claim_against_the_measurement_is_refused_at_publish(
    registry: Registry, claim: Callable[[bool | None], Artifact]
) -> None:
    with pytest.raises(ModelLoadError, match="m:1: batchable: its manifest says true, but other rows"):
        registry.publish(claim(True).path)
    assert registry.list() == []


@pytest.mark.parametrize("batchable", [None, False])
def test_a_manifest_that_does_not_claim_it_is_published(
    registry: Registry, claim: Callable[[bool | None], Artifact], batchable: bool | None
) -> None:
    assert registry.publish(claim(batchable).path).ref == "m:1"


def test_show_says_it_with_the_measured_difference(
    penstock: Callable[..., Any], registry: Registry, tmp_path: Path
) -> None:
    publish_file(registry, centred(tmp_path).path)
    publish_file(registry, linear(tmp_path / "linear.onnx"))
    assert "no: other rows in the run change a row's answer (by " in penstock("models", "show", "centred").out
    assert "yes: rows do not change each other's answers" in penstock("models", "show", "linear").out
    shown = penstock("models", "show", "centred", "--json").json()["served_as"]
    assert shown["batchable"] is False
    assert shown["batch_difference"] > 0.1
