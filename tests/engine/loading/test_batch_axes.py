"""The batch axis of each tensor of a bare file, and answers that are those of ONNX Runtime."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axis_models import GRAPHS, answers

from penstock.backends.base import BackendOptions, ModelFile
from penstock.backends.catalog import open_backend
from penstock.engine.batching.limits import BatchLimits
from penstock.engine.config import InferenceConfig
from penstock.engine.engine import InferenceEngine
from penstock.engine.loading.bring_up import bring_up
from penstock.engine.predictor.predictor import Predictor
from penstock.errors import InvalidInput
from penstock.tasks.tensor import TensorResponse
from penstock.tensors import Arrays


def require_equal(got: Arrays, expected: Arrays) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].shape == array.shape, name
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def as_lists(arrays: Arrays) -> dict[str, object]:
    return {name: array.tolist() for name, array in arrays.items()}


def read(outputs: dict[str, Any], like: Arrays) -> Arrays:
    """Nested lists as arrays; those without values have no shape of their own."""
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return {name: array if array.size else array.reshape(like[name].shape) for name, array in arrays.items()}


@pytest.mark.parametrize("name", GRAPHS)
async def test_a_bare_file_answers_as_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]
    path = graph.save(tmp_path / "m.onnx")
    expected = answers(path, graph.requests)
    engine = InferenceEngine(InferenceConfig(model_path=path))
    await engine.start()
    try:
        for request, answer in zip(graph.requests, expected, strict=True):
            require_equal((await engine.infer(None, request)).outputs, answer)
            shown = await engine.predict({"inputs": as_lists(request)}, task="tensor")
            assert isinstance(shown.response, TensorResponse)
            require_equal(read(shown.response.outputs, answer), answer)
    finally:
        await engine.close()
    with Predictor(path, task="tensor") as predictor:
        assert predictor.task.signature.whole == graph.whole
        for request, answer in zip(graph.requests, expected, strict=True):
            outputs = predictor.predict(request).outputs
            assert outputs.keys() == answer.keys()
        many = predictor.predict_batch(list(graph.requests) * 2)
        for response, answer in zip(many, expected * 2, strict=True):
            require_equal(read(response.outputs, answer), answer)


def stated(path: Path, axes: dict[str, int]) -> ModelFile:
    return ModelFile(path, batch_axes={**axes})


async def test_requests_are_joined_along_stated_axes(tmp_path: Path) -> None:
    """A GRU with time first: with `x:1,h:1` the batch of x, h and hn is axis 1, and that of y axis 2."""
    random = np.random.default_rng(5)
    path = GRAPHS["gru with a state"].save(tmp_path / "m.onnx")
    requests = [
        {"x": random.standard_normal((6, n, 4), np.float32), "h": random.standard_normal((1, n, 3), np.float32)}
        for n in (1, 2, 5, 1)
    ]
    ready = bring_up(
        "onnx", stated(path, {"x": 1, "h": 1}), BackendOptions(device="cpu"), BatchLimits(batch_rows=4), None, "gru"
    )
    try:
        assert ready.backend.signature.batch_axes == {"x": 1, "h": 1, "y": 2, "hn": 1}
        assert max(ready.timings) == 4
        batcher = ready.batcher()
        found = await asyncio.gather(*(batcher.submit(request) for request in requests))
        assert max(batched.batch_rows for batched in found) > 1
        for batched, answer in zip(found, answers(path, requests), strict=True):
            require_equal(batched.outputs, answer)
        with pytest.raises(InvalidInput, match=r"h: 2 rows \(axis 1\), other inputs have 1"):
            ready.backend.signature.validate({"x": requests[0]["x"], "h": requests[1]["h"]})
        batcher.close()
    finally:
        ready.backend.close()


def test_a_stated_axis_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = GRAPHS["gru with a state"].save(tmp_path / "m.onnx")
    for axes, sentence in (
        ({"z": 0}, "batch_axes: the model has no tensor 'z'; it has x, h, y, hn"),
        ({"x": 3}, "batch_axes: x has no axis 3, it has 3 axes"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            open_backend("onnx", stated(path, axes), BackendOptions(device="cpu"))


def test_without_a_batch_every_request_is_one_run(tmp_path: Path) -> None:
    path = GRAPHS["rows by themselves"].save(tmp_path / "m.onnx")
    file = ModelFile(path, no_batch=True)
    ready = bring_up("onnx", file, BackendOptions(device="cpu"), BatchLimits(), None, "m")
    assert ready.backend.signature.whole
    assert not ready.assumed
    ready.backend.close()


@pytest.mark.parametrize("name", ["a table and places", "gru with a state", "silero", "square"])
def test_an_example_is_taken_in_the_shapes_of_the_file(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]
    path = graph.save(tmp_path / "m.onnx")
    with Predictor(path, example_input=graph.requests[-1]) as predictor:
        assert predictor.task.signature.whole
        assert predictor.info.proven
        for request, answer in zip(graph.requests, answers(path, graph.requests), strict=True):
            require_equal(read(predictor.predict(request).outputs, answer), answer)


def test_a_model_without_a_batch_axis_is_not_called_batchable(tmp_path: Path) -> None:
    with Predictor(GRAPHS["silero"].save(tmp_path / "m.onnx")) as predictor:
        assert not predictor.info.batchable
        assert predictor.info.batch_reason == "a tensor has no batch axis, so each request is one run"
        assert not predictor.info.warnings
        assert list(predictor.info.batch_ms) == [1]
