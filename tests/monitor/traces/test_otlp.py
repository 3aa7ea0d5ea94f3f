"""Our protobuf, as OpenTelemetry's own messages read it."""

from __future__ import annotations

import math
from typing import Any

from collector import attributes
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from penstock.monitor.traces import otlp

ids = st.tuples(
    *(st.binary(min_size=size, max_size=size).map(bytes.hex) for size in (16, 8)),
    st.just("") | st.binary(min_size=8, max_size=8).map(bytes.hex),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
moments = st.integers(0, 2**64 - 1)
values = st.dictionaries(texts, texts | st.integers(-(2**63), 2**63 - 1), max_size=20)
links = st.lists(st.tuples(*(st.binary(min_size=size, max_size=size).map(bytes.hex) for size in (16, 8))), max_size=40)


@given(ids, texts, st.sampled_from([otlp.SERVER, otlp.INTERNAL]), moments, moments, values, links, texts, st.booleans())
def test_every_span_is_read_as_it_was_meant(
    ids: tuple[str, str, str],
    name: str,
    kind: int,
    start: int,
    end: int,
    found: dict[str, Any],
    linked: list[tuple[str, str]],
    state: str,
    failed: bool,
) -> None:
    more = b"".join(otlp.link(*each) for each in linked) + otlp.state(state)
    span = otlp.span(ids, name, kind, (start, end), found, more=more, failed=failed)
    body = otlp.export_request(otlp.resource(found), otlp.scope("penstock", "1.0"), [span, span])
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert attributes(resource.resource) == found
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("penstock", "1.0")
    first, second = scope.spans
    assert first == second
    assert (first.trace_id.hex(), first.span_id.hex(), first.parent_span_id.hex()) == ids
    assert (first.name, first.kind, first.trace_state, first.flags) == (name, kind, state, 1)
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (start, end)
    assert attributes(first) == found
    assert [(each.trace_id.hex(), each.span_id.hex()) for each in first.links] == linked
    assert first.status.code == (Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET)


def test_the_kinds_are_those_of_opentelemetry() -> None:
    assert (otlp.SERVER, otlp.INTERNAL) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL)


@given(st.integers(0, 2**64 - 1))
def test_a_number_takes_seven_bits_a_byte(number: int) -> None:
    found = otlp.varint(number)
    assert len(found) == max(1, math.ceil(number.bit_length() / 7))
    assert sum((byte & 127) << (7 * index) for index, byte in enumerate(found)) == number
