"""One record per request on standard error, from `penstock serve` in a separate process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_servers import Live, Process

from penstock.engine.statistics import AnswerQueue
from penstock.settings import Settings

ROW = [0.123456, -1.0, 2.0, 0.25]
Serve = Callable[..., Process]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def records(process: Process) -> list[dict[str, Any]]:
    process.send()
    code, _, err = process.finish()
    assert code == 0
    return [json.loads(line) for line in err.splitlines()]


@pytest.fixture
def asked(serve: Serve, registry_path: Path) -> tuple[list[dict[str, Any]], str]:
    """The log of a server for some requests, as records and as text."""
    process = serve("vec", "--registry", str(registry_path), "--access-log", PENSTOCK_ADMIN_KEY="the-key-of-this-test")
    process.wait_for()
    with httpx.Client(base_url=process.url, headers={"authorization": "Bearer tok-0123456789abcdef"}) as http:
        http.post("/predict", json={"input_data": ROW}, headers={"x-request-id": "one"})
        http.post("/predict", json={"input_data": ROW[:2]}, headers={"x-request-id": "two"})
        items = [{"input_data": ROW}, {"input_data": [1]}, {"input_data": ROW}]
        http.post("/predict/batch", json={"requests": items}, headers={"x-request-id": "three"})
        http.get("/models/ann@example.com/card?api_key=xyz", headers={"x-request-id": "four"})
    found = records(process)
    return found, json.dumps(found)


def test_a_record_has_request_model_shapes_types_times_and_throughput(
    asked: tuple[list[dict[str, Any]], str],
) -> None:
    (record,) = (one for one in asked[0] if one.get("request_id") == "one")
    assert record["logger"] == "penstock.access"
    expected = {"method": "POST", "path": "/predict", "status": 200, "model": "vec:v2.0", "outcome": "ok", "rows": 1}
    assert expected.items() <= record.items()
    assert record["shapes"] == {"x": [1, 4]}
    assert record["dtypes"] == {"x": "FP32"}
    assert record["throughput"] > 0
    assert 0 < record["run_ms"] < record["ms"]


def test_refusals_and_batches_have_a_record_as_well(asked: tuple[list[dict[str, Any]], str]) -> None:
    by_id = {one["request_id"]: one for one in asked[0] if "request_id" in one}
    assert (by_id["two"]["status"], by_id["two"]["outcome"]) == (422, "invalid")
    assert by_id["three"]["outcomes"] == {"ok": 2, "invalid": 1}
    assert by_id["three"]["rows"] == 2
    assert by_id["four"]["path"] == "/models/[email]/card"


def test_neither_payloads_nor_secrets_reach_the_log(asked: tuple[list[dict[str, Any]], str]) -> None:
    for secret in ("0.123456", "tok-0123456789abcdef", "the-key-of-this-test", "ann@example.com", "xyz"):
        assert secret not in asked[1]


def test_without_it_no_request_is_logged_or_observed(base_settings: Settings) -> None:
    with Live("h1", base_settings.model_copy(update={"prediction_stats": False}), ("vec",)) as live:
        assert live.service.engine.observers == []
    with Live("h1", base_settings, ("vec",)) as live:
        assert [type(each) for each in live.service.engine.observers] == [AnswerQueue]


def test_the_console_format_has_a_line_per_request(serve: Serve, registry_path: Path) -> None:
    process = serve("vec", "--registry", str(registry_path), "--access-log", "--log-format", "console")
    process.wait_for()
    httpx.post(process.url + "/predict", json={"input_data": ROW})
    process.send()
    _, _, err = process.finish()
    (line,) = (line for line in err.splitlines() if "path=/predict" in line)
    assert "model=vec:v2.0" in line
    assert "status=200" in line
