"""Traces on their way to a collector that works, fails, hangs or is gone."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

import pytest
from collector import Collector, attributes
from waiting import wait_until

from penstock.engine.observation import Observation
from penstock.monitor.traces import exporter
from penstock.monitor.traces.exemplars import newest
from penstock.monitor.traces.exporter import Exporter
from penstock.monitor.traces.trace import MOST_PREDICTIONS, Trace

OK = 200


def traced(request_id: str = "r", *, run_ms: float = 3.0, predictions: int = 1) -> Trace:
    trace = Trace("ab" * 16, None, request_id)
    for _ in range(predictions):
        trace.add(
            Observation(
                model="m",
                version="1",
                variant="onnx-fp32",
                outcome="ok",
                total_ms=10.0,
                request_id=request_id,
                rows=1,
                batch_rows=4,
                pre_ms=1.0,
                queue_ms=2.0,
                run_ms=run_ms,
                post_ms=1.0,
            )
        )
    trace.method, trace.route, trace.status = "POST", "/predict", 200
    trace.ended, trace.ended_ns = time.monotonic(), time.time_ns()
    trace.started = trace.ended - 0.012
    return trace


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "EVERY_S", 0.02)
    monkeypatch.setattr(exporter, "FIRST_PAUSE_S", 0.02)


def started(url: str, headers: dict[str, str] | None = None) -> Exporter:
    made = Exporter(url, headers or {}, "here")
    made.start()
    return made


def test_a_trace_arrives_with_its_phases_and_its_run() -> None:
    with Collector() as collector:
        sender = started(collector.url, {"x-tenant": "t"})
        sender.put(traced())
        (batch,) = collector.wait_for("batch")
        sender.stop(5)
    assert {(path, head["x-tenant"]) for path, head in zip(collector.paths, collector.heads, strict=True)} == {
        ("/v1/traces", "t")
    }
    resource = attributes(collector.requests[0].resource_spans[0].resource)
    assert (resource["service.name"], len(resource["service.instance.id"])) == ("here", 36)
    spans = {span.name: span for span in collector.spans()}
    assert set(spans) == {"POST /predict", "preprocess", "queue", "run", "postprocess", "batch"}
    request, run = spans["POST /predict"], spans["run"]
    assert request.end_time_unix_nano - request.start_time_unix_nano == pytest.approx(12e6, rel=0.01)
    lengths = {name: (s.end_time_unix_nano - s.start_time_unix_nano) / 1e6 for name, s in spans.items()}
    assert [lengths[name] for name in ("preprocess", "queue", "run", "postprocess", "batch")] == [1, 2, 3, 1, 3]
    for name in ("preprocess", "queue", "run", "postprocess"):
        assert (spans[name].parent_span_id, spans[name].trace_id) == (request.span_id, request.trace_id)
        assert spans[name].start_time_unix_nano >= request.start_time_unix_nano
        assert spans[name].end_time_unix_nano <= request.end_time_unix_nano
    assert attributes(run)["penstock.batch.id"] == batch.span_id.hex()
    assert [link.span_id for link in batch.links] == [run.span_id]
    assert [link.span_id for link in run.links] == [batch.span_id]


def test_the_requests_of_a_run_share_its_span_which_links_to_32_of_them() -> None:
    with Collector() as collector:
        sender = started(collector.url)
        for number in range(40):
            sender.put(traced(str(number)))
        sender.put(traced("other", run_ms=3.0000001))
        sender.stop(5)
    links = sorted(len(batch.links) for batch in collector.spans("batch"))
    assert links == [1, 32]
    assert len({attributes(run)["penstock.batch.id"] for run in collector.spans("run")}) == 2


def test_a_large_batch_request_has_spans_of_some_of_its_items() -> None:
    with Collector() as collector:
        sender = started(collector.url)
        sender.put(traced(predictions=MOST_PREDICTIONS + 3))
        sender.stop(5)
    (request,) = collector.spans("POST /predict")
    assert attributes(request)["penstock.items_left_out"] == 3
    assert {attributes(run)["penstock.item"] for run in collector.spans("run")} == set(range(MOST_PREDICTIONS))


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_collector_that_is_not_available_for_a_while_loses_nothing(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Collector(lambda number: status if number < 3 else OK) as collector:
        sender = started(collector.url)
        sender.put(traced())
        collector.wait_for("run")
        sender.stop(5)
    assert len(collector.spans("run")) == 1
    assert sender.figures()["dropped"] == 0
    said = [record.message for record in caplog.records if record.name.startswith("penstock.monitor.traces")]
    assert [f"status {status}" in line for line in said] == [True, False]


@pytest.mark.parametrize("status", [301, 400, 401, 404, 500])
def test_a_collector_that_refuses_is_asked_once_for_each_export(status: int) -> None:
    with Collector(lambda _: status) as collector:
        sender = started(collector.url)
        sender.put(traced())
        wait_until(lambda: sender.figures()["dropped"] == 1)
        asked = collector.asked
        sender.stop(5)
    assert asked == 1


def gone() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_a_collector_that_is_gone_costs_a_bounded_queue_and_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "MOST_WAITING", 10)
    sender = started(gone())
    for number in range(1000):
        sender.put(traced(str(number)))
    assert sender.figures()["dropped"] > 700  # the thread has taken some
    began = time.monotonic()
    sender.stop(0.3)
    assert time.monotonic() - began < 3
    assert sender.figures()["exported"] == 0


def test_a_collector_that_hangs_delays_the_end_by_what_it_is_given() -> None:
    with Collector(lambda _: 0) as collector:
        sender = started(collector.url)
        sender.put(traced())
        wait_until(lambda: collector.asked)
        began = time.monotonic()
        sender.stop(0.2)
        assert time.monotonic() - began < 2


def test_a_server_with_much_time_to_end_does_not_spend_it_on_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "LAST_S", 0.2)
    sender = started(gone())
    sender.put(traced())
    sender.stop(1e6)
    assert sender.figures()["exported"] == 0


def test_what_waits_is_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "EVERY_S", 3600.0)
    with Collector() as collector:
        sender = started(collector.url)
        for number in range(600):
            sender.put(traced(str(number)))
        sender.stop(30)
        assert len(collector.spans("run")) == 600
        assert collector.spans("batch")
    assert sender.figures()["exported"] == 600


def test_odd_names_and_methods_are_written_as_they_can_be() -> None:
    trace = traced()
    trace.seen[0] = trace.seen[0]._replace(model="half \udcff", error="")
    trace.method = "BREW"
    with Collector() as collector:
        sender = started(collector.url)
        sender.put(trace)
        collector.wait_for("run")
        sender.stop(5)
    assert attributes(collector.spans("run")[0])["penstock.model"] == "half ?"
    assert attributes(collector.spans("HTTP /predict")[0])["http.request.method"] == "_OTHER"


def test_the_address_may_be_that_of_the_signal() -> None:
    make: Callable[[str], Exporter] = lambda url: Exporter(url, {}, "x")  # noqa: E731
    assert make("http://c:4318").url == make("http://c:4318/").url == "http://c:4318/v1/traces"
    assert make("https://c/otlp/v1/traces").url == "https://c/otlp/v1/traces"


def test_exemplars_are_the_newest_of_all_processes() -> None:
    row = ["m", "1", 0, 3, "old", 0.2, 5.0]
    found = newest([row, ["m", "1", 0, 3, "new", 0.3, 6.0], ["m", "1", 0, 3, "older", 0.3, 1.0]])
    assert {key: exemplar.trace_id for key, exemplar in found.items()} == {("m", "1", 0, 3): "new"}
