"""The routes of a registry: set, switched, removed, and their history. `Registry.routes` is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from penstock.artifacts.artifact import Artifact
from penstock.artifacts.refs import Ref, check_name, listed, shown
from penstock.errors import InvalidInput, ModelLoadError, ModelNotFound, quoted
from penstock.formats import Trust
from penstock.registry import publishing
from penstock.registry.audit import Entry, acting, actor
from penstock.registry.database.reads import FILE, Reads
from penstock.registry.rollouts.splits import following
from penstock.registry.routes import Arm, Route, Routes, StoredRoute, parse_record, parse_route
from penstock.scan.trust import check_trust, strongest
from penstock.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penstock.registry.rollouts.book import Canaries

MOST_ENTRIES = 1000


class Models(Protocol):
    """What a route is checked against; a `Registry` is one."""

    def get(self, ref: str | Ref) -> Artifact:
        """The artifact of a reference. Raises ModelNotFound."""

    def aliases(self, name: str) -> Mapping[str, str]:
        """Version by alias."""

    def trusted(self, digest: str) -> Trust:
        """The tier that a digest is pinned to."""


class RouteBook:
    """The routes of one registry. Every change is one transaction with its row in the audit log."""

    def __init__(self, models: Models, reads: Reads, writing: Callable[[], AbstractContextManager[None]]) -> None:
        """`writing` excludes the other writers of the registry."""
        self._models = models
        self._reads = reads
        self._writing = writing

    # Reading

    def all(self) -> Routes:
        """Every route, as of one revision. Raises ConfigError where the database cannot be read."""
        return self._reads.routes()

    def revision(self) -> int:
        """A counter that every change of a route increases; cheap enough to read several times a second."""
        return self._reads.routes_revision()

    @property
    def known(self) -> bool:
        """True if the database was there before, so that none is made in its place while it is gone."""
        return self._reads.known

    def starting(self, folder: Path) -> AbstractContextManager[None]:
        """While a server starts: where the database cannot be read, what was kept of it in the folder counts."""
        return self._reads.starting(folder / FILE)

    def keep(self, folder: Path) -> None:
        """Keep what the database says in the folder. Raises ConfigError or OSError."""
        self._reads.keep(folder / FILE)

    @property
    def canaries(self) -> Canaries:
        """The canaries of the routes."""
        from penstock.registry.rollouts.book import Canaries  # imports SQLAlchemy

        return Canaries(self._reads.store)

    def has_canaries(self) -> bool:
        """True while a canary of any route is watched; cheap enough to read several times a second."""
        found = self._reads.has_canaries()
        return bool(self.canaries.live()) if found is None else found

    def get(self, name: str) -> StoredRoute:
        """The route of a name. Raises ModelNotFound naming the routes that exist."""
        routes = self.all()
        found = routes.get(check_name(name))
        if found is None:
            if name in routes.broken:
                raise InvalidInput(routes.broken[name], field="name")
            raise _no_route(name, routes)
        return found

    def audit(self, limit: int = 100) -> list[Entry]:
        """The newest changes of this registry, the newest first: routes, aliases, versions, loads, unloads, trust."""
        return self._entries(limit, "")

    def history(self, name: str, limit: int = 100) -> list[Entry]:
        """The newest changes of one route, the newest first; also of one that was removed."""
        return self._entries(limit, _what(check_name(name), ""))

    def _entries(self, limit: int, prefix: str) -> list[Entry]:
        from penstock.registry.database import routes  # SQLAlchemy takes a quarter of a second to import

        count = max(1, min(limit, MOST_ENTRIES))
        return self._reads.store.read(lambda connection: routes.entries(connection, count, prefix), [])

    # Changing

    def set(
        self,
        name: str,
        document: Any,
        *,
        who: str | None = None,
        why: str = "",
        force: bool = False,
        again: bool = False,
        trust: str = "data",
        loaded: Callable[[str], bool] = lambda _: False,
    ) -> StoredRoute:
        """Set the route of a name, in place of its present one; every server follows within a second.

        `document` is the JSON of a route. A `revision` in it must be that of the present route: it was changed
        meanwhile otherwise. Versions that the present route does not name are loaded first, as by a server with this
        `trust`; if that fails, its ModelLoadError is raised and the route stays. `force` sets it without that, and so
        does `loaded` for a `name:version` that is known to load. A version that a canary of this name has rolled back
        gets requests only with `again`, in the call or in the document. The salt, and with it the place of every key,
        stays while the route lives. `who` is by default the user of this process.

        Raises InvalidInput naming the field, ModelNotFound for an unknown model, ConfigError.
        """
        route = parse_route(name, document)
        self._check_field(route)
        change = _Change("set", _revision(name, document), again or _again(name, document))
        skip: Callable[[str], bool] = (lambda _: True) if force else loaded
        with acting(who, why or route.why):
            return self._set(route, change, check_trust(trust), skip)

    def _set(self, route: Route, change: _Change, trust: Trust, skip: Callable[[str], bool]) -> StoredRoute:
        route = replace(self.checked(route), why=actor().why)
        self._prove(route, trust, skip=skip)
        return self._write(route, change)

    def switch(
        self,
        name: str,
        to: str,
        *,
        who: str | None = None,
        why: str = "",
        force: bool = False,
        again: bool = False,
        trust: str = "data",
        loaded: Callable[[str], bool] = lambda _: False,
    ) -> StoredRoute:
        """Send all requests to one version. The versions before stay loaded, at weight 0, so that `back` is instant."""
        found = self.all().get(check_name(name))
        if found is None:
            before = self._models.get(name).version
            route = Route(name, (Arm(before, 100),))
        else:
            route = found.route
        version = self._version(name, to)
        if found is not None and route.canary is None and route.serving == (version,):
            return found
        skip: Callable[[str], bool] = (lambda _: True) if force else loaded
        with acting(who, why):
            change = _Change("switch", 0 if found is None else found.revision, again)
            return self._set(route.switched(version), change, check_trust(trust), skip)

    def back(self, name: str, *, who: str | None = None, why: str = "", again: bool = False) -> StoredRoute:
        """Set the route that was in force before its last change, also a removed one. Raises ModelNotFound."""
        last = next((entry for entry in self.history(name, 1) if entry.before is not None), None)
        if last is None:
            raise ModelNotFound(f"the route {name} has no earlier state to go back to")
        route = replace(parse_record(name, last.before), canary=None)
        with acting(who, why or "back to the route before"):
            return self._write(replace(self.checked(route), why=actor().why), _Change("back", None, again))

    def remove(self, name: str, *, who: str | None = None, why: str = "") -> None:
        """Remove the route of a name, which then means its alias champion again, or its highest release.

        Raises ModelNotFound.
        """
        from penstock.registry.database import routes

        def work(connection: Connection) -> None:
            _refuse_canary(routes.read(connection).get(name))
            if not routes.drop(connection, name, _what(name, "remove")):
                raise _no_route(name, routes.read(connection))

        self._readable(name)
        with acting(who, why), self._writing():
            self._reads.store.write(work)

    def refuse_removal(self, name: str, version: str) -> None:
        """Raises InvalidInput if an alias points at the version, or a route names it."""
        pointing = [alias for alias, target in self._models.aliases(name).items() if target == version]
        if pointing:
            raise InvalidInput(
                f"{name}:{version} cannot be removed while an alias points at it: {listed(pointing)}", field="ref"
            )
        found = self.all().get(name)
        if found is not None and version in found.route.versions:
            raise InvalidInput(
                f"{name}:{version} cannot be removed while the route {name} names it; change the route first",
                field="ref",
            )

    def _write(self, route: Route, change: _Change) -> StoredRoute:
        from penstock.registry.database import routes

        name, expected = route.name, change.expected

        def work(connection: Connection) -> StoredRoute:
            found = routes.read(connection).get(name)
            if expected is not None and expected != (0 if found is None else found.revision):
                raise InvalidInput(
                    f"route {name}: revision: it was changed meanwhile, to revision "
                    f"{0 if found is None else found.revision}; read it again",
                    field="revision",
                )
            _refuse_canary(found)
            if not change.again:
                _refuse_rejected(connection, route, found)
            now = following(route, None if found is None else found.route)
            if found is not None and now == found.route:
                return found
            return routes.put(connection, now, _what(name, change.deed))

        with self._writing():
            self._digests(route)  # no version was removed meanwhile
            return self._reads.store.write(work)

    # Checking

    def _readable(self, name: str) -> None:
        routes = self.all()
        if check_name(name) not in {*routes.stored, *routes.broken}:
            raise _no_route(name, routes)

    def checked(self, route: Route) -> Route:
        """The route with exact versions and their digests. Raises InvalidInput naming the field."""
        self._models.get(route.name)  # the name exists at all
        route = route.resolved(lambda version: self._version(route.name, version))
        parse_route(route.name, route.to_document())  # two arms may be one version by now
        artifacts = {version: self._artifact(route, version) for version in route.versions}
        first = artifacts[route.primary]
        for version, artifact in artifacts.items():
            why = _difference(first, artifact)
            if why:
                raise InvalidInput(
                    f"route {route.name}: {_path(route, version)}: {version} does not take the requests of "
                    f"{first.version}: {why}; versions of one route have one signature",
                    field=_path(route, version),
                )
        return replace(route, digests={version: artifact.digest for version, artifact in artifacts.items()})

    def _check_field(self, route: Route) -> None:
        """Raises InvalidInput for clients that would be told apart by a field that no request has."""
        if route.sticky.by != "field":
            return
        artifact = self._models.get(Ref(route.name, self._version(route.name, route.primary)))
        fields = publishing.request_fields(artifact)
        if fields and route.sticky.name not in fields:
            raise InvalidInput(
                f"route {route.name}: sticky.name: requests of {artifact.ref} have no field "
                f"{quoted(route.sticky.name)}; there are {listed(fields)}",
                field="sticky.name",
            )

    def _digests(self, route: Route) -> None:
        for version, digest in route.digests.items():
            if self._artifact(route, version).digest != digest:
                raise InvalidInput(f"route {route.name}: {version} was published again meanwhile; try again")

    def _artifact(self, route: Route, version: str) -> Artifact:
        try:
            return self._models.get(Ref(route.name, version))
        except ModelNotFound as error:
            path = _path(route, version)
            raise InvalidInput(f"route {route.name}: {path}: {error}", field=path) from None

    def _version(self, name: str, version: str) -> str:
        """The version itself, or the one of an `@alias` now."""
        if not version.startswith("@"):
            return version
        aliases = self._models.aliases(name)
        if version[1:] not in aliases:
            known = listed(aliases) or "none"
            raise InvalidInput(f"route {name}: {name} has no alias {version[1:]!r}; aliases: {known}", field="arms")
        return aliases[version[1:]]

    def _prove(self, route: Route, trust: Trust, *, skip: Callable[[str], bool]) -> None:
        """Load the versions that are new in a route, as a server does. Raises ModelLoadError."""
        found = self.all().get(route.name)
        known = {} if found is None else found.route.digests
        for version, digest in route.digests.items():
            if known.get(version) == digest or skip(f"{route.name}:{version}"):
                continue
            artifact = self._models.get(Ref(route.name, version))
            try:
                publishing.prove(artifact, strongest(trust, self._models.trusted(digest)))
            except ModelLoadError as error:
                raise type(error)(
                    f"route {route.name} is not changed, since this machine cannot load {artifact.ref}: {error}; "
                    "only force=True sets it all the same"
                ) from error


class _Change(NamedTuple):
    """What is done to a route: its name in the audit log, the revision that it must have, and the consent to versions
    that were rolled back.
    """

    deed: str
    expected: int | None
    again: bool


def _refuse_rejected(connection: Connection, route: Route, before: StoredRoute | None) -> None:
    """Raises InvalidInput for a version that is to get requests although a canary of it was rolled back.

    One that gets requests already stays: somebody has consented to it.
    """
    from penstock.registry.rollouts.sql import rejected

    known = {} if before is None else {version: before.route.digests.get(version) for version in before.route.answering}
    for version in route.answering:
        digest = route.digests[version]
        why = "" if known.get(version) == digest else rejected(connection, route.name, digest)
        if why:
            path = _path(route, version)
            raise InvalidInput(
                f"route {route.name}: {path}: {version} {why}; again=True sends it requests all the same",
                field=path,
            )


def _difference(a: Artifact, b: Artifact) -> str:
    """Why requests for one artifact do not suit another; empty if they do."""
    kinds = [[entry.kind for entry in each.manifest.tasks()] for each in (a, b)]
    if kinds[0] != kinds[1]:
        return f"its tasks are {', '.join(kinds[1])}, not {', '.join(kinds[0])}"
    x, y = a.manifest.signature, b.manifest.signature
    return _tensors("input", x.inputs, y.inputs) or _tensors("output", x.outputs, y.outputs) or _batches(x, y)


def _tensors(side: str, a: tuple[TensorSpec, ...], b: tuple[TensorSpec, ...]) -> str:
    wanted, found = {spec.name: spec for spec in a}, {spec.name: spec for spec in b}
    for name in (*wanted, *found):
        if name not in found:
            return f"it has no {side} {name}"
        if name not in wanted:
            return f"it has an {side} {name} more"
        one, other = wanted[name], found[name]
        if (one.dtype, one.shape, one.ranked) != (other.dtype, other.shape, other.ranked):
            shown = [f"{spec.dtype} {list(spec.shape)}" for spec in (other, one)]
            return f"its {side} {name} is {shown[0]}, not {shown[1]}"
    return ""


def _batches(a: Signature, b: Signature) -> str:
    return "" if a.whole == b.whole else f"it takes {'whole requests' if b.whole else 'batches'} only"


def _path(route: Route, version: str) -> str:
    """The field of a route that names a version."""
    for index, arm in enumerate(route.arms):
        if arm.version == version:
            return f"arms.{index}.version"
    for index, rule in enumerate(route.rules):
        if rule.version == version:
            return f"rules.{index}.version"
    for index, each in enumerate(route.shadow):
        if each.version == version:
            return f"shadow.{index}.version"
    return "fallback"


def _revision(name: str, document: Any) -> int | None:
    found = document.get("revision")
    if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
        raise InvalidInput(f"route {name}: revision: give the number that the route was read with", field="revision")
    return found


def _again(name: str, document: Any) -> bool:
    found = document.get("again", False)
    if not isinstance(found, bool):
        raise InvalidInput(f"route {name}: again: give true or false, not {shown(found)}", field="again")
    return found


def _refuse_canary(found: StoredRoute | None) -> None:
    canary = None if found is None else found.route.canary
    if found is not None and canary is not None:
        raise InvalidInput(
            f"route {found.route.name}: a canary of {canary.version} is running at {canary.share:.2%}; promote it or "
            "roll it back first",
            field="canary",
        )


def _what(name: str, deed: str) -> str:
    """What the audit log says was done to a route."""
    return f"route {name}: {deed}"


def _no_route(name: str, routes: Routes) -> ModelNotFound:
    known = listed(sorted(routes.stored))
    return ModelNotFound(f"there is no route {name!r}; " + (f"routes: {known}" if known else "there are no routes yet"))
