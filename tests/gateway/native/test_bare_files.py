"""A bare model file over HTTP: its outputs are read as classes only where something says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from linear_models import linear, weights
from live_servers import Live
from onnx import TensorProto, helper, numpy_helper

from penstock.settings import Settings

ROW = [0.5, -1.0, 2.0, 0.25]
LOGITS = np.array(ROW, np.float32) @ weights(0)


def serve(file: Path, **settings: Any) -> Live:
    return Live("h1", Settings(registry=file.parent / "registry", model_path=file, **settings), refs=())


def cnn(path: Path, batch: int | str) -> Path:
    """Scores of 2×2 pictures: a Flatten before the weights."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weights(0), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def class_of(reply: httpx.Response) -> tuple[int, float]:
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    return answer["predictions"][0], answer["confidence_scores"][0]


EXPECTED = (int(LOGITS.argmax()), pytest.approx(float((np.exp(LOGITS) / np.exp(LOGITS).sum()).max()), rel=1e-4))


def test_numbers_without_evidence_are_answered_as_tensors(tmp_path: Path) -> None:
    with serve(linear(tmp_path / "scores.onnx", classes="")) as server:
        info = server.http.get("/model/info").json()
        assert (info["model_type"], info["tasks"]) == ("tensor", ["tensor", "vector-classification"])
        (sentence,) = [sentence for sentence in info["assumed"] if sentence.startswith("the task is")]
        assert "PENSTOCK_MODEL_TASK=vector-classification" in sentence
        outputs = server.http.post("/predict", json={"inputs": {"x": [ROW]}}).json()["outputs"]
        assert outputs["logits"][0] == pytest.approx(LOGITS.tolist(), rel=1e-5)
        # the route and the field `task` ask for classes
        assert class_of(server.http.post("/inference/predict", json={"input_data": ROW})) == EXPECTED
        asked = {"task": "vector-classification", "input_data": ROW}
        assert class_of(server.http.post("/predict", json=asked)) == EXPECTED
        refused = server.http.post("/predict", json={"input_data": ROW})
        assert refused.status_code == 422
        assert [error["field"] for error in refused.json()["errors"]] == ["input_data"]
        for way in (
            "/inference/predict",
            '"task": "vector-classification"',
            "PENSTOCK_MODEL_TASK=vector-classification",
        ):
            assert way in refused.json()["detail"]


@pytest.mark.parametrize(
    "settings", [{"model_task": "vector-classification"}, {"model_labels": "labels.txt"}], ids=["task", "labels"]
)
def test_a_file_is_a_classifier_where_its_user_says_so(tmp_path: Path, settings: dict[str, str]) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8")
    if "model_labels" in settings:
        settings = {"model_labels": str(tmp_path / "labels.txt")}
    with serve(linear(tmp_path / "scores.onnx", classes=""), **settings) as server:
        assert class_of(server.http.post("/predict", json={"input_data": ROW})) == EXPECTED
        info = server.http.get("/model/info").json()
        assert info["model_type"] == "vector-classification"
        assert not any("the task is" in sentence for sentence in info["assumed"])


@pytest.mark.parametrize("batch", ["batch", 1])
def test_a_model_of_pictures_takes_a_flat_row_on_the_route_of_vectors(tmp_path: Path, batch: int | str) -> None:
    with serve(cnn(tmp_path / "cnn.onnx", batch)) as server:
        assert server.http.get("/model/info").json()["model_type"] == "tensor"
        for _ in range(2):
            assert class_of(server.http.post("/inference/predict", json={"input_data": ROW})) == EXPECTED
        two = server.http.post("/inference/predict", json={"input_data": ROW * 2, "batch_size": 2})
        if batch == 1:
            assert (two.status_code, two.json()["errors"][0]["field"]) == (422, "batch_size")
        else:
            assert two.json()["predictions"] == [EXPECTED[0]] * 2
