"""W3C trace context: what a request says about the trace that it is part of, and which requests are traced."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import getrandbits
from typing import NamedTuple

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_SAMPLED = 1
MOST_STATE = 512
"""Characters of a `tracestate` that is passed on."""


class Parent(NamedTuple):
    """The span of the caller, from the headers `traceparent` and `tracestate`."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""


def parent_of(values: Sequence[str], states: Callable[[], Sequence[str]] = tuple) -> Parent | None:
    """The caller's span, from all values of `traceparent` and, if that is valid, of `tracestate`; else None."""
    match = _PARENT.fullmatch(values[0].strip()) if len(values) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    state = ",".join(states())
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), state if len(state) <= MOST_STATE else "")


def new_trace_id(low: int) -> str:
    """A trace id with these lowest 64 bits."""
    return f"{getrandbits(64) or 1:016x}{low:016x}"


def new_span_id() -> str:
    """The id of a span of this process."""
    return f"{getrandbits(64) or 1:016x}"


def threshold_of(share: float) -> int:
    """A trace without a caller's decision is sampled if the lowest 64 bits of its id are below this."""
    return round(share * 2**64)
