"""The event loop stays free while large requests and answers pass: `/health/live` is answered meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_servers import Live, Process
from liveness import LivenessProbe
from loop_watch import LoopWatch
from served_models import build_registry
from waiting import LONG_S
from wide_models import wide

from penstock.gateway.process.sockets import free_address
from penstock.registry.registry import Registry
from penstock.settings import Settings

MOST_CPU_S = 0.15
"""Of the whole process between two turns of the loop; what took longest before took 0.5 s and more."""

_SEND = """
import json, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], open(sys.argv[2], "rb").read(), {"content-type": sys.argv[3]})
try:
    reply = urllib.request.urlopen(request)
except urllib.error.HTTPError as error:
    reply = error
body = reply.read()
print(json.dumps([reply.status, len(body), body[:300].decode("latin-1")]))
"""


@pytest.fixture(scope="module")
def registry_with_wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wide")
    path = build_registry(root)
    with Registry(path) as registry:
        registry.publish(wide(root))
        registry.publish(wide(root, "rows", columns=100))  # its requests share runs
        registry.publish(wide(root, "fixed", columns=20_000))
    return path


@pytest.fixture(scope="module")
def server(registry_with_wide: Path) -> Iterator[Live]:
    settings = Settings(registry=registry_with_wide, request_timeout_ms=120_000)
    with Live("h1", settings, ("vec", "raw", "pic", "wide", "rows", "fixed")) as live:
        yield live


@pytest.fixture
def send(server: Live, tmp_path: Path) -> Callable[..., tuple[int, int, str]]:
    """Post a body from another process, whose CPU time does not count."""

    def send(path: str, body: bytes, content_type: str = "application/json") -> tuple[int, int, str]:
        file = tmp_path / "body"
        file.write_bytes(body)
        command = [sys.executable, "-c", _SEND, server.url + path, str(file), content_type]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=2 * LONG_S)
        return tuple(json.loads(done.stdout))

    return send


def asked(columns: int) -> bytes:
    return b'{"inputs":{"x":[[%d]]}}' % columns


def test_an_answer_of_many_megabytes_is_sent_in_pieces(server: Live, send: Callable[..., tuple]) -> None:
    with LoopWatch(server.loop) as watch:
        status, size, beginning = send("/models/wide/predict", asked(3_000_000))
    assert status == 200
    assert beginning.startswith('{"outputs":{"y":[[3000000.0,3000000.0')
    assert size > 3_000_000 * len("3000000.0,")
    assert watch.longest_s < MOST_CPU_S


@pytest.mark.parametrize("columns", [1_000, 20_000, 200_000])
def test_large_answers_are_whole_json_documents(server: Live, columns: int) -> None:
    reply = server.http.post("/models/wide/predict", content=asked(columns))
    assert reply.json()["outputs"] == {"y": [[float(columns)] * columns]}
    assert ("content-length" in reply.headers) == (columns < 100_000)


def test_the_items_of_a_batch_are_answered_as_they_are_alone(server: Live, send: Callable[..., tuple]) -> None:
    items = [asked(20_000), b'{"inputs":{}}', asked(5)] * 40
    body = b'{"model":"wide","requests":[' + b",".join(items) + b"]}"
    with LoopWatch(server.loop) as watch:
        status, size, _ = send("/predict/batch", body)
    assert status == 200
    assert watch.longest_s < MOST_CPU_S
    answer = server.http.post("/predict/batch", content=body)
    assert abs(len(answer.content) - size) < 10_000  # the times differ
    found = answer.json()["predictions"]
    assert [len(each["outputs"]["y"][0]) if "outputs" in each else None for each in found] == [20_000, None, 5] * 40


@pytest.mark.parametrize(("name", "rows", "threaded"), [("rows", 1, False), ("rows", 1_000, True), ("fixed", 1, True)])
def test_large_answers_of_requests_that_could_share_a_run_are_made_in_threads(
    server: Live, name: str, rows: int, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = next(model for model in server.service.engine.loaded() if model.name == name).runner.pool
    run, works = pool.run, []

    def noted(work: Any, *given: Any, **more: Any) -> Any:
        works.append(work)
        return run(work, *given, **more)

    monkeypatch.setattr(pool, "run", noted)
    reply = server.http.post(f"/models/{name}/predict", json={"inputs": {"x": [[2.5]] * rows}})
    assert reply.status_code == 200, reply.text
    assert reply.json()["outputs"]["y"] == [[2.5] * (100 if name == "rows" else 20_000)] * rows
    assert bool(works) is threaded


SIZE = 240_000
"""Below the size from which every body is decoded in a thread."""


def filled(item: bytes, size: int = SIZE) -> bytes:
    return b"[" + b",".join([item] * (size // (len(item) + 1))) + b"]"


BODIES = {
    "lists": filled(b"[]"),
    "objects": filled(b'{"a":1}'),
    "wrong rows": filled(b'{"age":"x","city":1}'),
    "keys": b"{" + b",".join(b'"a%d":1' % number for number in range(SIZE // 10)) + b"}",
    "a million keys": b"{" + b",".join(b'"a%d":1' % number for number in range(1_000_000)) + b"}",
    "a million wrong numbers": filled(b'"x"', 4_000_000),
    "deep": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "digits": b"1" * 1_000_000,
    "doubled keys": b"{" + b",".join([b'"a":1'] * 500_000) + b"}",
    "numbers of thirty digits": filled(b"9" * 30, 8_000_000),
    "numbers of four thousand digits": filled(b"9" * 4000, 8_000_000),
    "quotes": b"[" + b'"' * 8_000_000 + b"]",
    "no base64": b'"' + "é".encode() * 4_000_000 + b'"',
}
PLACES = {"vec": b'{"input_data":%b}', "raw": b'{"inputs":{"a":%b,"b":[[1,2]]}}', "pic": b'{"image":%b}', "": b"%b"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", BODIES)
def test_no_json_body_holds_the_loop(server: Live, send: Callable[..., tuple], kind: str, place: str) -> None:
    body = PLACES[place] % BODIES[kind]
    with LoopWatch(server.loop) as watch:
        status, _, beginning = send(f"/models/{place or 'vec'}/predict", body)
    assert status in (413, 422), beginning
    assert watch.longest_s < MOST_CPU_S


def test_no_batch_and_no_form_holds_the_loop(server: Live, send: Callable[..., tuple]) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n'
    bodies = [
        ("/predict/batch", b'{"requests":' + filled(b"{}", 300_000) + b"}", "application/json"),
        ("/predict/batch", b'{"requests":' + filled(b'{"input_data":["a"]}', 20_000) + b"}", "application/json"),
        (
            "/models/pic/predict",
            b"".join(part % number for number in range(50_000)) + b"--x--\r\n",
            "multipart/form-data; boundary=x",
        ),
        (
            "/models/pic/predict",
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + b"\r\n--" * 50_000,
            "multipart/form-data; boundary=x",
        ),
    ]
    for path, body, content_type in bodies:
        with LoopWatch(server.loop) as watch:
            status, _, beginning = send(path, body, content_type)
        assert status in (200, 422), beginning
        assert watch.longest_s < MOST_CPU_S, content_type


@pytest.fixture
def process(tmp_path: Path, registry_with_wide: Path) -> Iterator[Process]:
    arguments = ("--registry", str(registry_with_wide), "wide")
    process = Process(tmp_path, free_address("127.0.0.1", 0)[1], *arguments)
    try:
        process.wait_for()
        yield process
    finally:
        process.end()


def test_health_is_answered_within_100_ms_beside_large_answers(process: Process) -> None:
    found = []
    for _ in range(3):  # a busy machine may delay any probe
        with LivenessProbe(process.url) as probe, httpx.Client(timeout=LONG_S) as client:
            assert client.post(f"{process.url}/models/wide/predict", content=asked(1_000_000)).status_code == 200
        found.append(probe.latencies)
        if probe.latencies.percentile(99) < 100:
            return
    raise AssertionError([str(each) for each in found])
