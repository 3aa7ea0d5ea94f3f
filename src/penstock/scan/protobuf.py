"""Reads protobuf's wire format: fields and their offsets, without a schema and without copying."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.scan.findings import Refused

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
_FIXED = {FIXED_64: 8, FIXED_32: 4}
_LONGEST_VARINT = 10
_TAGS = 2**32

Field = tuple[int, int, int, int]
"""Number and wire type; then the value of a varint and 0, or the start and the end of anything else."""


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message at `start` to `end`; raises Refused when there is none."""
    offset = start
    while offset < end:
        tag = data[offset]  # nearly always one byte
        offset += 1
        if tag >= 0x80:
            tag, offset = _varint(data, offset - 1, end)
            if tag >= _TAGS:  # other readers take 32 bits of a tag, and see another field
                raise Refused("it is damaged: a field number is out of range")
        kind = tag & 7
        if kind == BYTES:
            length, offset = _varint(data, offset, end)
            if offset + length > end:
                raise Refused("it is truncated or not protobuf")
            yield tag >> 3, kind, offset, offset + length
            offset += length
        elif kind == VARINT:
            value, offset = _varint(data, offset, end)
            yield tag >> 3, kind, value, 0
        else:
            size = _FIXED.get(kind)
            if size is None or offset + size > end:
                raise Refused("it is damaged or not protobuf")
            yield tag >> 3, kind, offset, offset + size
            offset += size


def _varint(data: memoryview, offset: int, end: int) -> tuple[int, int]:
    """A number and the offset after it."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        if offset >= end:
            break
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise Refused("it is truncated or not protobuf")


def varints(data: memoryview, start: int, end: int) -> Iterator[int]:
    """The numbers of a packed repeated field; raises Refused for bytes that are none."""
    offset = start
    while offset < end:
        value, offset = _varint(data, offset, end)
        yield value


def text(data: memoryview, start: int, end: int) -> str:
    """A string field; raises Refused for text that is not UTF-8."""
    try:
        return bytes(data[start:end]).decode()
    except UnicodeDecodeError:
        raise Refused("it holds text that is not UTF-8") from None
