"""Traces of a live server, as a collector receives them, and what they leave in replies, metrics and logs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from collector import Collector, attributes
from live_servers import Live, Process
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from waiting import wait_until

from penstock.gateway.process.sockets import free_address
from penstock.settings import Settings

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "congo=t61rcWkgMzE,rojo=1"}
ROW = [0.5, -1.0, 2.0, 0.25]
GOOD = {"input_data": ROW}
OPEN_METRICS = {"accept": "application/openmetrics-text"}
Serve = Callable[..., Process]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


@pytest.fixture(scope="module", params=["h1", "asgi", "rsgi"])
def traced(request: pytest.FixtureRequest, base_settings: Settings, collector: Collector) -> Iterator[Live]:
    """A server that traces only what its callers ask for."""
    update = {"otlp_endpoint": collector.url, "trace_sample": 0.0, "max_queue_size": 64}
    with Live(request.param, base_settings.model_copy(update=update), ("vec",)) as live:
        yield live


def trace_of(collector: Collector, request_id: str) -> tuple[Any, list[Any]]:
    """The span of a request, and those below it."""

    def found() -> list[Any]:
        return [span for span in collector.spans() if attributes(span).get("penstock.request_id") == request_id]

    wait_until(found)
    (span,) = found()
    return span, [child for child in collector.spans() if child.parent_span_id == span.span_id]


def test_a_request_joins_the_trace_of_its_caller(traced: Live, collector: Collector) -> None:
    name = f"join-{traced.kind}"
    reply = traced.http.post("/predict", json=GOOD, headers={**SAMPLED, "x-request-id": name})
    span, phases = trace_of(collector, name)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert span.trace_state == SAMPLED["tracestate"]
    assert reply.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert span.name == "POST /predict"
    wanted = {"http.request.method": "POST", "http.route": "/predict", "url.path": "/predict"}
    assert {**wanted, "http.response.status_code": 200}.items() <= attributes(span).items()
    assert [phase.name for phase in phases] == ["preprocess", "queue", "run", "postprocess"]
    run = attributes(phases[2])
    assert (run["penstock.model"], run["penstock.version"], run["penstock.rows"]) == ("vec", "v2.0", 1)
    for phase in phases:
        assert span.start_time_unix_nano <= phase.start_time_unix_nano <= phase.end_time_unix_nano
        assert phase.end_time_unix_nano <= span.end_time_unix_nano + 50_000_000
    wait_until(lambda: any(batch.span_id.hex() == run["penstock.batch.id"] for batch in collector.spans("batch")))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": f"00-{TRACE}-{SPAN}-00"},
        {"traceparent": "rubbish"},
        {"traceparent": "0-" * 250},
        {"tracestate": "a=1"},
    ],
)
def test_what_nobody_asks_for_is_not_traced(traced: Live, headers: dict[str, str]) -> None:
    reply = traced.http.post("/predict", json=GOOD, headers=headers)
    assert reply.status_code == 200
    assert "traceparent" not in reply.headers
    assert not traced.service.tracer.active  # type: ignore[union-attr]


def test_a_batch_an_error_and_an_unknown_path_have_spans_of_their_own_kind(traced: Live, collector: Collector) -> None:
    def ask(path: str, body: Any, name: str) -> tuple[dict[str, Any], list[Any]]:
        traced.http.post(path, json=body, headers={**SAMPLED, "x-request-id": f"{name}-{traced.kind}"})
        span, below = trace_of(collector, f"{name}-{traced.kind}")
        return attributes(span), below

    batch, below = ask("/predict/batch", {"requests": [GOOD, {"input_data": [1]}, GOOD]}, "batch")
    assert batch["http.response.status_code"] == 200
    assert sorted(span.name for span in below) == sorted(
        ["preprocess", "queue", "run", "postprocess"] * 2 + ["predict"]
    )
    (bad,) = (span for span in below if span.name == "predict")
    assert (attributes(bad)["penstock.outcome"], attributes(bad)["error.type"]) == ("invalid", "InvalidInput")
    wrong, below = ask("/predict", {"input_data": "x"}, "wrong")
    assert wrong["http.response.status_code"] == 422
    assert [attributes(span)["penstock.outcome"] for span in below] == ["invalid"]
    nowhere, below = ask("/nowhere", {}, "nowhere")
    assert (nowhere["http.response.status_code"], "http.route" in nowhere, below) == (404, False, [])


def test_a_histogram_has_the_trace_as_its_exemplar_where_openmetrics_is_asked_for(traced: Live) -> None:
    trace = f"{os.getpid():032x}"
    traced.http.post("/predict", json=GOOD, headers={"traceparent": f"00-{trace}-{SPAN}-01"})

    def exemplars() -> dict[str, Any]:
        page = traced.http.get("/metrics", headers=OPEN_METRICS).text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return {s.name: s for s in samples if s.exemplar and s.exemplar.labels == {"trace_id": trace}}

    phases = ("request_duration", "preprocess", "queue", "compute", "postprocess")
    wait_until(lambda: set(exemplars()) == {f"penstock_{phase}_seconds_bucket" for phase in phases})
    for sample in exemplars().values():
        assert 0 <= sample.exemplar.value <= float(sample.labels["le"])
    assert "trace_id" not in traced.http.get("/metrics").text


def test_many_requests_at_once_each_have_their_own_trace(traced: Live, collector: Collector) -> None:
    """Over h1 they are answered in bundles."""
    ids = [f"many-{traced.kind}-{number}" for number in range(24)]

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=traced.url, timeout=60) as http:
            asking = (
                http.post(
                    "/predict",
                    json=GOOD,
                    headers={"x-request-id": each, **(SAMPLED if number % 2 else {})},
                )
                for number, each in enumerate(ids)
            )
            return await asyncio.gather(*asking)

    replies = traced.call(ask)
    assert {reply.status_code for reply in replies} == {200}
    assert ["traceparent" in reply.headers for reply in replies] == [False, True] * 12
    for name in ids[1::2]:
        _, phases = trace_of(collector, name)
        assert [phase.name for phase in phases] == ["preprocess", "queue", "run", "postprocess"]
    assert not {attributes(span).get("penstock.request_id") for span in collector.spans()} & set(ids[::2])


def test_our_own_sample_has_predictions_and_no_probes(base_settings: Settings) -> None:
    with Collector() as collector:
        settings = base_settings.model_copy(update={"otlp_endpoint": collector.url, "trace_sample": 1.0})
        with Live("h1", settings, ("vec",)) as live:
            for _ in range(3):
                assert "traceparent" in live.http.post("/predict", json=GOOD).headers
            live.http.get("/stats")
            collector.wait_for("run", 3)
            assert {span.name for span in collector.spans() if not span.parent_span_id} <= {"POST /predict", "batch"}
            assert len({span.trace_id for span in collector.spans("POST /predict")}) == 3


def test_two_processes_send_their_last_traces_when_they_stop(serve: Serve, registry_path: Path) -> None:
    with Collector() as collector:
        server = serve(
            "vec", "--registry", str(registry_path), "--workers", "2", PENSTOCK_OTLP_ENDPOINT=collector.url,
            PENSTOCK_TRACE_SAMPLE="1", OTEL_SERVICE_NAME="two", OTEL_EXPORTER_OTLP_HEADERS="Authorization=Basic%20eA",
        )  # fmt: skip
        server.wait_for()
        for _ in range(30):
            httpx.post(f"{server.url}/predict", json=GOOD)
        server.send()
        assert server.finish()[0] == 0
        assert len(collector.spans("POST /predict")) == len(collector.spans("run")) == 30
        resources = [attributes(each.resource) for request in collector.requests for each in request.resource_spans]
        assert {resource["service.name"] for resource in resources} == {"two"}
        assert len({resource["service.instance.id"] for resource in resources}) == 2
        assert {head["authorization"] for head in collector.heads} == {"Basic eA"}


def test_the_processes_of_uvicorn_trace_as_well(registry_path: Path, tmp_path: Path) -> None:
    with Collector() as collector:
        port = free_address("127.0.0.1", 0)[1]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        more = {"PENSTOCK_OTLP_ENDPOINT": collector.url, "PENSTOCK_TRACE_SAMPLE": "1", "TMPDIR": str(tmp_path)}
        more["PENSTOCK_REGISTRY"] = str(registry_path)
        app = "penstock.gateway.process.asgi:AsgiApp"
        command = [sys.executable, "-m", "uvicorn", app, "--factory", "--workers", "2", "--port", str(port)]
        with subprocess.Popen(command, env={**clean, **more}, stderr=subprocess.DEVNULL) as uvicorn:
            try:

                def ask() -> bool:
                    try:
                        return httpx.post(f"http://127.0.0.1:{port}/models/vec/predict", json=GOOD).is_success
                    except httpx.TransportError:
                        return False

                wait_until(ask, 0.2)
                collector.wait_for("run")
            finally:
                uvicorn.terminate()


@pytest.mark.parametrize("broken", ["gone", "hangs"])
def test_a_broken_collector_neither_fails_a_request_nor_delays_the_end(
    serve: Serve, registry_path: Path, broken: str
) -> None:
    with Collector(lambda _: 0) as collector:
        url = collector.url if broken == "hangs" else f"http://127.0.0.1:{free_address('127.0.0.1', 0)[1]}"
        server = serve(
            "vec", "--registry", str(registry_path), PENSTOCK_DRAIN_TIMEOUT_S="1", PENSTOCK_OTLP_ENDPOINT=url,
            PENSTOCK_TRACE_SAMPLE="1",
        )  # fmt: skip
        server.wait_for()
        for _ in range(20):
            assert httpx.post(f"{server.url}/predict", json=GOOD).status_code == 200
        server.send(signal.SIGTERM)
        code, _, err = server.finish()
    assert code == 0
    said = [json.loads(line)["event"] for line in err.splitlines() if "traces" in line]
    assert len(said) <= 1
    assert all("requests are answered all the same" in line for line in said)
    assert "Traceback" not in err


def test_the_log_is_joined_by_request_and_trace(serve: Serve, registry_path: Path) -> None:
    server = serve("vec", "--registry", str(registry_path), "--access-log")
    server.wait_for()
    with httpx.Client(base_url=server.url) as http:
        http.post("/predict", json=GOOD, headers={"traceparent": f"00-{TRACE}-{SPAN}-00", "x-request-id": "one"})
        http.post("/predict", json=GOOD, headers={"traceparent": "x", "x-request-id": "two"})
    server.send()
    records = [json.loads(line) for line in server.finish()[2].splitlines()]
    joined = {record["request_id"]: record.get("trace_id") for record in records if record.get("path") == "/predict"}
    assert joined == {"one": TRACE, "two": None}
