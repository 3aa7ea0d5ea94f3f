"""Files on disk: reading, hashing and copying without following links, and durable writes."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock.artifacts.variant import FileEntry
from penstock.errors import ConfigError, IntegrityError, InvalidInput, not_written

_CHUNK = 1 << 20
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def sha256_of(data: bytes) -> str:
    """Lower-case hex."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a regular file; raises IntegrityError for a link, pipe or directory, or if there is no file."""
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing") from None
    except OSError as error:
        if path.is_symlink():
            raise IntegrityError(f"{path} is a symbolic link; an artifact contains plain files only") from None
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise IntegrityError(f"{path} is not a plain file")
        yield fd
    finally:
        os.close(fd)


def read_plain(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file; raises IntegrityError naming it, also for more than `limit` bytes."""
    with _opened(path) as fd, os.fdopen(os.dup(fd), "rb") as file:
        size = os.fstat(fd).st_size
        if limit is not None and size > limit:
            raise IntegrityError(f"{path} has {size} bytes; at most {limit} are read")
        return file.read()


def read_given(path: Path, limit: int, what: str, too_large: str) -> bytes:
    """The content of a file that an operator names. Raises ConfigError: `what` cannot be read, or is `too_large`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise ConfigError(too_large)
    return data


def read_entry(root: Path, entry: FileEntry) -> bytes:
    """The content of a listed file, checked against its digest; raises IntegrityError naming it."""
    path = root / entry.path
    _refuse_linked_parents(root, entry.path)
    data = read_plain(path)
    if len(data) != entry.size:
        raise IntegrityError(_wrong_size(path, len(data), entry))
    if sha256_of(data) != entry.sha256:
        raise IntegrityError(_wrong_digest(path))
    return data


def check_entry(root: Path, entry: FileEntry) -> None:
    """Hash a listed file; raises IntegrityError naming it if its size or sha256 differs."""
    _stream(root, entry, None)


def copy_entry(root: Path, entry: FileEntry, target: Path) -> None:
    """Copy a listed file durably to `target/<its path>`; the sha256 is checked on the bytes that are written."""
    destination = target / entry.path
    destination.parent.mkdir(parents=True, exist_ok=True)
    with _created(destination) as fd:
        _stream(root, entry, fd)


def add_file(source: Path, target: Path, path: str) -> FileEntry:
    """Copy a file (links are followed) durably to `target/path`; the entry describes the bytes written.

    Raises InvalidInput if the source cannot be read.
    """
    destination = target / path
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = source.open("rb")
    except OSError as error:
        raise InvalidInput(f"{source} cannot be read: {error.strerror}", field="source") from None
    digest, size = hashlib.sha256(), 0
    with file, _created(destination) as fd:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            _write_all(fd, chunk)
    return FileEntry(path=path, sha256=digest.hexdigest(), size=size)


@contextmanager
def _created(path: Path) -> Iterator[int]:
    """A descriptor of a new file, flushed to the disk at the end of the block."""
    fd = os.open(path, _WRITE, 0o644)
    try:
        yield fd
        os.fsync(fd)
    finally:
        os.close(fd)


def _stream(root: Path, entry: FileEntry, target: int | None) -> None:
    path = root / entry.path
    _refuse_linked_parents(root, entry.path)
    digest = hashlib.sha256()
    with _opened(path) as fd:
        size = os.fstat(fd).st_size
        if size != entry.size:
            raise IntegrityError(_wrong_size(path, size, entry))
        while chunk := os.read(fd, _CHUNK):
            digest.update(chunk)
            if target is not None:
                _write_all(target, chunk)
    if digest.hexdigest() != entry.sha256:
        raise IntegrityError(_wrong_digest(path))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _refuse_linked_parents(root: Path, relative: str) -> None:
    directory = root
    for part in relative.split("/")[:-1]:
        directory = directory / part
        if directory.is_symlink():
            raise IntegrityError(f"{directory} is a symbolic link; an artifact contains plain files only")


def _wrong_size(path: Path, size: int, entry: FileEntry) -> str:
    return f"{path} has {size} bytes, its manifest records {entry.size}; it was altered or is incomplete"


def _wrong_digest(path: Path) -> str:
    return f"{path} does not match the sha256 in its manifest; it was altered or damaged"


def _walk(directory: Path, prefix: str, found: dict[str, os.DirEntry[str]]) -> None:
    """Add every file and every empty directory to `found`, by path relative to the first `directory`.

    Raises IntegrityError naming the first symbolic link or special file.
    """
    for entry in _entries(directory):
        if entry.is_symlink():
            raise IntegrityError(f"{entry.path} is a symbolic link; an artifact contains plain files only")
        if entry.is_dir(follow_symlinks=False):
            before = len(found)
            _walk(directory / entry.name, f"{prefix}{entry.name}/", found)
            if len(found) == before:
                found[prefix + entry.name] = entry
        elif entry.is_file(follow_symlinks=False):
            found[prefix + entry.name] = entry
        else:
            raise IntegrityError(f"{entry.path} is not a plain file")


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as scan:
            return sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise IntegrityError(f"{directory} cannot be read: {error.strerror}") from None


def check_tree(root: Path, listed: Mapping[str, FileEntry], unlisted: Collection[str]) -> None:
    """Check that the files below `root` are the `listed` ones, in their sizes, and none but the `unlisted` besides.

    Raises IntegrityError naming the first file that is missing, not listed, a link, or of another size.
    """
    if root.is_symlink():
        raise IntegrityError(f"{root} is a symbolic link; an artifact is a plain directory")
    found: dict[str, os.DirEntry[str]] = {}
    _walk(root, "", found)
    for path, entry in listed.items():
        if path not in found:
            raise IntegrityError(f"{root / path} is missing; the manifest lists it")
        size = found[path].stat(follow_symlinks=False).st_size
        if size != entry.size:
            raise IntegrityError(_wrong_size(root / path, size, entry))
    for path in found:
        if path not in listed and (path not in unlisted or not found[path].is_file(follow_symlinks=False)):
            raise IntegrityError(f"{root / path} is not listed in the manifest")


def write_durable(path: Path, data: bytes) -> None:
    """Create a file with this content and flush it to the disk."""
    with _created(path) as fd:
        _write_all(fd, data)


def replace_file(path: Path, data: bytes, aside: Path) -> None:
    """Write a file in place of any other, completely or not at all, by way of a new one in the directory `aside`."""
    new = aside / f".{path.name}.{secrets.token_hex(6)}"
    try:
        write_durable(new, data)
        new.replace(path)
        sync_directory(path.parent)
    finally:
        discard(new)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, renamed to it at the end of the block, and removed when that fails.

    What is no plain file, such as a pipe, is written itself.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    new = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        yield new
        new.replace(path)
    finally:
        discard(new)


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to the disk, so that a rename in it survives a power failure."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(root: Path) -> None:
    """`sync_directory` for `root` and every directory below it, deepest first."""
    for directory, _, _ in os.walk(root, topdown=False):
        sync_directory(Path(directory))


def discard(path: Path) -> None:
    """Remove a directory, a link or a file; errors are ignored."""
    if path.is_symlink() or path.is_file():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A new directory beside `directory`, renamed to it at the end of the block, and removed when that fails.

    Raises InvalidInput if `directory` exists and is not an empty directory, or cannot be written.
    """
    if directory.is_symlink() or (directory.exists() and not _is_empty(directory)):
        raise InvalidInput(f"{directory} already exists; choose another directory or remove it", field="directory")
    target = directory.absolute().parent / f".{directory.absolute().name}.{secrets.token_hex(6)}"
    try:
        target.mkdir(parents=True)
        yield target
        sync_tree(target)
        target.rename(directory)
        sync_directory(target.parent)
    except OSError as error:
        raise InvalidInput(not_written(error, directory), field="directory") from None
    finally:
        discard(target)


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())
