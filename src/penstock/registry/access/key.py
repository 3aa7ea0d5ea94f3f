"""API keys: what each may do, the form of its secret, and how it is stored."""

from __future__ import annotations

import re
import secrets
import string
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self, TypeAlias, get_args

from penstock.artifacts.refs import listed
from penstock.errors import InvalidInput, quoted
from penstock.option_types import Rate, parse_rate, parse_span
from penstock.registry.access.quota import Quota

Scope: TypeAlias = Literal["infer", "read", "admin"]
State: TypeAlias = Literal["active", "expired", "revoked"]

SCOPES: Final = get_args(Scope)
"""`infer`: predictions and feedback; `read`: models, figures, drift; `admin`: everything."""
LONGEST_NAME = 100
MOST_MODELS = 100
MOST_WEIGHT = 1000.0
MOST_BURST = 10**9

_ID = "abcdefghijklmnopqrstuvwxyz234567"
_SECRET = string.ascii_letters + string.digits
_FORM = re.compile(r"pk_([a-z2-7]{8})_([A-Za-z0-9]{43})_([0-9a-f]{8})")
_PATTERN = re.compile(r"[A-Za-z0-9*?\[\]!_.-]+(:[A-Za-z0-9*?\[\]!_.+-]+)?")


class NoSuchKey(InvalidInput):
    """There is no API key with this id."""


def new_id() -> str:
    """The id of a new key, which may be logged."""
    return "".join(secrets.choice(_ID) for _ in range(8))


def new_text(key: str) -> str:
    """A new secret for the key with this id, as its holder sends it: `pk_ID_SECRET_CRC32`."""
    secret = "".join(secrets.choice(_SECRET) for _ in range(43))  # 256 bits
    return f"pk_{key}_{secret}_{_checksum(f'{key}_{secret}')}"


def id_in(text: str) -> str | None:
    """The id in a text of the right form and checksum, None for any other text; it says nothing about its validity."""
    match = _FORM.fullmatch(text)
    return match[1] if match is not None and _checksum(f"{match[1]}_{match[2]}") == match[3] else None


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode('ascii')):08x}"


@dataclass(frozen=True, slots=True)
class Secret:
    """The keyed digest of a secret, the mark of the pepper that it was made with, and when it ends (ms), if it does."""

    digest: str
    pepper: str
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is stored, without its secret. Times are in milliseconds since 1970."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...]
    rate: str | None
    burst: int | None
    weight: float
    created_at: int
    created_by: str
    expires_at: int | None
    revoked_at: int | None
    secrets: tuple[Secret, ...]
    quota: str | None = None

    def state(self, now_ms: int | None = None) -> State:
        """Whether it is valid now."""
        if self.revoked_at is not None:
            return "revoked"
        now_ms = now() if now_ms is None else now_ms
        return "active" if self.expires_at is None or now_ms < self.expires_at else "expired"

    @property
    def limit(self) -> Rate | None:
        """How many requests it may send, and how many at once."""
        return None if self.rate is None else parse_rate(self.rate)

    @property
    def allowance(self) -> Quota | None:
        """How many requests it may send in a day or a month."""
        return None if self.quota is None else Quota.parse(self.quota)

    @property
    def most_at_once(self) -> int | None:
        """How many requests may come at once; the count of its rate unless it says otherwise."""
        return self.burst if self.burst is not None or self.rate is None else parse_rate(self.rate).requests

    def to_record(self) -> dict[str, Any]:
        """What is stored."""
        return {
            **{name: getattr(self, name) for name in _STORED},
            "secrets": [[each.digest, each.pepper, each.until] for each in self.secrets],
        }

    def to_document(self) -> dict[str, Any]:
        """What people and the audit log see: no digest."""
        shown = {name: getattr(self, name) for name in _STORED}
        times = {name: written(shown[name]) for name in ("created_at", "expires_at", "revoked_at")}
        return {**shown, **times, "scopes": list(self.scopes), "models": list(self.models), "state": self.state()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_record` wrote. Raises ValueError, TypeError or KeyError for anything else."""
        found: dict[str, Any] = {name: record.get(name) if name in _ADDED else record[name] for name in _STORED}
        found["scopes"] = tuple(scope for scope in found["scopes"] if scope in SCOPES)  # none of a later release
        found["models"] = tuple(map(str, found["models"]))
        return cls(**found, secrets=tuple(Secret(*each) for each in record["secrets"]))

    def with_secret(self, secret: Secret, until: int) -> Self:
        """With another secret; the ones before end at `until`."""
        if until <= now():
            return replace(self, secrets=(secret,))
        old = tuple(replace(each, until=min(until, each.until or until)) for each in self.secrets)
        return replace(self, secrets=(secret, *(each for each in old if (each.until or 0) > now())))


_STORED = (
    "id", "name", "scopes", "models", "rate", "burst", "weight", "created_at", "created_by", "expires_at", "revoked_at",
    "quota",
)  # fmt: skip
_ADDED = ("quota",)
"""Fields that records of earlier releases lack."""


def now() -> int:
    """The time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def written(at: int | None) -> str | None:
    """A time for people and programs, in UTC."""
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds")[:19] + "Z"


# Checks: each raises InvalidInput naming the field


def checked_name(name: str) -> str:
    """The name of a key, for people."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise InvalidInput(f"name: give 1 to {LONGEST_NAME} printable characters", field="name")
    return name


def checked_scopes(scopes: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes of a key, at least one."""
    given = tuple(dict.fromkeys(scopes))
    unknown = [scope for scope in given if scope not in SCOPES]
    if unknown or not given:
        what = f"{quoted(unknown[0])} is no scope" if unknown else "give at least one"
        raise InvalidInput(f"scopes: {what}; the scopes are {listed(SCOPES)}", field="scopes")
    return tuple(scope for scope in SCOPES if scope in given)


def checked_models(models: Iterable[str], scopes: Iterable[str]) -> tuple[str, ...]:
    """The patterns of the models that a key reaches; none for every model."""
    given = tuple(dict.fromkeys(models))
    if len(given) > MOST_MODELS:
        raise InvalidInput(f"models: give {MOST_MODELS} patterns at most", field="models")
    for pattern in given:
        if len(pattern) > 200 or not _PATTERN.fullmatch(pattern):
            raise InvalidInput(
                f"models: {quoted(pattern)} is no pattern such as fraud-* or digits:v1.*", field="models"
            )
    if given and "admin" in scopes:
        raise InvalidInput(
            "models: a key with the scope admin reaches every model; leave out one of the two", field="models"
        )
    return given


def checked_rate(rate: str | None, burst: int | None) -> str | None:
    """The rate of a key."""
    if rate is None:
        if burst is not None:
            raise InvalidInput("burst: it belongs to a rate; give one as well", field="burst")
        return None
    try:
        parse_rate(rate)
    except ValueError as error:
        raise InvalidInput(f"rate: {quoted(rate)} {error}", field="rate") from None
    if burst is not None and not 0 < burst <= MOST_BURST:
        raise InvalidInput(f"burst: give a whole number from 1 to {MOST_BURST}", field="burst")
    return rate.strip()


def checked_quota(quota: str | None) -> str | None:
    """The quota of a key."""
    if quota is None:
        return None
    try:
        found = Quota.parse(quota)
    except ValueError as error:
        raise InvalidInput(f"quota: {quoted(quota)} {error}", field="quota") from None
    return f"{found.requests}/{found.every}"


def checked_weight(weight: float) -> float:
    """The share of a key where requests wait."""
    if not 0 < weight <= MOST_WEIGHT:
        raise InvalidInput(f"weight: give a number above 0 and up to {MOST_WEIGHT:.0f}", field="weight")
    return float(weight)


def ends_at(span: str | float | None, field: str, *, least: float = 1.0) -> int | None:
    """When a time from now is over: seconds, or a text such as `30d`; None for never."""
    if span is None:
        return None
    try:
        seconds = parse_span(span) if isinstance(span, str) else float(span)
        if not least <= seconds <= parse_span("5200w"):
            raise ValueError("should be a time such as 12h or 30d")
    except ValueError as error:
        raise InvalidInput(f"{field}: {quoted(span)} {error}", field=field) from None
    return now() + round(seconds * 1000)
