"""Safetensors files: numbers behind a table of their places, which must be without gaps and overlaps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.scan.findings import Finding, Refused, shown

_LARGEST_TABLE = 100 * 10**6
_LENGTH = 8
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
    """Nothing can run from such a file: it is right, or refused."""
    table = _table(data)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused("its metadata is more than texts")
    size = len(data) - _LENGTH - int.from_bytes(data[:_LENGTH], "little")
    end = 0
    for start, stop, name in sorted(_place(name, entry) for name, entry in table.items()):
        if start != end:
            raise Refused(f"there is a gap before the tensor {shown(name)}, or it overlaps another")
        end = stop
    if end != size:
        raise Refused("its tensors are not as long as the file")
    return iter(())


def _table(data: memoryview) -> dict[str, Any]:
    length = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or length > min(_LARGEST_TABLE, len(data) - _LENGTH):
        raise Refused("the file is damaged or no safetensors file")
    try:
        table = json.loads(bytes(data[_LENGTH : _LENGTH + length]).decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        raise Refused("the file is damaged or no safetensors file") from None
    if not isinstance(table, dict):
        raise Refused("the file is damaged or no safetensors file")
    return table


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise Refused("its table names something twice")
    return dict(pairs)


def _place(name: str, entry: Any) -> tuple[int, int, str]:
    """Start and end among the numbers; they fit type and shape."""
    try:
        start, stop = entry["data_offsets"]
        shape, bits = entry["shape"], _BITS[entry["dtype"]]
        whole = all(type(number) is int and number >= 0 for number in (start, stop, *shape))
        fits = whole and (stop - start) * 8 == math.prod(shape) * bits
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise Refused(f"the entry of the tensor {shown(name)} is wrong")
    return start, stop, name
