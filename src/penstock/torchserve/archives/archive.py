"""An archive of TorchServe: `.mar`, `.war`, `.tar.gz`, `.model` or a directory, told by its content.

Archives are untrusted: members are checked before anything is written, and unpacking is all or nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from penstock.artifacts.files import new_directory
from penstock.errors import IntegrityError, quoted
from penstock.scan import archive as zips
from penstock.scan.findings import Refused
from penstock.scan.memory_map import mapped
from penstock.torchserve.archives import manifest as manifests
from penstock.torchserve.archives.manifest import Manifest, WorkflowManifest
from penstock.torchserve.archives.names import MANIFEST, WORKFLOW_MANIFEST, Names, checked_name, root_of
from penstock.torchserve.archives.tar import MAGIC as GZIP
from penstock.torchserve.archives.tar import opened_tar

MAX_BYTES: Final = 64 * 2**30
"""What an archive may unpack to."""
_CHUNK = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_PLAIN_MODES = (0, stat.S_IFREG, stat.S_IFDIR)

Kind = Literal["zip", "tar.gz", "directory"]


class _Member(NamedTuple):
    """A file, by its path in the archive as it is; the blocks have to be taken before the next one."""

    name: str
    size: int
    blocks: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class ModelArchive:
    """An archive that was found to be sound, with what its manifest says.

    Members are named without a directory around them.
    """

    path: Path
    kind: Kind
    root: str
    """The directory around the members, with its slash; empty for none."""
    members: Mapping[str, int]
    """Sizes by name."""
    manifest: Manifest | WorkflowManifest
    has_manifest: bool
    max_bytes: int = MAX_BYTES

    @property
    def is_workflow(self) -> bool:
        """True for a `.war`."""
        return isinstance(self.manifest, WorkflowManifest)

    @property
    def default_name(self) -> str:
        """The name by the manifest, else by the file."""
        manifest = self.manifest
        named = manifest.workflow_name if isinstance(manifest, WorkflowManifest) else manifest.model_name
        return named or self.path.name.removesuffix(".gz").rpartition(".")[0] or self.path.name

    @property
    def version(self) -> str | None:
        """The version of a model by its manifest; None of a workflow."""
        return self.manifest.model_version if isinstance(self.manifest, Manifest) else None

    @property
    def warnings(self) -> list[str]:
        """What is odd about it, though it can be unpacked."""
        none = [] if self.has_manifest else ["it has no manifest: the runtime is python and the version 1.0"]
        return [*none, *self.manifest.missing(self.members)]

    def read(self, name: str, limit: int) -> bytes:
        """The content of a small member; raises IntegrityError naming it if it is missing or too large."""
        if name not in self.members:
            raise IntegrityError(f"{self.path}: there is no member {quoted(name)} in it")
        with _naming(self.path), _walking(self.path, self.kind, self.max_bytes) as members:
            for member in members:
                if member.name == self.root + name:
                    return _small(member, limit)
        raise IntegrityError(f"{self.path}: the member {quoted(name)} has gone since it was opened")

    def digest(self) -> str:
        """The SHA-256 of its content: the same for each form of archive that unpacks to the same files."""
        lines: dict[str, str] = {}
        with _naming(self.path), _walking(self.path, self.kind, self.max_bytes) as members:
            for member in members:
                lines[member.name] = _copied(member, None)
        return _digest_of({name.removeprefix(self.root): line for name, line in lines.items()})

    def unpack(self, target: Path) -> str:
        """Write its files to the new directory `target`, completely or not at all; the result is `digest`.

        Raises IntegrityError for what is damaged or has changed, InvalidInput if `target` exists or cannot be written.
        """
        lines: dict[str, str] = {}
        with new_directory(target) as aside:
            with _naming(self.path), _walking(self.path, self.kind, self.max_bytes) as members:
                for member in members:
                    name = member.name.removeprefix(self.root)
                    if self.members.get(name) != member.size:
                        raise Refused("it has changed since it was opened")
                    lines[name] = _copied(member, aside / name)
            if lines.keys() != self.members.keys():
                raise IntegrityError(_sentence(self.path, "it has changed since it was opened"))
        return _digest_of(lines)


def open_archive(path: Path, *, max_bytes: int = MAX_BYTES, name: Path | None = None) -> ModelArchive:
    """Read and check an archive; of a `.tar.gz` everything, of others what lists their members.

    Raises IntegrityError with one sentence that names the file (`name`, if it has another for people) and the member.
    """
    with _naming(name or path):
        kind = _kind_of(path)
        sizes: dict[str, int] = {}
        documents: dict[str, bytes] = {}
        with _walking(path, kind, max_bytes) as members:
            for member in members:
                sizes[member.name] = member.size
                if member.name.endswith((MANIFEST, WORKFLOW_MANIFEST)):
                    documents[member.name] = _small(member, manifests.MAX_BYTES)
        root = root_of(sizes)
        found, parsed = _manifest(documents, root)
        inside = {key.removeprefix(root): size for key, size in sizes.items()}
        return ModelArchive(path, kind, root, inside, parsed, found, max_bytes)


def is_archive(path: Path) -> bool:
    """True for a file or a directory with a manifest of TorchServe; errors of reading count as none."""
    try:
        return open_archive(path).has_manifest
    except IntegrityError:
        return False


def _manifest(documents: Mapping[str, bytes], root: str) -> tuple[bool, Manifest | WorkflowManifest]:
    if root + MANIFEST in documents:
        return True, manifests.parse_manifest(documents[root + MANIFEST])
    if root + WORKFLOW_MANIFEST in documents:
        return True, manifests.parse_workflow_manifest(documents[root + WORKFLOW_MANIFEST])
    return False, Manifest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except Refused as refused:
        raise IntegrityError(_sentence(path, str(refused))) from None


def _sentence(path: Path, why: str) -> str:
    return f"{path}: {why}; pack its files again with `penstock archive create`"


def _kind_of(path: Path) -> Kind:
    if path.is_dir():
        return "directory"
    with mapped(path) as data:
        start = bytes(data[:4])
    if start in (zips.MAGIC, zips.EMPTY_MAGIC):
        return "zip"
    if start.startswith(GZIP):
        return "tar.gz"
    raise Refused("it is neither a zip archive (.mar, .war) nor a .tar.gz nor a directory")


@contextmanager
def _walking(path: Path, kind: Kind, max_bytes: int) -> Iterator[Iterator[_Member]]:
    """The files of an archive, one after the other, each checked."""
    with ExitStack() as stack:
        if kind == "directory":
            yield _of_directory(path, max_bytes)
        elif kind == "tar.gz":
            yield _of_tar(path, max_bytes)
        else:
            archive = stack.enter_context(zips.opened(stack.enter_context(mapped(path)), unicode_names=True))
            yield _of_zip(archive, max_bytes)


def _of_zip(archive: zips.Archive, max_bytes: int) -> Iterator[_Member]:
    _check_size(sum(member.file_size for member in archive.members.values()), max_bytes)
    names = Names()
    for name, member in archive.members.items():
        path = checked_name(name)
        names.add(path, is_directory=member.is_dir())
        _check_mode(member, name)
        if not member.is_dir():
            yield _Member(path, member.file_size, archive.blocks(name))
        elif member.file_size:
            raise Refused(f"the member {quoted(name)} is a directory with content")


def _check_mode(member: zipfile.ZipInfo, name: str) -> None:
    if stat.S_IFMT(member.external_attr >> 16) not in _PLAIN_MODES:
        raise Refused(f"the member {quoted(name)} is neither a file nor a directory")


def _of_tar(path: Path, max_bytes: int) -> Iterator[_Member]:
    names = Names()
    with opened_tar(path, max_bytes) as members:
        for member in members:
            name = checked_name(member.name)
            if not name and member.is_directory:
                continue
            if not name:
                raise Refused("a member has no name")
            names.add(name, is_directory=member.is_directory)
            if not member.is_directory:
                yield _Member(name, member.size, member.blocks)


def _of_directory(path: Path, max_bytes: int) -> Iterator[_Member]:
    names, total = Names(), 0
    root = path.resolve()
    for name, file in _files(root, root, ""):
        names.add(checked_name(name))
        size = file.stat().st_size
        total += size
        _check_size(total, max_bytes)
        yield _Member(name, size, _blocks(file, size, name))


def _files(root: Path, directory: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """Every file by its path; links have to lead to files inside the directory."""
    for entry in sorted(directory.iterdir()):
        name = prefix + entry.name
        if entry.is_symlink():
            target = entry.resolve()
            if not target.is_relative_to(root) or not target.is_file():
                raise Refused(f"{quoted(name)} is a link that does not lead to a file inside the directory")
            yield name, target
        elif entry.is_dir():
            yield from _files(root, entry, f"{name}/")
        elif entry.is_file():
            yield name, entry
        else:
            raise Refused(f"{quoted(name)} is neither a file nor a directory")


def _blocks(path: Path, size: int, name: str) -> Iterator[bytes]:
    count = 0
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            count += len(block)
            yield block
    if count != size:
        raise Refused(f"{quoted(name)} changed while it was read")


def _check_size(total: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise Refused(f"it unpacks to {total} bytes; at most {max_bytes} are unpacked")


def _small(member: _Member, limit: int) -> bytes:
    if member.size > limit:
        raise Refused(f"the member {quoted(member.name)} has {member.size} bytes; at most {limit} are read")
    return b"".join(member.blocks)


def _copied(member: _Member, target: Path | None) -> str:
    """Read a member to its end, and write it to a new file; the result is its size and SHA-256."""
    digest = hashlib.sha256()
    if target is None:
        for block in member.blocks:
            digest.update(block)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(target, _NEW, 0o644), "wb") as file:
            for block in member.blocks:
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return f"{digest.hexdigest()} {member.size}"


def _digest_of(lines: Mapping[str, str]) -> str:
    text = "".join(f"{lines[name]} {json.dumps(name)}\n" for name in sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()
