"""The steps of a publish that need no database: checks of the source, the verified copy, and the scan of the copy."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from penstock.artifacts import files
from penstock.artifacts.artifact import Artifact, permit
from penstock.artifacts.manifest import MAX_BYTES
from penstock.artifacts.refs import Ref
from penstock.artifacts.signatures.signers import Signers
from penstock.artifacts.variant import MANIFEST, SIGNATURE
from penstock.errors import IntegrityError, InvalidInput, ModelLoadError
from penstock.formats import Trust
from penstock.libraries import import_attribute
from penstock.scan.gate import require_allowed, scan_artifact
from penstock.scan.trust import check_trust

log = logging.getLogger(__name__)

DATABASE = "registry.db"
"""The file of the default database; no model may have its name."""

PROOF = "penstock.engine.loading.load:prove_artifact"
"""What loads an artifact as a server does; imported by its name, since the registry lies below the engine."""

FIELDS = "penstock.tasks.catalog:request_fields"
"""What knows the fields of requests; imported by its name, since the registry lies below the tasks."""

REFERENCE = "penstock.toolchain.publishing.referencing:with_reference"
"""What runs an artifact on reference rows; imported by its name, since the registry lies below the toolchain."""

Rows: TypeAlias = Mapping[str, Any] | Path | str
"""Rows for a reference: arrays by input, or an .npz file of them."""


class Additions(TypedDict, total=False):
    """What a version gets beside what its source says: see `Registry.publish`."""

    reference: Rows | None
    log_inputs: bool | None


def open_source(source: Path | str) -> Artifact:
    """The artifact to publish. A link to an artifact is followed, a link inside one is refused."""
    artifact = Artifact.open(_resolved(Path(source)))
    if artifact.name.startswith(DATABASE):
        raise InvalidInput(
            f"name: {artifact.name!r} is the name of the registry's own database; choose another", field="name"
        )
    return artifact


@contextmanager
def opened_source(source: Path | str, trust: str, additions: Additions, signers: Signers | None) -> Iterator[Artifact]:
    """The artifact to publish; with `reference`, a copy of it that has the reference that its answers make, with
    `log_inputs` one that allows or forbids to log inputs.
    """
    check_trust(trust)
    artifact = replace(open_source(source), signers=signers)
    reference, log_inputs = additions.get("reference"), additions.get("log_inputs")
    with tempfile.TemporaryDirectory(prefix="penstock-publish-") as scratch:
        if reference is not None:
            artifact = import_attribute(REFERENCE)(artifact, reference, Path(scratch) / "referring", trust)
        if log_inputs is not None and artifact.manifest.log_inputs is not log_inputs:
            artifact = permit(artifact, Path(scratch) / "permitting", log_inputs)
        yield replace(artifact, signers=signers)


def request_fields(artifact: Artifact) -> tuple[str, ...]:
    """The fields of a request for any task of an artifact; nothing where they are not known."""
    entries = ((entry.kind, entry.config) for entry in artifact.manifest.tasks())
    found: tuple[str, ...] = import_attribute(FIELDS)(entries, artifact.signature)
    return found


def kept(source: Path, find: Callable[[str, str], Path | None]) -> Ref | None:
    """The version in the registry that has other content than `source`, which a package ships; the log says so."""
    shipped = open_source(source)
    place = find(shipped.name, shipped.version)
    if place is None or Artifact.open(place).digest == shipped.digest:
        return None
    log.warning(
        "%s stays as it was published: the installed package ships it with other content; to have that, remove the "
        "version (penstock models remove %s) and publish it again",
        shipped.ref,
        shipped.ref,
    )
    return Ref(shipped.name, shipped.version)


def _resolved(source: Path) -> Path:
    try:
        return source.resolve()
    except (RuntimeError, OSError):
        raise IntegrityError(f"{source} is a symbolic link to itself") from None


def prove_copy(artifact: Artifact, trust: Trust, copy: Path) -> None:
    """Load a copy of an artifact's files as a server does. Raises ModelLoadError naming the files of the source."""
    try:
        import_attribute(PROOF)(replace(artifact, path=copy), trust)
    except ModelLoadError as error:
        sentence = str(error).replace(str(copy), str(artifact.path))
        raise type(error)(f"{sentence}; only prove=False publishes it all the same") from error


def prove(artifact: Artifact, trust: Trust) -> None:
    """Load an artifact as a server does. Raises ModelLoadError."""
    import_attribute(PROOF)(artifact, trust)


def prove_alias(artifact: Artifact, trust: Trust, alias: str, now: str | None) -> None:
    """Load an artifact as a server does, before an alias moves to it from the version `now`. Raises ModelLoadError."""
    try:
        prove(artifact, trust)
    except ModelLoadError as error:
        stays = f"stays at {now}" if now is not None else "is not set"
        raise type(error)(
            f"{artifact.name}@{alias} {stays}, since this machine cannot load the version: {error}; "
            "only force=True moves it all the same"
        ) from error


def shipped(name: str) -> tuple[Path, ...]:
    """The artifacts of a model that an installed package ships, the default version first."""
    from penstock.artifacts.bundled import bundled, versions_in

    home = bundled().get(name)
    return () if home is None else versions_in(home)


def require_same(artifact: Artifact, place: Path) -> None:
    """Raise InvalidInput unless the version that is published at `place` is the same artifact, and undamaged."""
    existing = Artifact.open(place)
    if existing.digest != artifact.digest:
        raise InvalidInput(
            f"{artifact.ref} already exists with other content; publish under another version or remove it first",
            field="version",
        )
    existing.verify()


def copy_verified(artifact: Artifact, target: Path) -> None:
    """Copy the files and the signature durably; raises IntegrityError naming one that differs from the manifest."""
    artifact.check_files()
    manifest = files.read_plain(artifact.path / MANIFEST, MAX_BYTES)
    if files.sha256_of(manifest) != artifact.digest:
        raise IntegrityError(f"{artifact.path / MANIFEST} changed while it was being published")
    for entry in artifact.manifest.files():
        files.copy_entry(artifact.path, entry, target)
    files.write_durable(target / MANIFEST, manifest)
    signature = artifact.signature_bundle()
    if signature is not None:
        files.write_durable(target / SIGNATURE, signature)
    files.sync_tree(target)


def require_trusted(artifact: Artifact, copy: Path, trust: Trust) -> None:
    """Scan the copy, which no other process can change; errors name the files of the source.

    Raises Untrusted for a file that needs more trust, IntegrityError for one that is refused at any trust.
    """
    for report in scan_artifact(replace(artifact, path=copy)):
        require_allowed(replace(report, path=artifact.path / report.path.relative_to(copy)), trust)
