"""Scans NumPy's files: `.npy`, whose arrays of objects are pickles, and `.npz`, a zip archive of them.

The header is read by NumPy itself, which also decides what its datatype holds: there are many ways to write one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from penstock.errors import quoted
from penstock.libraries import quietly
from penstock.scan.archive import Archive
from penstock.scan.findings import Finding, Refused

MAX_HEADER = 10_000
"""Characters of a header; NumPy itself reads no longer ones from a file that it does not trust."""
MAX_DIMENSIONS = 64

_PREFIX = len(npy.MAGIC_PREFIX) + 2
_LENGTHS = {1: 2, 2: 4, 3: 4}
"""The bytes of the header's length, by version."""
_READERS = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0, 3: npy.read_array_header_2_0}
"""Version 3 is version 2 with UTF-8 in the names of fields, which do not matter here."""
_ATTEMPTS = 10
_DAMAGED = "its array is damaged or not of NumPy's format"


class _Layout(NamedTuple):
    """Where the values of an array begin and how many bytes they have; None: they are a pickle."""

    start: int
    size: int | None


def scan(data: memoryview, _: Path | None = None) -> Iterator[Finding]:
    """What a `.npy` file could do. It may hold several arrays, one after another."""
    place = 0
    while place < len(data) or not place:
        layout = _layout(bytes(data[place : place + _PREFIX + 4 + MAX_HEADER]))
        if layout.size is None:
            yield _objects()
            return
        place += layout.start + layout.size
        if place > len(data):
            raise Refused("its array is cut short")


def scan_archive(archive: Archive) -> Iterator[Finding]:
    """What a `.npz` archive could do: each member is one array."""
    for name, member in archive.members.items():
        try:
            layout = _layout(archive.start(name, _PREFIX + 4 + MAX_HEADER))
        except Refused as refused:
            raise Refused(f"{quoted(name)}: {refused}") from None
        if layout.size is None:
            yield _objects().inside(name)
        elif layout.start + layout.size != member.file_size:
            raise Refused(f"{quoted(name)} is longer or shorter than its array")


def _objects() -> Finding:
    return Finding("code", "it is an array of objects, which are pickles")


def _layout(start: bytes) -> _Layout:
    """The layout of an array from its first bytes."""
    version, minor = (*start[len(npy.MAGIC_PREFIX) : _PREFIX], 0, 0)[:2]
    if not start.startswith(npy.MAGIC_PREFIX) or version not in _LENGTHS or minor:
        raise Refused(_DAMAGED)
    values = _PREFIX + _LENGTHS[version]
    length = int.from_bytes(start[_PREFIX:values], "little")
    if length > MAX_HEADER:
        raise Refused(f"the header of its array has {length} bytes; at most {MAX_HEADER} are read")
    shape, dtype = _header(version, start[_PREFIX : values + length])
    if dtype.hasobject:
        return _Layout(values + length, None)
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise Refused(f"the shape of its array is no list of at most {MAX_DIMENSIONS} lengths")
    return _Layout(values + length, math.prod(shape) * dtype.itemsize)


def _header(version: int, header: bytes) -> tuple[tuple[Any, ...], np.dtype[Any]]:
    """Shape and datatype. Python 3.11 may fail when another thread parses (CPython issue 106905): then once more."""
    for _ in range(_ATTEMPTS):
        try:
            with quietly():  # about its escapes, old forms of datatypes, and what Python 2 wrote
                shape, _fortran, dtype = _READERS[version](io.BytesIO(header), max_header_size=MAX_HEADER)
            return shape, dtype
        except SystemError:
            continue
        except Exception:  # what NumPy's constructors of datatypes raise is not described
            break
    raise Refused(_DAMAGED)
