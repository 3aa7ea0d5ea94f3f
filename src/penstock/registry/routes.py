"""Routes: by which rules a name resolves to versions. Immutable values, and the JSON that users and the store see."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from penstock.artifacts.refs import check_name, check_version, shown
from penstock.errors import InvalidInput, printable

T = TypeVar("T")

SUMS = (100, 10_000)
"""What the weights of the arms may add up to."""
MOST_ARMS = 32
MOST_RULES = 100
MOST_SHADOWS = 4
LONGEST_TEXT = 500
STICKY_BY = ("key", "request_id", "header", "cookie", "field")
_NAMED = ("header", "cookie", "field")
READ_ONLY = (
    "name", "canary", "state", "in_force", "not_ready", "circuits", "evidence", "copies", "revision", "updated_at",
    "updated_by", "behind", "again",
)  # fmt: skip
"""What `GET` adds to the document of a route: such a document may be put back as it is."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HOP = ("connection", "content-length", "transfer-encoding", "host", "upgrade", "te", "trailer", "keep-alive")
"""Headers that say nothing about the client, or that a proxy changes."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A version and its share of the requests, in parts of the sum of all weights; 0 is a dark launch."""

    version: str
    weight: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests whose header has this value go to one version, whatever the weights are."""

    header: str
    equals: str
    version: str


@dataclass(frozen=True, slots=True)
class Sticky:
    """What keeps a client at its version: `X-Penstock-Key`, the request id, or a named header, cookie or JSON field.

    A request without it is placed by its request id.
    """

    by: str = "key"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that gets copies of a share of the requests, from 0 to 1; its answers reach no client."""

    version: str
    sample: float


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that takes its share, from 0 to 1, before the arms share the rest. Its salt is new for each canary."""

    version: str
    share: float
    salt: str


@dataclass(frozen=True)
class Route:
    """The rules by which one name resolves to versions. `parse_route` checks it."""

    name: str
    arms: tuple[Arm, ...]
    sticky: Sticky = Sticky()
    rules: tuple[Rule, ...] = ()
    shadow: tuple[Shadow, ...] = ()
    fallback: str | None = None
    """The version for the requests of another one while that keeps failing."""
    canary: Canary | None = None
    why: str = ""
    salt: str = ""
    """Hashed with every key: made when the route is first set, and kept while it lives."""
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The digest of each version when the route was set: what is published again under the same name is another."""
    since: int = 0
    """When the arms became what they are (ms since 1970): evidence about them begins anew with every change."""

    @property
    def total(self) -> int:
        """The sum of the weights."""
        return sum(arm.weight for arm in self.arms)

    @property
    def serving(self) -> tuple[str, ...]:
        """The versions that answer clients: arms above weight 0, the canary's, and those of the rules."""
        arms = [arm.version for arm in self.arms if arm.weight]
        canary = [self.canary.version] if self.canary is not None else []
        return tuple(dict.fromkeys([*arms, *canary, *(rule.version for rule in self.rules)]))

    @property
    def answering(self) -> tuple[str, ...]:
        """The versions that answer clients, with the fallback."""
        return tuple(dict.fromkeys([*self.serving, *([self.fallback] if self.fallback is not None else [])]))

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that the route names, those that answer clients first."""
        others = [*(arm.version for arm in self.arms), *self.answering, *(each.version for each in self.shadow)]
        return tuple(dict.fromkeys([*self.serving, *others]))

    @property
    def split(self) -> tuple[Arm, ...]:
        """The arms that share the requests, the heaviest first; empty where one version gets all, or a canary runs."""
        weighted = sorted((arm for arm in self.arms if arm.weight), key=lambda arm: -arm.weight)
        return tuple(weighted) if len(weighted) > 1 and self.canary is None else ()

    @property
    def primary(self) -> str:
        """The arm with the greatest weight: what the bare name means where one version is asked for."""
        return max(self.arms, key=lambda arm: arm.weight).version

    def resolved(self, resolve: Callable[[str], str]) -> Route:
        """The route with every version replaced by what `resolve` makes of it."""
        return replace(
            self,
            arms=tuple(replace(arm, version=resolve(arm.version)) for arm in self.arms),
            rules=tuple(replace(rule, version=resolve(rule.version)) for rule in self.rules),
            shadow=tuple(replace(each, version=resolve(each.version)) for each in self.shadow),
            fallback=None if self.fallback is None else resolve(self.fallback),
        )

    def switched(self, version: str) -> Route:
        """The route with all requests of clients at one version; the other arms stay loaded, at weight 0."""
        others = (arm.version for arm in self.arms if arm.version != version)
        arms = (Arm(version, self.total), *(Arm(other, 0) for other in others))
        return replace(self, arms=arms, rules=())

    def to_document(self) -> dict[str, Any]:
        """The route as users write it. Options that are not used are left out."""
        document: dict[str, Any] = {"arms": [{"version": arm.version, "weight": arm.weight} for arm in self.arms]}
        document["sticky"] = {"by": self.sticky.by, **({"name": self.sticky.name} if self.sticky.name else {})}
        document["rules"] = [
            {"when": {"header": rule.header, "equals": rule.equals}, "version": rule.version} for rule in self.rules
        ]
        document["shadow"] = [{"version": each.version, "sample": each.sample} for each in self.shadow]
        document["fallback"] = self.fallback
        document["why"] = self.why
        return document

    def to_record(self) -> dict[str, Any]:
        """The route as the store keeps it: with what `parse_record` reads again."""
        canary = self.canary
        kept = None if canary is None else {"version": canary.version, "share": canary.share, "salt": canary.salt}
        own = {"canary": kept, "salt": self.salt, "digests": dict(self.digests), "since": self.since}
        return {**self.to_document(), **own}


@dataclass(frozen=True, slots=True)
class StoredRoute:
    """A route in the store: with the revision, the time (ms since 1970) and the author of its last change."""

    route: Route
    revision: int
    updated_at: int
    updated_by: str


@dataclass(frozen=True, slots=True)
class Routes:
    """Every route of a registry, as of one revision: every change of a route counts it up."""

    revision: int = 0
    stored: Mapping[str, StoredRoute] = field(default_factory=dict)
    """By name."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Why a stored route cannot be read, by name: it was written by a newer release, or by hand."""

    def get(self, name: str) -> StoredRoute | None:
        """The route of a name."""
        return self.stored.get(name)


def stored_routes(rows: Iterable[tuple[Any, ...]]) -> Routes:
    """The value of rows (name, record, revision, updated_at, updated_by), where the empty name has the revision."""
    revision, stored, broken = 0, {}, {}
    for name, record, of, updated_at, updated_by in rows:
        if not name:
            revision = of
            continue
        try:
            stored[name] = StoredRoute(parse_record(name, json.loads(record)), of, updated_at, updated_by)
        except (ValueError, InvalidInput) as error:
            broken[name] = f"the stored route of {name} cannot be read ({error}); set or remove it"
    return Routes(revision, stored, broken)


# Reading


def parse_route(name: str, document: Any) -> Route:
    """The route of a document. Raises InvalidInput: one sentence that names the route, the field and the fix.

    Versions may be given as `@alias`; `Route.resolved` replaces them. What only `GET` shows is passed over.
    """
    check_name(name)
    route = _Fields(f"route {name}", "", document)
    route.only("arms", "sticky", "rules", "shadow", "fallback", "why", *READ_ONLY)
    fallback = route.get("fallback")
    made = Route(
        name,
        arms=_arms(route),
        sticky=_sticky(route.inner("sticky")) if route.get("sticky") is not None else Sticky(),
        rules=_distinct(route, "rules", [_rule(each) for each in route.items("rules", MOST_RULES)], _condition),
        shadow=_distinct(route, "shadow", [_shadow(each) for each in route.items("shadow", MOST_SHADOWS)], _version),
        fallback=None if fallback is None else route.version("fallback"),
        why=route.text("why", needed=False),
    )
    if made.total not in SUMS:
        route.refuse(
            "arms", f"the weights add up to {made.total}; make them add up to 100, or to 10000 for finer shares"
        )
    return made


def parse_record(name: str, record: Any) -> Route:
    """The route that `Route.to_record` wrote; fields that this release does not know are passed over."""
    fields = _Fields(f"route {name}", "", record)
    known = {key: fields.get(key) for key in ("arms", "sticky", "rules", "shadow", "fallback", "why")}
    canary = fields.get("canary")
    made = None if canary is None else _canary(fields.inner("canary"))
    digests = fields.inner("digests").values if fields.get("digests") is not None else {}
    salt, since = fields.text("salt", needed=False), fields.get("since")
    found = replace(parse_route(name, known), canary=made, salt=salt, digests=dict(digests))
    return replace(found, since=since) if isinstance(since, int) else found


@dataclass(frozen=True)
class _Fields:
    """One object of a document, with the words for its mistakes."""

    what: str
    path: str
    given: Any

    def __post_init__(self) -> None:
        if not isinstance(self.given, Mapping):
            self.refuse("", f"give an object, not {shown(self.given)}")

    @property
    def values(self) -> Mapping[str, Any]:
        return self.given  # type: ignore[no-any-return]  # checked above

    def refuse(self, name: str, problem: str) -> None:
        """Raises InvalidInput for one field, or for the whole object."""
        field = f"{self.path}{name}".rstrip(".")
        raise InvalidInput(
            f"{self.what}: {field}: {problem}" if field else f"{self.what}: {problem}", field=field or None
        )

    def only(self, *names: str) -> None:
        for name in self.values:
            if name not in names:
                kept = ", ".join(each for each in names if each not in READ_ONLY)
                self.refuse(printable(str(name), 50), f"there is no such field; there are {kept}")

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def inner(self, name: str) -> _Fields:
        return _Fields(self.what, f"{self.path}{name}.", self._needed(name))

    def items(self, name: str, most: int) -> list[_Fields]:
        """The objects of a list, which may be absent."""
        given = self.get(name)
        if given is None:
            return []
        if not isinstance(given, Sequence) or isinstance(given, str | bytes):
            self.refuse(name, f"give a list, not {shown(given)}")
        if len(given) > most:
            self.refuse(name, f"{len(given)} are too many; give at most {most}")
        return [_Fields(self.what, f"{self.path}{name}.{index}.", each) for index, each in enumerate(given)]

    def text(self, name: str, *, needed: bool = True) -> str:
        given = self._needed(name) if needed else self.get(name)
        if given is None:
            return ""
        if not isinstance(given, str):
            self.refuse(name, f"give text, not {shown(given)}")
        if len(given) > LONGEST_TEXT or not given.isprintable():
            self.refuse(name, f"give one line of at most {LONGEST_TEXT} printable characters")
        return str(given)

    def version(self, name: str = "version") -> str:
        given = self._needed(name)
        try:
            if isinstance(given, str) and given.startswith("@"):
                return f"@{check_name(given[1:], f'{self.path}{name}')}"
            return check_version(given, f"{self.path}{name}")
        except InvalidInput as error:
            raise InvalidInput(f"{self.what}: {error}", errors=error.errors) from None

    def header(self, name: str) -> str:
        given = self.text(name)
        if not _TOKEN.fullmatch(given):
            self.refuse(name, f"{shown(given)} is not the name of a header; use letters, digits and '-'")
        if given.lower() in _HOP:
            self.refuse(name, f"{given} belongs to a connection, not to a client; choose another header")
        return given

    def _needed(self, name: str) -> Any:
        if self.get(name) is None:
            self.refuse(name, "this field is missing")
        return self.get(name)


def _arms(route: _Fields) -> tuple[Arm, ...]:
    items = route.items("arms", MOST_ARMS)
    if not items:
        route.refuse("arms", "name at least one version with its weight")
    return _distinct(route, "arms", [_arm(item) for item in items], _version)


def _arm(item: _Fields) -> Arm:
    item.only("version", "weight")
    version, weight = item.version(), item._needed("weight")
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= SUMS[-1]:
        item.refuse("weight", f"give a whole number from 0 to {SUMS[-1]}, not {shown(weight)}")
    return Arm(version, weight)


def _sticky(item: _Fields) -> Sticky:
    item.only("by", "name")
    by = item.text("by")
    if by not in STICKY_BY:
        item.refuse("by", f"{shown(by)} is none of {', '.join(STICKY_BY)}")
    if by not in _NAMED:
        if item.get("name") is not None:
            item.refuse("name", f"leave it out: {by} has no name; header, cookie and field have one")
        return Sticky(by)
    if by == "field":
        return Sticky(by, item.text("name") or _missing(item))
    return Sticky(by, item.header("name"))  # cookies have the letters of headers


def _missing(item: _Fields) -> str:
    item.refuse("name", "name the field of the request")
    return ""


def _rule(item: _Fields) -> Rule:
    item.only("when", "version")
    when = item.inner("when")
    when.only("header", "equals")
    return Rule(when.header("header"), when.text("equals").strip(), item.version())


def _shadow(item: _Fields) -> Shadow:
    item.only("version", "sample")
    return Shadow(item.version(), _share(item, "sample"))


def _canary(item: _Fields) -> Canary:
    return Canary(item.version(), _share(item, "share"), item.text("salt"))


def _share(item: _Fields, name: str) -> float:
    given = item._needed(name)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
        item.refuse(name, f"give a number from 0 to 1, not {shown(given)}")
    return float(given)


def _version(item: Arm | Shadow) -> str:
    return item.version


def _condition(rule: Rule) -> str:
    return f"{rule.header.lower()} = {rule.equals}"


Key: TypeAlias = Callable[[Any], str]


def _distinct(route: _Fields, name: str, items: list[T], key: Key) -> tuple[T, ...]:
    """The items of a list that may hold no key twice."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        if key(item) in seen:
            route.refuse(f"{name}.{index}", f"{key(item)} is given twice; leave one out")
        seen.add(key(item))
    return tuple(items)
