"""Scans safetensors files: tensor data after a table of offsets, which may have no gaps and no overlaps."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.errors import quoted
from penstock.scan.findings import Finding, Refused
from penstock.scan.pickles import hidden

MAX_TABLE_BYTES = 16 * 2**20
"""Some 100,000 tensors. As Python objects a table takes 20 times as much memory."""
MAX_DIMENSIONS = 64

_LENGTH = 8
_BASE_64_PICKLE = "gA"
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


def scan(data: memoryview, _: Path | None = None) -> Iterator[Finding]:
    """Only pickles in the metadata: nothing else in such a file can run. Raises Refused for an invalid one."""
    table = _table(data)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused("its metadata holds more than strings")
    size = len(data) - _LENGTH - int.from_bytes(data[:_LENGTH], "little")
    end = 0
    for start, stop, name in sorted(_span(name, entry) for name, entry in table.items()):
        if start != end:
            raise Refused(f"there is a gap before the tensor {quoted(name)}, or it overlaps another")
        end = stop
    if end != size:
        raise Refused("the length of its tensors differs from that of the file")
    return (finding for name, value in metadata.items() for finding in _pickled(name, value))


def _pickled(name: str, value: str) -> Iterator[Finding]:
    """Metadata that is a pickle, as text or in base64."""
    content = value.encode("latin-1", "replace")
    if value.startswith(_BASE_64_PICKLE):
        with suppress(ValueError):
            content = base64.b64decode(value)
    found = hidden(memoryview(content))
    if found is not None:
        yield Finding(found.needs, f"its metadata {quoted(name)}: {found.what}")


def _table(data: memoryview) -> dict[str, Any]:
    length = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or length > min(MAX_TABLE_BYTES, len(data) - _LENGTH):
        raise Refused("the file is damaged or not a safetensors file")
    try:
        table = json.loads(bytes(data[_LENGTH : _LENGTH + length]).decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        raise Refused("the file is damaged or not a safetensors file") from None
    if not isinstance(table, dict):
        raise Refused("the file is damaged or not a safetensors file")
    return table


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise Refused("its table has a name twice")
    return dict(pairs)


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    """Start and end of a tensor in the data; they must fit its type and shape."""
    try:
        start, stop = entry["data_offsets"]
        shape, bits = entry["shape"], _BITS[entry["dtype"]]
        whole = len(shape) <= MAX_DIMENSIONS and all(
            type(number) is int and 0 <= number < 2**63 for number in (start, stop, *shape)
        )
        fits = whole and (stop - start) * 8 == math.prod(shape) * bits
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise Refused(f"the entry of the tensor {quoted(name)} is invalid")
    return start, stop, name
