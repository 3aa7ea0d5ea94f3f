"""Routes that share the requests of a name among several versions, and what evidence about them is stored under."""

from __future__ import annotations

import hashlib
from typing import Any

from penstock.registry.routes import Route


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
