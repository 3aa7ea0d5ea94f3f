"""Settings of access: who may use a server, and how often."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

from penstock.option_types import Float, Networks, TextList, parse_rate
from penstock.options import EngineOptions, option

MIN_PEPPER: Final = 16
ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Signatures with a key pair. Those with a shared secret, and none at all, are never accepted."""


DEFAULT_ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")


def _algorithms(value: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in value if name not in ALGORITHMS]
    if unknown:
        raise ValueError(f"should hold algorithms of {', '.join(ALGORITHMS)}")
    return value


def _rate(value: str) -> str:
    parse_rate(value)
    return value


def _redis(value: str) -> str:
    if not re.fullmatch(r"(rediss?|unix)://[^\s?#]+", value):
        raise ValueError("should be an address such as redis://localhost:6379/0, without a query")
    return value


class AccessSettings(EngineOptions):
    """Settings of keys, tokens and limits."""

    require_auth: bool | None = option(
        None,
        "Whether predictions, models and figures need an API key or a token; by default they do as soon as there is a "
        "key or `jwt_jwks`. True refuses a start beyond this machine without either.",
    )
    key_pepper: str | None = option(
        None,
        "Secret that the digests of API keys are made with; the default is one that is generated and kept in "
        "`keys.pepper` beside the registry's database. Servers on several hosts need the same one.",
        secret=True,
        min_length=MIN_PEPPER,
    )
    previous_key_pepper: str | None = option(
        None,
        "The `key_pepper` before, while keys that were made with it are in use.",
        secret=True,
        min_length=MIN_PEPPER,
    )
    rate_limit: Annotated[str, AfterValidator(_rate)] | None = option(
        None,
        "Most requests of one client address, such as 600/m, unless they have a key with a rate of its own; so many "
        "may come at once.",
    )
    rate_limit_store: Annotated[str, AfterValidator(_redis)] | None = option(
        None,
        "Address of a Redis server (redis, rediss or unix) by which servers on several hosts count rates together; "
        "needs the extra redis.",
    )
    trusted_proxies: Networks = option(
        (),
        "Addresses and networks of proxies (comma list; `unix` for a socket) whose X-Forwarded-For tells the client.",
    )
    jwt_jwks: str | None = option(
        None,
        "Public keys of the issuer of tokens (JWKS): a file or an https address; needs the extra auth.",
        min_length=1,
    )
    jwt_issuer: str | None = option(None, "Issuer that tokens must name (`iss`); needed with `jwt_jwks`.", min_length=1)
    jwt_audience: str | None = option(
        None, "Audience that tokens must name (`aud`); needed with `jwt_jwks`.", min_length=1
    )
    jwt_algorithms: Annotated[TextList, AfterValidator(_algorithms)] = option(
        (), "Algorithms that tokens may be signed with (comma list); the default is RS256, ES256 and EdDSA."
    )
    jwt_scopes_claim: str = option(
        "scope", "Claim with the scopes of a token: a list, or a text with blanks between them.", min_length=1
    )
    jwt_leeway_s: Float = option(30.0, "How far the clocks of the issuer and of this machine may differ.", ge=0, le=300)
