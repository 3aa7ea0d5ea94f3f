"""Routes that share the requests of a name among several versions, and what evidence about them is stored under."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import replace
from typing import Any

from penstock.registry.routes import Route

SALT_BYTES = 8


def split_id(route: Route) -> str:
    """What the evidence about the arms of a route is stored under: another id after each change of them."""
    return f"{split_prefix(route.name)}{route.since:012x}"


def split_prefix(name: str) -> str:
    """What the ids of all evidence about the arms of one name begin with."""
    return f"split-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}-"


def same_arms(one: Route, other: Route) -> bool:
    """True if the same content shares the requests in the same way, so that its evidence may be added up."""
    return _shared(one) == _shared(other)


def _shared(route: Route) -> tuple[Any, ...]:
    contents = [(arm, route.digests.get(arm.version)) for arm in route.split]
    return contents, route.rules, route.sticky, route.salt


def following(route: Route, before: Route | None) -> Route:
    """The route as it is stored after another: what lasts is taken from that."""
    salt = before.salt if before is not None and before.salt else route.salt or secrets.token_hex(SALT_BYTES)
    now = replace(route, salt=salt)
    if before is not None and same_arms(now, before):
        return replace(now, since=before.since)
    return replace(now, since=max(time.time_ns() // 1_000_000, 1 if before is None else before.since + 1))
