"""JSON Web Tokens of an OpenID Connect issuer: who has one, and what it says that they may do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from penstock.errors import ConfigError, printable
from penstock.gateway.callers.caller import Admitted, Caller
from penstock.gateway.callers.key_set import KeySet
from penstock.registry.access.key import SCOPES, Scope
from penstock.setting_groups.access import DEFAULT_ALGORITHMS
from penstock.settings import Settings

LONGEST_TOKEN = 8192
REMEMBER_S = 300.0
MOST_TOKENS = 10_000
LONGEST_SUBJECT = 200
_REQUIRED = ("exp", "iss", "aud", "sub")


class _Verified(NamedTuple):
    caller: Caller
    ends_at: float
    """In seconds since 1970, with the leeway."""


class Issuer:
    """Checks the tokens of one issuer. For the event loop."""

    def __init__(self, settings: Settings, source: str) -> None:
        """Raises ConfigError for settings that are missing, and without the extra `auth`."""
        try:
            import jwt  # with cryptography 80 ms
        except ImportError:
            raise ConfigError("tokens need the package PyJWT; pip install 'penstock[auth]'") from None
        for name in ("jwt_issuer", "jwt_audience"):
            if getattr(settings, name) is None:
                raise ConfigError(f"{name} is needed with jwt_jwks: tokens for others would be admitted without it")
        self._jwt = jwt
        self._settings = settings
        self._algorithms = settings.jwt_algorithms or DEFAULT_ALGORITHMS
        self.keys = KeySet(source)
        self._changes = 0
        self._verified: dict[bytes, _Verified] = {}
        self._callers: dict[tuple[str, frozenset[Scope]], Caller] = {}

    @classmethod
    def of(cls, settings: Settings) -> Issuer | None:
        """The issuer of the settings, if there is one."""
        return None if settings.jwt_jwks is None else cls(settings, settings.jwt_jwks)

    def find(self, token: str) -> Admitted | None:
        """Whose token it is; None for one that is not valid."""
        if len(token) > LONGEST_TOKEN:
            return None
        if self.keys.changes != self._changes:
            self._changes = self.keys.changes
            self._verified.clear()
        digest = blake2b(token.encode("utf-8", "surrogateescape"), digest_size=32).digest()
        known, now = self._verified.get(digest), time.time()
        if known is None:
            known = self._verify(token)
            if known is None:
                return None
            if len(self._verified) >= MOST_TOKENS:
                self._verified.clear()
            self._verified[digest] = known
        elif known.ends_at <= now:
            del self._verified[digest]
            return None
        return Admitted(known.caller, min(known.ends_at - now, REMEMBER_S))

    def _verify(self, token: str) -> _Verified | None:
        try:
            claims = self._claims(token)
        except Exception:  # of a text that anybody may send: errors of tokens, nested documents, numbers without end
            return None
        if claims is None:
            return None
        subject, scopes = claims["sub"], frozenset(self._scopes(claims))
        return _Verified(self._caller(subject, scopes), float(claims["exp"]) + self._settings.jwt_leeway_s)

    def _claims(self, token: str) -> Mapping[str, Any] | None:
        """The claims of a valid token. The key is chosen by its id and says which algorithm is checked."""
        settings = self._settings
        header = self._jwt.get_unverified_header(token)
        kid, algorithm = header.get("kid"), header.get("alg")
        if "crit" in header or not isinstance(kid, str | None) or algorithm not in self._algorithms:
            return None
        key = self.keys.find(kid)
        if key is None or algorithm not in key.algorithms:
            return None
        claims: Mapping[str, Any] = self._jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            leeway=settings.jwt_leeway_s,
            options={"require": list(_REQUIRED)},
        )
        return claims

    def _scopes(self, claims: Mapping[str, Any]) -> list[Scope]:
        """Those of the claim, which may have a path of dots: a list, or a text with blanks; `penstock:infer` too."""
        name = self._settings.jwt_scopes_claim
        value: Any = claims.get(name)
        if value is None:
            value = claims
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        given = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        names = {text.removeprefix("penstock:") for text in given if isinstance(text, str)}
        return [scope for scope in SCOPES if scope in names]

    def _caller(self, subject: str, scopes: frozenset[Scope]) -> Caller:
        found = self._callers.get((subject, scopes))
        if found is None:
            if len(self._callers) >= MOST_TOKENS:
                self._callers.clear()
            shown = printable(subject, LONGEST_SUBJECT)
            found = self._callers[subject, scopes] = Caller(f"jwt:{subject}", f"the token of {shown}", scopes)
        return found
