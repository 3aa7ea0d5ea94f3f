"""The messages of OTLP that hold spans, in protobuf's wire format.

Written by hand: Python's protobuf takes ten times as long for messages as small as these, and the format is frozen.
Field numbers are those of opentelemetry/proto/trace/v1/trace.proto, with which the tests read it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from struct import Struct
from typing import TypeAlias

Value: TypeAlias = str | int

SERVER, INTERNAL = 2, 1
"""Kinds of spans."""
_TIMES = Struct("<BQBQ")
_FLAGS = b"\x85\x01\x01\x00\x00\x00"
"""Field 16 of a span, fixed32: it is sampled."""
_FAILED = b"\x7a\x02\x18\x02"
"""Field 15, a status whose code (3) is ERROR (2)."""


def varint(value: int) -> bytes:
    """An unsigned number, 7 bits a byte."""
    if value < 128:
        return bytes((value,))
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, text, or a message."""
    return b"%b%b%b" % (varint(number << 3 | 2), varint(len(content)), content)


def text(value: str) -> bytes:
    """Text in UTF-8; what it cannot hold becomes question marks."""
    return value.encode("utf-8", "replace")


@functools.lru_cache(maxsize=4096)
def _value(value: Value) -> bytes:
    """An AnyValue."""
    if isinstance(value, int):
        return b"\x18" + varint(value & 0xFFFFFFFFFFFFFFFF)
    return field(1, text(value))


@functools.lru_cache(maxsize=256)
def _key(name: str) -> bytes:
    return field(1, text(name))


def attributes(number: int, values: Mapping[str, Value]) -> bytes:
    """A repeated field of KeyValue."""
    return b"".join([field(number, _key(name) + field(2, _value(value))) for name, value in values.items()])


def link(trace_id: str, span_id: str) -> bytes:
    """A span's field of a link to another one."""
    return b"\x6a\x1c\x0a\x10%b\x12\x08%b" % (bytes.fromhex(trace_id), bytes.fromhex(span_id))


def span(
    ids: tuple[str, str, str],
    name: str,
    kind: int,
    times_ns: tuple[int, int],
    values: Mapping[str, Value],
    *,
    more: bytes = b"",
    failed: bool = False,
) -> bytes:
    """A span. `ids` are those of its trace, itself and its parent, which may be empty; `more` are further fields."""
    trace_id, span_id, parent = ids
    above = b"\x22\x08" + bytes.fromhex(parent) if parent else b""
    return b"".join(
        (
            b"\x0a\x10", bytes.fromhex(trace_id), b"\x12\x08", bytes.fromhex(span_id), above, field(5, text(name)),
            b"\x30%c" % kind, _TIMES.pack(0x39, times_ns[0], 0x41, times_ns[1]), attributes(9, values), more,
            _FAILED if failed else b"", _FLAGS,
        )
    )  # fmt: skip


def state(value: str) -> bytes:
    """A span's field of the `tracestate`."""
    return field(3, text(value)) if value else b""


def resource(values: Mapping[str, Value]) -> bytes:
    """What makes the spans."""
    return attributes(1, values)


def scope(name: str, version: str) -> bytes:
    """The library that makes the spans."""
    return field(1, text(name)) + field(2, text(version))


def export_request(resource: bytes, scope: bytes, spans: Iterable[bytes]) -> bytes:
    """The request that carries the spans of one process."""
    scoped = field(1, scope) + b"".join([field(2, each) for each in spans])
    return field(1, field(1, resource) + field(2, scoped))
