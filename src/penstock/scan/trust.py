"""How far the content of a model is trusted: tiers of what it could do when it is opened, each including those before.

data: numbers and known operators. code: programs that can read files or run Python (TorchScript, `.pt2`, pickles).
native: machine code. What is trusted is kept by digest in the store or said by whoever starts a process; an artifact
never says it of itself.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from penstock.errors import ConfigError

Trust = Literal["data", "code", "native"]

TIERS: tuple[Trust, ...] = get_args(Trust)
"""From the least to the most that a model may do."""


def check_trust(value: Any, field: str = "trust") -> Trust:
    """`value` when it is a tier; raises ConfigError naming `field`."""
    if value not in TIERS:
        raise ConfigError(f"{field}: {value!r} is not a tier of trust; use {', '.join(TIERS)}")
    tier: Trust = value
    return tier


def at_least(have: str, need: str) -> bool:
    """True when what is trusted covers what is needed; raises ConfigError for what is no tier."""
    return TIERS.index(check_trust(have)) >= TIERS.index(check_trust(need))


def strongest(first: str, *others: str) -> Trust:
    """The tier that covers all of these; raises ConfigError for what is no tier."""
    return max(map(check_trust, (first, *others)), key=TIERS.index)
