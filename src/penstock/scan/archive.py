"""A strict reader of zip archives: two programs must not be able to see different members in one.

Python's reader and PyTorch's locate members in different ways. An archive is refused where they could differ: members
of the same name (in any case), a central directory and headers that disagree, bytes before, between or after the
members, more than one end. Nothing is unpacked to the disk.
"""

from __future__ import annotations

import io
import itertools
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from penstock.errors import quoted
from penstock.scan.findings import Finding, Refused

MAGIC = b"PK\x03\x04"
EMPTY_MAGIC = b"PK\x05\x06"
"""The first bytes of an archive without members."""
MAX_READ = 256 * 2**20
"""A larger graph, pickle or program is refused; weights are not read."""
MAX_MEMBERS = 200_000
MAX_NAME = 1000
"""Bytes of a member's name. PyTorch writes the names of modules, which are far shorter."""
MAX_RATIO, FREE_SIZE = 10, 64 * 2**20
"""How many times its size an archive may unpack to, and what any may."""

_MAX_EXTRA = 2000
"""Bytes of extra fields of a member in the central directory; Python's reader takes quadratic time for them."""
_BLOCK = 1 << 20
_END = struct.Struct("<4s4H2LH")
_LONGEST_COMMENT = 2**16
_LOCATOR, _END_64 = struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_ENTRY_MAGIC, _LOCATOR_MAGIC, _END_64_MAGIC = b"PK\x01\x02", b"PK\x06\x07", b"PK\x06\x06"
_MAX_DESCRIPTOR_BYTES = 24
_UNICODE_PATH, _ZIP_64 = 0x7075, 0x0001
_WIDE = 0xFFFFFFFF
_ENCRYPTED, _DESCRIPTOR, _UTF_8 = 0x1, 0x8, 0x800
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NESTED = re.compile(rb"PK\x03\x04|\x1f\x8b\x08|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!")


class Archive:
    """A zip archive that every program reads in the same way."""

    def __init__(self, data: memoryview, members: Mapping[str, zipfile.ZipInfo], starts: Mapping[str, int]) -> None:
        self._data = data
        self._starts = starts
        self.members = members

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
        return b"".join(self.blocks(name))

    def start(self, name: str, count: int = 8) -> bytes:
        """The first bytes of a member."""
        return next(self._unpacked(name, count), b"")[:count]

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a member of any size, in blocks; raises Refused at the end of a damaged one."""
        member, size, checksum = self.members[name], 0, 0
        for block in self._unpacked(name, _BLOCK):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
            if size > member.file_size:
                break
            yield block
        if size != member.file_size or checksum != member.CRC:
            raise Refused(f"{quoted(name)} is damaged: its content differs from its size or its checksum")

    def _unpacked(self, name: str, count: int) -> Iterator[bytes]:
        """The content as it is, in blocks of at most `count` bytes: no more is unpacked than is looked at."""
        member, start = self.members[name], self._starts[name]
        packed = self._data[start : start + member.compress_size]
        if member.compress_type == zipfile.ZIP_STORED:
            return (bytes(packed[place : place + count]) for place in range(0, len(packed), count))
        return _inflated(packed, count, name)


def _inflated(packed: memoryview, count: int, name: str) -> Iterator[bytes]:
    stream, place = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for place in range(0, len(packed), _BLOCK):
        waiting: bytes | memoryview = packed[place : place + _BLOCK]
        while True:
            try:
                block = stream.decompress(waiting, count)
            except zlib.error as error:
                raise Refused(f"{quoted(name)} is damaged ({error})") from None
            if block:
                yield block
            waiting = stream.unconsumed_tail
            if stream.eof or (len(block) < count and not waiting):
                break
        if stream.eof:
            break
    if not stream.eof or stream.unused_data or place + _BLOCK < len(packed):
        raise Refused(f"{quoted(name)} is damaged: its packed content is longer or shorter than it says")


@contextmanager
def opened(data: memoryview, *, unicode_names: bool = False) -> Iterator[Archive]:
    """An archive for reading; raises Refused for one that two readers could read differently.

    Names beyond ASCII are refused unless `unicode_names` is set and they are marked as UTF-8.
    """
    try:
        table, size, count = _end_of(data)
        _check_table(data, table, table + size, count)
        members = _members(data, table, count)
    except (zipfile.BadZipFile, struct.error) as error:
        raise Refused(f"it is a damaged zip archive ({error})") from None
    except (UnicodeDecodeError, NotImplementedError) as error:
        raise Refused(f"it is a zip archive of an unsupported kind ({error})") from None
    _check_names(members, unicode_names=unicode_names)
    _check_sizes(members, len(data))
    starts = _check_layout(data, members, table)
    yield Archive(data, {member.filename: member for member in members}, starts)


def ends_as_archive(data: memoryview) -> bool:
    """True for a file of any kind with an archive at its end, which programs find there and open."""
    first = max(0, len(data) - _END.size - _LONGEST_COMMENT)
    found = bytes(data[first:]).rfind(EMPTY_MAGIC)
    if found < 0 or first + found + _END.size > len(data):
        return False
    size = _END.unpack_from(data, first + found)[5]
    table = first + found - size
    wide = found >= _LOCATOR.size and bytes(data[first + found - _LOCATOR.size :][:4]) == _LOCATOR_MAGIC
    return wide or (size > 0 and table >= 0 and bytes(data[table : table + 4]) == _ENTRY_MAGIC)


def _members(data: memoryview, table: int, count: int) -> list[zipfile.ZipInfo]:
    """As Python's reader sees them, which must be where the archive says."""
    with zipfile.ZipFile(_File(data)) as archive:
        members = archive.infolist()
        if archive.start_dir != table or len(members) != count:
            raise Refused("its central directory is not where the archive says")
    return members


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


def _end_of(data: memoryview) -> tuple[int, int, int]:
    """Offset, size and number of entries of the central directory.

    It lies directly before the one end record, which is the last thing in the file.
    """
    start = len(data) - _END.size
    if start < 0:
        raise Refused("it is a damaged zip archive (it is too short)")
    signature, disk, first, here, count, size, offset, comment = _END.unpack_from(data, start)
    if signature != EMPTY_MAGIC or comment or disk or first or here != count:
        raise Refused("its end record is damaged or has a comment, or bytes follow it")
    end_of_table = start
    if start >= _LOCATOR.size + _END_64.size and bytes(data[start - _LOCATOR.size :][:4]) == _LOCATOR_MAGIC:
        end_of_table = start - _LOCATOR.size - _END_64.size
        found = _END_64.unpack_from(data, end_of_table)
        found_at = _LOCATOR.unpack_from(data, start - _LOCATOR.size)[2]
        if found[0] != _END_64_MAGIC or found[1] != _END_64.size - 12 or found_at != end_of_table:
            raise Refused("its end record is not where the archive says")
        size, offset, count = found[8], found[9], found[7]
    if offset + size != end_of_table:
        raise Refused("its central directory is not where the archive says")
    return offset, size, count


def _check_table(data: memoryview, start: int, end: int, count: int) -> None:
    """The limits of the central directory, before a general reader parses it."""
    if count > MAX_MEMBERS:
        raise Refused(f"it has {count} members; at most {MAX_MEMBERS} are read")
    for _ in range(count):
        entry = _ENTRY.unpack_from(data, start) if start + _ENTRY.size <= end else (b"",)
        if entry[0] != _ENTRY_MAGIC:
            raise Refused("it is a damaged zip archive (its central directory is cut short)")
        name, extra, comment = entry[10:13]
        if name > MAX_NAME:
            raise Refused(f"the name of a member has {name} bytes; at most {MAX_NAME} are read")
        if extra > _MAX_EXTRA or comment > _MAX_EXTRA:
            raise Refused("a member has a comment or extra fields that no model needs")
        start += _ENTRY.size + int(name) + int(extra) + int(comment)
    if start != end:
        raise Refused("its central directory is not where the archive says")


def _check_names(members: list[zipfile.ZipInfo], *, unicode_names: bool) -> None:
    """Every name once, in any case, and none below another that is no directory."""
    paths: list[tuple[str, bool]] = []
    for member in members:
        _check_name(member, member.filename, unicode_names=unicode_names)
        folded = unicodedata.normalize("NFC", member.filename).casefold()
        name = folded.replace("/", "\0")  # sorts before all others: a directory, then what is in it
        paths.append((name.rstrip("\0"), name.endswith("\0")))
    paths.sort()
    for (before, is_directory), (name, _) in itertools.pairwise(paths):
        if name == before:
            raise Refused(f"it has two members {quoted(_as_path(name))}")
        if not is_directory and name.startswith(f"{before}\0"):
            raise Refused(f"{quoted(_as_path(name))} is inside a member that is not a directory")


def _as_path(name: str) -> str:
    return name.replace("\0", "/")


def _check_name(member: zipfile.ZipInfo, name: str, *, unicode_names: bool) -> None:
    readable = name.isascii() or (unicode_names and member.flag_bits & _UTF_8)
    if member.orig_filename != name or not readable or not name.isprintable():
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
    if unpacked > max(FREE_SIZE, MAX_RATIO * size):
        raise Refused(f"it unpacks to {unpacked} bytes, over {MAX_RATIO} times its size")
    odd = next((m for m in members if m.compress_type == zipfile.ZIP_STORED and m.file_size != m.compress_size), None)
    if odd is not None:
        raise Refused(f"the member {quoted(odd.filename)} has two sizes")


def _check_layout(data: memoryview, members: list[zipfile.ZipInfo], table: int) -> dict[str, int]:
    """Members follow each other from the first byte to the central directory, each after its own header.

    The result is where the content of each member begins.
    """
    offset, starts = 0, {}
    for member in sorted(members, key=lambda member: member.header_offset):
        gap = member.header_offset - offset
        if not 0 <= gap <= (_MAX_DESCRIPTOR_BYTES if offset else 0):
            raise Refused(f"there are bytes before the member {quoted(member.filename)}, or it overlaps another")
        starts[member.filename] = _check_header(data, member)
        offset = starts[member.filename] + member.compress_size
    if not 0 <= table - offset <= _MAX_DESCRIPTOR_BYTES:
        raise Refused("there are bytes between its last member and its central directory")
    return starts


def _check_header(data: memoryview, member: zipfile.ZipInfo) -> int:
    """Where the member's content begins; its header must agree with the central directory."""
    if member.header_offset + _HEADER.size > len(data):
        raise Refused("it is a damaged zip archive (a header is cut short)")
    header = _HEADER.unpack_from(data, member.header_offset)
    signature, flags, method, packed, size = header[0], header[2], header[3], header[7], header[8]
    name_length, extra_length = header[9], header[10]
    name_offset = member.header_offset + _HEADER.size
    name = bytes(data[name_offset : name_offset + name_length])
    extra = bytes(data[name_offset + name_length : name_offset + name_length + extra_length])
    later = flags & _DESCRIPTOR and packed == 0 and size == 0
    wide = _WIDE in (packed, size) and _has_field(extra, _ZIP_64)
    same_sizes = later or wide or (packed, size) == (member.compress_size, member.file_size)
    alike = signature == MAGIC and name == member.filename.encode() and method == member.compress_type
    alike = alike and (name.isascii() or bool(flags & _UTF_8))
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


def refuse_nested(archive: Archive, names: Iterator[str]) -> Iterator[Finding]:
    """A finding for each of these members that is itself an archive, or compressed."""
    for name in names:
        if _NESTED.match(archive.start(name)):
            yield Finding(None, f"it holds another archive, {quoted(name)}")
