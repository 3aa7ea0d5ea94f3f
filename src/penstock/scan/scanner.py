"""Recognizes the kind of a file by its content and runs the scanner of that kind.

The kinds that model formats are stored in come from `penstock.formats`; the kinds below are no models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path

from penstock.errors import IntegrityError
from penstock.formats import FORMATS, FileKind, file_kinds, formats_of_suffix
from penstock.libraries import import_attribute
from penstock.scan.archive import EMPTY_MAGIC, MAGIC, Archive, ends_as_archive, opened
from penstock.scan.findings import Finding, Refused, Report
from penstock.scan.memory_map import mapped
from penstock.scan.pickles import hidden

Scanner = Callable[[memoryview, Path | None], Iterator[Finding]]
ArchiveScanner = Callable[[Archive], Iterator[Finding]]

_HEADER_BYTES = 16
_TAR, _TAR_OFFSET = b"ustar", 257
_MAX_MEMBER_BYTES = 2**31
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"PK\x07\x08": "zip in several parts",
    b"\x1f\x9d": "compress",
}
_NOT_TEXT = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
_WIDE_TEXT = (b"\xff\xfe", b"\xfe\xff")


def _library(_: memoryview, __: Path | None) -> Iterator[Finding]:
    yield Finding("native", "it is native code")


def _program(_: memoryview, __: Path | None) -> Iterator[Finding]:
    yield Finding("code", "it is a program")


def _mar(archive: Archive) -> Iterator[Finding]:
    """A TorchServe archive: every member is scanned as a file of its own, the model among them."""
    for name, member in archive.members.items():
        if name.endswith("/") or not member.file_size:
            continue
        data = archive.read(name, _MAX_MEMBER_BYTES)
        report = scan_bytes(memoryview(data), Path(name), in_archive=True)
        yield from (finding.inside(name) for finding in report.findings)


def _text(data: memoryview, _: Path | None) -> Iterator[Finding]:
    """Text, which no loader of models runs; what begins as a pickle was found before."""
    if bytes(data[:2]) not in _WIDE_TEXT and _NOT_TEXT.search(data):
        raise Refused("it is not text; its content cannot be checked")
    return iter(())


def _is_program_of_windows(start: bytes, _: int) -> bool:
    """Its two letters may also begin a text."""
    return start.startswith(b"MZ") and (not start.isascii() or _NOT_TEXT.search(start) is not None)


def _is_mar(members: Collection[str]) -> bool:
    return "mar-inf/manifest.json" in members


def _is_npz(members: Collection[str]) -> bool:
    return bool(members) and all(name.endswith(".npy") for name in members)


_UNKNOWN_ARCHIVE = "archive"
_LIBRARY = FileKind(
    "library",
    f"{__name__}:_library",
    (".so", ".dll", ".dylib", ".pyd", ".engine", ".plan"),
    magic=(b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"),
    header=_is_program_of_windows,
)
_ARRAY = FileKind("array", "penstock.scan.arrays:scan", (".npy",), magic=(b"\x93NUMPY",))
_ARRAYS = FileKind("arrays", "penstock.scan.arrays:scan_archive", (".npz",), members=_is_npz)
_MAR = FileKind("mar", f"{__name__}:_mar", (".mar",), members=_is_mar)
_PROGRAM = FileKind("program", f"{__name__}:_program", (".py", ".pyc", ".sh"), magic=(b"#!",))
_DATA = FileKind("data", f"{__name__}:_text", (".md", ".txt", ".json", ".toml", ".yaml", ".yml", ".csv"))
_OWN = (_LIBRARY, _ARRAY, _ARRAYS, _MAR, _PROGRAM, _DATA)
"""The kinds that are no models; programs and text have no mark, and are recognized by the suffix."""

_PICKLES = frozenset({".pkl", ".pickle", ".joblib"})
"""Suffixes of pickles of protocols 0 and 1, which begin with no mark, besides those of formats stored as pickles."""


def scan_file(path: Path, format: str | None = None) -> Report:
    """What a model file could do, found without running it; `format` is its format in a manifest.

    Raises IntegrityError when there is no such file to read.
    """
    with mapped(path) as data:
        return scan_bytes(data, path, format)


def scan_bytes(data: memoryview, path: Path, format: str | None = None, *, in_archive: bool = False) -> Report:
    """As `scan_file`, for content in memory; content of an archive may not refer to other files."""
    if not len(data):
        return Report(path, "empty", (Finding(None, "the file is empty"),))
    name = _UNKNOWN_ARCHIVE if _is_archive(data) else "unknown"
    try:
        if _is_archive(data):
            with opened(data) as archive:
                kind = _kind_of_archive(archive)
                name = kind.name if kind is not None else name
                _require_checkable(kind, in_archive=in_archive)
                return _report(path, name, format, _scan_archive(kind, archive))
        kind = _kind_of(data, path, format)
        scanner: Scanner = import_attribute(kind.scanner)
        found = scanner(data, None if in_archive else path)
        return _report(path, kind.name, format, chain(_disguise(kind, data), found))
    except Refused as refused:
        return Report(path, name, (Finding(None, str(refused)),))


def disguised(data: memoryview) -> str | None:
    """What the content is, if it is a program that a name can hide: native code, or a pickle that calls something."""
    start = bytes(data[:_HEADER_BYTES])
    if start.startswith(_LIBRARY.magic):
        return "native code"
    return "a pickle that looks up names" if hidden(data) is not None else None


def _disguise(kind: FileKind, data: memoryview) -> Iterator[Finding]:
    """Any file may be a pickle at the same time, and any may end as an archive: programs look for either."""
    found = None if kind.name == "pickle" else hidden(data)
    if found is not None:
        yield found
    if ends_as_archive(data):
        yield Finding(None, "it is a zip archive as well, which begins further on")


def _require_checkable(kind: FileKind | None, *, in_archive: bool) -> None:
    if kind is None:
        raise Refused("it is an archive of an unknown kind; its content cannot be checked")
    if in_archive and kind is _MAR:
        raise Refused("it is an archive in another")


def kind_of_file(path: Path) -> str | None:
    """The kind of a file by its content; None for one that is missing, damaged or of no known kind."""
    try:
        with mapped(path) as data:
            if not len(data):
                return None
            if not _is_archive(data):
                return _kind_of(data, path, None).name
            with opened(data) as archive:
                kind = _kind_of_archive(archive)
                return kind.name if kind is not None else None
    except (IntegrityError, Refused):
        return None


def _report(path: Path, kind: str, format: str | None, found: Iterator[Finding]) -> Report:
    promised = [file.name for file in _promised(path, format)]
    wrong = f"it is {_article(kind)}, which {format or path.suffix} does not promise"
    findings = [Finding(None, wrong)] if promised and kind not in promised else []
    try:
        findings.extend(found)
    except Refused as refused:
        findings.append(Finding(None, str(refused)))
    return Report(path, kind, tuple(dict.fromkeys(findings)))


def _promised(path: Path, format: str | None) -> list[FileKind]:
    """The kinds that a format may be stored in, else those that a suffix promises: the one it belongs to first."""
    row = FORMATS.get(format or "")
    if row is not None:
        return list(row.files)
    suffix = path.suffix.lower()
    known = (*file_kinds(), *_OWN)
    return [*(f for f in known if suffix in f.suffixes), *(f for f in known if suffix in f.shared)]


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} file"


def _is_archive(data: memoryview) -> bool:
    return bytes(data[: len(MAGIC)]) in (MAGIC, EMPTY_MAGIC)


def _scan_archive(kind: FileKind | None, archive: Archive) -> Iterator[Finding]:
    if kind is None:
        raise Refused("it is an archive of an unknown kind; its content cannot be checked")
    scanner: ArchiveScanner = import_attribute(kind.scanner)
    return scanner(archive)


def _kind_of_archive(archive: Archive) -> FileKind | None:
    """By its members. Programs are tested before weights, since a loader may run the program."""
    members = {name.lower() for name in archive.members}
    kinds = (_MAR, *file_kinds(), _ARRAYS)
    return next((kind for kind in kinds if kind.members is not None and kind.members(members)), None)


def _kind_of(data: memoryview, path: Path, format: str | None) -> FileKind:
    """By the content, and by the name where the content has no mark."""
    start = bytes(data[:_HEADER_BYTES])
    if bytes(data[_TAR_OFFSET : _TAR_OFFSET + len(_TAR)]) == _TAR:
        raise Refused("it is a tar archive; its content cannot be checked")
    kinds = (*file_kinds(), *_OWN)
    for kind in kinds:
        if kind.header is not None and kind.header(start, len(data)):
            return kind
    packed = next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)
    if packed is not None:
        raise Refused(f"it is compressed ({packed}); its content cannot be checked")
    for kind in kinds:
        if kind.magic and start.startswith(kind.magic):
            return kind
    promised = next(iter(_promised(path, format)), None)
    if promised is not None and not promised.is_archive:
        return promised
    return _kind_without_name(path.suffix.lower(), data, start)


def _kind_without_name(suffix: str, data: memoryview, start: bytes) -> FileKind:
    kinds = {kind.name: kind for kind in file_kinds()}
    is_pickle = suffix in _PICKLES or any("pickle" in row.kinds for row in formats_of_suffix(suffix))
    if hidden(data) is not None:
        return kinds["pickle"]
    weak = next((kind for kind in kinds.values() if kind.weak_magic and start.startswith(kind.weak_magic)), None)
    if weak is not None:
        return weak
    if is_pickle:
        return kinds["pickle"]
    raise Refused("it is of an unknown kind; its content cannot be checked")
