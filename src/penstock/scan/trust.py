"""Compares tiers of trust.

data: numbers and known operators. code: programs that can read files or run Python (TorchScript, `.pt2`, pickles).
native: machine code. What is trusted is recorded by digest in the store, or given at the start of a process; an
artifact never grants trust to itself.
"""

from __future__ import annotations

from typing import Any

from penstock.errors import ConfigError
from penstock.formats import TIERS, Trust


def check_trust(value: Any, field: str = "trust") -> Trust:
    """`value` when it is a tier; raises ConfigError naming `field`."""
    if value not in TIERS:
        raise ConfigError(f"{field}: {value!r} is not a tier of trust; use {', '.join(TIERS)}")
    tier: Trust = value
    return tier


def at_least(have: str, need: str) -> bool:
    """True when the trust granted covers the trust needed; raises ConfigError for an unknown tier."""
    return TIERS.index(check_trust(have)) >= TIERS.index(check_trust(need))


def strongest(first: str, *others: str) -> Trust:
    """The tier that covers all of these; raises ConfigError for an unknown tier."""
    return max(map(check_trust, (first, *others)), key=TIERS.index)
