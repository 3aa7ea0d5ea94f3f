"""Artifacts: immutable directories with a manifest, variants, golden samples and a model card."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from penstock.artifacts import files
from penstock.artifacts.golden import Golden
from penstock.artifacts.manifest import (
    CARD,
    GOLDEN,
    MANIFEST,
    FileEntry,
    GoldenEntry,
    Manifest,
    TaskEntry,
    Variant,
    check_path,
    describe,
    utc_now,
)
from penstock.artifacts.policies import BatchingPolicy, PaddingPolicy, Range, Ranges, measure_ranges
from penstock.errors import IntegrityError, InvalidInput
from penstock.tensors import Signature

__all__ = [
    "CARD",
    "GOLDEN",
    "MANIFEST",
    "Artifact",
    "BatchingPolicy",
    "FileEntry",
    "Golden",
    "GoldenEntry",
    "Manifest",
    "PaddingPolicy",
    "Range",
    "Ranges",
    "TaskEntry",
    "Variant",
    "VariantSource",
    "measure_ranges",
    "write_artifact",
]


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk whose manifest has been read. Its other files are checked by `verify`.

    `digest` is the sha256 of the bytes of `manifest.json`, and so stands for every file listed in it.
    """

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Read and check the manifest below `path`; raises IntegrityError naming the file and the fault."""
        root = Path(path)
        data = files.read_plain(root / MANIFEST)
        try:
            manifest = Manifest.from_bytes(data)
        except InvalidInput as error:
            raise IntegrityError(f"{root / MANIFEST}: {error}") from None
        return cls(root, manifest, files.sha256_of(data))

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The model's version."""
        return self.manifest.version

    @property
    def ref(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"

    @property
    def signature(self) -> Signature:
        """Of every variant."""
        return self.manifest.signature

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The runnable forms."""
        return self.manifest.variants

    @property
    def size_bytes(self) -> int:
        """Of all files but the manifest, as recorded there."""
        return sum(entry.size for entry in self.manifest.files())

    def variant_path(self, variant: Variant) -> Path:
        """The variant's main file."""
        return self.path / variant.file

    def verify(self, variant: Variant | None = None) -> None:
        """Hash the files again: all of them, or of the variants only `variant`.

        Raises IntegrityError naming the first file that is altered, missing, not listed, or a link. That
        every file is there in its size is checked in both cases.
        """
        if files.sha256_of(files.read_plain(self.path / MANIFEST)) != self.digest:
            raise IntegrityError(f"{self.path / MANIFEST} has changed since it was read")
        files.check_tree(self.path, {entry.path: entry for entry in self.manifest.files()}, MANIFEST)
        for entry in self._entries(variant):
            files.check_entry(self.path, entry)

    def _entries(self, variant: Variant | None) -> Iterator[FileEntry]:
        skipped = {
            entry.path for other in self.variants if variant is not None and other != variant for entry in other.files
        }
        return (entry for entry in self.manifest.files() if entry.path not in skipped)

    def golden(self) -> Golden | None:
        """The golden samples, None without; raises IntegrityError when they are altered or do not fit the signature."""
        entry = self.manifest.golden
        if entry is None:
            return None
        data = files.read_entry(self.path, entry.file)
        try:
            golden = Golden.from_bytes(data, entry.atol, entry.rtol).checked(self.signature)
        except InvalidInput as error:
            raise IntegrityError(f"{self.path / entry.file.path}: {error}") from None
        if golden.rows != entry.rows:
            raise IntegrityError(f"{self.path / entry.file.path} has {golden.rows} rows, not {entry.rows}")
        return golden

    def card_text(self) -> str:
        """The model card as Markdown, empty without one; raises IntegrityError when it is altered or no text."""
        entry = self.manifest.card
        if entry is None:
            return ""
        try:
            return files.read_entry(self.path, entry).decode()
        except UnicodeDecodeError:
            raise IntegrityError(f"{self.path / entry.path} is not UTF-8 text") from None


@dataclass(frozen=True)
class VariantSource:
    """A model file to be taken into an artifact, and the files that it refers to by name (`companions`)."""

    format: str
    precision: str
    source: Path
    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    num_parameters: int | None = None
    max_abs_error: float | None = None
    benchmark: Mapping[str, Any] | None = None
    companions: Sequence[Path] = ()


def write_artifact(
    directory: Path,
    *,
    name: str,
    version: str,
    task: TaskEntry,
    signature: Signature,
    variants: Sequence[VariantSource],
    golden: Golden | None,
    card: str,
    lineage: Mapping[str, Any] | None = None,
    training_data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    created_at: str | None = None,
    batching: BatchingPolicy | None = None,
    padding: Sequence[PaddingPolicy] = (),
    ranges: Ranges | None = None,
    more_tasks: Sequence[TaskEntry] = (),
) -> Artifact:
    """Write a complete artifact to `directory`, which must not exist yet or be empty.

    Everything is written aside and renamed, so `directory` is never half an artifact. `created_at` is UTC in
    ISO form, by default now. `batching` and `padding` are what the model asks of a server, `ranges` the values it
    expects (`measure_ranges`), `more_tasks` what else it can be asked as. Raises InvalidInput naming what does not fit,
    and then leaves nothing behind.
    """
    directory = Path(directory)
    with _written_aside(directory) as aside:
        taken = tuple(_take_variant(aside, source) for source in variants)
        golden_entry = None if golden is None else _take_golden(aside, golden, signature)
        card_entry = _take_bytes(aside, CARD, card.encode()) if card else None
        try:
            manifest = Manifest(
                name=name,
                version=version,
                task=task,
                signature=signature,
                created_at=created_at or utc_now(),
                lineage=dict(lineage or {}),
                training_data=dict(training_data or {}),
                metrics=dict(metrics or {}),
                variants=taken,
                golden=golden_entry,
                card=card_entry,
                batching=batching,
                padding=tuple(padding),
                ranges=ranges,
                more_tasks=tuple(more_tasks),
            )
        except ValidationError as error:
            raise InvalidInput(describe(error)) from None
        files.write_durable(aside / MANIFEST, manifest.to_bytes())
    return Artifact.open(directory)


@contextmanager
def _written_aside(directory: Path) -> Iterator[Path]:
    """A new directory beside `directory` that takes its place when the block ends well and vanishes otherwise."""
    if directory.is_symlink() or (directory.exists() and not _is_empty(directory)):
        raise InvalidInput(f"{directory} already exists; choose another directory or remove it", field="directory")
    aside = directory.absolute().parent / f".{directory.absolute().name}.{secrets.token_hex(6)}"
    try:
        aside.mkdir(parents=True)
        yield aside
        files.sync_tree(aside)
        aside.rename(directory)
        files.sync_directory(aside.parent)
    except OSError as error:
        raise InvalidInput(f"{directory} cannot be written: {error.strerror or error}", field="directory") from None
    finally:
        files.discard(aside)


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())


def _take_bytes(aside: Path, path: str, data: bytes) -> FileEntry:
    files.write_durable(aside / path, data)
    return FileEntry(path=path, sha256=files.sha256_of(data), size=len(data))


def _take_variant(aside: Path, source: VariantSource) -> Variant:
    directory = f"variants/{source.format}-{source.precision}"
    main = f"{directory}/model{source.source.suffix}"
    try:
        entries = [_take_file(aside, main, source.source)]
        entries += [_take_file(aside, f"{directory}/{path.name}", path) for path in source.companions]
        return Variant(
            format=source.format,
            precision=source.precision,
            file=main,
            files=tuple(entries),
            architecture=source.architecture,
            architecture_args=dict(source.architecture_args),
            num_parameters=source.num_parameters,
            max_abs_error=source.max_abs_error,
            benchmark=None if source.benchmark is None else dict(source.benchmark),
        )
    except ValidationError as error:
        raise InvalidInput(f"variant {source.format}-{source.precision}: {describe(error)}") from None


def _take_file(aside: Path, path: str, source: Path) -> FileEntry:
    try:
        check_path(path)
        return files.take_file(source, aside, path)
    except ValueError as error:
        raise InvalidInput(f"{source} cannot be taken into an artifact: {error}", field="source") from None
    except FileExistsError:
        raise InvalidInput(f"{source}: the artifact already has a file {path}", field="source") from None


def _take_golden(aside: Path, golden: Golden, signature: Signature) -> GoldenEntry:
    checked = golden.checked(signature)
    try:
        entry = _take_bytes(aside, GOLDEN, checked.to_bytes())
        return GoldenEntry(file=entry, rows=checked.rows, atol=checked.atol, rtol=checked.rtol)
    except ValidationError as error:
        raise InvalidInput(f"golden: {describe(error)}", field="golden") from None
