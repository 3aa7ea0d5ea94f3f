"""Tokens: what is admitted, and every attack that is known on them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.gateway.callers import key_set
from penstock.gateway.callers.callers import Callers
from penstock.gateway.callers.key_set import KeySet, read_keys
from penstock.gateway.callers.tokens import Issuer
from penstock.registry.admin_key import AdminKey
from penstock.registry.registry import Registry
from penstock.settings import Settings

ISSUER, AUDIENCE = "https://login.example.org/", "penstock"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def entry(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """A private key's public half, as a JWKS holds it."""
    kinds = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    algorithm = next(name for kind, name in kinds.items() if isinstance(key, kind))
    made: Any = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, **more}


def document(*entries: dict[str, Any]) -> str:
    return json.dumps({"keys": entries})


KEYS = document(entry(RSA, "rsa"), entry(EC, "ec"), entry(ED, "ed"))


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **claims: Any) -> str:
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 600, "scope": "infer read"}
    given = {name: value for name, value in (given | claims).items() if value is not None}
    return jwt.encode(given, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    file = tmp_path / "jwks.json"
    file.write_text(KEYS, encoding="utf-8")
    return file


def issuer_of(jwks: Path | str, **more: Any) -> Issuer:
    settings = Settings(jwt_jwks=str(jwks), jwt_issuer=ISSUER, jwt_audience=AUDIENCE, **more)
    found = Issuer.of(settings)
    assert found is not None
    found.keys.refresh()
    return found


def scopes(issuer: Issuer, text: str) -> set[str] | None:
    found = issuer.find(text)
    return None if found is None else set(found.caller.scopes)


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")])
def test_a_token_of_the_issuer_is_admitted_with_its_scopes(jwks: Path, key: Any, algorithm: str, kid: str) -> None:
    issuer = issuer_of(jwks)
    found = issuer.find(token(key, algorithm, kid))
    assert found is not None
    assert (found.caller.id, found.caller.scopes, found.caller.weight) == ("jwt:ann", {"infer", "read"}, 1.0)
    assert 290 < found.valid_s <= 300
    again = issuer.find(token(key, algorithm, kid, exp=int(time.time()) + 60))
    assert again is not None
    assert again.caller is found.caller  # one caller for a subject
    assert 60 < again.valid_s < 91


PUBLIC_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed(head: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """A token by hand, as no library makes it."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest() if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode("ascii")


def signed_well(head: dict[str, Any]) -> str:
    """A token with any head, and the right signature."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, CLAIMS)]
    signature = RSA.sign(b".".join(parts), PKCS1v15(), SHA256())
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode("ascii")


CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "eve", "exp": 4_000_000_000, "scope": "admin"}
NOW = int(time.time())

ATTACKS: dict[str, Callable[[], str]] = {
    "no signature": lambda: signed({"alg": "none", "kid": "rsa"}, CLAIMS, b""),
    "no signature, another case": lambda: signed({"alg": "NoNe", "kid": "rsa"}, CLAIMS, b""),
    "the public key as a secret": lambda: signed({"alg": "HS256", "kid": "rsa"}, CLAIMS, PUBLIC_PEM),
    "its DER as a secret": lambda: signed(
        {"alg": "HS256", "kid": "rsa"}, CLAIMS, RSA.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    ),
    "a key in the token": lambda: jwt.encode(
        CLAIMS, OTHER, algorithm="RS256", headers={"jwk": entry(OTHER, "x"), "kid": "x"}
    ),
    "keys elsewhere": lambda: jwt.encode(
        CLAIMS, OTHER, algorithm="RS256", headers={"jku": "https://evil.example/jwks", "kid": "rsa"}
    ),
    "a certificate elsewhere": lambda: jwt.encode(
        CLAIMS, OTHER, algorithm="RS256", headers={"x5u": "https://evil.example/pem", "kid": "rsa"}
    ),
    "something critical": lambda: signed_well({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}),
    "another key": lambda: token(OTHER),
    "the id of another key": lambda: token(RSA, "RS256", "ec"),
    "an id that nobody has": lambda: token(RSA, "RS256", "unknown"),
    "an id that is a path": lambda: token(RSA, "RS256", "../../etc/passwd"),
    "no id among several keys": lambda: token(RSA, "RS256", None),
    "an algorithm that is not allowed": lambda: token(RSA, "PS512"),
    "another issuer": lambda: token(iss="https://evil.example/"),
    "no issuer": lambda: token(iss=None),
    "another audience": lambda: token(aud="billing"),
    "audiences without this one": lambda: token(aud=["billing", "mail"]),
    "no audience": lambda: token(aud=None),
    "expired": lambda: token(exp=NOW - 3600),
    "expired beyond the leeway": lambda: token(exp=NOW - 120),
    "no end": lambda: token(exp=None),
    "not yet": lambda: token(nbf=NOW + 3600),
    "made in the future": lambda: token(iat=NOW + 3600),
    "no subject": lambda: token(sub=None),
    "too long": lambda: token(padding="x" * 8192),
    "a changed claim": lambda: _changed(token()),
    "a cut signature": lambda: token()[:-4],
    "no token": lambda: "a.b.c",
    "a head of many levels": lambda: _part(b"[" * 6000) + ".e30.e30",
    "claims without a number": lambda: jwt.encode({**CLAIMS, "exp": 1e400}, RSA, "RS256", {"kid": "rsa"}),
    "empty parts": lambda: "..",
}


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def _changed(text: str) -> str:
    head, body, signature = text.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["scope"] = "admin"
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.{signature}"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(jwks: Path, name: str) -> None:
    issuer = issuer_of(jwks)
    assert issuer.find(signed_well({"alg": "RS256", "kid": "rsa"})) is not None
    assert issuer.find(ATTACKS[name]()) is None
    assert issuer.find(token()) is not None


@given(st.text(max_size=100), st.binary(max_size=60))
def test_no_text_breaks_the_check(text: str, raw: bytes) -> None:
    shared = _shared()
    middle = base64.urlsafe_b64encode(raw).decode("ascii")
    for given_text in (text, f"{text}.{text}.{text}", f"{middle}.{middle}.{middle}", f"{token()[:-1]}{text}"):
        if given_text != token():
            assert shared.find(given_text) is None or given_text == token()


_one: list[Issuer] = []


def _shared() -> Issuer:
    if not _one:
        file = Path(os.environ.get("TMPDIR", "/tmp")) / f"penstock-jwks-{os.getpid()}.json"
        file.write_text(KEYS, encoding="utf-8")
        _one.append(issuer_of(file))
        file.unlink()
    return _one[0]


@pytest.mark.parametrize(
    ("claim", "value", "expected"),
    [
        ("scope", "openid infer", {"infer"}),
        ("scope", ["read", "penstock:admin", 7], {"read", "admin"}),
        ("scope", None, set()),
        ("scope", {"infer": True}, set()),
        ("https://example.org/roles", "infer", {"infer"}),
        ("realm.roles", {"roles": ["infer"]}, {"infer"}),
    ],
)
def test_scopes_come_from_their_claim(jwks: Path, claim: str, value: Any, expected: set[str]) -> None:
    issuer = issuer_of(jwks, jwt_scopes_claim=claim)
    name = claim.partition(".")[0] if claim == "realm.roles" else claim
    assert scopes(issuer, token(**{"scope": None, name: value})) == expected


def test_the_clock_of_the_issuer_may_differ_a_little(jwks: Path) -> None:
    issuer = issuer_of(jwks)
    assert issuer.find(token(exp=int(time.time()) - 10)) is not None
    assert issuer.find(token(iat=int(time.time()) + 10)) is not None


def test_a_token_is_remembered_no_longer_than_it_is_valid(jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer, text = issuer_of(jwks), token()
    assert issuer.find(text) is not None
    ends = time.time() + 600 + 31
    monkeypatch.setattr(time, "time", lambda: ends)
    assert issuer.find(text) is None


# The keys


def test_rotated_keys_are_followed_and_void_what_was_remembered(jwks: Path) -> None:
    issuer, text = issuer_of(jwks), token()
    assert issuer.find(text) is not None
    jwks.write_text(document(entry(OTHER, "new")), encoding="utf-8")
    issuer.keys.refresh()
    assert issuer.find(text) is None
    assert issuer.find(token(OTHER, kid="new")) is not None
    assert issuer.find(token(OTHER, kid=None)) is not None  # the only key


def test_the_last_good_keys_stay_a_day_while_the_issuer_is_away(jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer, began = issuer_of(jwks), time.monotonic()
    jwks.unlink()
    issuer.keys.refresh()
    assert issuer.find(token()) is not None
    jwks.write_text('{"keys": []}', encoding="utf-8")
    issuer.keys.refresh()
    assert issuer.find(token()) is not None
    monkeypatch.setattr(time, "monotonic", lambda: began + key_set.KEEP_S + 60)
    issuer.keys.refresh()
    assert issuer.find(token()) is None


def test_unknown_ids_fetch_the_keys_no_more_than_twice_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, now = KeySet("https://login.example.org/jwks"), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bodies: list[str] = []
    monkeypatch.setattr(keys, "_read", lambda: bodies.append(KEYS) or KEYS.encode())
    fetched = 0
    for step in range(600):  # a minute
        now[0] = 1000.0 + step / 10
        keys.find(f"random-{step}")
        if keys.due():
            keys.refresh()
            fetched += 1
    assert fetched == len(bodies) == 2
    keys.refresh()
    now[0] += key_set.REFRESH_S - 1
    assert not keys.due()  # nobody asks for another one
    now[0] += 1
    assert keys.due()


def test_only_public_keys_for_signatures_are_taken() -> None:
    private = jwt.get_algorithm_by_name("RS256").to_jwk(RSA, as_dict=True)  # type: ignore[call-overload]
    found = read_keys(
        document(
            entry(RSA, "good"),
            entry(RSA, "encryption", use="enc"),
            entry(RSA, "wrap", key_ops=["wrapKey"]),
            entry(RSA, "pinned", alg="PS256"),
            entry(RSA, "odd", alg="HS256"),
            entry(WEAK, "weak"),
            {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
            {"kty": "EC", "crv": "secp256k1", "kid": "curve"},
            {"kty": "RSA", "kid": "broken"},
            {**private, "kid": "private"},
        ).encode()
    )
    assert set(found) == {"good", "pinned"}
    assert found["pinned"].algorithms == {"PS256"}


NONE = [b"", b"[]", b"{}", b'{"keys": 7}', b'{"keys": [7]}', b"\xff", b" " * (1 << 20) + b"{}"]


@pytest.mark.parametrize("body", NONE)
def test_what_is_no_jwks_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_keys(body)


# Settings


@pytest.mark.parametrize("missing", ["jwt_issuer", "jwt_audience"])
def test_a_token_needs_an_issuer_and_an_audience(jwks: Path, missing: str) -> None:
    given = {"jwt_jwks": str(jwks), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, missing: None}
    with pytest.raises(ConfigError, match=missing):
        Issuer.of(Settings(**given))


@pytest.mark.parametrize("source", ["http://login.example.org/jwks", "http://localhost.evil.example/jwks", "ftp://x/y"])
def test_keys_are_not_fetched_where_others_can_change_them(source: str) -> None:
    with pytest.raises(ConfigError, match="https"):
        KeySet(source)


def test_no_algorithm_with_a_shared_secret_can_be_allowed() -> None:
    for name in ("HS256", "none", "RS256,HS256"):
        with pytest.raises(ConfigError, match="jwt_algorithms"):
            Settings(jwt_algorithms=name)


# With the other callers


@pytest.fixture
def callers(jwks: Path, tmp_path: Path) -> Iterator[Callers]:
    settings = Settings(jwt_jwks=str(jwks), jwt_issuer=ISSUER, jwt_audience=AUDIENCE, admin_key="a-key-of-many-letters")
    with Registry(tmp_path / "registry") as registry:
        yield Callers(settings, registry, AdminKey.of(settings))


def test_changed_keys_void_what_gateways_remember(callers: Callers, jwks: Path) -> None:
    asyncio.run(callers.start(None))
    changes: list[int] = []
    callers.on_change.append(lambda: changes.append(1))
    text = token()
    found = callers.identify(lambda name: [f"Bearer {text}"] if name == "authorization" else [])
    assert found is not None
    assert (callers.required, callers.active) == (True, True)
    assert not changes
    jwks.write_text(document(entry(OTHER, "new")), encoding="utf-8")
    callers.issuer.keys._tried_at = -1e9  # type: ignore[union-attr]
    asyncio.run(callers.follow())
    assert changes
