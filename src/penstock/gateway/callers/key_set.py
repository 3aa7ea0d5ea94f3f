"""The public keys of an issuer of tokens: read from a file or fetched, and kept while the issuer is away."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from penstock.errors import ConfigError, type_and_message
from penstock.gateway.limits.addresses import is_loopback

log = logging.getLogger(__name__)

REFRESH_S = 300.0
LEAST_S = 30.0
"""Least time between two fetches: ids of keys that nobody knows are no way to attack the issuer."""
KEEP_S = 24 * 3600.0
"""How long the last good keys stay in force while the issuer is away."""
FETCH_S = 5.0
LARGEST = 1 << 20
MOST_KEYS = 100
LEAST_RSA_BITS = 2048

_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


class PublicKey(NamedTuple):
    """A key, and the algorithms that it is for: what it is decides, never what a token says."""

    algorithms: frozenset[str]
    key: Any


class KeySet:
    """The keys by their ids. For the event loop; `refresh` reads in a thread."""

    def __init__(self, source: str) -> None:
        """`source` is a file, or an https address; http only on this machine. Raises ConfigError."""
        self._url = source if "://" in source else None
        self._file = Path(source).expanduser()
        if self._url is not None and not _is_safe(self._url):
            raise ConfigError("jwt_jwks: give a file or an https address: whoever can change the keys is admitted")
        self.keys: dict[str | None, PublicKey] = {}
        self.changes = 0
        """Counts up when the keys change."""
        self._mark: object = None
        self._good_at = self._tried_at = -KEEP_S
        self._wanted = False
        self._error = ""

    def find(self, kid: str | None) -> PublicKey | None:
        """The key of an id; without an id the only key. One that is unknown has the keys fetched soon."""
        found = self.keys.get(kid)
        if found is None and kid is None and len(self.keys) == 1:
            return next(iter(self.keys.values()))
        self._wanted = self._wanted or found is None
        return found

    def due(self) -> bool:
        """True if the keys should be read now."""
        since = time.monotonic() - self._tried_at
        if self._url is None:
            return since >= 1.0 and _mark_of(self._file) != self._mark
        return since >= (LEAST_S if self._wanted or self._error else REFRESH_S)

    def refresh(self) -> None:
        """Read the keys; where that fails, those before stay for a day. Errors are logged once."""
        self._wanted, self._tried_at = False, time.monotonic()
        try:
            keys = read_keys(self._read())
        except Exception as error:  # of files, networks and documents of others
            self._failed(error)
            return
        self._error, self._good_at = "", self._tried_at
        if {kid: _shown(key) for kid, key in keys.items()} != {kid: _shown(key) for kid, key in self.keys.items()}:
            self.keys = keys
            self.changes += 1

    def _failed(self, error: Exception) -> None:
        reason = type_and_message(error)
        if self.keys and time.monotonic() - self._good_at > KEEP_S:
            self.keys = {}
            self.changes += 1
            log.error("the keys in jwt_jwks could not be read for a day; tokens are refused (%s)", reason)
        elif reason != self._error:
            log.warning("the keys in jwt_jwks cannot be read (%s); those known last stay in force", reason)
        self._error = reason

    def _read(self) -> bytes:
        if self._url is None:
            self._mark = _mark_of(self._file)
            with self._file.open("rb") as stream:
                return stream.read(LARGEST + 1)
        import httpx  # only where keys are fetched

        with httpx.stream("GET", self._url, timeout=FETCH_S, follow_redirects=False) as reply:
            reply.raise_for_status()
            body = bytearray()
            for chunk in reply.iter_bytes():
                body += chunk
                if len(body) > LARGEST:
                    break
        return bytes(body)


def read_keys(body: bytes) -> dict[str | None, PublicKey]:
    """The keys of a JWKS document that can check signatures. Raises ValueError without any."""
    if len(body) > LARGEST:
        raise ValueError(f"the document has more than {LARGEST} bytes")
    document = json.loads(body)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("the document is no JWKS: it has no list `keys`")
    found: dict[str | None, PublicKey] = {}
    for entry in listed[:MOST_KEYS]:
        key = _public_key(entry) if isinstance(entry, dict) else None
        if key is not None:
            kid = entry.get("kid")
            found.setdefault(kid if isinstance(kid, str) else None, key)
    if not found:
        raise ValueError("the document holds no public key that can check signatures")
    return found


def _public_key(entry: Mapping[str, Any]) -> PublicKey | None:
    """The key of an entry; None for one that is secret, too short, for encryption or of an unknown kind."""
    import jwt

    kind, curve = entry.get("kty"), entry.get("crv")
    algorithms = set(_RSA) if kind == "RSA" else set()
    if kind in ("EC", "OKP") and curve in _CURVES:
        algorithms = {_CURVES[curve]}
    if "alg" in entry:
        algorithms &= {entry["alg"]}
    usable = entry.get("use", "sig") == "sig" and "verify" in entry.get("key_ops", ("verify",)) and "d" not in entry
    if not algorithms or not usable:
        return None
    try:
        key = jwt.PyJWK(dict(entry), algorithm=min(algorithms)).key
    except jwt.PyJWTError:
        return None
    if kind == "RSA" and key.key_size < LEAST_RSA_BITS:
        return None
    return PublicKey(frozenset(algorithms), key)


def _shown(key: PublicKey) -> tuple[object, ...]:
    """What tells two keys apart."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.algorithms, key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def _mark_of(file: Path) -> object:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
