"""What a running server is asked: its own examples, an image, numbers, a file; and what is said where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_servers import Live
from scripted_server import ScriptedServer, status
from served_models import build_registry

from penstock.errors import InvalidInput, ModelNotFound, ModelNotReady, PenstockError
from penstock.registry.registry import Registry
from penstock.settings import Settings
from penstock.toolchain.bench.discovery import find_target
from penstock.toolchain.bench.load import closed_loop


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    registry = build_registry(tmp_path_factory.mktemp("bench"))
    with Live("h1", Settings(registry=registry), ("vec", "pic", "raw")) as server:
        yield server


@pytest.mark.parametrize(
    ("model", "path", "payload"),
    [
        (None, "/models/vec/predict", "the server's own example"),
        ("vec:v1.0", "/models/vec/versions/v1.0/predict", "the server's own example"),
        ("vec@stable", "/models/vec@stable/predict", "the server's own example"),
        ("pic", "/models/pic/predict", "a made-up image of 28 x 28 pixels"),
        ("raw", "/models/raw/predict", "made-up numbers"),
    ],
)
def test_every_model_is_asked_something_that_it_answers(live: Live, model: str | None, path: str, payload: str) -> None:
    target = find_target(live.url, model=model)
    assert target.requests[0].startswith(f"POST {path} HTTP/1.1\r\n".encode())
    assert target.payload == payload
    result = closed_loop(target, concurrency=2, seconds=0.2)
    assert result.errors == {}
    assert result.succeeded > 2


def test_requests_from_a_file_are_sent_in_turn(live: Live, tmp_path: Path) -> None:
    example = json.loads(find_target(live.url, model="vec").requests[0].partition(b"\r\n\r\n")[2])
    other = {"input_data": [1.0] * len(example["input_data"])}
    file = tmp_path / "requests.jsonl"
    file.write_text(f"{json.dumps(example)}\n\n{json.dumps(other)}\n")
    target = find_target(live.url, model="vec", payload=file)
    assert len(target.requests) == 2
    assert target.payload == "requests.jsonl (2 requests in turn)"
    assert closed_loop(target, concurrency=1, seconds=0.1).errors == {}


def test_a_payload_that_the_server_refuses_is_reported_with_its_words(live: Live, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text('{"input_data": [1, 2]}')
    with pytest.raises(InvalidInput, match=r"answers 422 to POST /models/vec/predict \(input_data: 2 numbers given"):
        find_target(live.url, model="vec", payload=file)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("", "is empty"), ("{", "is no JSON"), ("[" * 100_000, "is no JSON")],
)
def test_a_payload_that_is_none_is_refused(live: Live, tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "request.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidInput, match=f"^payload: .*{words}"):
        find_target(live.url, payload=file)


@pytest.mark.parametrize(
    ("model", "kind"),
    [("slow", ModelNotFound), ("nothing", ModelNotFound), ("vec:v9", InvalidInput), ("a b", InvalidInput)],
)
def test_a_model_that_is_not_served_is_an_error(live: Live, model: str, kind: type[PenstockError]) -> None:
    with pytest.raises(kind) as failed:
        find_target(live.url, model=model)
    assert "payload" not in str(failed.value)
    if kind is ModelNotFound:
        assert "it serves pic, raw, vec" in str(failed.value)


def test_a_url_with_a_path_is_asked_as_it_is(live: Live, tmp_path: Path) -> None:
    assert closed_loop(find_target(f"{live.url}/health"), concurrency=1, seconds=0.1).errors == {}
    with pytest.raises(InvalidInput, match="answers 405 to GET /predict"):
        find_target(f"{live.url}/predict")
    with pytest.raises(InvalidInput, match="has a path already"):
        find_target(f"{live.url}/predict", model="vec")


def test_an_api_key_is_sent_with_every_request() -> None:
    with ScriptedServer() as server:
        target = find_target(f"{server.url}x", api_key="secret")
        closed_loop(target, concurrency=1, seconds=0.05)
    assert all(b"authorization: bearer secret" in request.lower() for request in server.requests)


def test_golden_samples_of_the_registry_serve_where_the_server_shows_no_example(live: Live) -> None:
    details = json.dumps(live.http.get("/models/vec").json()).encode()

    async def bare(server: ScriptedServer, number: int) -> bytes:
        request = server.requests[number]
        if request.startswith(b"GET /models/vec "):
            return status(200, body=details)
        known = b'{"model_loaded": true, "name": "vec"}'
        missing = request.startswith(b"GET /openapi.json")
        return status(404 if missing else 200, body=known)

    with ScriptedServer(bare) as server, Registry(live.settings.registry) as registry:
        from_registry = find_target(server.url, registry=registry)
        made_up = find_target(server.url)
    assert from_registry.payload == "a golden sample of the registry"
    golden = registry.get("vec").golden()
    assert golden is not None
    sent = json.loads(from_registry.requests[0].partition(b"\r\n\r\n")[2])
    assert sent["inputs"]["x"] == golden.inputs["x"][:1].tolist()
    assert made_up.payload == "made-up numbers"


def test_a_server_that_is_not_penstock_is_named() -> None:
    with ScriptedServer() as server, pytest.raises(InvalidInput, match="is not Penstock; name a path"):
        find_target(server.url)


def test_no_server_is_an_error_in_one_sentence() -> None:
    with ScriptedServer() as server:
        pass
    with pytest.raises(ModelNotReady, match=r"no server answers there \(Connection refused\)$"):
        find_target(server.url)
