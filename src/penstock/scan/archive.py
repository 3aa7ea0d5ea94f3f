"""A strict reader of zip archives: two programs must not be able to see different members in one.

Python's reader and PyTorch's locate members in different ways. An archive is refused where they could differ: members
of the same name (in any case), a central directory and headers that disagree, bytes before, between or after the
members, more than one end. Nothing is unpacked to the disk.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from penstock.errors import quoted
from penstock.scan.findings import Refused

MAGIC = b"PK\x03\x04"
MAX_READ = 256 * 2**20
"""A larger graph, pickle or program is refused; weights are not read."""
MAX_MEMBERS = 200_000

_MAX_RATIO, _FREE_SIZE = 10, 64 * 2**20
_BLOCK = 1 << 20
_END = struct.Struct("<4s4H2LH")
_LOCATOR, _END_64 = struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
_HEADER = struct.Struct("<4s5H3L2H")
_MAX_DESCRIPTOR_BYTES = 24
_UNICODE_PATH, _ZIP_64 = 0x7075, 0x0001
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, OSError, RuntimeError, ValueError)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """A zip archive that every program reads in the same way."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.members: Mapping[str, zipfile.ZipInfo] = {member.filename: member for member in archive.infolist()}

    def below_root(self) -> dict[str, str]:
        """Each member by its name below the one directory that PyTorch writes; raises Refused for more than one."""
        roots = {name.partition("/")[0] for name in self.members}
        if len(roots) != 1 or any("/" not in name for name in self.members):
            raise Refused("its members do not lie in one directory, as PyTorch writes them")
        return {name.partition("/")[2]: name for name in self.members}

    def read(self, name: str, limit: int = MAX_READ) -> bytes:
        """The content of a member; raises Refused for one that is damaged or has more than `limit` bytes."""
        member = self.members[name]
        if member.file_size > limit:
            raise Refused(f"{quoted(name)} has {member.file_size} bytes; at most {limit} are read")
        with _member_errors(name):
            return self._archive.read(member)

    def start(self, name: str, count: int = 8) -> bytes:
        """The first bytes of a member."""
        with _member_errors(name), self._archive.open(self.members[name]) as file:
            return file.read(count)

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a member of any size, in blocks."""
        with _member_errors(name), self._archive.open(self.members[name]) as file:
            while block := file.read(_BLOCK):
                yield block


@contextmanager
def _member_errors(name: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise Refused(f"{quoted(name)} is damaged ({error})") from None


@contextmanager
def opened(data: memoryview) -> Iterator[Archive]:
    """An archive for reading; raises Refused for one that two readers could read differently."""
    try:
        with zipfile.ZipFile(_File(data)) as archive:
            _check_end(data, archive)
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise Refused(f"it has {len(members)} members; at most {MAX_MEMBERS} are read")
            _check_names(members)
            _check_sizes(members, len(data))
            _check_layout(data, members, archive.start_dir)
            yield Archive(archive)
    except zipfile.BadZipFile as error:
        raise Refused(f"it is a damaged zip archive ({error})") from None
    except (struct.error, UnicodeDecodeError, NotImplementedError) as error:
        raise Refused(f"it is a zip archive of an unsupported kind ({error})") from None


class _File(io.RawIOBase):
    """A memoryview as a file, so that a large archive is not copied."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._offset = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file; an offset before the start is an error."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise OSError("an offset before the start")  # zipfile reads it as "too short to be an archive"
        self._offset = base + offset
        return self._offset

    def tell(self) -> int:
        """The offset."""
        return self._offset

    def readinto(self, target: object) -> int:
        """Fill a buffer from the offset on."""
        buffer = memoryview(target).cast("B")  # type: ignore[arg-type]
        part = self._data[self._offset : self._offset + len(buffer)]
        buffer[: len(part)] = part
        self._offset += len(part)
        return len(part)


def _check_end(data: memoryview, archive: zipfile.ZipFile) -> None:
    """The central directory lies directly before the one end record, which is the last thing in the file."""
    start = len(data) - _END.size
    signature, disk, first, here, total, size, offset, comment = _END.unpack_from(data, start)
    if signature != b"PK\x05\x06" or comment or disk or first or here != total:
        raise Refused("its end record has a comment, or bytes follow it")
    end_of_table = start
    if start >= _LOCATOR.size and bytes(data[start - _LOCATOR.size :][:4]) == b"PK\x06\x07":
        end_of_table = start - _LOCATOR.size - _END_64.size
        found = _END_64.unpack_from(data, end_of_table)
        found_at = _LOCATOR.unpack_from(data, start - _LOCATOR.size)[2]
        if found[0] != b"PK\x06\x06" or found[1] != _END_64.size - 12 or found_at != end_of_table:
            raise Refused("its end record is not where the archive says")
        size, offset, total = found[8], found[9], found[7]
    if offset + size != end_of_table or archive.start_dir != offset or total != len(archive.infolist()):
        raise Refused("its central directory is not where the archive says")


def _check_names(members: list[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for member in members:
        name = member.filename
        _check_name(member, name)
        if name.lower() in seen:
            raise Refused(f"it has two members {quoted(name)}")
        seen.add(name.lower())
    inner = next((name for name in seen if any(parent in seen for parent in _parents(name))), None)
    if inner is not None:
        raise Refused(f"{quoted(inner)} is inside a member that is not a directory")


def _parents(name: str) -> Iterator[str]:
    parts = name.rstrip("/").split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _check_name(member: zipfile.ZipInfo, name: str) -> None:
    if member.orig_filename != name or not name.isascii() or not name.isprintable():
        raise Refused(f"the name {quoted(member.orig_filename)} is read differently by different programs")
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        raise Refused(f"the member {quoted(name)} would leave the directory it is unpacked to")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Refused(f"the member {quoted(name)} is a symbolic link")
    if member.flag_bits & _ENCRYPTED:
        raise Refused(f"the member {quoted(name)} is encrypted")
    if member.compress_type not in _METHODS:
        raise Refused(f"the member {quoted(name)} is compressed by an unsupported method")


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_FREE_SIZE, _MAX_RATIO * size):
        raise Refused(f"it unpacks to {unpacked} bytes, over {_MAX_RATIO} times its size")
    odd = next((m for m in members if m.compress_type == zipfile.ZIP_STORED and m.file_size != m.compress_size), None)
    if odd is not None:
        raise Refused(f"the member {quoted(odd.filename)} has two sizes")


def _check_layout(data: memoryview, members: list[zipfile.ZipInfo], table: int) -> None:
    """Members follow each other from the first byte to the central directory, each after its own header."""
    offset = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        gap = member.header_offset - offset
        if not 0 <= gap <= (_MAX_DESCRIPTOR_BYTES if offset else 0):
            raise Refused(f"there are bytes before the member {quoted(member.filename)}, or it overlaps another")
        offset = _check_header(data, member) + member.compress_size
    if not 0 <= table - offset <= _MAX_DESCRIPTOR_BYTES:
        raise Refused("there are bytes between its last member and its central directory")


def _check_header(data: memoryview, member: zipfile.ZipInfo) -> int:
    """Where the member's content begins; its header must agree with the central directory."""
    header = _HEADER.unpack_from(data, member.header_offset)
    signature, flags, method, packed, size = header[0], header[2], header[3], header[7], header[8]
    name_length, extra_length = header[9], header[10]
    name_offset = member.header_offset + _HEADER.size
    name = bytes(data[name_offset : name_offset + name_length])
    extra = bytes(data[name_offset + name_length : name_offset + name_length + extra_length])
    later = flags & _DESCRIPTOR and packed == 0 and size == 0
    wide = 0xFFFFFFFF in (packed, size) and _has_field(extra, _ZIP_64)
    same_sizes = later or wide or (packed, size) == (member.compress_size, member.file_size)
    alike = signature == MAGIC and name == member.filename.encode() and method == member.compress_type
    if not alike or not same_sizes or flags & _ENCRYPTED:
        raise Refused(f"the header of the member {quoted(member.filename)} differs from the central directory")
    if _has_field(extra, _UNICODE_PATH) or _has_field(member.extra, _UNICODE_PATH):
        raise Refused(f"the member {quoted(member.filename)} has a second name")
    return int(name_offset + name_length + extra_length)


def _has_field(extra: bytes, wanted: int) -> bool:
    offset = 0
    while offset + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, offset)
        if kind == wanted:
            return True
        offset += 4 + length
    return False


NESTED = re.compile(rb"PK\x03\x04|\x1f\x8b\x08|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!")
"""The first bytes of archives, which have no place in a model."""
