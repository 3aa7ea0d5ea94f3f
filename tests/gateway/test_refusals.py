"""The reply to an invalid request: a problem document that names the field, never a traceback."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_servers import Live
from PIL import Image
from waiting import wait_until

GOOD = {"input_data": [1, 2, 3, 4]}
JSON = {"content-type": "application/json"}


def check_problem(reply: httpx.Response, status: int, *fields: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = reply.json()
    assert list(problem) == ["type", "status", "title", "detail", "errors", "request_id"]
    assert problem["status"] == status
    assert problem["type"].startswith("urn:penstock:")
    assert problem["request_id"] == reply.headers["x-request-id"]
    assert [fault["field"] for fault in problem["errors"]] == list(fields)
    assert "Traceback" not in reply.text
    if status in (429, 503):
        assert int(reply.headers["retry-after"]) >= 1
    return problem


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b"[1]", "body"),
        (b'{"input_data": [NaN, 1, 2, 3]}', "body"),
        (b'{"input_data": [Infinity, 1, 2, 3]}', "body"),
        (b'{"input_data": [1e999, 1, 2, 3]}', "input_data[0]"),
        (b'{"input_data": [1, 2, 3, 1e39]}', "input_data[3]"),
        (b'{"input_data": [1, 2, 3]}', "input_data"),
        (b'{"input_data": []}', "input_data"),
        (b'{"input_data": "x"}', "input_data"),
        (b'{"input_data": [1, null, 3, 4]}', "input_data[1]"),
        (b'{"input_data": [1, true, 3, 4]}', "input_data[1]"),
        (b'{"input_data": [[1, 2, 3, 4]]}', "input_data[0]"),
        (b'{"input_data": [1, 2, 3, 4], "batch_size": 0}', "batch_size"),
        (b'{"input_data": [1, 2, 3, 4], "batch_size": 129}', "batch_size"),
        (b'{"input_data": [1, 2, 3, 4], "batch_size": 1.5}', "batch_size"),
        (b'{"input_data": [1, 2, 3, 4], "batch_size": 2}', "input_data"),
        (b'{"input_data": [1, 2, 3, 4], "colour": 1}', "colour"),
        (b'{"batch_size": 1}', "input_data"),
        (b'{"input_data": ' + b"[" * 5000 + b"]" * 5000 + b"}", "body"),
        (b'{"input_data": [' + b"9" * 5000 + b", 2, 3, 4]}", "body"),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else value,
)
def test_a_bad_body_is_422_and_names_the_field(http: httpx.Client, body: bytes, field: str) -> None:
    for path in ("/inference/predict", "/models/vec/predict"):
        reply = http.post(path, content=body, headers=JSON)
        problem = reply.json()
        if field == "body" and problem["errors"] and problem["errors"][0]["field"].startswith("input_data"):
            field = problem["errors"][0]["field"]  # which of the two the error names depends on the JSON parser
        check_problem(reply, 422, field)


@pytest.mark.parametrize("version", ["v9.9", "", "../../etc/passwd", "x.onnx", "a/b", "\n", "é", "v1.0@x"])
def test_an_unknown_version_in_the_body_is_404_and_names_the_field(http: httpx.Client, version: str) -> None:
    for path in ("/inference/predict", "/predict", "/models/vec/predict", "/models/vec/versions/v1.0/predict"):
        check_problem(http.post(path, json={**GOOD, "model_version": version}), 404, "model_version")


def test_a_version_in_the_body_must_not_contradict_the_path(http: httpx.Client) -> None:
    reply = http.post("/models/vec/versions/v1.0/predict", json={**GOOD, "model_version": "v2.0"})
    assert "the path names the version v1.0" in check_problem(reply, 404, "model_version")["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/models/nope/predict",
        "/models/vec/versions/v9/predict",
        "/models/vec@unknown/predict",
        "/models/a%20b/predict",
        "/models/%00/predict",
        "/models/nope.onnx/predict",
        "/models/vec/versions/x.onnx/predict",
        "/models/-/predict",
        "/models/" + "x" * 5000 + "/predict",
    ],
)
def test_an_unknown_model_is_404(http: httpx.Client, path: str) -> None:
    check_problem(http.post(path, json=GOOD), 404)


def test_a_path_never_loads_a_file(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from linear_models import linear

    linear(tmp_path / "planted.onnx")
    monkeypatch.chdir(tmp_path)
    for path in ("/models/planted.onnx/predict", f"/models/{tmp_path}%2Fplanted.onnx/predict"):
        check_problem(live.http.post(path, json=GOOD), 404)
    reply = live.http.post("/predict/batch", json={"model": str(tmp_path / "planted.onnx"), "requests": [GOOD]})
    check_problem(reply, 404, "model")
    assert all(model.name != "planted" for model in live.service.engine.loaded())


@pytest.mark.parametrize("path", ["/nope", "/models/vec/nope", "/predict/nope", "/models//predict", "/%ff"])
def test_an_unknown_path_is_404(http: httpx.Client, path: str) -> None:
    check_problem(http.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/models/vec", "GET, HEAD"),
        ("OPTIONS", "/predict", "POST"),
        ("PATCH", "/models/vec/versions/v1.0/predict", "POST"),
    ],
)
def test_another_method_is_405_and_lists_the_allowed_ones(
    http: httpx.Client, method: str, path: str, allowed: str
) -> None:
    reply = http.request(method, path)
    check_problem(reply, 405)
    assert reply.headers["allow"] == allowed


@pytest.mark.parametrize("kind", ["text/plain", "image/png", "multipart/form-data; boundary=x"])
def test_a_body_of_another_type_is_415(http: httpx.Client, kind: str) -> None:
    problem = check_problem(http.post("/predict", content=b"{}", headers={"content-type": kind}), 415)
    assert "application/json" in problem["detail"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.api+json", "APPLICATION/JSON"])
def test_content_types_derived_from_json_are_accepted(http: httpx.Client, kind: str) -> None:
    body = b'{"input_data": [1, 2, 3, 4]}'
    assert http.post("/predict", content=body, headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_the_default_content_type_of_curl_is_read_as_json(http: httpx.Client, path: str) -> None:
    body = b'{"input_data": [1, 2, 3, 4]}' if path == "/predict" else b'{"requests": [{"input_data": [1, 2, 3, 4]}]}'
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert http.post(path, content=body, headers=headers).status_code == 200
    check_problem(http.post("/models/pic/predict", content=body, headers=headers), 415)


@pytest.mark.parametrize("body", [b'{"input_data": [1, "x", 3, 4]}', b'{"input_data": [1]}', b"{"])
def test_the_message_of_a_field_does_not_repeat_its_name(http: httpx.Client, body: bytes) -> None:
    problem = http.post("/predict", content=body, headers=JSON).json()
    (fault,) = problem["errors"]
    assert problem["detail"] == f"{fault['field']}: {fault['message']}"


def test_a_body_that_the_engine_never_sees_is_counted(live: Live) -> None:
    def invalid() -> int:
        stats = live.service.engine.get_stats()["models"]
        return sum(model["outcomes"].get("invalid", 0) for model in stats.values())

    before = invalid()
    live.http.post("/predict", content=b"{}", headers={"content-type": "text/plain"})
    live.http.post("/predict", content=bytes(live.settings.max_body_bytes + 1), headers=JSON)
    live.http.post("/predict", content=b"{", headers=JSON)
    live.http.post("/predict/batch", content=b"{}", headers={"content-type": "text/plain"})
    assert invalid() == before + 4


@pytest.mark.parametrize("value", ["0", "-1", "x", "", "nan", "inf", "1e999"])
def test_a_bad_deadline_is_422_and_names_the_header(http: httpx.Client, value: str) -> None:
    for path, body in (("/predict", GOOD), ("/predict/batch", {"requests": [GOOD]})):
        reply = http.post(path, json=body, headers={"x-request-timeout-ms": value})
        check_problem(reply, 422, "X-Request-Timeout-Ms")


# Sizes


def test_a_body_beyond_the_limit_is_413_before_it_is_read(live: Live, raw_connection: Callable[[], Any]) -> None:
    with raw_connection() as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100000000\r\n\r\n" + b" " * 1000
        )
        if live.kind == "asgi":  # Uvicorn's replies only reach a client that has sent its body
            connection.sendall(b" " * (100_000_000 - 1000))
        head = connection.recv(4096)
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in head.lower()


@pytest.mark.parametrize("chunked", [False, True])
def test_100_mb_are_refused_and_never_kept_in_memory(live: Live, chunked: bool) -> None:
    chunk = b" " * 1_000_000
    headers = JSON if chunked else {**JSON, "content-length": "100000000"}
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the peak
    before = _memory_kb("VmHWM")
    reply = live.http.post("/predict", content=(chunk for _ in range(100)), headers=headers)
    check_problem(reply, 413)
    assert _memory_kb("VmHWM") - before < 40_000


def _memory_kb(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0])


def test_a_body_at_the_limit_is_read_and_one_byte_more_is_not(live: Live) -> None:
    limit = live.settings.max_body_bytes
    body = b'{"input_data": [1, 2, 3, 4]}'
    assert live.http.post("/predict", content=body.ljust(limit), headers=JSON).status_code == 200
    check_problem(live.http.post("/predict", content=body.ljust(limit + 1), headers=JSON), 413)


def test_the_connection_after_a_refusal_is_usable(http: httpx.Client) -> None:
    for _ in range(3):
        check_problem(http.post("/models/nope/predict", json=GOOD), 404)
        assert http.post("/predict", json=GOOD).status_code == 200


def test_a_client_that_disconnects_within_its_body_does_no_harm(live: Live, raw_connection: Callable[[], Any]) -> None:
    for headers in (b"Content-Length: 1000", b"Transfer-Encoding: chunked"):
        with raw_connection() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\n" + headers + b'\r\n\r\n5\r\n{"inp')
    wait_until(lambda: not len(live.gateway.inflight))
    assert live.http.post("/predict", json=GOOD).status_code == 200


# Uploads


def test_a_text_file_is_not_an_image(http: httpx.Client) -> None:
    reply = http.post("/models/pic/predict", files={"file": ("x.png", b"hello, I am text")})
    assert "not an image" in check_problem(reply, 422, "image")["detail"]


def test_a_truncated_image_is_refused(http: httpx.Client) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    reply = http.post("/models/pic/predict", files={"file": file.getvalue()[:-1000]})
    check_problem(reply, 422, "image")


def test_a_decompression_bomb_is_refused_without_decompression(http: httpx.Client) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 60_000
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    reply = http.post("/models/pic/predict", files={"file": bomb})
    assert "far more pixels than are accepted" in check_problem(reply, 422, "image")["detail"]  # by its header alone


def test_a_form_without_the_file_names_the_field(http: httpx.Client) -> None:
    check_problem(http.post("/models/pic/predict", files={"other": b"x"}), 422, "image", "other")
    check_problem(http.post("/models/pic/predict", data={"top_k": "1"}, files={"file": b""}), 422, "image")


def test_a_truncated_form_is_refused(http: httpx.Client) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    for body in (head + b"data", b"--b\r\n", head, b""):
        reply = http.post(
            "/models/pic/predict", content=body, headers={"content-type": "multipart/form-data; boundary=b"}
        )
        assert reply.status_code == 422
        assert reply.json()["errors"]


def test_an_image_model_refuses_text(http: httpx.Client) -> None:
    reply = http.post("/models/pic/predict", content=b"x", headers={"content-type": "text/plain"})
    check_problem(reply, 415)


# Server errors


def test_a_server_error_shows_an_id_and_the_log_has_the_details(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("the secret inside")

    monkeypatch.setattr(live.service.engine.pipeline, "predict", broken)
    ordinary = "/predict?ordinary"  # with a query it takes the way of a single request
    reply = live.http.post(ordinary, json=GOOD, headers={"x-request-id": "id-of-the-fault"})
    problem = check_problem(reply, 500)
    assert "id-of-the-fault" in problem["detail"]
    assert "secret" not in reply.text
    record = next(record for record in caplog.records if "id-of-the-fault" in record.getMessage())
    assert record.exc_info is not None
