"""`penstock bench`: tables, JSON, the report, and one sentence for what cannot be measured."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_server import OK, Reply, ScriptedServer, status

Penstock = Callable[..., Any]
QUICK = ("--seconds", "0.02")


@pytest.fixture
def database() -> Callable[[Path], str]:
    """Nothing here depends on the database: SQLite alone."""
    return "sqlite:///{}".format


def test_a_file_is_measured_in_a_table(penstock: Penstock, onnx_file: Path) -> None:
    done = penstock("bench", onnx_file, "--batch", "1,4", *QUICK)
    assert done.code == 0, done.err
    assert re.search(r"variant +rows +p50 ms", done.out)
    assert re.search(r"onnx +4 ", done.out)
    assert "made-up inputs" in done.out


def test_json_has_the_figures_by_batch_size(penstock: Penstock, onnx_file: Path) -> None:
    document = penstock("bench", onnx_file, "--batch", "1,4", "--json", *QUICK).json()
    assert list(document["batches"]) == ["1", "4"]
    assert document["batches"]["4"]["p99_ms"] > 0
    assert document["size_bytes"] == onnx_file.stat().st_size


def test_two_files_are_compared_with_an_interval(penstock: Penstock, onnx_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(onnx_file.read_bytes())
    done = penstock("bench", onnx_file, other, "--batch", "1", *QUICK)
    assert done.code == 0, done.err
    assert re.search(
        r"batch 1: \S*other\.onnx/onnx is \d+\.\d+ times as fast as .*95% confidence, \d+ rounds", done.out
    )


def test_load_on_a_server_is_a_table_json_and_a_page(penstock: Penstock, tmp_path: Path) -> None:
    with ScriptedServer() as server:
        done = penstock(
            "bench", f"{server.url}x", "--concurrency", "1,2", "--rate", "50", "--seconds", "0.2", "--report", "out"
        )
        assert done.code == 0, done.err
        document = penstock("bench", f"{server.url}x", "--rate", "50", "--seconds", "0.2", "--json").json()
    for words in ("1 in flight", "2 in flight", "50/s"):
        assert words in done.out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "2 in flight" in page
    assert "<svg" in page
    stored = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [run["mode"] for run in stored["runs"]] == ["closed", "closed", "open"]
    (run,) = document["runs"]
    assert run["requests"] == run["succeeded"] == 10
    assert {"p50_ms", "p95_ms", "p99_ms", "throughput_per_second", "refused", "errors"} <= set(run)


def test_a_payload_and_a_key_are_sent(penstock: Penstock, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"a": 1}')
    with ScriptedServer() as server:
        done = penstock(
            "bench", f"{server.url}x", "--payload", "request.json", "--api-key", "k", "--seconds", "0.05",
            "--concurrency", "1",
        )  # fmt: skip
        assert done.code == 0, done.err
    assert all(request.endswith(b'{"a": 1}') for request in server.requests)
    assert all(b"authorization: bearer k" in request.lower() for request in server.requests)


def _after(seconds: float) -> Reply:
    """Stop so long after the first request."""
    first: list[float] = []

    async def reply(server: ScriptedServer, _number: int) -> bytes:
        first.append(time.monotonic())
        if first[-1] - first[0] > seconds:
            server.stop_now()
        return OK

    return reply


def test_a_server_that_goes_away_is_exit_code_1(penstock: Penstock) -> None:
    with ScriptedServer(_after(1.5)) as server:
        done = penstock("bench", f"{server.url}x", "--rate", "50", "--seconds", "300")
    assert done.code == 1
    assert "note: 50/s: the server was gone" in done.out
    assert "connection: " in done.out


def test_what_was_measured_before_a_server_went_away_is_printed(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.toolchain.bench import load

    real = load.closed_loop

    def then_stop(*args: Any, **keywords: Any) -> Any:
        result = real(*args, **keywords)
        if keywords["concurrency"] == 2:
            server.stop()
            server._thread.join()
        return result

    monkeypatch.setattr(load, "closed_loop", then_stop)
    with ScriptedServer() as server:
        done = penstock("bench", f"{server.url}x", "--concurrency", "2,4", "--seconds", "0.1")
    assert done.code == 1
    assert "2 in flight" in done.out
    assert "4 in flight" not in done.out
    assert "no server answers there" in done.err


def test_a_server_that_answers_errors_only_is_exit_code_1(penstock: Penstock) -> None:
    async def busy(_server: ScriptedServer, _number: int) -> bytes:
        return status(503)

    with ScriptedServer(busy) as server:
        done = penstock("bench", f"{server.url}x", "--rate", "20", "--seconds", "0.2")
    assert done.code == 1
    assert "503: 4" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://a", "http://b"), "a server is measured alone: give one URL"),
        (("digits", "http://b"), "a server is measured alone: give one URL"),
        (("http://a", "--batch", "1"), "--batch is for models on this machine; http://a is a server"),
        (("http://a", "--device", "cpu"), "--device is for models"),
        (("digits", "--concurrency", "1"), "--concurrency is for a running server, which is named by its URL"),
        (("digits", "--api-key", "x"), "--api-key is for a running server"),
        (("digits", "--batch", "0"), "--batch: '0' is no list of numbers above zero"),
        (("digits", "--batch", "1,a"), "--batch: '1,a' is no list of numbers"),
        (("digits", "--batch", ""), "--batch: '' is no list of numbers"),
        (("http://127.0.0.1:9", "--rate", "inf"), "--rate: 'inf' is no list of numbers"),
        (("http://127.0.0.1:9", "--arrivals", "constant"), "give both"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(penstock: Penstock, arguments: tuple[str, ...], words: str) -> None:
    done = penstock("bench", *arguments)
    assert done.code == 2
    assert words in re.sub(r"[\s│]+", " ", done.err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "there is no model 'nothing'"),
        (("gone.onnx",), "gone.onnx"),
        (("http://127.0.0.1:9",), "no server answers there"),
        (("ftp://127.0.0.1",), "is no URL of a server"),
        (("digits", "--seconds", "0"), "seconds: 0 is not between"),
        (("http://127.0.0.1:9", "--payload", "gone.json"), "no server answers there"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(penstock: Penstock, arguments: tuple[str, ...], words: str) -> None:
    done = penstock("bench", *arguments)
    assert done.code == 1
    assert done.err.startswith("penstock: ")
    assert done.err.count("\n") == 1
    assert words in done.err


def test_a_server_that_is_not_penstock_is_told_how_to_be_asked(penstock: Penstock) -> None:
    with ScriptedServer() as server:
        done = penstock("bench", server.url)
    assert done.code == 1
    assert "is not Penstock; name a path of it, and a payload for a POST" in done.err


def test_a_refused_payload_names_the_option(penstock: Penstock) -> None:
    async def refuse(_server: ScriptedServer, _number: int) -> bytes:
        return status(422, body=b'{"detail": "x is missing"}')

    with ScriptedServer(refuse) as server:
        done = penstock("bench", f"{server.url}x")
    assert done.code == 1
    assert "answers 422 to GET /x (x is missing); give a request that it takes with --payload FILE" in done.err
