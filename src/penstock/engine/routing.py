"""Which version of a routed name answers a request: pure functions of the route and the request, the same everywhere.

A key is hashed with the salt of its route. A canary takes the keys whose hash lies below its share, so a growing canary
only adds keys. The arms share the other keys by weighted rendezvous: every arm draws a number from the hash and its own
name, and the best draw wins. Where one weight changes, only keys to or from that arm move.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from penstock.registry.routes import Route

Headers: TypeAlias = Callable[[str], str | None]
"""The value of a header by its lower-case name."""

_UNIT = 2.0**-64
_LEAST = 2.0**-60
"""In place of a draw of 0, which has no logarithm."""
LONGEST_KEY = 1024
"""Characters of a key that count."""


class Choice(NamedTuple):
    """The version that answers a request, and why: `canary`, `weight` or `rule`.

    `arm` is the version that evidence is kept for.
    """

    version: str
    arm: str
    reason: str


def choose(
    route: Route, key: str | None, headers: Headers | None, request_id: str, field: str | None = None
) -> Choice | None:
    """The choice for a request; None if nothing can answer. `key` is that of `X-Penstock-Key`, `field` the value of the
    route's JSON field.
    """
    return _chooser(route).choose(key, headers, request_id, field)


def sampled(key_or_request_id: str, salt: str, share: float) -> bool:
    """True for this share of the keys, from 0 to 1: the same keys for the same salt, in every process."""
    if share >= 1:
        return True
    return share > 0 and _hash(_seed(salt), key_or_request_id) < int(share * 2**64)


class Sample:
    """`sampled` for many keys at once."""

    def __init__(self, salt: str, share: float) -> None:
        self._salt, self._share = salt, share
        self._copy = _seed(salt).copy
        self._limit = int(share * 2**64).to_bytes(8) if 0 < share < 1 else b""

    def chosen(self, keys: Sequence[str]) -> list[int]:
        """The positions of those that belong to the sample."""
        if self._share >= 1:
            return list(range(len(keys)))
        copy, limit, found = self._copy, self._limit, []
        try:
            for position, key in enumerate(keys):
                made = copy()
                made.update(key.encode())
                if made.digest()[::-1] < limit:  # as `_hash`, without making a number of it
                    found.append(position)
        except UnicodeEncodeError:  # a lone surrogate, which only a caller in Python can give
            return [position for position, key in enumerate(keys) if sampled(key, self._salt, self._share)]
        return found


class Chooser:
    """One route, prepared for many choices. With `ready`, versions outside it get no requests: others take theirs."""

    def __init__(self, route: Route, ready: Container[str] | None = None) -> None:
        def answers(version: str) -> bool:
            return ready is None or version in ready

        self.route = route
        self._by, self._name = route.sticky.by, route.sticky.name.lower()
        self._rules = [
            (rule.header.lower(), rule.equals, rule.version) for rule in route.rules if answers(rule.version)
        ]
        canary = route.canary
        self._canary: tuple[Any, int, Choice] | None = None
        if canary is not None and canary.share > 0 and answers(canary.version):
            choice = Choice(canary.version, canary.version, "canary")
            self._canary = (_seed(canary.salt).copy, int(canary.share * 2**64), choice)
        arms = [arm for arm in route.arms if arm.weight and answers(arm.version)]
        self._arms = [
            (_multiplier(arm.version), -float(arm.weight), Choice(arm.version, arm.version, "weight")) for arm in arms
        ]
        self._only = self._arms[0][2] if len(self._arms) == 1 else None
        self._copy = _seed(route.salt).copy
        self.by_field = self._by == "field"
        """True if the body says which version answers: a field of it keeps a client at its version."""
        self._always = None if self._canary or self._rules else self._only

    def choose(
        self, key: str | None, headers: Headers | None, request_id: str, field: str | None = None
    ) -> Choice | None:
        """As the function `choose`."""
        if self._always is not None:
            return self._always
        version = self._of_rule(headers) if self._rules else None
        if version is not None:
            return Choice(version, version, "rule")
        return self._of_key(self.key(key, headers, request_id, field) if self._by != "key" else key or request_id)

    def key(self, key: str | None, headers: Headers | None, request_id: str, field: str | None = None) -> str:
        """What keeps this client at its version; its request id where it sends nothing else."""
        by, found = self._by, key
        if by != "key":
            found = None
            if by == "field":
                found = field
            elif headers is not None and by == "header":
                found = headers(self._name)
            elif headers is not None and by == "cookie":
                found = _cookie(headers("cookie"), self.route.sticky.name)
        return (found or request_id)[:LONGEST_KEY]

    def _of_rule(self, headers: Headers | None) -> str | None:
        if headers is not None:
            for name, value, version in self._rules:
                found = headers(name)
                if found is not None and found.strip() == value:
                    return version
        return None

    def _of_key(self, key: str) -> Choice | None:
        """The choice by the hash of a key. `_hash` is written out here: a call costs as much as what it does."""
        data = key[:LONGEST_KEY].encode("utf-8", "surrogatepass")
        if self._canary is not None:
            copy, below, canary = self._canary
            made = copy()
            made.update(data)
            if int.from_bytes(made.digest(), "little") < below:
                return canary
        if self._only is not None:
            return self._only
        made = self._copy()
        made.update(data)
        unit, best, chosen = int.from_bytes(made.digest(), "little") * _UNIT, 0.0, None
        for multiplier, weight, choice in self._arms:
            score = weight / math.log(unit * multiplier % 1.0 or _LEAST)
            if score > best:
                best, chosen = score, choice
        return chosen


_chooser = lru_cache(maxsize=64)(Chooser)


def _cookie(header: str | None, name: str) -> str | None:
    """The value of one cookie, the first one with its name."""
    for part in (header or "").split(";"):
        found, equals, value = part.partition("=")
        if equals and found.strip() == name:
            return value.strip().strip('"')
    return None


@lru_cache(maxsize=256)
def _seed(salt: str) -> Any:
    """The hash before its key: a copy of it costs less than a new one."""
    return hashlib.blake2b(digest_size=8, salt=hashlib.blake2b(salt.encode(), digest_size=16).digest())


def _hash(seed: Any, key: str) -> int:
    """The hash of a key, from 0 to 2⁶⁴ - 1."""
    made = seed.copy()
    made.update(key.encode("utf-8", "surrogatepass"))
    return int.from_bytes(made.digest(), "little")


def _multiplier(version: str) -> float:
    """From the name of a version: the fractional part of its product with a hash is a draw of its own.

    An odd whole number from 2²³ to 2²⁴: so large that the draws of two versions are independent, and so small that 29
    bits of the hash remain.
    """
    made = hashlib.blake2b(version.encode(), digest_size=3).digest()
    return float(2**23 + int.from_bytes(made, "little") // 2 | 1)
