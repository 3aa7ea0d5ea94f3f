"""Zip archives, read strictly: two programs must not be able to see different things in one.

Python's reader and PyTorch's find members in different ways. So an archive is refused where they could differ: members
of the same name (in any case), a table of contents and headers that disagree, bytes before, between or after the
members, more than one end. Nothing is ever unpacked to the disk.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from penstock.scan.findings import Refused, shown

MAGIC = b"PK\x03\x04"
MOST_READ = 256 * 2**20
"""Descriptions (graphs, pickles, code) larger than this are no real ones; weights are not read."""
MOST_MEMBERS = 200_000

_MOST_RATIO, _FREE_SIZE = 10, 64 * 2**20
_END = struct.Struct("<4s4H2LH")
_LOCATOR, _END_64 = struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
_HEADER = struct.Struct("<4s5H3L2H")
_LONGEST_DESCRIPTOR = 24
_UNICODE_PATH, _ZIP_64 = 0x7075, 0x0001
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_BROKEN = (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OSError, RuntimeError, ValueError, struct.error)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """A zip archive that was found to be read in one way only."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.members: Mapping[str, zipfile.ZipInfo] = {member.filename: member for member in archive.infolist()}

    def read(self, name: str, most: int = MOST_READ) -> bytes:
        """The content of a member; raises Refused for one that is damaged or too large to be a description."""
        member = self.members[name]
        if member.file_size > most:
            raise Refused(f"{shown(name)} has {member.file_size} bytes, too many for what it is")
        try:
            return self._archive.read(member)
        except (*_BROKEN, _deflate_error()) as error:
            raise Refused(f"{shown(name)} is damaged ({error})") from None

    def start(self, name: str, count: int = 8) -> bytes:
        """The first bytes of a member."""
        try:
            with self._archive.open(self.members[name]) as file:
                return file.read(count)
        except (*_BROKEN, _deflate_error()) as error:
            raise Refused(f"{shown(name)} is damaged ({error})") from None


def _deflate_error() -> type[Exception]:
    import zlib

    return zlib.error


@contextmanager
def opened(data: memoryview) -> Iterator[Archive]:
    """An archive for reading; raises Refused for one that two readers could understand differently."""
    try:
        with zipfile.ZipFile(_File(data)) as archive:
            _check_end(data, archive)
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise Refused(f"it has {len(members)} members")
            _check_names(members)
            _check_sizes(members, len(data))
            _check_places(data, members, archive.start_dir)
            yield Archive(archive)
    except zipfile.BadZipFile as error:
        raise Refused(f"it is a damaged zip archive ({error})") from None
    except (struct.error, UnicodeDecodeError, NotImplementedError) as error:
        raise Refused(f"it is a zip archive of a kind that is not read here ({error})") from None


class _File(io.RawIOBase):
    """A view as a file, so that a large archive is not copied."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file; a place before the start is an error."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise OSError("a place before the start")  # what zipfile takes for "too short to be an archive"
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        """The place."""
        return self._place

    def readinto(self, target: object) -> int:
        """Fill a buffer from here on."""
        buffer = memoryview(target).cast("B")  # type: ignore[arg-type]
        part = self._data[self._place : self._place + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


def _check_end(data: memoryview, archive: zipfile.ZipFile) -> None:
    """The table of contents lies directly before the one end, which is the last thing in the file."""
    start = len(data) - _END.size
    signature, disk, first, here, total, size, offset, comment = _END.unpack_from(data, start)
    if signature != b"PK\x05\x06" or comment or disk or first or here != total:
        raise Refused("its end is not the end of a plain zip archive (a comment, or bytes after it)")
    end_of_table = start
    if start >= _LOCATOR.size and bytes(data[start - _LOCATOR.size :][:4]) == b"PK\x06\x07":
        end_of_table = start - _LOCATOR.size - _END_64.size
        found = _END_64.unpack_from(data, end_of_table)
        place = _LOCATOR.unpack_from(data, start - _LOCATOR.size)[2]
        if found[0] != b"PK\x06\x06" or found[1] != _END_64.size - 12 or place != end_of_table:
            raise Refused("its end does not lie where the archive says")
        size, offset, total = found[8], found[9], found[7]
    if offset + size != end_of_table or archive.start_dir != offset or total != len(archive.infolist()):
        raise Refused("its table of contents does not lie where the archive says")


def _check_names(members: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for member in members:
        name = member.filename
        _check_name(member, name)
        if name.lower() in seen:
            raise Refused(f"it has two members {shown(name)}")
        seen.add(name.lower())
    inner = next((name for name in seen if any(parent in seen for parent in _parents(name))), None)
    if inner is not None:
        raise Refused(f"{shown(inner)} lies inside a member that is no directory")


def _parents(name: str) -> Iterator[str]:
    parts = name.rstrip("/").split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _check_name(member: zipfile.ZipInfo, name: str) -> None:
    if member.orig_filename != name or not name.isascii() or not name.isprintable():
        raise Refused(f"the name {shown(member.orig_filename)} is read differently by different programs")
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        raise Refused(f"the member {shown(name)} would leave the directory that it is unpacked to")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Refused(f"the member {shown(name)} is a symbolic link")
    if member.flag_bits & _ENCRYPTED:
        raise Refused(f"the member {shown(name)} is encrypted")
    if member.compress_type not in _METHODS:
        raise Refused(f"the member {shown(name)} is compressed in a way that is not read here")


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_FREE_SIZE, _MOST_RATIO * size):
        raise Refused(f"it unpacks to {unpacked} bytes, over {_MOST_RATIO} times its size")
    odd = next((m for m in members if m.compress_type == zipfile.ZIP_STORED and m.file_size != m.compress_size), None)
    if odd is not None:
        raise Refused(f"the member {shown(odd.filename)} has two sizes")


def _check_places(data: memoryview, members: list[zipfile.ZipInfo], table: int) -> None:
    """Members follow each other from the first byte to the table of contents, each with a header of its own."""
    place = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        gap = member.header_offset - place
        if not 0 <= gap <= (_LONGEST_DESCRIPTOR if place else 0):
            raise Refused(f"there is something before the member {shown(member.filename)}, or it overlaps another")
        place = _check_header(data, member) + member.compress_size
    if not 0 <= table - place <= _LONGEST_DESCRIPTOR:
        raise Refused("there is something between its last member and its table of contents")


def _check_header(data: memoryview, member: zipfile.ZipInfo) -> int:
    """Where the member's content begins. Its header says the same as the table of contents."""
    header = _HEADER.unpack_from(data, member.header_offset)
    signature, flags, method, packed, size = header[0], header[2], header[3], header[7], header[8]
    name_length, extra_length = header[9], header[10]
    name_place = member.header_offset + _HEADER.size
    name = bytes(data[name_place : name_place + name_length])
    extra = bytes(data[name_place + name_length : name_place + name_length + extra_length])
    later = flags & _DESCRIPTOR and packed == 0 and size == 0
    wide = 0xFFFFFFFF in (packed, size) and _has_field(extra, _ZIP_64)
    same_sizes = later or wide or (packed, size) == (member.compress_size, member.file_size)
    alike = signature == MAGIC and name == member.filename.encode() and method == member.compress_type
    if not alike or not same_sizes or flags & _ENCRYPTED:
        raise Refused(f"the header of the member {shown(member.filename)} differs from the table of contents")
    if _has_field(extra, _UNICODE_PATH) or _has_field(member.extra, _UNICODE_PATH):
        raise Refused(f"the member {shown(member.filename)} has a second name")
    return int(name_place + name_length + extra_length)


def _has_field(extra: bytes, wanted: int) -> bool:
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == wanted:
            return True
        place += 4 + length
    return False


NESTED = re.compile(rb"PK\x03\x04|\x1f\x8b\x08|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!")
"""How archives begin that are no part of a model."""
