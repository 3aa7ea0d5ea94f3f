"""Batch axes in manifests, and artifacts of models some tensor of which has no batch axis."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from axis_models import GRAPHS, answers
from manifest_documents import MANIFEST

from penstock.artifacts.artifact import Golden, TaskEntry, VariantSource, write_artifact
from penstock.artifacts.manifest import Manifest
from penstock.engine.loading.load import load_artifact
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import InvalidInput, ModelLoadError
from penstock.options import EngineOptions
from penstock.registry.registry import Registry
from penstock.tensors import Signature, TensorSpec

TENSORS = {
    "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, 3]}, {"name": "h", "dtype": "FP32", "shape": [1, -1, 3]}],
    "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, 3]}, {"name": "hn", "dtype": "FP32", "shape": [1, -1, 3]}],
}


def test_a_manifest_records_the_axes_of_its_signature() -> None:
    manifest = Manifest.model_validate(MANIFEST | {"signature": TENSORS, "batch_axes": {"h": 1, "hn": None}})
    assert manifest.signature.batch_axes == {"h": 1, "hn": None}
    assert manifest.signature.whole
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    document = manifest.to_json()
    assert document["batch_axes"] == {"h": 1, "hn": None}
    assert document["signature"] == TENSORS
    assert "batch_axes" not in Manifest.model_validate(MANIFEST).to_json()


def test_axes_in_a_signature_are_recorded() -> None:
    signature = Signature.from_json(TENSORS | {"batch_axes": {"h": 1, "hn": 1}})
    assert not signature.whole
    manifest = Manifest.model_validate(MANIFEST | {"signature": signature})
    assert manifest.batch_axes == {"h": 1, "hn": 1}
    assert manifest.signature == signature


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"z": 0}, "batch_axes: the model has no tensor 'z'; it has x, h, y, hn"),
        ({"x": 2}, "batch_axes: x has no axis 2, it has 2 axes"),
        ({"x": -1}, "batch_axes.x: Input should be greater than or equal to 0"),
        ({"x": "0"}, "batch_axes.x: Input should be a valid integer"),
        ([0], "batch_axes: Input should be a valid object"),
    ],
)
def test_axes_that_are_not_there_are_refused_by_name(axes: object, sentence: str) -> None:
    document = Manifest.model_validate(MANIFEST | {"signature": TENSORS}).to_json() | {"batch_axes": axes}
    with pytest.raises(InvalidInput, match=sentence.replace("[", r"\[")):
        Manifest.from_bytes(json.dumps(document).encode())


SILERO = Signature(
    (TensorSpec("x", "FP32", (-1, -1)), TensorSpec("state", "FP32", (2, -1, 128)), TensorSpec("sr", "INT64", ())),
    (TensorSpec("p", "FP32", (-1, 1)), TensorSpec("stateN", "FP32", (2, -1, 128))),
    batch_axes={"stateN": None},
)


@pytest.mark.parametrize("task", ["tensor", "tabular", "vector-classification"])
def test_an_artifact_is_verified_and_served_in_the_shapes_of_its_file(tmp_path: Path, task: str) -> None:
    graph = GRAPHS["silero"]
    path = graph.save(tmp_path / "voice.onnx")
    expected = answers(path, graph.requests)
    golden = Golden(graph.requests[1], expected[1])
    source = write_artifact(
        tmp_path / "source",
        name="voice",
        version="1",
        task=TaskEntry(kind=task),
        signature=SILERO,
        variants=[VariantSource("onnx", "fp32", path)],
        golden=golden,
        card="",
    )
    assert source.manifest.batch_axes == {"state": None, "sr": None, "stateN": None}
    with Registry(tmp_path / "registry") as registry:
        if task != "tensor":
            with pytest.raises(ModelLoadError, match=f"the task {task} needs rows, and state has no batch axis"):
                load_artifact(source, EngineOptions())
            return
        registry.publish(source.path)
        artifact = registry.get("voice:1")
        assert artifact.signature.whole
        found = artifact.golden()
        assert found is not None
        assert (found.whole, found.rows) == (True, 1)
        with Predictor("voice", registry=registry) as predictor:
            for request, answer in zip(graph.requests, expected, strict=True):
                outputs = predictor.predict(request).outputs
                for name, array in answer.items():
                    np.testing.assert_allclose(outputs[name], array, rtol=1e-5, atol=1e-6)


def test_golden_samples_of_a_whole_model_have_the_shapes_of_its_file() -> None:
    inputs = {"x": np.zeros((3, 5)), "state": np.zeros((2, 1, 128)), "sr": np.array(8000)}
    outputs = {"p": np.zeros((3, 1)), "stateN": np.zeros((2, 3, 128))}
    assert Golden(inputs, outputs).checked(SILERO).whole
    with pytest.raises(InvalidInput, match=r"stateN: the shape is \[3, 128\], the model takes \[2, -1, 128\]"):
        Golden(inputs, outputs | {"stateN": np.zeros((3, 128))}).checked(SILERO)
