"""The client against a tiny real HTTP server that gives scripted responses."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from scripted_replies import Scripted

from penstock import Client
from penstock.errors import (
    DeadlineExceeded,
    FieldError,
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PenstockError,
    WorkerDied,
)
from penstock.registry.admin_key import AdminKey


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    with Client(server.url, timeout_s=5, retries=0) as found:
        yield found


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (None, "/predict"),
        ("digits", "/models/digits/predict"),
        ("digits:v1.0+a", "/models/digits/versions/v1.0%2Ba/predict"),
        ("digits@champion", "/models/digits@champion/predict"),
        ("../admin", "/models/..%2Fadmin/predict"),
    ],
)
def test_a_reference_becomes_the_route_of_its_model(server: Scripted, client: Client, model: str, path: str) -> None:
    server.say(200, {"predictions": [3]})
    assert client.predict(model, input_data=[0.5]) == {"predictions": [3]}
    (request,) = server.received
    assert (request.method, request.path) == ("POST", path)
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {"input_data": [0.5]}


def test_fields_may_be_a_mapping_keywords_and_arrays(server: Scripted, client: Client) -> None:
    client.predict("m", {"inputs": {"x": np.ones((1, 2), np.float32)}}, model_version="v1", batch_size=np.int64(1))
    assert json.loads(server.received[0].body) == {"inputs": {"x": [[1, 1]]}, "model_version": "v1", "batch_size": 1}


def test_commands_carry_the_admin_key_and_predictions_do_not(server: Scripted) -> None:
    with Client(server.url, "an api key", admin_key="a-key-of-enough-letters") as client:
        client.load("digits@champion")
        client.unload("digits:v1.0")
        client.set_alias("digits", "champion", "v2.0")
        client.set_alias("a/b", "x y")
        client.remove_alias("digits", "champion")
        client.drain(wait_s=2)
        client.resume()
        client.server_state()
        client.predict("digits", input_data=[1])
    *commands, prediction = server.received
    assert [(each.method, each.path, json.loads(each.body or "null")) for each in commands] == [
        ("POST", "/admin/load", {"model": "digits@champion"}),
        ("POST", "/admin/unload", {"model": "digits:v1.0"}),
        ("PUT", "/admin/models/digits/aliases/champion", {"version": "v2.0"}),
        ("PUT", "/admin/models/a%2Fb/aliases/x%20y", {"version": None}),
        ("DELETE", "/admin/models/digits/aliases/champion", None),
        ("POST", "/admin/drain", {"wait_s": 2}),
        ("DELETE", "/admin/drain", None),
        ("GET", "/admin", None),
    ]
    assert {each.headers["x-penstock-admin-key"] for each in commands} == {"a-key-of-enough-letters"}
    assert {each.headers["authorization"] for each in server.received} == {"Bearer an api key"}
    assert "x-penstock-admin-key" not in prediction.headers


def test_on_the_same_machine_the_key_is_that_of_the_settings_or_of_the_file(
    server: Scripted, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client.resume()
    kept = AdminKey(None, tmp_path / "registry" / "admin.key")
    kept.prepare()
    client.resume()
    monkeypatch.setenv("PENSTOCK_ADMIN_KEY", "a-key-of-enough-letters")
    client.resume()
    sent = [each.headers.get("x-penstock-admin-key") for each in server.received]
    assert sent == [None, kept.current(), "a-key-of-enough-letters"]


def test_another_machine_gets_no_key_that_it_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ADMIN_KEY", "a-key-of-enough-letters")
    for url in ("http://models.example", "http://localhost.evil.example", "http://127.0.0.1@evil.example"):
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request, seen: list[httpx.Request] = seen) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, json={})

        with Client(url) as client:
            client._http = httpx.Client(base_url=url, transport=httpx.MockTransport(answer))
            client.resume()
        assert "x-penstock-admin-key" not in seen[0].headers


@pytest.mark.parametrize("value", [float("nan"), np.array([np.inf]), object(), {1, 2}])
def test_a_request_that_is_not_json_is_refused_before_it_is_sent(
    server: Scripted, client: Client, value: object
) -> None:
    with pytest.raises(InvalidInput, match="JSON"):
        client.predict("m", input_data=value)
    assert server.received == []


def test_the_deadline_and_the_key_are_sent(server: Scripted) -> None:
    with Client(server.url + "/", api_key="k3y", timeout_s=2.5) as client:
        client.predict("m", x=1)
        client.models()
    predict, models = server.received
    assert predict.headers["x-request-timeout-ms"] == "2500"
    assert predict.headers["authorization"] == models.headers["authorization"] == "Bearer k3y"


def test_a_batch_has_a_result_or_error_per_item(server: Scripted, client: Client) -> None:
    refused = {"error": {"type": "invalid-input", "detail": "input_data: 1 number given"}}
    server.say(200, {"predictions": [{"predictions": [3]}, refused], "total_count": 2, "total_time_ms": 1.5})
    items = [{"input_data": np.ones(2)}, {"input_data": [1.0]}]
    assert client.predict_batch(iter(items), "digits@champion") == [{"predictions": [3]}, refused]
    (request,) = server.received
    assert (request.method, request.path) == ("POST", "/predict/batch")
    sent = {"requests": [{"input_data": [1, 1]}, {"input_data": [1]}], "model": "digits@champion"}
    assert json.loads(request.body) == sent


def test_a_priority_is_sent_with_predictions_only(server: Scripted) -> None:
    with Client(server.url, priority=7) as client:
        client.predict("m", x=1)
        client.models()
    predict, models = server.received
    assert predict.headers["x-penstock-priority"] == "7"
    assert "x-penstock-priority" not in models.headers


def test_an_image_is_uploaded_from_a_file_or_from_its_bytes(server: Scripted, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "three.png"
    path.write_bytes(b"\x89PNG...")
    client.predict_image("digits-image", path)
    client.predict_image("digits-image", str(path))
    client.predict_image(None, b"\x89PNG...")
    assert [request.path for request in server.received] == ["/models/digits-image/predict"] * 2 + ["/predict"]
    for request in server.received:
        assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b'name="file"' in request.body
        assert b"\x89PNG..." in request.body
    assert b'filename="three.png"' in server.received[0].body


def test_a_missing_image_is_refused_by_name(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.png cannot be read: No such file"):
        client.predict_image("m", "nowhere.png")


@pytest.mark.parametrize(("method", "path"), [("models", "/models"), ("stats", "/stats"), ("health", "/health")])
def test_every_information_route_has_a_method(server: Scripted, client: Client, method: str, path: str) -> None:
    server.say(200, {"a": 1})
    assert getattr(client, method)() == {"a": 1}
    assert (server.received[0].method, server.received[0].path) == ("GET", path)


def test_an_unhealthy_server_does_not_raise(server: Scripted, client: Client) -> None:
    server.say(503, {"status": "unhealthy", "model_loaded": False})
    assert client.health()["status"] == "unhealthy"


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (422, "urn:penstock:invalid-input", InvalidInput),
        (404, "urn:penstock:model-not-found", ModelNotFound),
        (503, "urn:penstock:model-not-ready", ModelNotReady),
        (429, "urn:penstock:overloaded", Overloaded),
        (504, "urn:penstock:deadline-exceeded", DeadlineExceeded),
        (500, "urn:penstock:inference-error", InferenceError),
        (500, "urn:penstock:worker-died", WorkerDied),
        (404, "urn:penstock:not-found", ModelNotFound),
        (413, "urn:penstock:body-too-large", InvalidInput),
        (500, "about:blank", InferenceError),
        (502, None, InferenceError),
        (418, None, InvalidInput),
    ],
)
def test_a_problem_raises_its_exception(
    server: Scripted, client: Client, status: int, kind: str | None, expected: type[PenstockError]
) -> None:
    problem = {"title": "t", "status": status, "detail": "what is wrong", "request_id": "r"}
    server.say(status, problem | ({"type": kind} if kind else {}), Content_Type="application/problem+json")
    with pytest.raises(PenstockError, match="what is wrong") as caught:
        client.predict("m", x=1)
    assert type(caught.value) is expected


def test_an_exception_lists_the_faulty_fields(server: Scripted, client: Client) -> None:
    errors = [{"field": "input_data[3]", "message": "not finite"}]
    server.say(422, {"type": "urn:penstock:invalid-input", "detail": "no", "errors": errors})
    with pytest.raises(InvalidInput) as caught:
        client.predict("m", x=1)
    assert caught.value.errors == (FieldError("input_data[3]", "not finite"),)


@pytest.mark.parametrize(("status", "expected"), [(429, Overloaded), (503, ModelNotReady)])
def test_an_overload_has_a_retry_time(
    server: Scripted, client: Client, status: int, expected: type[Overloaded | ModelNotReady]
) -> None:
    server.say(status, {"detail": "later"}, Retry_After="7")
    with pytest.raises(expected) as caught:
        client.stats()
    assert caught.value.retry_after_s == 7.0


def test_an_error_without_a_problem_document_raises_one_sentence(server: Scripted, client: Client) -> None:
    server.say(502, b"<html>bad gateway</html>")
    with pytest.raises(InferenceError, match="the server answered 502"):
        client.predict("m", x=1)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[1, 2]", b""])
def test_a_response_of_another_kind_of_server_is_refused(server: Scripted, client: Client, body: bytes) -> None:
    server.say(200, body)
    with pytest.raises(PenstockError, match="answered 200 without a JSON object"):
        client.models()


def test_a_slow_server_raises_deadline_exceeded(server: Scripted) -> None:
    server.delay_s = 1.0
    with Client(server.url, timeout_s=0.1) as client, pytest.raises(DeadlineExceeded, match=r"within 0\.1 s"):
        client.predict("m", x=1)


def test_a_missing_server_raises_model_not_ready() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ModelNotReady, match=f"no server answers at {url}"):
            client.health()


def test_a_batch_names_its_task(server: Scripted, client: Client) -> None:
    server.say(200, {"predictions": []})
    client.predict_batch([{"inputs": {"x": [[1]]}}], "digits", task="tensor")
    body = json.loads(server.received[-1].body)
    assert body == {"requests": [{"inputs": {"x": [[1]]}}], "model": "digits", "task": "tensor"}
