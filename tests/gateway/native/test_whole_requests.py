"""A model some tensor of which has no batch axis, over HTTP: asked and answered in the shapes of its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axis_models import GRAPHS, answers
from live_servers import Live

from penstock.client import Client
from penstock.settings import Settings

SILERO = GRAPHS["silero"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SILERO.save(tmp_path_factory.mktemp("whole") / "voice.onnx")


@pytest.fixture(scope="module")
def server(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = Settings(registry=tmp_path_factory.mktemp("registry"), threads=1)
    with Live("h1", settings, (str(path),)) as live:
        yield live


@pytest.mark.parametrize("route", ["/predict", "/models/voice/predict", "/models/voice/predict?task=tensor"])
def test_json_holds_the_shapes_of_the_file(server: Live, path: Path, route: str) -> None:
    for request, answer in zip(SILERO.requests, answers(path, SILERO.requests), strict=True):
        reply = server.http.post(route, json={"inputs": {name: array.tolist() for name, array in request.items()}})
        assert reply.status_code == 200, reply.text
        for name, array in answer.items():
            np.testing.assert_allclose(reply.json()["outputs"][name], array, rtol=1e-5, atol=1e-6)


def test_items_of_a_batch_are_runs_of_their_own(server: Live, path: Path) -> None:
    requests = [*SILERO.requests, *SILERO.requests]
    with Client(server.url) as client:
        found = client.predict_batch([{"inputs": request} for request in requests])
        one = client.predict(inputs=requests[1])
    expected = answers(path, requests)
    for outputs, answer in zip(
        [*(item["outputs"] for item in found), one["outputs"]], [*expected, expected[1]], strict=True
    ):
        for name, array in answer.items():
            np.testing.assert_allclose(outputs[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("sr", [16000], "inputs.sr: the shape is [1], the model takes []"),
        ("state", [[[0.0] * 128]], "inputs.state: the shape is [1, 1, 128], the model takes [2, -1, 128]"),
        ("x", 1.0, "inputs.x: the shape is [], the model takes [-1, -1]"),
    ],
)
def test_another_shape_is_refused_by_name(server: Live, name: str, value: object, sentence: str) -> None:
    inputs = {key: array.tolist() for key, array in SILERO.requests[0].items()} | {name: value}
    reply = server.http.post("/predict", json={"inputs": inputs})
    assert (reply.status_code, reply.json()["detail"]) == (422, sentence)


def test_the_documentation_shows_the_shapes_of_the_file(server: Live) -> None:
    document = server.http.get("/openapi.json").json()
    shown = document["paths"]["/models/{name}/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert {name: np.shape(values) for name, values in shown["inputs"].items()} == {
        "x": (1, 1),
        "state": (2, 1, 128),
        "sr": (),
    }
    reply = server.http.post("/models/voice/predict", json=shown)
    assert reply.status_code == 200, reply.text


def test_what_was_assumed_is_said(server: Live) -> None:
    info = server.http.get("/model/info").json()
    assert info["assumed"][0] == (
        "the batch is axis 0 of x, axis 1 of state, axis 0 of p and axis 1 of stateN; sr has none (from the names of "
        "axes), so each request is one run, in the shapes of the model's file; say otherwise with "
        "PENSTOCK_MODEL_BATCH_AXIS=NAME:AXIS or PENSTOCK_MODEL_NO_BATCH=true"
    )
    assert info["tasks"] == ["tensor"]
    shown = server.http.get(f"/models/voice/versions/{info['version']}").json()
    assert [tensor["shape"] for tensor in shown["signature"]["inputs"]] == [[-1, -1], [2, -1, 128], []]
