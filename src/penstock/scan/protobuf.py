"""A walk over protobuf's wire format: fields and their places, without a schema and without copying."""

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
    """The fields of the message at `start` to `end`; raises Refused where it is none."""
    place = start
    while place < end:
        tag = data[place]  # nearly always one byte
        place += 1
        if tag >= 0x80:
            tag, place = _varint(data, place - 1, end)
            if tag >= _TAGS:  # others read a tag as 32 bits, and see another field in it
                raise Refused("it is damaged or made to look so: a field has a number that there is not")
        kind = tag & 7
        if kind == BYTES:
            length, place = _varint(data, place, end)
            if place + length > end:
                raise Refused("it is cut off or no protobuf")
            yield tag >> 3, kind, place, place + length
            place += length
        elif kind == VARINT:
            value, place = _varint(data, place, end)
            yield tag >> 3, kind, value, 0
        else:
            size = _FIXED.get(kind)
            if size is None or place + size > end:
                raise Refused("it is damaged or no protobuf")
            yield tag >> 3, kind, place, place + size
            place += size


def _varint(data: memoryview, place: int, end: int) -> tuple[int, int]:
    """A number and the place after it."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise Refused("it is cut off or no protobuf")


def text(data: memoryview, start: int, end: int) -> str:
    """A string field; raises Refused for what is not UTF-8."""
    try:
        return bytes(data[start:end]).decode()
    except UnicodeDecodeError:
        raise Refused("it holds a text that is not UTF-8") from None
