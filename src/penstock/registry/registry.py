"""The registry: publishes and finds artifacts by `name:version` or `name@alias`, atomically."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from penstock.artifacts import files, refs
from penstock.artifacts.artifact import Artifact
from penstock.artifacts.refs import Ref, check_name, check_version, listed, no_alias, parse_ref, sorted_versions
from penstock.artifacts.signatures.signers import Signers
from penstock.artifacts.variant import MANIFEST, SIGNATURE
from penstock.errors import ConfigError, IntegrityError, InvalidInput, ModelNotFound
from penstock.formats import Trust
from penstock.registry import publishing
from penstock.registry.access.book import KeyBook
from penstock.registry.access.pepper import Peppers
from penstock.registry.database.reads import Reads
from penstock.registry.deployment import Change, Deployment
from penstock.registry.layout import Layout
from penstock.registry.route_book import RouteBook
from penstock.registry.routes import StoredRoute
from penstock.registry.staging import Staging
from penstock.scan.trust import at_least, check_trust, strongest

DEFAULT_PATH = Path("registry")
_LONGEST_REASON = 200

CHAMPION = "champion"
"""The alias of the version that a bare name means."""


class Registry:
    """A directory of artifacts, `<path>/<name>/<version>/`, and a database of their digests and aliases.

    Nothing is created before the first write: a registry that does not exist reads as an empty one, and a read-only one
    can be read. Threads and processes may share it. Writing raises ConfigError, in one sentence, if the directory or
    the database cannot be written. With `require_signed`, files of public keys, nothing is loaded unless one signed it.
    """

    def __init__(
        self, path: Path | str | None = None, database_url: str | None = None, require_signed: Iterable[Path | str] = ()
    ) -> None:
        self.path = Path(DEFAULT_PATH if path is None else path).absolute()
        self.database_url = database_url or f"sqlite:///{self.path / publishing.DATABASE}"
        self._reads = Reads(self.database_url, lasting=True)
        self._staging = Staging(self.path)
        self._sentences = self._staging.sentences
        self._layout = Layout(self.path)
        self.require_signed = tuple(map(Path, require_signed))
        self.signers = Signers.of(self.require_signed, "require_signed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database. Safe to call twice; any later call opens them again."""
        self._reads.close()

    @property
    def routes(self) -> RouteBook:
        """By which rules names resolve to versions."""
        return RouteBook(self, self._reads, self._writing)

    @property
    def keys(self) -> KeyBook:
        """The API keys of its servers."""
        return KeyBook(self._reads, self._writing, Peppers.beside(self.path, self.database_url))

    # Listing

    def list(self) -> builtins.list[str]:
        """The names that have at least one version, sorted."""
        return self._layout.names()

    def versions(self, name: str) -> builtins.list[str]:
        """A model's versions from low to high; empty for a model that does not exist."""
        return sorted_versions(self._layout.versions(check_name(name)))

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias, sorted by alias."""
        return self._reads.aliases(check_name(name))

    def artifacts(self, on_error: Callable[[IntegrityError], None] | None = None) -> Iterator[Artifact]:
        """Every artifact, by name and then from low to high version.

        The IntegrityError of a damaged one is passed to `on_error` and the artifact is left out; without `on_error` it
        is raised.
        """
        recorded = self._reads.digests()
        for name in self.list():
            for version in sorted_versions(self._layout.versions(name)):
                try:
                    yield self._open(name, version, recorded.get((name, version)))
                except IntegrityError as error:
                    if on_error is None:
                        raise
                    on_error(error)
                except ModelNotFound:
                    continue  # removed since it was listed

    def revision(self) -> str:
        """A text that changes when an alias or the set of versions changes; cheap enough to read every second."""
        return f"{self._reads.revision()}-{self._layout.fingerprint()}"

    # Lookup

    def resolve(self, ref: str | Ref) -> tuple[str, str]:
        """The exact name and version of a reference.

        A bare name is the version that was chosen: the one of its alias `champion`, or without that alias the
        `highest`. Raises InvalidInput for an invalid reference, ModelNotFound naming what exists.
        """
        wanted = ref if isinstance(ref, Ref) else parse_ref(ref)
        if wanted.alias is not None:
            return wanted.name, self._aliased(wanted.name, wanted.alias)
        if wanted.version is not None:
            self._require(wanted.name, wanted.version)
            return wanted.name, wanted.version
        if CHAMPION in self._reads.aliases(wanted.name):
            return wanted.name, self._aliased(wanted.name, CHAMPION)
        return wanted.name, self.highest(wanted.name)

    def highest(self, name: str) -> str:
        """A model's highest release or, without any release, its highest version. Raises ModelNotFound."""
        versions = self._known_versions(check_name(name))
        return next(filter(refs.is_release, reversed(versions)), versions[-1])

    def get(self, ref: str | Ref) -> Artifact:
        """The artifact of a reference, its manifest checked against the digest recorded when it was published.

        The other files are checked by `Artifact.verify`. The digest of a directory that was added by hand is recorded
        at its first use. Raises InvalidInput, ModelNotFound, or IntegrityError naming the file.
        """
        name, version = self.resolve(ref)
        return self._open(name, version, self._reads.digest(name, version))

    def _open(self, name: str, version: str, recorded: str | None) -> Artifact:
        place = self._require(name, version)
        try:
            artifact = Artifact.open(place)
        except IntegrityError:
            self._require(name, version)  # a version removed meanwhile is not found rather than damaged
            raise
        if (artifact.name, artifact.version) != (name, version):
            raise IntegrityError(f"{place / MANIFEST} says it is {artifact.ref}, its directory {name}:{version}")
        if (recorded or self._adopt(artifact)) != artifact.digest:
            raise IntegrityError(
                f"{place / MANIFEST} is not the one that was published (its digest differs); "
                f"remove {name}:{version} and publish it again"
            )
        return replace(artifact, signers=self.signers)

    def _adopt(self, artifact: Artifact) -> str:
        """Record the digest of a version without a record, if possible; the digest that is valid from now on."""
        with suppress(ConfigError):  # a read-only registry can be read
            return self._reads.store.adopt(artifact.name, artifact.version, artifact.digest)
        return artifact.digest

    def _aliased(self, name: str, alias: str) -> str:
        aliases = self._reads.aliases(name)
        if alias not in aliases:
            self._known_versions(name)
            raise no_alias(name, alias, aliases)
        version = aliases[alias]
        if self._layout.find(name, version) is None:
            raise ModelNotFound(f"{name}@{alias} points at version {version!r}, which is gone; set the alias again")
        return version

    def _require(self, name: str, version: str) -> Path:
        place = self._layout.find(check_name(name), check_version(version))
        if place is None:
            raise ModelNotFound(f"{name} has no version {version!r}; versions: {listed(self._known_versions(name))}")
        return place

    def _known_versions(self, name: str) -> builtins.list[str]:
        """The versions of a model, from low to high; raises ModelNotFound naming the models that exist."""
        versions = self.versions(name)
        if not versions:
            names = self.list()
            known = f"models: {listed(names)}" if names else f"{self.path} holds no models yet"
            raise ModelNotFound(f"there is no model {name!r} in the registry; {known}")
        return versions

    # Publishing

    def publish(
        self, source: Path | str, trust: str = "data", *, prove: bool = True, **additions: Unpack[publishing.Additions]
    ) -> Artifact:
        """Copy an artifact directory into the registry, verify every byte, and prove that it can be served.

        The proof loads the copy as a server does: its tasks with their settings, and a variant that agrees with the
        golden samples; `prove=False` does without, as for other machines. At any moment the version is complete or does
        not exist. Publishing the same artifact again returns the published one. No alias is set: without `champion` the
        bare name means the highest release. `trust` above data states that the source of this artifact is trusted: its
        digest is pinned to that tier, and every server of this registry may open it. `reference` are rows by input, as
        arrays or an .npz file, that drift is measured from; `log_inputs=False` forbids servers to log inputs. Raises
        IntegrityError naming the faulty file, Untrusted, another ModelLoadError for a failed proof, InvalidInput if the
        version exists with other content, ConfigError if the registry cannot be written.
        """
        with publishing.opened_source(source, trust, additions, self.signers) as artifact, self._sentences():
            published = self._published(artifact)
            if published is None:
                published = self._publish_new(artifact, trust, prove)
            else:
                self._pin(artifact, trust)
                self._carry_signature(artifact, published)
            return published or self.get(Ref(artifact.name, artifact.version))

    def _publish_new(self, artifact: Artifact, trust: str, prove: bool) -> Artifact | None:
        """Copy, scan and prove the copy, and rename it. The published artifact if another process was faster."""
        with self._staging.slot() as slot:
            self._reads.store.prepare()  # fails before the copy if the database cannot be written
            publishing.copy_verified(artifact, slot)
            tier = strongest(check_trust(trust), self.trusted(artifact.digest))
            publishing.require_trusted(artifact, slot, tier)
            if prove:
                publishing.prove_copy(artifact, tier, slot)
            with self._exclusive():
                published = self._published(artifact)
                if published is None:
                    self._pin(artifact, trust)  # before a server can see the version and refuse it
                    self._move_in(artifact, slot)
        return published

    def _pin(self, artifact: Artifact, trust: str) -> None:
        if not at_least(self.trusted(artifact.digest), trust):
            self._reads.store.trust(artifact.digest, trust, f"published as {artifact.ref}"[:_LONGEST_REASON])

    def _carry_signature(self, artifact: Artifact, published: Artifact) -> None:
        bundle = artifact.signature_bundle()
        if bundle not in (None, published.signature_bundle()):
            artifact.check_signed()
            self._staging.put_file(published.path / SIGNATURE, bundle)

    def _published(self, artifact: Artifact) -> Artifact | None:
        """The same artifact if it is published already; raises InvalidInput if the version has other content."""
        place = self._layout.find(artifact.name, artifact.version)
        if place is None:
            return None
        publishing.require_same(artifact, place)
        return self._open(artifact.name, artifact.version, self._reads.digest(artifact.name, artifact.version))

    def _move_in(self, artifact: Artifact, slot: Path) -> None:
        # The record comes first, so that every visible version has one; a record without a directory is ignored
        self._reads.store.record(artifact.name, artifact.version, artifact.digest)
        home = self.path / artifact.name
        home.mkdir(exist_ok=True)
        files.sync_directory(self.path)
        slot.rename(home / artifact.version)
        files.sync_directory(home)

    def add_signature(self, ref: str | Ref, bundle: bytes) -> Path:
        """Put what signs a version beside its manifest, as `model.sig`, in place of any other; returns its path."""
        with self._sentences():
            path = self._require(*self.resolve(ref)) / SIGNATURE
            self._staging.put_file(path, bundle)
        return path

    def publish_bundled(self, name: str, trust: str = "data", *, prove: bool = True) -> Artifact | None:
        """Publish every version of a model that an installed package ships; returns its default version.

        If the model is new, its default version gets the alias `champion`. A version of an earlier release, which has
        other content, stays as it is. None if no package ships the model.
        """
        new, default = not self.versions(name), None
        for source in publishing.shipped(name):
            kept = publishing.kept(source, self._layout.find)
            artifact = self.publish(source, trust, prove=prove) if kept is None else self.get(kept)
            if default is None and new and not self.aliases(name):
                # before the other versions are published, which another server could take for the default
                self.set_alias(name, CHAMPION, artifact.version, force=True)
            default = default or artifact
        return default

    def ensure(self, ref: str) -> None:
        """Publish the model of `ref` if it is not in the registry but an installed package ships it."""
        if not self.versions(refs.name_of(ref)):
            self.publish_bundled(refs.name_of(ref), prove=False)  # it is loaded next, which proves it

    # Trust

    def trusted(self, digest: str) -> Trust:
        """The tier that an artifact's digest is pinned to; data if it is not pinned."""
        tier = self._reads.trusted(digest)
        return "data" if tier is None else check_trust(tier, f"the trust of {digest} in the registry's database")

    def trust(self, digest: str, tier: str, reason: str = "") -> None:
        """Pin an artifact's digest to a tier: code or native allows its forms to run code, data revokes that.

        `reason` is recorded for a later review. Models that are loaded stay loaded.
        """
        check_trust(tier)
        if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            raise InvalidInput(f"digest: {digest!r} is not a sha256 of 64 hexadecimal digits", field="digest")
        with self._writing():
            self._reads.store.trust(digest, None if tier == "data" else tier, reason[:_LONGEST_REASON])

    # Aliases

    def set_alias(self, name: str, alias: str, version: str, *, force: bool = False, trust: str = "data") -> None:
        """Point an alias at an existing version, in place of its present one.

        The version is loaded first, as by a server with this `trust`; if that fails, its ModelLoadError is raised and
        the alias stays. `force` moves it without that, as for other machines.
        """
        check_name(alias, "alias")
        with self._sentences():
            self._require(name, version)
            now = self.aliases(name).get(alias)
            if not force and now != version:
                with self._exclusive():  # fails before the load if the registry cannot be written
                    pass
                artifact = self.get(Ref(name, version))
                tier = strongest(check_trust(trust), self.trusted(artifact.digest))
                publishing.prove_alias(artifact, tier, alias, now)
            with self._exclusive():
                self._require(name, version)
                self._reads.store.set_alias(name, alias, version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias; raises ModelNotFound naming the aliases that exist."""
        known = self.aliases(name)
        if check_name(alias, "alias") in known:
            with self._writing():
                if self._reads.store.remove_alias(name, alias):
                    return
        raise no_alias(name, alias, known)

    def deployment(self) -> Deployment:
        """What the servers of this registry should serve: aliases, and the loads and unloads of operators."""
        return self._reads.deployment()

    def change_deployment(self, change: Change) -> Deployment:
        """Change what every server of this registry should serve, in one transaction; the value that is stored now.

        `change` is a pure function, such as `lambda now: now.unload("digits")`. Servers follow within a second.
        """
        return self._reads.change_deployment(change)

    def set_route(self, name: str, document: Any, *, who: str | None = None, why: str = "", **more: Any) -> StoredRoute:
        """Set by which rules a name resolves to versions; `routes.set` has the same and `more` options."""
        return self.routes.set(name, document, who=who, why=why, **more)

    # Removing

    def remove(self, ref: str | Ref) -> None:
        """Remove one version, damaged or not. The reference must name the version.

        Raises InvalidInput if it does not or if an alias or a route names the version, and ModelNotFound.
        """
        wanted = ref if isinstance(ref, Ref) else parse_ref(ref)
        if wanted.version is None:
            raise InvalidInput(f"{wanted} does not name one version; write {wanted.name}:VERSION", field="ref")
        trash = self._staging.trash()
        with self._sentences():
            self._find_to_remove(wanted.name, wanted.version)
            with self._exclusive():
                place = self._find_to_remove(wanted.name, wanted.version)
                self.routes.refuse_removal(wanted.name, wanted.version)
                self._move_out(place, trash)
            files.discard(trash)

    def leftovers(self) -> builtins.list[Path]:
        """Directories that interrupted writers left behind."""
        return self._staging.leftovers()

    def stale_records(self) -> builtins.list[Ref]:
        """Versions with a recorded digest but without a directory: removed by hand, or never completed."""
        return [Ref(*key) for key in sorted(self._reads.digests()) if not (self.path / key[0] / key[1]).is_dir()]

    def sweep(self) -> builtins.list[Path]:
        """Remove the leftovers and the stale records; returns the leftovers removed."""
        if not self.path.is_dir():
            return []
        with self._writing():
            swept = self._staging.sweep()
            for ref in self.stale_records():  # not of a publish in progress: it holds the lock from record to rename
                self._reads.store.forget(ref.name, str(ref.version))
        return swept

    def _find_to_remove(self, name: str, version: str) -> Path:
        """As `_require`, but a link or a file in the place of a version is found as well."""
        with suppress(IntegrityError):
            return self._require(name, version)
        if (self.path / name).is_symlink():
            raise IntegrityError(f"{self.path / name} is a symbolic link; remove it by hand")
        return self.path / name / version

    def _move_out(self, place: Path, trash: Path) -> None:
        place.rename(trash)
        files.sync_directory(place.parent)
        self._reads.store.forget(place.parent.name, place.name)
        with suppress(OSError):
            place.parent.rmdir()  # fails while there are other versions

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude every other writer: by the lock file, and by the database for hosts that do not share file locks."""
        with self._staging.exclusive(), self._reads.store.exclusive():
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._sentences(), self._exclusive():
            yield
