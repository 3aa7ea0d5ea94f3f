"""One line of the prediction log: a request, its answer, and with consent its inputs, as JSON.

Tensors are base64 of their values in C order, little-endian, with datatype and shape; texts have their length in four
bytes in front of each.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson

from penstock.datatypes import DATATYPES, datatype_of_numpy
from penstock.tensors import Array, Arrays

FORMAT = 1
"""The version of the lines; a reader skips those of a later one."""


class Unreadable(ValueError):
    """A line that is damaged or is no record."""


@dataclass(frozen=True, slots=True)
class Record:
    """One logged request. Times in milliseconds; `at` is when it was answered, in seconds since 1970.

    `key` is a keyed digest. `inputs` is None without consent, `outputs` for a request that was not answered. A record
    with the outcome `disagreement` is of an answered request that the version `shadow` has answered otherwise, with
    `shadow_outputs`.
    """

    at: float
    request_id: str
    model: str
    version: str
    outcome: str
    key: str | None = None
    item: int | None = None
    variant: str = ""
    route: str = ""
    arm: str = ""
    shadow: str = ""
    task: str = ""
    protocol: str = ""
    rows: int = 0
    batch_rows: int = 0
    total_ms: float = 0.0
    pre_ms: float = 0.0
    queue_ms: float = 0.0
    run_ms: float = 0.0
    post_ms: float = 0.0
    inputs: Arrays | None = None
    outputs: Arrays | None = None
    shadow_outputs: Arrays | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a later release."""


DISAGREEMENT = "disagreement"
TENSORS = ("inputs", "outputs", "shadow_outputs")
_TEXTS = ("request_id", "model", "version", "outcome", "variant", "route", "arm", "shadow", "task", "protocol")
_WHOLE = ("rows", "batch_rows")
_TIMES = ("total_ms", "pre_ms", "queue_ms", "run_ms", "post_ms")
_ALL = {*Record.__dataclass_fields__} - {"extra"}


def line_of(record: Record) -> bytes:
    """The record as one line, with its newline. Fields that say nothing are left out."""
    document: dict[str, Any] = {"v": FORMAT, "at": moment(record.at), "request_id": record.request_id}
    for name in ("key", "item", *_TEXTS[1:], *_WHOLE):
        value = getattr(record, name)
        if value not in (None, "", 0) or (name == "item" and value == 0):
            document[name] = value
    for name in _TIMES:
        if getattr(record, name):
            document[name] = round(getattr(record, name), 4)
    for name in TENSORS:
        arrays = getattr(record, name)
        if arrays is not None:
            document[name] = {tensor: encoded(array) for tensor, array in arrays.items()}
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def record_of(line: bytes) -> Record:
    """The inverse of `line_of`. Raises Unreadable."""
    try:
        document = orjson.loads(line)
        if type(document) is not dict or document.get("v") != FORMAT:
            raise Unreadable("it is no record of this format")
        return _checked(document)
    except Unreadable:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise Unreadable(f"it is no record: {type(error).__name__}") from None


def _checked(document: dict[str, Any]) -> Record:
    values: dict[str, Any] = {"at": datetime.fromisoformat(document["at"]).timestamp()}
    for name in _TEXTS:
        values[name] = document.get(name, "") if name not in ("request_id", "outcome") else document[name]
        if type(values[name]) is not str:
            raise Unreadable(f"{name} is no text")
    for name in (*_WHOLE, *_TIMES):
        values[name] = document.get(name, 0)
        if type(values[name]) not in (int, float) or not math.isfinite(values[name]):
            raise Unreadable(f"{name} is no number")
    for name, kind in (("key", str), ("item", int)):
        values[name] = document.get(name)
        if values[name] is not None and type(values[name]) is not kind:
            raise Unreadable(f"{name} has another type")
    for name in TENSORS:
        if name in document:
            values[name] = {tensor: decoded(value) for tensor, value in document[name].items()}
    return Record(**values, extra={name: document[name] for name in document.keys() - _ALL - {"v"}})


def moment(at: float) -> str:
    """A time in UTC, to the millisecond, such as 2026-01-31T12:00:00.250Z."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Tensors


def encoded(array: Array) -> dict[str, Any]:
    """A tensor as JSON can carry it."""
    dtype = datatype_of_numpy(array.dtype) or str(array.dtype)
    data = b"".join(_packed(array)) if array.dtype.hasobject else _little(array).tobytes()
    return {"dtype": dtype, "shape": list(array.shape), "data": base64.b64encode(data).decode()}


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _packed(array: Array) -> Iterator[bytes]:
    for value in array.ravel().tolist():
        text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        yield len(text).to_bytes(4, "little")
        yield text


def decoded(value: Mapping[str, Any]) -> Array:
    """The inverse of `encoded`; texts come back as bytes. Raises Unreadable."""
    try:
        shape = tuple(value["shape"])
        data = base64.b64decode(value["data"], validate=True)
        if any(type(length) is not int or length < 0 for length in shape):
            raise Unreadable("a shape is not valid")
        if value["dtype"] == "BYTES":
            return _unpacked(data, shape)
        return np.frombuffer(data, DATATYPES[value["dtype"]].numpy.newbyteorder("<")).reshape(shape)
    except (ValueError, binascii.Error, KeyError, TypeError) as error:
        raise Unreadable(f"a tensor is damaged: {error}") from None


def _unpacked(data: bytes, shape: tuple[int, ...]) -> Array:
    values, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        text = data[at + 4 : at + 4 + length]
        if len(text) != length:
            raise Unreadable("a text is cut off")
        values.append(text)
        at += 4 + length
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)
