"""Text, tables, several tasks of one model and expected ranges, over both servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zoo_text
from linear_models import SIGNATURE, linear, weights
from live_servers import Live

from penstock.artifacts.artifact import Range, Ranges, TaskEntry, VariantSource, write_artifact
from penstock.registry.registry import Registry
from penstock.settings import Settings
from penstock.tensors import Signature, TensorSpec

ROW = [0.5, -1.0, 2.0, 0.25]
FAR = [0.5, -1.0, 20.0, 0.25]
VECTOR = TaskEntry(kind="vector-classification", config={"output": "logits"})
TEXT = TaskEntry(
    kind="text-classification", config={"scores": "logits", "output": "logits", "labels": list(zoo_text.LABELS)}
)
TABLE = TaskEntry(
    kind="tabular",
    config={
        "columns": [
            {"type": "number", "name": "age", "missing": 40},
            {"type": "category", "name": "city", "categories": list(zoo_text.CITIES), "encoding": "text"},
        ]
    },
)
TEXT_SIGNATURE = Signature(
    (TensorSpec("text", "BYTES", (-1,)),),
    (TensorSpec("label", "BYTES", (-1,)), TensorSpec("logits", "FP32", (-1, len(zoo_text.LABELS)))),
)
TABLE_SIGNATURE = Signature(
    (TensorSpec("age", "FP32", (-1, 1)), TensorSpec("city", "BYTES", (-1, 1))), (TensorSpec("price", "FP32", (-1, 1)),)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, database: Callable[[Path], str]) -> Settings:
    root = tmp_path_factory.mktemp("tasks")
    zoo_text.write_text_classifier(root / "words.onnx")
    zoo_text.write_tabular(root / "table.onnx")
    linear(root / "several.onnx")
    url = database(root / "registry")
    ranges = Ranges(inputs={"x": Range(minimum=-10, maximum=10)})

    def publish(registry: Registry, name: str, task: TaskEntry, signature: Signature, **more: Any) -> None:
        variants = [VariantSource("onnx", "fp32", root / f"{name.partition('-')[0]}.onnx")]
        facts = {"name": name, "version": "1", "task": task, "signature": signature, "variants": variants}
        artifact = write_artifact(root / f"source-{name}", golden=None, card="", **facts, **more)  # type: ignore[arg-type]
        registry.publish(artifact.path)

    with Registry(root / "registry", url) as registry:
        publish(registry, "several", VECTOR, SIGNATURE, more_tasks=[TaskEntry(kind="tensor")], ranges=ranges)
        strict = ranges.model_copy(update={"on_input": "refuse"})
        publish(registry, "several-strict", VECTOR, SIGNATURE, ranges=strict)
        publish(registry, "words", TEXT, TEXT_SIGNATURE)
        publish(registry, "table", TABLE, TABLE_SIGNATURE, more_tasks=[TaskEntry(kind="tensor")])
    return Settings(registry=root / "registry", database_url=url, threads=1, cache_size=100)


@pytest.fixture(scope="module", params=["h1", "rsgi", "asgi"])
def http(request: pytest.FixtureRequest, place: Settings) -> Iterator[httpx.Client]:
    with Live(request.param, place, ("several", "several-strict", "words", "table")) as server:
        yield server.http


def logits(row: list[float]) -> np.ndarray:
    return np.array([row], np.float32) @ weights(0)


def test_a_request_can_select_another_task_of_the_model(http: httpx.Client) -> None:
    as_class = http.post("/models/several/predict", json={"input_data": ROW}).json()
    assert as_class["predictions"] == [int(logits(ROW).argmax())]
    reply = http.post("/models/several/predict?task=tensor", json={"inputs": {"x": [ROW]}})
    np.testing.assert_allclose(reply.json()["outputs"]["logits"], logits(ROW), rtol=1e-5)
    again = http.post("/models/several/versions/1/predict?task=vector-classification&x=1", json={"input_data": ROW})
    assert again.json()["predictions"] == as_class["predictions"]


def test_a_task_the_model_does_not_have_is_refused_by_name(http: httpx.Client) -> None:
    reply = http.post("/models/several/predict?task=poetry", json={"input_data": ROW})
    assert reply.status_code == 422
    assert reply.json()["errors"][0]["field"] == "task"
    assert "it has vector-classification, tensor" in reply.json()["detail"]


def test_every_model_has_the_task_tensor(http: httpx.Client) -> None:
    reply = http.post("/models/words/predict?task=tensor", json={"inputs": {"text": ["fine engine"]}})
    assert list(reply.json()["outputs"]) == ["label", "logits"]
    refused = http.post("/models/words/predict?task=poetry", json={"text": "x"})
    assert "it has text-classification, tensor" in refused.json()["detail"]


def test_a_json_body_names_the_task_at_the_top_level(http: httpx.Client) -> None:
    body = {"task": "tensor", "inputs": {"x": [ROW]}}
    for path in ("/models/several/predict", "/models/several/predict?task=tensor", "/predict", "/inference/predict"):
        reply = http.post(path, json=body)
        np.testing.assert_allclose(reply.json()["outputs"]["logits"], logits(ROW), rtol=1e-5)
    own = {"task": "vector-classification", "input_data": ROW, "model_version": "1"}
    assert http.post("/models/several/predict", json=own).json()["predictions"] == [int(logits(ROW).argmax())]


@pytest.mark.parametrize(
    ("query", "body", "message"),
    [
        ("", {"task": "poetry", "input_data": ROW}, "it has vector-classification, tensor"),
        ("", {"task": 3, "input_data": ROW}, "Input should be a valid string"),
        ("", {"task": None, "input_data": ROW}, "Input should be a valid string"),
        ("?task=tensor", {"task": "vector-classification", "input_data": ROW}, "the query names 'tensor'"),
    ],
)
def test_an_invalid_task_in_the_body_names_the_field(
    http: httpx.Client, query: str, body: dict[str, Any], message: str
) -> None:
    reply = http.post(f"/models/several/predict{query}", json=body)
    assert (reply.status_code, reply.json()["errors"][0]["field"]) == (422, "task")
    assert message in reply.json()["detail"]


def test_a_bad_request_of_a_task_in_the_body_names_its_own_fields(http: httpx.Client) -> None:
    reply = http.post("/models/several/predict", json={"task": "tensor", "inputs": {"z": [ROW]}})
    assert [fault["field"] for fault in reply.json()["errors"]] == ["inputs.z"]
    reply = http.post("/models/several/predict", content=b'{"task": "tensor", "inputs"')
    assert [fault["field"] for fault in reply.json()["errors"]] == ["body"]


def test_a_batch_names_its_task_in_the_body(http: httpx.Client) -> None:
    body = {"model": "words", "task": "tensor", "requests": [{"inputs": {"text": ["fine"]}}, {"text": "fine"}]}
    good, bad = http.post("/predict/batch", json=body).json()["predictions"]
    assert list(good["outputs"]) == ["label", "logits"]
    assert bad["error"]["status"] == 422
    refused = http.post("/predict/batch", json={**body, "task": "poetry"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "task")


def test_a_batch_has_one_task(http: httpx.Client) -> None:
    body = {"model": "several", "requests": [{"inputs": {"x": [ROW]}}, {"input_data": ROW}]}
    good, bad = http.post("/predict/batch?task=tensor", json=body).json()["predictions"]
    np.testing.assert_allclose(good["outputs"]["logits"], logits(ROW), rtol=1e-5)
    assert bad["error"]["status"] == 422


@pytest.mark.parametrize("texts", [["great, but BROKEN", "fine käse", "日本"], "poor engine"])
def test_text_is_classified(http: httpx.Client, texts: Any) -> None:
    reply = http.post("/models/words/predict", json={"text": texts})
    assert reply.status_code == 200, reply.text
    rows = np.array([texts] if isinstance(texts, str) else texts, object)
    assert reply.json()["labels"] == zoo_text.classify({"text": rows})["label"].tolist()


def test_text_that_is_empty_is_refused_by_field(http: httpx.Client) -> None:
    reply = http.post("/models/words/predict", json={"text": ["fine", ""]})
    assert (reply.status_code, reply.json()["errors"][0]["field"]) == (422, "text[1]")


def test_a_table_is_answered_row_by_row(http: httpx.Client) -> None:
    reply = http.post("/models/table/predict", json={"rows": [{"age": 10, "city": "Basel"}, {"city": "Lyon"}]})
    answer = reply.json()
    assert next(iter(answer)) == "predictions"
    assert answer["predictions"] == [325.0, 300.0]
    assert "labels" not in answer


def test_every_wrong_value_of_a_table_is_named(http: httpx.Client) -> None:
    reply = http.post(
        "/models/table/predict", json={"rows": [{"age": "x", "city": "Basel"}, {"age": 1, "city": "Oslo"}]}
    )
    assert [fault["field"] for fault in reply.json()["errors"]] == ["rows[0].age", "rows[1].city"]


def test_values_out_of_range_are_answered_flagged_and_counted(http: httpx.Client) -> None:
    reply = http.post("/models/several/predict", json={"input_data": FAR})
    assert (reply.status_code, reply.headers["x-penstock-flags"]) == (200, "input x above")
    assert "x-penstock-flags" not in http.post("/models/several/predict", json={"input_data": ROW}).headers
    counted = 'penstock_out_of_range_total{kind="above",model="several",side="input",tensor="x",version="1"}'
    assert counted in http.get("/metrics").text


def test_values_out_of_range_are_refused_if_the_manifest_sets_that(http: httpx.Client) -> None:
    reply = http.post("/models/several-strict/predict", json={"input_data": FAR})
    problem = reply.json()
    assert (reply.status_code, problem["type"]) == (422, "urn:penstock:out-of-range")
    assert problem["detail"] == "x: 20 is above 10, the greatest expected value"
    assert problem["errors"] == [
        {"field": "x", "message": "20 is above 10, the greatest expected value"},
    ]
    outcome = 'penstock_requests_total{model="several-strict",outcome="out_of_range",version="1"}'
    assert outcome in http.get("/metrics").text


def test_an_output_that_is_not_finite_is_flagged(http: httpx.Client) -> None:
    reply = http.post("/models/table/predict?task=tensor", json={"inputs": {"age": [[3e38]], "city": [["Basel"]]}})
    assert reply.json()["outputs"] == {"price": [[None]]}
    assert reply.headers["x-penstock-flags"] == "output price not_finite"
    refused = http.post("/models/table/predict", json={"rows": [{"age": 3e38, "city": "Basel"}]})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:penstock:out-of-range")


def test_the_cache_appears_in_stats_and_metrics(http: httpx.Client) -> None:
    for _ in range(3):
        http.post("/models/several/predict", json={"input_data": [9.0, 1.0, 1.0, 1.0]})
    cache = http.get("/stats").json()["cache"]
    assert cache["hits"] >= 2
    assert cache["entries"] >= 1
    page = http.get("/metrics").text
    assert f"penstock_cache_hits_total {float(cache['hits'])}" in page
    assert "penstock_cache_bytes " in page
