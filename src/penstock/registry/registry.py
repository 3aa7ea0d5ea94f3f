"""The registry: publishes and finds artifacts by `name:version` or `name@alias`, atomically."""

from __future__ import annotations

import builtins
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from penstock.artifacts import files
from penstock.artifacts.artifact import Artifact
from penstock.artifacts.manifest import MANIFEST
from penstock.artifacts.refs import Ref, check_name, check_version, is_release, name_of, parse_ref, sorted_versions
from penstock.errors import ConfigError, IntegrityError, InvalidInput, ModelNotFound
from penstock.registry.staging import Staging
from penstock.scan.gate import require_allowed, scan_artifact
from penstock.scan.trust import Trust, at_least, check_trust, strongest

if TYPE_CHECKING:
    from penstock.registry.database.store import Store

DEFAULT_PATH = Path("registry")
DATABASE = "registry.db"
_SHOWN = 20
_LONGEST_REASON = 200


CHAMPION = "champion"
"""The alias of the version that answers, by convention."""


class Registry:
    """A directory of artifacts, `<path>/<name>/<version>/`, and a database of their digests and aliases.

    Nothing is created before the first write: a registry that is not there reads as an empty one, and one
    that cannot be written can be read. Threads and processes may share it. Writing raises ConfigError, in one
    sentence, when the directory or the database cannot be written.
    """

    def __init__(self, path: Path | str | None = None, database_url: str | None = None) -> None:
        self.path = Path(DEFAULT_PATH if path is None else path).absolute()
        self.database_url = database_url or f"sqlite:///{self.path / DATABASE}"
        self._staging = Staging(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database. Safe to call twice; a later call of anything opens them again."""
        if "_store" in self.__dict__:
            self._store.close()

    @cached_property
    def _store(self) -> Store:
        from penstock.registry.database.store import Store  # SQLAlchemy takes a quarter of a second to import

        return Store(self.database_url)

    # What there is

    def list(self) -> builtins.list[str]:
        """The names that have at least one version, sorted."""
        return sorted(name for name in _directories(self.path, root=True) if _is_name(name) and self._versions(name))

    def versions(self, name: str) -> builtins.list[str]:
        """A model's versions from low to high, none for a model that is not there."""
        return sorted_versions(self._versions(check_name(name)))

    def aliases(self, name: str) -> dict[str, str]:
        """Version by alias, sorted by alias."""
        return self._store.aliases(check_name(name))

    def artifacts(self, on_error: Callable[[IntegrityError], None] | None = None) -> Iterator[Artifact]:
        """Every artifact, by name and then from low to high version.

        One that cannot be trusted is handed to `on_error` and left out; without it, it raises.
        """
        recorded = self._store.digests()
        for name in self.list():
            for version in sorted_versions(self._versions(name)):
                try:
                    yield self._open(name, version, recorded.get((name, version)))
                except IntegrityError as error:
                    if on_error is None:
                        raise
                    on_error(error)
                except ModelNotFound:
                    continue  # removed since it was listed

    def revision(self) -> str:
        """A text that changes whenever aliases or the set of versions change; cheap enough to ask every second."""
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(_directories(self.path, root=True)):
            with suppress(OSError):
                status = (self.path / name).stat()
                digest.update(f"{name}/{status.st_ino}/{status.st_nlink}/{status.st_mtime_ns}\n".encode())
        return f"{self._store.revision()}-{digest.hexdigest()}"

    # Finding one

    def resolve(self, ref: str | Ref) -> tuple[str, str]:
        """The exact name and version that a reference means; a bare name means its highest release.

        Where there is no release, the highest version. Raises InvalidInput for what is no reference and
        ModelNotFound naming the models, versions or aliases there are.
        """
        wanted = ref if isinstance(ref, Ref) else parse_ref(ref)
        if wanted.alias is not None:
            return wanted.name, self._aliased(wanted.name, wanted.alias)
        if wanted.version is not None:
            self._require(wanted.name, wanted.version)
            return wanted.name, wanted.version
        versions = self._known_versions(wanted.name)
        return wanted.name, next(filter(is_release, reversed(versions)), versions[-1])

    def get(self, ref: str | Ref) -> Artifact:
        """The artifact a reference means, its manifest checked against the digest recorded at publish.

        The other files are checked by `Artifact.verify`. A directory that was put there by hand is recorded at
        first sight. Raises InvalidInput, ModelNotFound, or IntegrityError naming the file.
        """
        name, version = self.resolve(ref)
        return self._open(name, version, self._store.digest(name, version))

    def _open(self, name: str, version: str, recorded: str | None) -> Artifact:
        place = self._require(name, version)
        try:
            artifact = Artifact.open(place)
        except IntegrityError:
            self._require(name, version)  # gone meanwhile: not found, rather than damaged
            raise
        if (artifact.name, artifact.version) != (name, version):
            raise IntegrityError(f"{place / MANIFEST} says it is {artifact.ref}, its directory {name}:{version}")
        if (recorded or self._adopted(artifact)) != artifact.digest:
            raise IntegrityError(
                f"{place / MANIFEST} is not the one that was published (its digest differs); "
                f"remove {name}:{version} and publish it again"
            )
        return artifact

    def _adopted(self, artifact: Artifact) -> str:
        """The digest that counts for a version without a record: its own from now on."""
        with suppress(ConfigError):  # reading must work where nothing can be written
            return self._store.adopt(artifact.name, artifact.version, artifact.digest)
        return artifact.digest

    def _aliased(self, name: str, alias: str) -> str:
        aliases = self._store.aliases(name)
        if alias not in aliases:
            self._known_versions(name)
            known = f"aliases: {_joined(aliases)}" if aliases else "it has no aliases"
            raise ModelNotFound(f"{name} has no alias {alias!r}; {known}")
        version = aliases[alias]
        if self._place(name, version) is None:
            raise ModelNotFound(f"{name}@{alias} points at version {version!r}, which is gone; set the alias again")
        return version

    def _require(self, name: str, version: str) -> Path:
        place = self._place(check_name(name), check_version(version))
        if place is None:
            raise ModelNotFound(f"{name} has no version {version!r}; versions: {_joined(self._known_versions(name))}")
        return place

    def _place(self, name: str, version: str) -> Path | None:
        """The directory of a version, None without; raises IntegrityError for links and files in its place."""
        place = self.path / name / version
        for directory in (place.parent, place):
            kind = _kind(directory)
            if kind == 0:
                return None
            if kind == stat.S_IFLNK:
                raise IntegrityError(f"{directory} is a symbolic link; a registry holds plain directories only")
            if kind != stat.S_IFDIR:
                raise IntegrityError(f"{directory} is not a directory")
        return place

    def _versions(self, name: str) -> builtins.list[str]:
        return [version for version in _directories(self.path / name) if _is_version(version)]

    def _known_versions(self, name: str) -> builtins.list[str]:
        """The versions of a model, from low to high; raises ModelNotFound naming the models there are."""
        versions = self.versions(name)
        if not versions:
            names = self.list()
            known = f"models: {_joined(names)}" if names else f"{self.path} holds no models yet"
            raise ModelNotFound(f"there is no model {name!r} in the registry; {known}")
        return versions

    # Changing it

    def publish(self, source: Path | str, trust: str = "data") -> Artifact:
        """Copy an artifact directory into the registry, checking every byte on the way.

        At any moment the version is there completely or not at all. Publishing the same artifact again returns
        the one there is. `trust` above data says that you trust where this artifact comes from: its digest is pinned
        to that tier, and every server of this registry may open it. Raises IntegrityError naming the faulty file of
        the source, Untrusted for a form that needs more trust, InvalidInput when the version exists with another
        content, ConfigError when the registry cannot be written.
        """
        check_trust(trust)
        artifact = Artifact.open(_resolved(Path(source)))
        _refuse_reserved(artifact.name)
        with self._sentences():
            published = self._published(artifact)
            if published is None:
                published = self._taken_in(artifact, trust)
            else:
                self._pin(artifact, trust)
        return published or self.get(Ref(artifact.name, artifact.version))

    def _taken_in(self, artifact: Artifact, trust: str) -> Artifact | None:
        """Copy, scan the copy and move it in. The artifact where another process was faster, else None."""
        with self._staging.slot() as slot:
            self._store.prepare()  # a database that cannot be written is found before the copying
            _copy(artifact, slot)
            self._scan(artifact, slot, trust)
            with self._exclusive():
                published = self._published(artifact)
                if published is None:
                    self._pin(artifact, trust)  # before a server can see it and find it untrusted
                    self._move_in(artifact, slot)
        return published

    def _pin(self, artifact: Artifact, trust: str) -> None:
        if not at_least(self.trusted(artifact.digest), trust):
            self._store.trust(artifact.digest, trust, f"published as {artifact.ref}"[:_LONGEST_REASON])

    def _scan(self, artifact: Artifact, slot: Path, trust: str) -> None:
        """Refuse what nobody trusts: the copy is scanned, which no one else can change, and the source is named."""
        trust = strongest(trust, self.trusted(artifact.digest))
        for report in scan_artifact(replace(artifact, path=slot)):
            require_allowed(replace(report, path=artifact.path / report.path.relative_to(slot)), trust)

    def _published(self, artifact: Artifact) -> Artifact | None:
        """The same artifact where it is published already; raises InvalidInput where another has its version."""
        place = self._place(artifact.name, artifact.version)
        if place is None:
            return None
        there = Artifact.open(place)
        if there.digest != artifact.digest:
            raise InvalidInput(
                f"{artifact.ref} already exists with another content; publish under another version or remove it first",
                field="version",
            )
        there.verify()
        return self._open(artifact.name, artifact.version, self._store.digest(artifact.name, artifact.version))

    def _move_in(self, artifact: Artifact, slot: Path) -> None:
        # The record comes first: a version that can be seen has one; a record without a directory counts for nothing
        self._store.record(artifact.name, artifact.version, artifact.digest)
        home = self.path / artifact.name
        home.mkdir(exist_ok=True)
        files.sync_directory(self.path)
        slot.rename(home / artifact.version)
        files.sync_directory(home)

    def publish_bundled(self, name: str, trust: str = "data") -> Artifact | None:
        """Publish every version of a model that an installed package ships; the one that it lets answer.

        None when no package ships a model of that name.
        """
        published = [self.publish(source, trust) for source in _shipped(name)]
        return published[0] if published else None

    def ensure(self, ref: str) -> None:
        """Publish the model that `ref` names when it is not here but ships in an installed package.

        Of what is published so, the version that the package lets answer is the champion.
        """
        name = name_of(ref)
        if self.versions(name):
            return
        for number, source in enumerate(_shipped(name)):
            artifact = self.publish(source)
            if number == 0 and not self.aliases(name):  # before the others, which another server must not take for it
                self.set_alias(name, CHAMPION, artifact.version)

    def trusted(self, digest: str) -> Trust:
        """The tier that an artifact's digest was pinned to; data for any other."""
        tier = self._store.trusted(digest)
        return "data" if tier is None else check_trust(tier, f"the trust of {digest} in the registry's database")

    def trust(self, digest: str, tier: str, reason: str = "") -> None:
        """Pin an artifact's digest to a tier: code or native lets its forms run code here, data takes that back.

        `reason` says why, for whoever reviews it later. Models that are loaded stay so.
        """
        check_trust(tier)
        if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            raise InvalidInput(f"digest: {digest!r} is not a sha256 of 64 hexadecimal digits", field="digest")
        with self._sentences(), self._exclusive():
            self._store.trust(digest, None if tier == "data" else tier, reason[:_LONGEST_REASON])

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version that exists, in place of the one it pointed at."""
        check_name(alias, "alias")
        with self._sentences():
            self._require(name, version)
            with self._exclusive():
                self._require(name, version)
                self._store.set_alias(name, alias, version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Drop an alias; raises ModelNotFound naming the aliases there are."""
        known = self.aliases(name)
        if check_name(alias, "alias") in known:
            with self._sentences(), self._exclusive():
                if self._store.remove_alias(name, alias):
                    return
        raise ModelNotFound(
            f"{name} has no alias {alias!r}; " + (f"aliases: {_joined(known)}" if known else "it has no aliases")
        )

    def remove(self, ref: str | Ref) -> None:
        """Remove one version, whatever state it is in. The reference must name the version.

        Raises InvalidInput when it does not or an alias points at the version, and ModelNotFound.
        """
        wanted = ref if isinstance(ref, Ref) else parse_ref(ref)
        if wanted.version is None:
            raise InvalidInput(f"{wanted} does not name one version; write {wanted.name}:VERSION", field="ref")
        trash = self._staging.trash()
        with self._sentences():
            self._find_to_remove(wanted.name, wanted.version)
            with self._exclusive():
                place = self._find_to_remove(wanted.name, wanted.version)
                self._refuse_aliased(wanted.name, wanted.version)
                self._move_out(place, trash)
            files.discard(trash)

    def leftovers(self) -> builtins.list[Path]:
        """What interrupted writers left behind and nobody alive holds."""
        return self._staging.leftovers()

    def stale_records(self) -> builtins.list[Ref]:
        """Versions with a recorded digest that are not there: removed by hand, or never finished."""
        return [Ref(*key) for key in sorted(self._store.digests()) if not (self.path / key[0] / key[1]).is_dir()]

    def sweep(self) -> builtins.list[Path]:
        """Remove the leftovers and forget the stale records; what was removed."""
        if not self.path.is_dir():
            return []
        with self._sentences(), self._exclusive():
            swept = self._staging.sweep()
            for ref in self.stale_records():  # whoever publishes right now holds the lock from its record to its move
                self._store.forget(ref.name, str(ref.version))
        return swept

    def _find_to_remove(self, name: str, version: str) -> Path:
        """As `_require`, but a link or a file in the place of a version is no reason not to remove it."""
        with suppress(IntegrityError):
            return self._require(name, version)
        if (self.path / name).is_symlink():
            raise IntegrityError(f"{self.path / name} is a symbolic link; remove it by hand")
        return self.path / name / version

    def _refuse_aliased(self, name: str, version: str) -> None:
        pointing = [alias for alias, target in self._store.aliases(name).items() if target == version]
        if pointing:
            raise InvalidInput(
                f"{name}:{version} cannot be removed while an alias points at it: {_joined(pointing)}", field="ref"
            )

    def _move_out(self, place: Path, trash: Path) -> None:
        place.rename(trash)
        files.sync_directory(place.parent)
        self._store.forget(place.parent.name, place.name)
        with suppress(OSError):
            place.parent.rmdir()  # refused by the system while there are other versions

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep every other writer out: by the lock file, and by the database where hosts do not share such locks."""
        with self._staging.exclusive(), self._store.exclusive():
            yield

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turns what the system says about a registry that cannot be written into one sentence."""
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"the registry {self.path} cannot be written ({error.strerror or error}); "
                "give this user write access to it or choose another"
            ) from None


def _shipped(name: str) -> tuple[Path, ...]:
    """The artifacts of a model that an installed package ships, the one that answers first."""
    from penstock.artifacts.bundled import bundled, versions_in

    home = bundled().get(name)
    return () if home is None else versions_in(home)


def _resolved(source: Path) -> Path:
    """Where a source really is: a link to an artifact may be published, one inside it may not."""
    try:
        return source.resolve()
    except (RuntimeError, OSError):
        raise IntegrityError(f"{source} is a symbolic link to itself") from None


def _copy(artifact: Artifact, target: Path) -> None:
    """Every file of an artifact and nothing else, durably; raises IntegrityError naming one that is not as listed."""
    files.check_tree(artifact.path, {entry.path: entry for entry in artifact.manifest.files()}, MANIFEST)
    manifest = files.read_plain(artifact.path / MANIFEST)
    if files.sha256_of(manifest) != artifact.digest:
        raise IntegrityError(f"{artifact.path / MANIFEST} changed while it was being published")
    for entry in artifact.manifest.files():
        files.copy_entry(artifact.path, entry, target)
    files.write_durable(target / MANIFEST, manifest)
    files.sync_tree(target)


def _directories(path: Path, *, root: bool = False) -> list[str]:
    """The real directories in `path`, none when it is not there; raises ConfigError when it cannot be read.

    Where there is a file instead, the `root` of a registry cannot be; anything below it is just not a model.
    """
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        if root:
            raise ConfigError(
                f"the registry cannot be at {path}: that is, or lies below, a file and not a directory"
            ) from None
        return []
    except OSError as error:
        raise _unreadable(path, error) from None


def _kind(path: Path) -> int:
    """The type of a file as in `stat.S_IFMT`, links not followed; 0 when there is none."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be read ({error.strerror}); give this user read access to the registry")


def _is_name(name: str) -> bool:
    with suppress(InvalidInput):
        return bool(check_name(name))
    return False


def _is_version(version: str) -> bool:
    with suppress(InvalidInput):
        return bool(check_version(version))
    return False


def _refuse_reserved(name: str) -> None:
    if name.startswith(DATABASE):
        raise InvalidInput(f"name: {name!r} is the name of the registry's own database; choose another", field="name")


def _joined(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
