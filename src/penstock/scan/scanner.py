"""Which form of model a file is, by its content, and the scanner for each; a new form is one more row."""

from __future__ import annotations

import importlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import IntegrityError
from penstock.scan.findings import Finding, Refused, Report, shown

if TYPE_CHECKING:
    from penstock.scan.archive import Archive

Scanner = Callable[[memoryview, Path | None], Iterator[Finding]]
ArchiveScanner = Callable[["Archive"], Iterator[Finding]]

_FORMATS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx",),
    "openvino": ("openvino",),
    "pytorch": ("safetensors", "checkpoint", "pickle"),
    "torchscript": ("torchscript",),
    "pt2": ("pt2",),
    "aoti": ("aoti",),
}
"""What a file of a manifest's format may be by its content."""

_SUFFIXES: dict[str, tuple[str, ...]] = {
    ".onnx": ("onnx",),
    ".xml": ("openvino",),
    ".safetensors": ("safetensors",),
    ".pt2": ("pt2", "aoti"),
    ".ts": ("torchscript",),
    ".pt": ("checkpoint", "torchscript", "pickle"),
    ".pth": ("checkpoint", "torchscript", "pickle"),
    ".ckpt": ("checkpoint", "pickle"),
    ".npz": ("arrays",),
}
"""What a file's name promises; a file that is something else is made to deceive."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x7fELF", "library"),
    (b"MZ", "library"),
    (b"\xcf\xfa\xed\xfe", "library"),
    (b"\xca\xfe\xba\xbe", "library"),
    (b"<", "openvino"),
    (b"\xef\xbb\xbf<", "openvino"),
    (b"\x93NUMPY", "array"),
    (b"\x80", "pickle"),
)
_ARCHIVE_START = b"PK\x03\x04"
_NATIVE_CODE = "data/aotinductor/"
_TAR, _TAR_PLACE = b"ustar", 257
_PYTHON = frozenset({".py", ".pyc", ".pyd", ".sh"})
_NATIVE = frozenset({".so", ".dll", ".dylib", ".engine", ".plan"})
_NO_CODE = frozenset({".md", ".txt", ".json", ".toml", ".yaml", ".yml", ".csv", ".npy"})
_PROTOBUF_START = 0x08
_MAR_MANIFEST = "MAR-INF/MANIFEST.JSON"
_LARGEST_MEMBER = 2**31


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
    """A TorchServe archive: whatever it holds, a model among it, is scanned for itself."""
    for name in archive.members:
        if name.endswith("/"):
            continue
        data = archive.read(name, _LARGEST_MEMBER)
        report = scan_bytes(memoryview(data), Path(name), beside=False) if data else None
        if report is not None and report.kind in ("mar", "archive"):
            raise Refused(f"it holds another archive, {shown(name)}")
        yield from (finding.inside(name) for finding in (report.findings if report else ()))


def _harmless(_: memoryview, __: Path | None) -> Iterator[Finding]:
    return iter(())


_HERE = __name__
_BESIDE = __name__.rpartition(".")[0]
_SCANNERS: dict[str, str] = {
    "onnx": f"{_BESIDE}.onnx:scan",
    "openvino": f"{_BESIDE}.openvino:scan",
    "safetensors": f"{_BESIDE}.safetensors:scan",
    "pickle": f"{_BESIDE}.pickles:scan",
    "library": f"{_HERE}:_library",
    "program": f"{_HERE}:_program",
    "array": f"{_HERE}:_array",
    "data": f"{_HERE}:_harmless",
}
_ARCHIVES: dict[str, str] = {
    "checkpoint": f"{_BESIDE}.checkpoint:scan",
    "torchscript": f"{_BESIDE}.torchscript:scan",
    "pt2": f"{_BESIDE}.pt2:scan",
    "aoti": f"{_BESIDE}.pt2:scan",
    "arrays": f"{_HERE}:_arrays",
    "mar": f"{_HERE}:_mar",
}
"""By what a file is: `module:function`, imported when there is one to scan."""


def _found(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def scan_file(path: Path, format: str | None = None) -> Report:
    """What a model file could do, told without running it; `format` is what a manifest calls it.

    Raises IntegrityError when there is no such file to read.
    """
    with mapped(path) as data:
        return scan_bytes(data, path, format)


def scan_bytes(data: memoryview, path: Path, format: str | None = None, *, beside: bool = True) -> Report:
    """As `scan_file` for content that was read; without `beside`, it may not refer to files beside it."""
    if not len(data):
        return Report(path, "empty", (Finding(None, "the file is empty"),))
    kind = "archive" if bytes(data[:4]) == _ARCHIVE_START else "unknown"
    try:
        if kind == "archive":
            from penstock.scan.archive import opened

            with opened(data) as archive:
                kind = _kind_of_archive(archive)
                return _report(path, kind, format, _scan_archive(kind, archive))
        kind = _kind_of(data, path, format)
        scanner: Scanner = _found(_SCANNERS[kind])
        return _report(path, kind, format, scanner(data, path if beside else None))
    except Refused as refused:
        return Report(path, kind, (Finding(None, str(refused)),))


def _report(path: Path, kind: str, format: str | None, found: Iterator[Finding]) -> Report:
    expected = _FORMATS.get(format or "") or _SUFFIXES.get(path.suffix.lower()) or (kind,)
    wrong = f"it is {_article(kind)}, which {format or path.suffix} does not promise"
    mismatch = [] if kind in expected else [Finding(None, wrong)]
    try:
        return Report(path, kind, tuple(dict.fromkeys(chain(mismatch, found))))
    except Refused as refused:
        return Report(path, kind, (*mismatch, Finding(None, str(refused))))


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} file"


def _scan_archive(kind: str, archive: Archive) -> Iterator[Finding]:
    if kind not in _ARCHIVES:
        raise Refused("it is an archive of a kind that is not known; what is in it cannot be told")
    scanner: ArchiveScanner = _found(_ARCHIVES[kind])
    return scanner(archive)


def _kind_of_archive(archive: Archive) -> str:
    """By what it holds; a program counts before weights, since whoever loads it may run it."""
    if any(name.upper() == _MAR_MANIFEST for name in archive.members):
        return "mar"
    inner = {name.partition("/")[2].lower() for name in archive.members}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        return "aoti" if any(name.startswith(_NATIVE_CODE) for name in inner) else "pt2"
    if "data.pkl" in inner:
        return "checkpoint"
    if archive.members and all(name.endswith(".npy") for name in archive.members):
        return "arrays"
    return "archive"


def _kind_of(data: memoryview, path: Path, format: str | None) -> str:
    """By the content. Protobuf has no mark of its own: a file that may be ONNX is, and is read as such."""
    start = bytes(data[:8])
    if bytes(data[_TAR_PLACE : _TAR_PLACE + len(_TAR)]) == _TAR:
        raise Refused("it is a tar archive; what is in it cannot be told")
    # before the other marks: it begins with a length, which may look like any of them
    if len(data) > 8 and data[8] == ord("{") and int.from_bytes(start, "little") <= len(data) - 8:
        return "safetensors"
    for mark, kind in _STARTS:
        if start.startswith(mark):
            return kind
    by_name = _FORMATS.get(format or "", _SUFFIXES.get(path.suffix.lower(), ("",)))[0]
    if by_name in _SCANNERS:
        return by_name
    return _kind_by_suffix(path.suffix.lower(), start)


def _kind_by_suffix(suffix: str, start: bytes) -> str:
    for suffixes, kind in ((_PYTHON, "program"), (_NATIVE, "library"), (_NO_CODE, "data")):
        if suffix in suffixes:
            return kind
    if start[0] == _PROTOBUF_START:
        return "onnx"
    if suffix in (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib"):
        return "pickle"
    raise Refused("it is of a kind that is not known; what is in it cannot be told")


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The content of a regular file, read as it is looked at."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise IntegrityError(f"{path}: the file cannot be read ({error.strerror})") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path}: this is not a plain file")
        content = mmap.mmap(fd, 0, access=mmap.ACCESS_READ) if status.st_size else b""
    finally:
        os.close(fd)
    view = memoryview(content)
    try:
        yield view
    finally:
        view.release()
        if isinstance(content, mmap.mmap):
            content.close()
