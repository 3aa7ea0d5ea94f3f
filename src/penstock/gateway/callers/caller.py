"""Who calls, and what they may do. There is one `Caller` for each key as long as the key stays as it is.

What belongs to a caller, such as its limit or its flow where requests wait, is kept here: `Callers` makes them all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from penstock.engine.allowed_models import AllowedModels
from penstock.gateway.limits.quotas import KeyQuota
from penstock.gateway.limits.slots import Limit
from penstock.registry.access.key import Scope

Needs: TypeAlias = Scope | Literal["nothing"]
"""What a route needs of its caller."""


class Caller:
    """One key, the subject of tokens, or an operator."""

    __slots__ = ("by_address", "by_head", "id", "limit", "models", "quota", "scopes", "shown", "weight")

    def __init__(
        self,
        key: str,
        shown: str,
        scopes: Collection[str],
        *,
        models: Sequence[str] = (),
        weight: float = 1.0,
        limit: Limit | None = None,
        by_head: bool = True,
    ) -> None:
        """`shown` is the beginning of a sentence; `by_head` is False if the connection tells who it is."""
        self.id = key
        self.shown = shown
        self.scopes = frozenset(scopes)
        self.weight = weight
        self.models = AllowedModels(shown, models) if models else None
        """The models it reaches; None for every model."""
        self.limit = limit
        self.quota: KeyQuota | None = None
        self.by_address = limit is None and "admin" not in self.scopes
        """True if its requests are counted by the address that they come from."""
        self.by_head = by_head

    def may(self, needs: Needs) -> bool:
        """True if one of its scopes says so; `admin` is every scope."""
        return needs in self.scopes or "admin" in self.scopes


ANYONE: Final = Caller("", "a request without a key", ("infer", "read"))
"""Whoever sends no key, where none is needed."""
OPERATOR: Final = Caller("operator", "the user of the server", ("admin",), by_head=False)
"""Who runs the server, as the kernel says, or connects to a Unix socket that only such may connect to."""
ADMINISTRATOR: Final = Caller("admin_key", "the admin key", ("admin",))
"""Who has the key of the setting `admin_key`, or of the file."""


class Admitted(NamedTuple):
    """A caller, and for how many seconds it may be remembered as such."""

    caller: Caller
    valid_s: float


class WrongCredentials(Exception):
    """A key or a token is unknown, revoked, expired or malformed: all the same to a client."""
