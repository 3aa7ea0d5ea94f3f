"""All prediction routes, over both servers."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from typing import Any

import httpx
import numpy as np
import pytest
from linear_models import weights
from live_servers import Live
from PIL import Image

from penstock.gateway.native import predict as native

ROW = [0.5, -1.0, 2.0, 0.25]


def expected(rows: list[list[float]], seed: int = 0) -> tuple[list[int], np.ndarray]:
    """The expected classes and confidences, computed with numpy."""
    logits = np.array(rows) @ weights(seed)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = odds / odds.sum(axis=1, keepdims=True)
    return confidence.argmax(axis=1).tolist(), confidence.max(axis=1)


def check_vector(answer: dict[str, Any], rows: list[list[float]], seed: int = 0) -> None:
    classes, confidences = expected(rows, seed)
    assert answer["predictions"] == classes
    np.testing.assert_allclose(answer["confidence_scores"], confidences, rtol=1e-5)


def picture(left: int = 255, right: int = 0, kind: str = "PNG", size: int = 16) -> bytes:
    pixels = np.zeros((size, size), np.uint8)
    pixels[:, : size // 2], pixels[:, size // 2 :] = left, right
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "path", ["/inference/predict", "/predict", "/models/vec:v1.0/predict", "/models/vec/versions/v1.0/predict"]
)
def test_a_vector_is_classified(http: httpx.Client, path: str) -> None:
    path = path.replace("vec:v1.0", "vec@stable")
    reply = http.post(path, json={"input_data": ROW, "model_version": "v1.0"})
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    check_vector(answer, [ROW])
    assert answer["model_version"] == "v1.0"
    assert list(answer)[:3] == ["predictions", "confidence_scores", "model_version"]
    for name in ("inference_time_ms", "preprocessing_time_ms", "postprocessing_time_ms"):
        assert 0 <= answer[name] < 10_000


def test_several_rows_come_flattened(http: httpx.Client) -> None:
    rows = [[1.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, -2.0, 1.0]]
    reply = http.post(
        "/models/vec/versions/v1.0/predict", json={"input_data": [n for row in rows for n in row], "batch_size": 3}
    )
    check_vector(reply.json(), rows)


def test_the_bare_name_means_the_latest_version_and_an_alias_its_version(http: httpx.Client) -> None:
    for name, seed, version in (("vec", 1, "v2.0"), ("vec@stable", 0, "v1.0")):
        reply = http.post(f"/models/{name}/predict", json={"input_data": ROW})
        check_vector(reply.json(), [ROW], seed)
        assert reply.headers["x-penstock-model"] == f"vec:{version}/onnx-fp32"


def test_the_body_may_select_the_version(http: httpx.Client) -> None:
    for version, seed in (("v1.0", 0), ("v2.0", 1)):
        for path in ("/inference/predict", "/predict", "/models/vec/predict"):
            answer = http.post(path, json={"input_data": ROW, "model_version": version}).json()
            assert answer["model_version"] == version
            check_vector(answer, [ROW], seed)


def test_raw_tensors_go_in_and_out(http: httpx.Client) -> None:
    reply = http.post("/models/raw/predict", json={"inputs": {"a": [[1, 2]], "b": [[10, 20.5]]}})
    assert reply.json()["outputs"] == {"sum": [[11.0, 22.5]]}


@pytest.mark.parametrize("field", ["file", "image"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_is_uploaded_as_a_form(http: httpx.Client, field: str, kind: str) -> None:
    reply = http.post("/models/pic/predict", files={field: ("digit", picture(0, 255, kind))}, data={"top_k": "1"})
    answer = reply.json()
    assert (answer["class_id"], answer["class_name"]) == (1, "right")
    assert answer["confidence"] > 0.9
    assert len(answer["top_k"]) == 1


def test_an_image_may_be_the_whole_body_or_base64_in_json(http: httpx.Client) -> None:
    file = picture()
    raw = http.post("/models/pic/predict", content=file, headers={"content-type": "image/png"})
    encoded = http.post("/models/pic/predict", json={"image": base64.b64encode(file).decode()})
    assert raw.json()["class_name"] == encoded.json()["class_name"] == "left"


def test_a_body_without_a_content_type_is_read_as_json(http: httpx.Client) -> None:
    reply = http.post("/models/vec/predict", content=b'{"input_data": [1, 2, 3, 4]}')
    assert "content-type" not in reply.request.headers
    assert reply.status_code == 200


def test_a_chunked_body_is_read(http: httpx.Client) -> None:
    chunks = iter([b'{"input_data"', b": [1, 2,", b" 3, 4]}"])
    reply = http.post("/models/vec/predict", content=chunks, headers={"content-type": "application/json"})
    assert reply.status_code == 200


def test_a_large_body_is_read(http: httpx.Client) -> None:
    padded = b'{"input_data": [1, 2, 3, 4]' + b" " * 190_000 + b"}"
    reply = http.post("/models/vec/predict", content=padded, headers={"content-type": "application/json"})
    assert reply.status_code == 200


def test_a_large_request_never_blocks_the_event_loop(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[bool] = []
    threaded: list[bool] = []
    pipeline = live.service.engine.pipeline
    predict = pipeline.predict

    def spy(name: str) -> None:
        work = getattr(native, name)

        def called(*given: Any) -> Any:
            loops.append(asyncio._get_running_loop() is not None)
            return work(*given)

        monkeypatch.setattr(native, name, called)

    def predicted(lease: Any, request: Any, *, in_thread: bool, **more: Any) -> Any:
        threaded.append(in_thread)
        return predict(lease, request, in_thread=in_thread, **more)

    spy("_read_request")
    monkeypatch.setattr(pipeline, "predict", predicted)
    for limit in (10, 1000):
        monkeypatch.setattr(native, "SMALL", limit)
        monkeypatch.setattr(native, "DECODE_IN_THREAD_FROM", limit)
        # a query takes the ordinary way, which no small request of one task does otherwise
        path = "/models/vec/predict?task=vector-classification"
        assert live.http.post(path, json={"input_data": ROW}).status_code == 200
    assert threaded == [True, False]
    assert loops == [False, True]


def test_a_prediction_has_headers_with_its_times_and_its_model(http: httpx.Client) -> None:
    reply = http.post("/predict", json={"input_data": ROW})
    timing = dict(re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"]))
    assert list(timing) == ["queue", "pre", "run", "post"]
    assert float(timing["run"]) == pytest.approx(reply.json()["inference_time_ms"], abs=0.001)
    assert reply.headers["x-penstock-model"] == "vec:v2.0/onnx-fp32"
    assert reply.headers["content-type"] == "application/json"


# Batches


def test_every_item_of_a_batch_succeeds_or_fails_on_its_own(http: httpx.Client) -> None:
    items = [{"input_data": ROW}, {"input_data": [1, 2]}, {"input_data": [1, 2, "3", 4]}, {"input_data": [0, 0, 0, 9]}]
    reply = http.post("/predict/batch", json={"requests": items})
    answer = reply.json()
    assert reply.status_code == 200
    assert answer["total_count"] == 4
    assert answer["total_time_ms"] > 0
    first, short, text, last = answer["predictions"]
    check_vector(first, [ROW], 1)
    check_vector(last, [[0, 0, 0, 9]], 1)
    assert [fault["field"] for fault in short["error"]["errors"]] == ["input_data"]
    assert [fault["field"] for fault in text["error"]["errors"]] == ["input_data[2]"]
    assert {short["error"]["status"], text["error"]["status"]} == {422}
    assert set(short["error"]) == {"status", "title", "detail", "errors"}


def test_a_number_beyond_a_float_fails_only_its_own_item(http: httpx.Client) -> None:
    items = (
        b'{"input_data": [1, 2, 3, 4]}, {"input_data": [1, 1e400, 3, 4]}, {"input_data": [1], "model_version": -1e400}'
    )
    reply = http.post("/predict/batch", content=b'{"requests": [%b]}' % items)
    assert reply.status_code == 200
    good, large, odd = reply.json()["predictions"]
    assert "predictions" in good
    assert [fault["field"] for fault in large["error"]["errors"]] == ["input_data[1]"]
    assert odd["error"]["status"] == 422


def test_a_batch_may_name_its_model(http: httpx.Client) -> None:
    items = [{"inputs": {"a": [[n, n]], "b": [[1, 1]]}} for n in range(20)]
    answer = http.post("/predict/batch", json={"model": "raw", "requests": items}).json()
    assert [item["outputs"]["sum"] for item in answer["predictions"]] == [[[n + 1.0, n + 1.0]] for n in range(20)]


def test_a_batch_takes_images_in_base64(http: httpx.Client) -> None:
    items = [{"image": base64.b64encode(picture(a, 255 - a)).decode()} for a in (255, 0)]
    answer = http.post("/predict/batch", json={"model": "pic", "requests": [*items, {"image": "bm8="}]}).json()
    names = [item.get("class_name") for item in answer["predictions"]]
    assert names == ["left", "right", None]
    assert answer["predictions"][2]["error"]["errors"][0]["field"] == "image"


def test_an_item_of_another_version_is_refused_alone(http: httpx.Client) -> None:
    items = [{"input_data": ROW, "model_version": version} for version in ("v2.0", "v1.0")]
    good, bad = http.post("/predict/batch", json={"requests": items}).json()["predictions"]
    assert good["model_version"] == "v2.0"
    assert bad["error"]["status"] == 404
    assert bad["error"]["errors"][0]["field"] == "model_version"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": {}}, "requests"),
        ({"requests": [{}], "extra": 1}, "extra"),
        ({"requests": [{}], "model": 3}, "model"),
        ({"requests": [{}] * 1025}, "requests"),
        ([], "body"),
    ],
)
def test_a_batch_of_another_shape_is_refused_as_a_whole(http: httpx.Client, body: Any, field: str) -> None:
    reply = http.post("/predict/batch", json=body)
    assert reply.status_code == 422
    assert [fault["field"] for fault in reply.json()["errors"]] == [field]


def test_a_batch_for_an_unknown_model_names_the_field(http: httpx.Client) -> None:
    for name in ("nope", "vec:v9", "vec@unknown", "../etc/passwd", "a b", "evil.onnx", ""):
        reply = http.post("/predict/batch", json={"model": name, "requests": [{"input_data": ROW}]})
        assert reply.status_code == 404, name
        assert [fault["field"] for fault in reply.json()["errors"]] == ["model"]
