"""Files some tensor of which has no batch axis, or has it on another axis: published as they are served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from axis_models import GRAPHS, answers

from penstock.cli.models.import_file import publish_file
from penstock.engine.predictor.predictor import Predictor
from penstock.file_description import FileDescription
from penstock.registry.registry import Registry

WHOLE = {
    "silero": {"state", "sr", "stateN"},
    "gru with a state": {"x", "h", "y", "hn"},
    "loss": {"loss"},
    "constant labels": {"labels"},
    "tiled rows": {"y"},
    "gram without names": {"y"},
    "fixed shapes that differ": {"x", "y"},
    "top k": {"k"},
    "single values": {"a", "b", "y"},
    "no rank": {"x", "y"},
}
"""The tensors without a batch axis, or with another than axis 0."""


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_published_is_what_is_served(tmp_path: Path, name: str) -> None:
    graph = GRAPHS[name]
    path = graph.save(tmp_path / "m.onnx")
    with Registry(tmp_path / "registry") as registry:
        artifact = publish_file(registry, path)
        assert artifact.signature.whole
        assert artifact.manifest.batch_axes == dict.fromkeys(WHOLE[name])
        golden = artifact.golden()
        assert golden is not None
        assert golden.whole
        with Predictor("m", registry=registry) as predictor:
            assert predictor.info.tasks == ("tensor",)
            for request, expected in zip(graph.requests, answers(path, graph.requests), strict=True):
                outputs = predictor.predict(request).outputs
                for key, array in expected.items():
                    np.testing.assert_allclose(np.reshape(outputs[key], array.shape), array, rtol=1e-5, atol=1e-6)


def test_stated_axes_are_recorded_and_requests_joined_along_them(tmp_path: Path) -> None:
    graph = GRAPHS["gru with a state"]
    path = graph.save(tmp_path / "m.onnx")
    axes = {"x": 1, "h": 1, "y": 2, "hn": 1}
    with Registry(tmp_path / "registry") as registry:
        artifact = publish_file(registry, path, description=FileDescription(batch_axes={"x": 1, "h": 1}))
        assert artifact.manifest.batch_axes == axes
        golden = artifact.golden()
        assert golden is not None
        assert {golden.inputs["x"].shape[1], golden.inputs["h"].shape[1], golden.outputs["y"].shape[2]} == {8}
        with Predictor("m", registry=registry) as predictor:
            assert predictor.task.signature.batch_axes == axes
            assert predictor.info.batchable
            found = predictor.predict_batch(list(graph.requests) * 2)
            for response, expected in zip(found, answers(path, graph.requests) * 2, strict=True):
                for key, array in expected.items():
                    np.testing.assert_allclose(response.outputs[key], array, rtol=1e-5, atol=1e-6)


def test_without_a_batch_every_request_is_one_run(tmp_path: Path) -> None:
    path = GRAPHS["rows by themselves"].save(tmp_path / "m.onnx")
    with Registry(tmp_path / "registry") as registry:
        artifact = publish_file(registry, path, description=FileDescription(no_batch=True))
        assert artifact.manifest.batch_axes == {"a": None, "b": None, "y": None}
        with Predictor("m", registry=registry) as predictor:
            assert predictor.predict({"a": [[1, 2, 3]], "b": [[1, 1, 1]] * 2}).outputs["y"] == [[2, 3, 4]] * 2
