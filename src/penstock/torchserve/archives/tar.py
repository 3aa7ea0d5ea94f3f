"""A strict reader of `.tar.gz`: one pass, in blocks, within a budget; nothing is unpacked to the disk."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from penstock.errors import quoted
from penstock.scan.archive import FREE_SIZE, MAX_RATIO
from penstock.scan.findings import Refused

MAGIC = b"\x1f\x8b"
_BLOCK, _CHUNK = 512, 1 << 20
_MAX_EXTENSION = 64 << 10
"""Bytes of a header that extends the next one: a long name, times, attributes."""
_FILES, _DIRECTORY, _LINKS = (b"0", b"\0", b"7"), b"5", (b"1", b"2")
_DEVICES = (b"3", b"4", b"6")
_NUMBERS = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))
"""Mode, user, group, time and device, which are not used, but of which other readers say that the header is damaged."""
_PAX, _PAX_OF_ALL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"


class TarMember(NamedTuple):
    """One file or directory; the blocks of a file have to be taken before the next member."""

    name: str
    size: int
    is_directory: bool
    blocks: Iterator[bytes]


@contextmanager
def opened_tar(path: Path, max_bytes: int) -> Iterator[Iterator[TarMember]]:
    """The members of a `.tar.gz`, in their order.

    They raise Refused for one that is damaged, larger than `max_bytes` or its ratio allows, or not plain files and
    directories.
    """
    try:
        with path.open("rb") as raw, gzip.open(raw) as file:
            limit = min(max_bytes, max(FREE_SIZE, MAX_RATIO * path.stat().st_size))
            yield _members(_Stream(file, limit))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Refused(f"it is a damaged .tar.gz ({error})") from None


class _Stream:
    """Unpacked bytes, counted."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, limit: int) -> None:
        self._file, self._limit, self._count = file, limit, 0

    def some(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        data = self._file.read(min(count, _CHUNK))
        self._count += len(data)
        if self._count > self._limit:
            raise Refused(f"it unpacks to more than {self._limit} bytes, which its size or the limit does not allow")
        return data

    def exactly(self, count: int) -> bytes:
        """`count` bytes; raises Refused where the archive ends before."""
        return b"".join(self.blocks(count))

    def blocks(self, count: int) -> Iterator[bytes]:
        """`count` bytes, piece by piece."""
        while count:
            piece = self.some(count)
            if not piece:
                raise Refused("it is a damaged .tar.gz (it is cut short)")
            count -= len(piece)
            yield piece


def _members(stream: _Stream) -> Iterator[TarMember]:
    extended: dict[str, str] = {}
    while (header := stream.some(_BLOCK)) and header.strip(b"\0"):
        header += stream.exactly(_BLOCK - len(header))
        _check_sum(header)
        kind, size = header[156:157], _number(header[124:136])
        if kind in (_PAX, _PAX_OF_ALL, _LONG_NAME, _LONG_LINK):
            extended |= _extension(kind, _padded(stream, size))
            continue
        name = extended["path"] if "path" in extended else _name(header)
        size = _size(extended, size)
        extended = {}
        _check_kind(kind, name)
        is_directory = kind == _DIRECTORY or (kind == b"\0" and name.endswith("/"))
        size = 0 if is_directory else size
        blocks = stream.blocks(size)
        yield TarMember(name, size, is_directory, blocks)
        for _ in blocks:  # what was not taken
            pass
        stream.exactly(-size % _BLOCK)
    while rest := stream.some(_CHUNK):
        if rest.strip(b"\0"):
            raise Refused("it is a damaged .tar.gz (bytes follow its end)")


def _padded(stream: _Stream, size: int) -> bytes:
    if size > _MAX_EXTENSION:
        raise Refused(f"a header has {size} bytes; at most {_MAX_EXTENSION} are read")
    data = stream.exactly(size)
    stream.exactly(-size % _BLOCK)
    return data


def _check_sum(header: bytes) -> None:
    found = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _number(header[148:156]) != found:
        raise Refused("it is a damaged .tar.gz (the checksum of a header differs)")
    for start, end in _NUMBERS:
        _number(header[start:end])


def _number(field: bytes) -> int:
    """Octal digits, or the base 256 of GNU for what does not fit."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip(b" ").decode("ascii", "replace")
    if text.strip("01234567"):
        raise Refused("it is a damaged .tar.gz (a header holds no number)")
    return int(text or "0", 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500])
    if prefix and header[257:263] != b"ustar\0":
        raise Refused(f"the header of the member {quoted(name)} is read differently by different programs")
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _size(extended: dict[str, str], size: int) -> int:
    text = extended.get("size")
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Refused("it is a damaged .tar.gz (the size of a member is no number)")
    return int(text)


def _check_kind(kind: bytes, name: str) -> None:
    if kind in _LINKS:
        raise Refused(f"the member {quoted(name)} is a link")
    if kind in _DEVICES:
        raise Refused(f"the member {quoted(name)} is a device or a pipe")
    if kind not in (*_FILES, _DIRECTORY):
        raise Refused(f"the member {quoted(name)} is of an unsupported kind")


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    """What a header says about the next member."""
    if kind == _LONG_NAME:
        return {"path": _text(data)}
    if kind == _LONG_LINK:
        return {}
    found = dict(_records(data))
    sparse = next((key for key in found if key.startswith("GNU.sparse")), None)
    if sparse is not None or (kind == _PAX_OF_ALL and found.keys() & {"path", "size", "linkpath"}):
        raise Refused("a header describes members in a way that is not supported")
    return found if kind == _PAX else {}


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    """`LENGTH key=value` lines; the length counts the whole line."""
    while data:
        length, _, _ = data.partition(b" ")
        count = int(length) if length.isdigit() and len(length) < 8 else 0
        key, equals, value = data[len(length) + 1 : count].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise Refused("it is a damaged .tar.gz (an extended header cannot be read)")
        yield key.decode("utf-8", "replace"), value[:-1].decode("utf-8", "surrogateescape")
        data = data[count:]
