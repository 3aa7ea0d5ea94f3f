"""Artifacts: immutable directories with a manifest, variants, golden samples and a model card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from penstock.artifacts import files
from penstock.artifacts.golden import Golden
from penstock.artifacts.manifest import (
    CARD,
    GOLDEN,
    MAX_BYTES,
    GoldenEntry,
    Manifest,
    ReferenceEntry,
    TaskEntry,
    utc_now,
)
from penstock.artifacts.measured_card import DeclaredCard, card_of
from penstock.artifacts.policies import BatchingPolicy, PaddingPolicy, Range, Ranges, measure_ranges
from penstock.artifacts.reference.reference import REFERENCE, Reference
from penstock.artifacts.refs import shown
from penstock.artifacts.schema import WITH_LOG_INPUTS, WITH_REFERENCE, SchemaVersion, describe, parse_version
from penstock.artifacts.signatures.signed_files import SignedFiles
from penstock.artifacts.variant import (
    MANIFEST,
    SIGNATURE,
    FileEntry,
    Variant,
    VariantErrors,
    check_path,
    default_variant_name,
    is_variant_name,
)
from penstock.errors import IntegrityError, InvalidInput
from penstock.tensors import Signature

__all__ = [
    "CARD",
    "GOLDEN",
    "MANIFEST",
    "SIGNATURE",
    "Artifact",
    "BatchingPolicy",
    "DeclaredCard",
    "FileEntry",
    "Golden",
    "GoldenEntry",
    "Manifest",
    "PaddingPolicy",
    "Range",
    "Ranges",
    "TaskEntry",
    "Variant",
    "VariantErrors",
    "VariantSource",
    "measure_ranges",
    "write_artifact",
]

RECIPE = "recipe.json"
"""The name of a variant's recipe, beside its model file."""
ACCEPTED_MARGIN = 1.5
"""How far an accepted variant may be from its golden samples, in multiples of its recorded error."""


@dataclass(frozen=True)
class Artifact(SignedFiles):
    """An artifact on disk with its manifest read; `verify` checks the other files.

    `digest` is the sha256 of the bytes of `manifest.json`. The manifest has the sha256 of every other file, so the
    digest identifies the whole artifact.
    """

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Read and check the manifest in the directory `path`; raises IntegrityError naming the file and the fault."""
        root = Path(path)
        data = files.read_plain(root / MANIFEST, MAX_BYTES)
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
        """The inputs and outputs of the model, the same for every variant."""
        return self.manifest.signature

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The runnable forms."""
        return self.manifest.variants

    @property
    def size_bytes(self) -> int:
        """The size of all files except the manifest, as recorded there."""
        return sum(entry.size for entry in self.manifest.files())

    def variant_path(self, variant: Variant) -> Path:
        """The variant's main file."""
        return self.path / variant.file

    def verify(self, variant: Variant | None = None) -> None:
        """Check the files against the manifest: their set, their sizes and their sha256.

        With `variant`, the files of the other variants are not hashed. Raises IntegrityError naming the first file that
        is altered, missing, not listed, or a link; Untrusted if it has to be signed and is not.
        """
        self.check_signed()
        if files.sha256_of(files.read_plain(self.path / MANIFEST, MAX_BYTES)) != self.digest:
            raise IntegrityError(f"{self.path / MANIFEST} has changed since it was read")
        self.check_files()
        for entry in self._entries(variant):
            files.check_entry(self.path, entry)

    def _entries(self, variant: Variant | None) -> Iterator[FileEntry]:
        skipped = {
            entry.path for other in self.variants if variant is not None and other != variant for entry in other.files
        }
        return (entry for entry in self.manifest.files() if entry.path not in skipped)

    def golden(self) -> Golden | None:
        """The golden samples, None without any; raises IntegrityError if altered or not fitting the signature."""
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

    def golden_for(self, variant: Variant) -> Golden | None:
        """The golden samples with the tolerance for one variant.

        An accepted one is held to the largest error that was measured when it was accepted, and half as much again:
        kernels of another CPU round differently.
        """
        golden, errors = self.golden(), variant.errors
        if golden is None or errors is None or not variant.accepted:
            return golden
        return replace(golden, atol=max(golden.atol, ACCEPTED_MARGIN * errors.max_abs))

    def reference(self) -> Reference | None:
        """The distributions that drift is measured from, None without; raises IntegrityError if they are altered."""
        entry = self.manifest.reference
        if entry is None:
            return None
        try:
            return Reference.from_bytes(files.read_entry(self.path, entry.file))
        except InvalidInput as error:
            raise IntegrityError(f"{self.path / entry.file.path}: {error}") from None

    def card_text(self) -> str:
        """The model card as Markdown, empty without one; raises IntegrityError if it is altered or not text."""
        entry = self.manifest.card
        if entry is None:
            return ""
        try:
            return files.read_entry(self.path, entry).decode()
        except UnicodeDecodeError:
            raise IntegrityError(f"{self.path / entry.path} is not UTF-8 text") from None


@dataclass(frozen=True)
class VariantSource:
    """A model file for a variant of a new artifact.

    `companions` are the files that the model file refers to by name, or by a path relative to it: a mapping from those
    names, or the files, each under its own name. Variants of one artifact differ in `name`, by default
    `<format>-<precision>`. `recipe` is the content of its `recipe.json`; the other fields are those of `Variant`.
    """

    format: str
    precision: str
    source: Path
    architecture: str | None = None
    architecture_args: Mapping[str, Any] = field(default_factory=dict)
    num_parameters: int | None = None
    max_abs_error: float | None = None
    benchmark: Mapping[str, Any] | None = None
    companions: Sequence[Path] | Mapping[str, Path] = ()
    name: str | None = None
    requires: Sequence[str] = ()
    errors: VariantErrors | None = None
    batch_invariant: bool | None = None
    exporter: str | None = None
    recipe: bytes | None = None
    accepted: bool | None = None

    @property
    def variant_name(self) -> str:
        """The name given, else the default."""
        return self.name if self.name is not None else default_variant_name(self.format, self.precision)


def write_artifact(
    directory: Path,
    *,
    name: str,
    version: str,
    task: TaskEntry,
    signature: Signature,
    variants: Sequence[VariantSource],
    golden: Golden | None,
    card: str | DeclaredCard | Callable[[Manifest], str],
    lineage: Mapping[str, Any] | None = None,
    training_data: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    created_at: str | None = None,
    batching: BatchingPolicy | None = None,
    padding: Sequence[PaddingPolicy] = (),
    ranges: Ranges | None = None,
    more_tasks: Sequence[TaskEntry] = (),
    batchable: bool | None = None,
    reference: Reference | None = None,
    log_inputs: bool | None = None,
) -> Artifact:
    """Write a complete artifact to `directory`, which must be empty or not exist.

    The files are written to a temporary directory that is renamed at the end, so `directory` is never incomplete.
    `card` is the text of the model card, what its author declares (the rest is then written from the manifest), or a
    function that writes it from the manifest. `created_at` is UTC in ISO 8601, by default the current time. `batching`
    and `padding` are the model's requirements on the server, `ranges` its expected values (`measure_ranges`),
    `more_tasks` the tasks that it supports in addition to `task`; `batchable` says whether the rows of a batch are
    independent, `reference` what inputs and answers are usual; `log_inputs=False` forbids servers to log inputs. Raises
    InvalidInput naming the faulty field or file; nothing is left on disk then.
    """
    directory = Path(directory)
    _check_names(variants)
    with files.new_directory(directory) as target:
        variant_entries = tuple(_add_variant(target, source) for source in variants)
        golden_entry = None if golden is None else _add_golden(target, golden, signature)
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
                variants=variant_entries,
                golden=golden_entry,
                batching=batching,
                padding=tuple(padding),
                ranges=ranges,
                more_tasks=tuple(more_tasks),
                batchable=batchable,
            )
        except ValidationError as error:
            raise InvalidInput(describe(error)) from None
        manifest = _described(target, manifest, _card_text(card, manifest), reference, log_inputs)
        files.write_durable(target / MANIFEST, manifest.to_bytes())
    return Artifact.open(directory)


def _described(
    target: Path, manifest: Manifest, card: str, reference: Reference | None, log_inputs: bool | None
) -> Manifest:
    """The manifest with card and reference, whose files are written, and with what is said of inputs."""
    if log_inputs is not None:
        manifest = _permitting(manifest, log_inputs)
    if card:
        manifest = manifest.model_copy(update={"card": _add_bytes(target, CARD, card.encode())})
    return manifest if reference is None else _referring(target, manifest, reference)


def add_reference(artifact: Artifact, directory: Path, reference: Reference) -> Artifact:
    """Copy an artifact to `directory`, which must be empty or not exist, with a reference in place of any other.

    It has a digest of its own then. Raises IntegrityError naming a file that was altered.
    """
    replaced = artifact.manifest.reference
    with files.new_directory(Path(directory)) as target:
        for entry in artifact.manifest.files():
            if replaced is None or entry != replaced.file:
                files.copy_entry(artifact.path, entry, target)
        files.write_durable(target / MANIFEST, _referring(target, artifact.manifest, reference).to_bytes())
    return Artifact.open(directory)


def _referring(target: Path, manifest: Manifest, reference: Reference) -> Manifest:
    """The manifest with the reference, whose file is written."""
    entry = ReferenceEntry(file=_add_bytes(target, REFERENCE, reference.to_bytes()), rows=reference.rows)
    return _of_schema(manifest.model_copy(update={"reference": entry}), WITH_REFERENCE)


def permit(artifact: Artifact, directory: Path, log_inputs: bool) -> Artifact:
    """Copy an artifact to `directory`, which must be empty or not exist; the copy allows or forbids to log inputs.

    It has a digest of its own then. Raises IntegrityError naming a file that was altered.
    """
    with files.new_directory(Path(directory)) as target:
        for entry in artifact.manifest.files():
            files.copy_entry(artifact.path, entry, target)
        files.write_durable(target / MANIFEST, _permitting(artifact.manifest, log_inputs).to_bytes())
    return Artifact.open(directory)


def _permitting(manifest: Manifest, log_inputs: bool) -> Manifest:
    return _of_schema(manifest.model_copy(update={"log_inputs": log_inputs}), WITH_LOG_INPUTS)


def _of_schema(manifest: Manifest, least: SchemaVersion) -> Manifest:
    version = max(parse_version(manifest.schema_version), least)
    return manifest.model_copy(update={"schema_version": str(version)})


def _card_text(card: str | DeclaredCard | Callable[[Manifest], str], manifest: Manifest) -> str:
    if isinstance(card, str):
        return card
    return card_of(manifest, card) if isinstance(card, DeclaredCard) else card(manifest)


def _check_names(variants: Sequence[VariantSource]) -> None:
    names = [source.variant_name for source in variants]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(
                f"variants: two variants have the name {name!r}; choose another for one, VariantSource(…, name=…)",
                field="variants",
            )


def _add_bytes(target: Path, path: str, data: bytes) -> FileEntry:
    files.write_durable(target / path, data)
    return FileEntry(path=path, sha256=files.sha256_of(data), size=len(data))


def _add_variant(target: Path, source: VariantSource) -> Variant:
    if not is_variant_name(source.variant_name):
        raise InvalidInput(
            f"variants: {shown(source.variant_name)} is not a name of a variant; use 1 to 100 letters, digits, '.', "
            "'_' and '-', the first a letter or digit",
            field="variants",
        )
    directory = f"variants/{source.variant_name}"
    main = f"{directory}/model{source.source.suffix}"
    try:
        entries = [_add_file(target, main, source.source)]
        entries += [_add_file(target, f"{directory}/{name}", path) for name, path in _named(source.companions)]
        recipe = None if source.recipe is None else _add_bytes(target, f"{directory}/{RECIPE}", source.recipe)
        entries += [recipe] if recipe else []
        return Variant(
            name=source.variant_name,
            format=source.format,
            precision=source.precision,
            file=main,
            files=tuple(entries),
            architecture=source.architecture,
            architecture_args=dict(source.architecture_args),
            num_parameters=source.num_parameters,
            max_abs_error=source.max_abs_error,
            benchmark=None if source.benchmark is None else dict(source.benchmark),
            requires=tuple(source.requires),
            errors=source.errors,
            batch_invariant=source.batch_invariant,
            exporter=source.exporter,
            recipe=recipe.path if recipe else None,
            accepted=source.accepted,
        )
    except ValidationError as error:
        raise InvalidInput(f"variant {source.variant_name}: {describe(error)}") from None


def _named(companions: Sequence[Path] | Mapping[str, Path]) -> Iterable[tuple[str, Path]]:
    return companions.items() if isinstance(companions, Mapping) else ((path.name, path) for path in companions)


def _add_file(target: Path, path: str, source: Path) -> FileEntry:
    try:
        check_path(path)
        return files.add_file(source, target, path)
    except ValueError as error:
        raise InvalidInput(f"{source} cannot be added to an artifact: {error}", field="source") from None
    except FileExistsError:
        raise InvalidInput(f"{source}: the artifact already has a file {path}", field="source") from None


def _add_golden(target: Path, golden: Golden, signature: Signature) -> GoldenEntry:
    checked = golden.checked(signature)
    try:
        entry = _add_bytes(target, GOLDEN, checked.to_bytes())
        return GoldenEntry(file=entry, rows=checked.rows, atol=checked.atol, rtol=checked.rtol)
    except ValidationError as error:
        raise InvalidInput(f"golden: {describe(error)}", field="golden") from None
