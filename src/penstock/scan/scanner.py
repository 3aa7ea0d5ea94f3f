"""Recognizes the kind of a file by its content and runs the scanner of that kind.

The kinds that model formats are stored in come from `penstock.formats`; the kinds below are no models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path

from penstock.errors import IntegrityError, quoted
from penstock.formats import FORMATS, FileKind, file_kinds, formats_of_suffix
from penstock.libraries import import_attribute
from penstock.scan.archive import MAGIC, Archive, opened
from penstock.scan.findings import Finding, Refused, Report
from penstock.scan.memory_map import mapped

Scanner = Callable[[memoryview, Path | None], Iterator[Finding]]
ArchiveScanner = Callable[[Archive], Iterator[Finding]]

_HEADER_BYTES = 16
_TAR, _TAR_OFFSET = b"ustar", 257
_MAX_MEMBER_BYTES = 2**31


def _library(_: memoryview, __: Path | None) -> Iterator[Finding]:
    yield Finding("native", "it is native code")


def _program(_: memoryview, __: Path | None) -> Iterator[Finding]:
    yield Finding("code", "it is a program")


def _array(data: memoryview, _: Path | None) -> Iterator[Finding]:
    """NumPy's own format; arrays of objects are pickles."""
    if b"'O" in bytes(data[:4096]) or b"|O" in bytes(data[:4096]):
        yield Finding("code", "it is an array of objects, which are pickles")


def _arrays(archive: Archive) -> Iterator[Finding]:
    for name in archive.members:
        for finding in _array(memoryview(archive.start(name, 4096)), None):
            yield finding.inside(name)


def _mar(archive: Archive) -> Iterator[Finding]:
    """A TorchServe archive: every member is scanned as a file of its own, the model among them."""
    for name in archive.members:
        if name.endswith("/"):
            continue
        data = archive.read(name, _MAX_MEMBER_BYTES)
        report = scan_bytes(memoryview(data), Path(name), in_archive=True) if data else None
        if report is not None and report.kind in (_MAR.name, _UNKNOWN_ARCHIVE):
            raise Refused(f"it holds another archive, {quoted(name)}")
        yield from (finding.inside(name) for finding in (report.findings if report else ()))


def _harmless(_: memoryview, __: Path | None) -> Iterator[Finding]:
    return iter(())


def _is_mar(members: Collection[str]) -> bool:
    return "mar-inf/manifest.json" in members


def _is_npz(members: Collection[str]) -> bool:
    return bool(members) and all(name.endswith(".npy") for name in members)


_UNKNOWN_ARCHIVE = "archive"
_LIBRARY = FileKind(
    "library", f"{__name__}:_library", magic=(b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
)
_ARRAY = FileKind("array", f"{__name__}:_array", magic=(b"\x93NUMPY",))
_ARRAYS = FileKind("arrays", f"{__name__}:_arrays", (".npz",), members=_is_npz)
_MAR = FileKind("mar", f"{__name__}:_mar", members=_is_mar)
_PROGRAM = FileKind("program", f"{__name__}:_program")
_DATA = FileKind("data", f"{__name__}:_harmless")

_NAMED: tuple[tuple[frozenset[str], FileKind], ...] = (
    (frozenset({".py", ".pyc", ".pyd", ".sh"}), _PROGRAM),
    (frozenset({".so", ".dll", ".dylib", ".engine", ".plan"}), _LIBRARY),
    (frozenset({".md", ".txt", ".json", ".toml", ".yaml", ".yml", ".csv", ".npy"}), _DATA),
)
"""Kinds that are recognized by the suffix, where the content has no mark."""

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
                return _report(path, name, format, _scan_archive(kind, archive))
        kind = _kind_of(data, path, format)
        scanner: Scanner = import_attribute(kind.scanner)
        return _report(path, kind.name, format, scanner(data, None if in_archive else path))
    except Refused as refused:
        return Report(path, name, (Finding(None, str(refused)),))


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
    mismatch = [Finding(None, wrong)] if promised and kind not in promised else []
    try:
        return Report(path, kind, tuple(dict.fromkeys(chain(mismatch, found))))
    except Refused as refused:
        return Report(path, kind, (*mismatch, Finding(None, str(refused))))


def _promised(path: Path, format: str | None) -> list[FileKind]:
    """The kinds that a format may be stored in, else those that a suffix promises: the one it belongs to first."""
    row = FORMATS.get(format or "")
    if row is not None:
        return list(row.files)
    suffix = path.suffix.lower()
    known = (*file_kinds(), _ARRAYS)
    return [*(f for f in known if suffix in f.suffixes), *(f for f in known if suffix in f.shared)]


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} file"


def _is_archive(data: memoryview) -> bool:
    return bytes(data[: len(MAGIC)]) == MAGIC


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
    kinds = (_LIBRARY, _ARRAY, *file_kinds())
    for kind in kinds:
        if kind.header is not None and kind.header(start, len(data)):
            return kind
    for kind in kinds:
        if kind.magic and start.startswith(kind.magic):
            return kind
    promised = next(iter(_promised(path, format)), None)
    if promised is not None and not promised.is_archive:
        return promised
    return _kind_by_suffix(path.suffix.lower(), start)


def _kind_by_suffix(suffix: str, start: bytes) -> FileKind:
    for suffixes, kind in _NAMED:
        if suffix in suffixes:
            return kind
    kinds = {kind.name: kind for kind in file_kinds()}
    weak = next((kind for kind in kinds.values() if kind.weak_magic and start.startswith(kind.weak_magic)), None)
    if weak is not None:
        return weak
    if suffix in _PICKLES or any("pickle" in row.kinds for row in formats_of_suffix(suffix)):
        return kinds["pickle"]
    raise Refused("it is of an unknown kind; its content cannot be checked")
