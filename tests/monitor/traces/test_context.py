"""The headers `traceparent` and `tracestate`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.monitor.traces.context import MOST_STATE, Parent, new_span_id, new_trace_id, parent_of, threshold_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f" 00-{TRACE}-{SPAN}-ff ", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_caller_says_which_trace_and_whether_it_is_sampled(header: str, sampled: bool) -> None:
    assert parent_of([header]) == Parent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01.more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"\u0660\u0660-{TRACE}-{SPAN}-01",
    ],
)
def test_a_malformed_header_is_passed_over(header: str) -> None:
    assert parent_of([header], lambda: ["a=1"]) is None


def test_a_header_that_comes_twice_is_passed_over() -> None:
    header = f"00-{TRACE}-{SPAN}-01"
    assert parent_of([header, header]) is None
    assert parent_of([]) is None


def test_the_state_of_the_caller_is_kept_in_order_unless_it_is_too_long() -> None:
    header = f"00-{TRACE}-{SPAN}-01"
    parent = parent_of([header], lambda: ["rojo=1", "congo=2,x=3"])
    assert parent is not None
    assert parent.state == "rojo=1,congo=2,x=3"
    long = parent_of([header], lambda: ["x=" + "y" * MOST_STATE])
    assert long is not None
    assert long.state == ""


@given(st.text(max_size=80))
def test_any_text_is_read_or_passed_over(text: str) -> None:
    parent_of([text])


@given(st.integers(0, 2**64 - 1))
def test_ids_are_hexadecimal_and_never_zero(low: int) -> None:
    trace_id = new_trace_id(low)
    assert len(trace_id) == 32
    assert int(trace_id, 16) % 2**64 == low
    assert int(trace_id, 16) >= 2**64
    assert len(new_span_id()) == 16


def test_the_share_of_a_sample_is_exact_at_both_ends() -> None:
    assert threshold_of(0) == 0
    assert threshold_of(1) > 2**64 - 1
    assert threshold_of(0.01) == pytest.approx(2**64 / 100)
